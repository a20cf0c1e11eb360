"""The learning curve as a picture, from the CSV file that training writes."""

from __future__ import annotations

import csv
from pathlib import Path


def draw_learning_curve(directory: Path) -> None:
    """Write learning_curve.png from metrics.csv, both in ``directory``.

    Does nothing while there is nothing to draw.
    """
    table = directory / "metrics.csv"
    if not table.is_file():
        return
    series: dict[str, list[tuple[int, float]]] = {}
    with table.open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    series.setdefault(name, []).append((int(row["step"]), float(value)))
    errors = {name: points for name, points in series.items() if name.endswith("_error")}
    if not errors:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in sorted(errors.items()):
        label = name.removeprefix("validation_").removesuffix("_error")
        axes.plot(*zip(*points, strict=True), label=label)
    axes.set(xlabel="step", ylabel="RMSE / rms on validation segments", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(directory / "learning_curve.png", dpi=150)
