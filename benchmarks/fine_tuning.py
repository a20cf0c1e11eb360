"""python -m benchmarks.fine_tuning: the error of a step against frames of an expensive reference.

A network trained from random weights beside one that begins with the weights of a model of the same
elements, learned from a cheap potential. Both train until the error stops falling, on the first N
segments at each temperature of a recording; all are judged on the same segments that none has seen.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import h5py
import matplotlib
import numpy as np
import typer
import yaml

from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import fill_in, markdown
from lammps_trajcast.data.layout import dataset_files
from lammps_trajcast.fit.config import NETWORK
from lammps_trajcast.fit.training import RATE, RATE_AGAIN
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.train import train

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results_fine_tuning.json"
PAGE = ROOT / "docs" / "experiments.md"
PICTURE = ROOT / "docs" / "images" / "fine_tuning.png"
KINDS = {"scratch": "random weights", "tuned": "weights of the cheap model"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def take_segments(files: Iterable[Path], number: int, output: Path) -> dict[str, int]:
    """Write a data set of so many training segments for each temperature.

    One segment of each temperature more is for validation. Those of the test split are all there.

    Args:
        files: of a recording, t300.000.h5 and so on.
        number: of training segments for each temperature.
        output: the file to write.

    Returns:
        Frames and MD steps of the segments for training and validation.
    """
    frames = steps = 0
    taken: dict[tuple[str, str], int] = {}
    with h5py.File(output, "w") as target:
        group = target.create_group("segments")
        for file in files:
            temperature = file.name.split(".")[0]
            with h5py.File(file, "r") as source:
                for key, value in source.attrs.items():
                    target.attrs[key] = value
                for segment in source["segments"].values():
                    split = str(segment.attrs["split"])
                    count = taken.get((temperature, split), 0)
                    if count >= {"train": number, "validation": 1}.get(split, count + 1):
                        continue
                    taken[temperature, split] = count + 1
                    source.copy(segment, group, name=f"{len(group):06d}")
                    if split != "test":
                        frames += len(segment["positions"])
                        steps += int(segment["steps"][-1] - segment["steps"][0])
    return {"frames": frames, "steps": steps}


def configure(
    place: Path, dataset: Path, kind: str, base: Path, cutoff: float, minutes: float
) -> TrainingConfig:
    """The training of one point, with the settings of `fit`."""
    content: dict[str, Any] = {
        "dataset": str(dataset),
        "output": str(place / f"{kind}.safetensors"),
        "directory": str(place / kind),
        "seed": 1,
        "network": {"edge_cutoff": cutoff, **NETWORK} if kind == "scratch" else {},
        "optimization": {
            "epoch_steps": 50,
            "batch_size": 4,
            "learning_rate": RATE if kind == "scratch" else RATE_AGAIN,
            "warmup_steps": 50,
            "ema_decay": 0.98,
            "time_reversal": True,
            "validation_pairs": 64,
            "max_hours": minutes / 60.0,
        },
    }
    if kind == "tuned":
        content["start_from"] = str(base.resolve())
        content["network"] = {"edge_cutoff": cutoff_of(base)}
    path = place / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return TrainingConfig.load(path)


def cutoff_of(model: Path) -> float:
    """The cutoff of a model file, Angstrom."""
    from lammps_trajcast.model.file import ModelFile

    return ModelFile.load(model).metadata.architecture.edge_cutoff


def table(results: dict[str, Any]) -> str:
    """Return the points as a Markdown table."""
    lines = []
    for name in sorted(results["points"], key=int):
        point = results["points"][name]
        cells = [f"{point['frames']}", f"{point['steps'] * results['timestep'] * 1e-3:.2g} ps"]
        for kind in KINDS:
            known = point.get(kind)
            if known is None:
                cells += ["–", "–"]
                continue
            cells.append(f"{known['displacement']:.4f}, {known['velocity']:.4f}")
            cells.append(f"{known['steps']}" + ("" if known["converged"] else ", not converged"))
        lines.append(cells)
    header = ["frames", "of the reference", "from random weights", "steps"]
    return markdown([*header, "from the cheap model", "steps"], lines)


def draw(results: dict[str, Any]) -> None:
    """Draw the errors of velocities against the frames."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    names = sorted(results["points"], key=int)
    for kind, words in KINDS.items():
        known = [(p["frames"], p[kind]) for p in map(results["points"].get, names) if kind in p]
        frames = np.array([entry[0] for entry in known])
        axes.loglog(frames, [e["velocity"] for _, e in known], "o-", label=f"from {words}")
    axes.set(xlabel="frames of the expensive reference", ylabel="error of velocities, RMSE / rms")
    axes.grid(which="both", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=130)


@app.command()
def run(
    data: Path,
    base: Path,
    directory: Path = Path("build/fine_tuning"),
    segments: Annotated[str, typer.Option(help="For each temperature.")] = "1 3 12",
    cutoff: Annotated[float, typer.Option(help="Angstrom, of the network from scratch.")] = 4.75,
    timestep: Annotated[float, typer.Option(help="fs, of the reference.")] = 2.0,
    minutes: Annotated[float, typer.Option(help="Of each training, at most.")] = 20.0,
    kinds: str = "tuned scratch",
) -> None:
    """Train at each number of segments; what is there is kept."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results.setdefault("points", {})
    results |= {"timestep": timestep, "machine": describe_machine(), "minutes": minutes}
    results |= {"versions": describe_versions(), "date": datetime.date.today().isoformat()}
    for number in map(int, re.split(r"[ ,]+", segments.strip())):
        place = directory / f"{number}"
        place.mkdir(parents=True, exist_ok=True)
        dataset = place / "data.h5"
        point = results["points"].setdefault(str(number), {})
        point |= take_segments(dataset_files(data), number, dataset)
        for kind in kinds.split():
            settings = configure(place, dataset, kind, base, cutoff, minutes)
            errors = train(settings)
            assert errors is not None
            summary = json.loads((settings.directory / "summary.json").read_text())
            kept = {key: summary[key] for key in ("steps", "hours", "converged")}
            point[kind] = {**{k: float(v) for k, v in errors.items()}, **kept}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")


@app.command()
def report() -> None:
    """Write the table and the picture of the page."""
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(fill_in(PAGE.read_text(), {"fine-tuning": table(results)}))
    draw(results)


if __name__ == "__main__":
    app()
