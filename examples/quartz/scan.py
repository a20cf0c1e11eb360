"""Errors of single steps against the number of training pairs, and against the horizon.

    python scan.py pairs 30 100 300 1000 3000 all
    python scan.py horizons 15 30 45 60

trains the network of train_scan.yaml once for each number on the frames of raw/block*.dump
(README.md) and fits the linear map of `lammps-trajcast baseline` to the same pairs. Writes
scan_pairs.csv or scan_horizons.csv and a plot. What is trained is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import yaml

from lammps_trajcast.model.file import ModelFile

HORIZON = 30
QUANTITIES = ("displacement", "velocity")


def dataset(horizon: int) -> Path:
    """Return the data set for a horizon in fs; made if it is not there."""
    path = Path(f"scan_{horizon}fs.h5")
    if not path.exists():
        dumps = sorted(Path("raw").glob("block*.dump"))
        options = ["--elements", "Si", "O", "--horizon", str(horizon), "--timestep", "1"]
        subprocess.run(["lammps-trajcast", "dataset", *dumps, *options, "-o", path], check=True)
    return path


def network_errors(horizon: int, pairs: int | None) -> list[float]:
    """Return RMSE over rms on the test split of a network trained on so many pairs."""
    name = f"scan_{horizon}fs_{pairs or 'all'}"
    output = Path(f"{name}.safetensors")
    if not output.exists():
        config: dict[str, Any] = yaml.safe_load(Path("train_scan.yaml").read_text())
        config |= {"dataset": str(dataset(horizon)), "output": str(output), "directory": name}
        config["optimization"]["training_pairs"] = pairs
        path = Path(f"{name}.yaml")
        path.write_text(yaml.safe_dump(config))
        subprocess.run(["lammps-trajcast", "train", path], check=True)
    provenance = ModelFile.load(output).metadata.provenance
    return [float(provenance[f"test_error_{quantity}"]) for quantity in QUANTITIES]


def linear_map(horizon: int, pairs: int | None) -> dict[str, float]:
    """Return what `lammps-trajcast baseline` says of the linear map fitted to so many pairs."""
    path = Path(f"scan_{horizon}fs_{pairs or 'all'}_linear.json")
    if not path.exists():
        words = ["lammps-trajcast", "baseline", dataset(horizon), "--json", path]
        subprocess.run(words + ([] if pairs is None else ["--pairs", str(pairs)]), check=True)
    found: dict[str, float] = json.loads(path.read_text())
    return found


def main() -> None:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("against", choices=["pairs", "horizons"])
    parser.add_argument("numbers", nargs="+", help="numbers; for pairs also: all")
    options = parser.parse_args()
    rows = []
    for word in options.numbers:
        number = None if word == "all" else int(word)
        case = (HORIZON, number) if options.against == "pairs" else (int(word), None)
        linear = linear_map(*case)
        x = linear["training_pairs" if options.against == "pairs" else "horizon"]
        rows.append([x, *network_errors(*case), *(linear[quantity] for quantity in QUANTITIES)])
        print(*rows[-1])
    header = [f"{kind} {quantity}" for kind in ("network", "linear map") for quantity in QUANTITIES]
    with Path(f"scan_{options.against}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[options.against, *header], *rows])
    axes = plt.figure(figsize=(5.5, 4)).gca()
    for k, label in enumerate(header, start=1):
        style = {"linestyle": "-" if k < 3 else "--", "color": f"C{(k - 1) % 2}"}
        axes.plot([row[0] for row in rows], [row[k] for row in rows], "o", label=label, **style)
    axes.set_yscale("log")
    axes.set_xscale("log" if options.against == "pairs" else "linear")
    axes.set_xlabel("training pairs" if options.against == "pairs" else "horizon, fs")
    axes.set_ylabel("RMSE over rms, unseen pairs")
    axes.legend(fontsize=8)
    axes.figure.savefig(f"scan_{options.against}.png", dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
