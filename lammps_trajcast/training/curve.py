"""The learning curve as a picture, from the CSV file that training writes."""

from __future__ import annotations

import csv
from pathlib import Path

from lammps_trajcast.atomic_file import replacing
from lammps_trajcast.data.baseline import Comparison


def join_logs(logs: Path, table: Path) -> None:
    """Join the logs of all starts of a run into one CSV file.

    Args:
        logs: folder with from_step_N/metrics.csv for each start at step N. What a start logged
            beyond the step at which the next one began is dropped.
        table: file to write.
    """
    parts = sorted(logs.glob("from_step_*/metrics.csv"))
    starts = [int(part.parent.name.removeprefix("from_step_")) for part in parts]
    rows: list[dict[str, str]] = []
    for part, end in zip(parts, [*starts[1:], None], strict=True):
        # A line that a kill or a full disk has cut off has no end.
        lines = [line for line in part.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        rows += [row for row in csv.DictReader(lines) if end is None or int(row["step"]) < end]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(table) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def draw_learning_curve(directory: Path, baseline: Comparison | None = None) -> None:
    """Write learning_curve.png from metrics.csv, both in ``directory``.

    Errors of a baseline are horizontal lines. Does nothing while there is nothing to draw.
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
        (line,) = axes.plot(*zip(*points, strict=True), label=label)
        if baseline is not None and label in ("displacement", "velocity"):
            level = {"displacement": baseline.displacement, "velocity": baseline.velocity}[label]
            if level > 0.0:
                axes.axhline(
                    level, color=line.get_color(), ls="--", label=f"{label}, {baseline.kind}"
                )
    axes.set(xlabel="step", ylabel="RMSE / rms on validation segments", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(directory / "learning_curve.png", dpi=150)
