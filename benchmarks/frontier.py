"""python -m benchmarks.frontier: what the error of a step costs, over sizes of the network.

Networks of several sizes are trained on the same data for the same number of steps, and one step of
each is timed on the same frame. A size is written as channels x layers, with lN for a largest
rotation order other than 2 and cR for another cutoff in Angstrom: 32x4, 16x4, 48x4l1, 32x3c5.5.
"""

from __future__ import annotations

import datetime
import json
import re
import statistics
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib
import numpy as np
import typer
import yaml
from rich.console import Console

from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import fill_in, markdown
from lammps_trajcast.data.dataset import Pair, TrajectoryPairs
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.runtime.predictor import Frame, Predictor
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.train import train
from lammps_trajcast.units import TIME_IN_FS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results_frontier.json"
PAGE = ROOT / "docs" / "experiments.md"
PICTURE = ROOT / "docs" / "images" / "frontier.png"
SIZES = "32x4 32x3 32x2 16x4 16x3 32x4l1"
ROUNDS = 15  # of timing, all sizes in turns

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Size(NamedTuple):
    """Of a network; `cutoff` in Angstrom, None for that of the base."""

    channels: int
    layers: int
    order: int
    cutoff: float | None

    @classmethod
    def parse(cls, text: str) -> Size:
        """Return the size that is written so."""
        found = re.fullmatch(r"(\d+)x(\d+)(?:l(\d))?(?:c([\d.]+))?", text)
        if found is None:
            raise typer.BadParameter(f"'{text}' is no size: write for example 32x4 or 16x3l1c5.5")
        channels, layers, order, cutoff = found.groups()
        return cls(
            int(channels), int(layers), int(order or 2), None if cutoff is None else float(cutoff)
        )


def configure(base: Path, text: str, steps: int, directory: Path) -> TrainingConfig:
    """The training of one size: that of the base, for so many steps."""
    size = Size.parse(text)
    content: dict[str, Any] = yaml.safe_load(base.read_text())
    files = content["dataset"] if isinstance(content["dataset"], list) else [content["dataset"]]
    content["dataset"] = [str((base.parent / file).resolve()) for file in files]
    content["output"] = str((directory / f"{text}.safetensors").resolve())
    content["directory"] = str((directory / text).resolve())
    network = content["network"]
    network["num_hidden_channels"], network["num_mp_layers"] = size.channels, size.layers
    network["max_rotation_order"] = size.order
    if size.cutoff is not None:
        network["edge_cutoff"] = size.cutoff
    optimization = content["optimization"]
    for key in ("max_hours", "patience", "min_fall"):
        optimization.pop(key, None)
    optimization |= {"schedule": "cosine", "steps": steps, "epoch_steps": steps // 4}
    path = directory / f"{text}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return TrainingConfig.load(path)


def frame_of(pair: Pair, cutoff: float, units: str) -> Frame:
    """Return the first state of a pair, as the fix would hand it to a model of these units."""
    graph = build_graph(pair.positions, pair.cell, pair.pbc, cutoff)
    types = pair.species.numpy().astype(np.int32) + 1
    return Frame(
        types=types,
        positions=pair.positions.numpy(),
        velocities=pair.velocities.numpy() * TIME_IN_FS[units],
        masses=pair.masses.numpy(),
        first_edge=np.searchsorted(graph.receivers.numpy(), np.arange(len(types) + 1)),
        senders=graph.senders.numpy(),
        edge_vectors=graph.edge_vectors.numpy(),
    )


def costs(models: dict[str, Path], pair: Pair) -> dict[str, dict[str, float]]:
    """Return microseconds of one thread for an atom and a step, all models in turns."""
    ready = {}
    for name, path in models.items():
        model = ModelFile.load(path)
        data = model.metadata
        frame = frame_of(pair, data.architecture.edge_cutoff, data.units)
        predictor = Predictor(
            model, list(data.species), data.units, "cpu", "single", 1, kernels="direct"
        )
        ready[name] = predictor, frame
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(ROUNDS):
        for name, (predictor, frame) in ready.items():
            began = time.perf_counter()
            predictor.step(frame)
            seconds[name].append(time.perf_counter() - began)
    return {
        name: {
            "cost": 1e6 * statistics.median(seconds[name]) / len(frame.types),
            "neighbors": len(frame.senders) / len(frame.types),
        }
        for name, (_, frame) in ready.items()
    }


def table(systems: dict[str, Any]) -> str:
    """Return the sizes as a Markdown table; the first of each system is what others cost over."""
    lines = []
    for title, system in systems.items():
        points = system["sizes"]
        first = next(iter(points.values()))["cost"]
        for name, point in points.items():
            size = Size.parse(name)
            lines.append(
                [
                    title,
                    f"{size.channels} channels, {size.layers} layers, l ≤ {size.order}",
                    f"{point['cutoff']:g} Å, {point['neighbors']:.0f} neighbors",
                    f"{point['cost']:.0f} µs",
                    f"{point['cost'] / first:.2f}",
                    f"{point['displacement']:.4f}, {point['velocity']:.4f}",
                ]
            )
    header = ["system", "network", "cutoff", "an atom and step", "over the first"]
    return markdown([*header, "displacement, velocity"], lines)


def draw(systems: dict[str, Any]) -> None:
    """Draw the errors of velocities against the cost."""
    figure, all_axes = plt.subplots(
        1, len(systems), figsize=(4 * len(systems), 3.6), layout="constrained", squeeze=False
    )
    for axes, (title, system) in zip(all_axes[0], systems.items(), strict=True):
        for name, point in system["sizes"].items():
            axes.loglog(point["cost"], point["velocity"], "o", color="C0")
            axes.annotate(
                name,
                (point["cost"], point["velocity"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
            )
        axes.set(title=title, xlabel="µs for an atom and a step, one thread")
        axes.grid(which="both", alpha=0.3)
        axes.margins(0.15)
    all_axes[0][0].set_ylabel("error of velocities, RMSE / rms")
    figure.savefig(PICTURE, dpi=130)


@app.command()
def run(
    title: Annotated[str, typer.Argument(help="Of the system, for the table.")],
    base: Annotated[Path, typer.Argument(help="YAML file of a training.")],
    sizes: Annotated[str, typer.Option(help="The first is what others are compared with.")] = SIZES,
    steps: Annotated[int, typer.Option(min=8, help="Of each training.")] = 1000,
    directory: Annotated[Path, typer.Option(help="Of the trainings.")] = Path("build/frontier"),
) -> None:
    """Train and time networks of several sizes; trainings that are there are kept."""
    # Another system or length is another training.
    directory = directory / re.sub(r"\W+", "_", title) / str(steps)
    directory.mkdir(parents=True, exist_ok=True)
    models = {}
    for name in sizes.split():
        settings = configure(base, name, steps, directory)
        models[name] = settings.output
        if not settings.output.is_file():
            Console().print(f"{title}: {name}")
            train(settings)
    pair = TrajectoryPairs(settings.dataset, "test")[0]
    points: dict[str, Any] = costs(models, pair)
    for name, path in models.items():
        data = ModelFile.load(path).metadata
        points[name]["cutoff"] = data.architecture.edge_cutoff
        for target in ("displacement", "velocity"):
            points[name][target] = float(data.provenance[f"test_error_{target}"])
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results[title] = {
        "sizes": points,
        "steps": steps,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "date": datetime.date.today().isoformat(),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


@app.command()
def report() -> None:
    """Write the table and the picture of the page."""
    systems = json.loads(RESULTS.read_text())
    PAGE.write_text(fill_in(PAGE.read_text(), {"frontier": table(systems)}))
    draw(systems)


if __name__ == "__main__":
    app()
