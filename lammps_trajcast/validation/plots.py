"""The pictures: the reference in gray with its spread, the model in red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks

Floats = NDArray[np.float64]

REFERENCE = "0.45"
BAND = "0.8"
MODEL = "C3"


def panels(number: int, width: float = 6.4, height: float = 4.4) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, two in a row."""
    columns = min(max(number, 1), 2)
    rows = -(-max(number, 1) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[number:]:
        axes.set_visible(False)
    return figure, list(grid[:number])


def draw_curve(axes: Axes, x: Floats, reference: Blocks, model: Blocks) -> None:
    """Both curves, the reference with the standard deviation from block to block."""
    mean, spread = reference.mean, reference.spread
    axes.fill_between(x, mean - spread, mean + spread, color=BAND, linewidth=0)
    axes.plot(x, mean, color=REFERENCE, linewidth=1.6, label="reference")
    axes.plot(x, model.mean, color=MODEL, linewidth=1.0, label="model")


def curves(data: Mapping[str, tuple[Floats, Blocks, Blocks]], x_label: str, y_label: str) -> Figure:
    """One panel for each pair of curves. data: (x, reference, model) by title."""
    figure, grid = panels(len(data))
    for axes, (title, (x, reference, model)) in zip(grid, data.items(), strict=True):
        draw_curve(axes, x, reference, model)
        axes.set(title=title, xlabel=x_label)
        axes.margins(x=0.0)
    grid[0].set_ylabel(y_label)
    grid[-1].legend(frameon=False)
    return figure


def series(
    data: Mapping[str, Sequence[tuple[str, Floats, Floats]]], x_label: str, y_label: str
) -> Figure:
    """Lines over time. data: (label, x, y) by title; the label says whether it is the model's."""
    figure, grid = panels(len(data))
    for axes, (title, lines) in zip(grid, data.items(), strict=True):
        for label, x, y in lines:
            color = MODEL if label.startswith("model") else REFERENCE
            axes.plot(x, y, color=color, linewidth=1.0, label=label, alpha=0.85)
        axes.set(title=title, xlabel=x_label)
        axes.margins(x=0.0)
        axes.legend(frameon=False, fontsize="small")
    grid[0].set_ylabel(y_label)
    return figure


def distributions(
    data: Mapping[str, tuple[Floats, Floats]], x_label: str, limits: Mapping[str, float]
) -> Figure:
    """Histograms of samples, both in the same bins.

    Args:
        data: samples (…) of reference and model, by title.
        x_label: quantity and unit.
        limits: where to draw a vertical line, for each title that has one.
    """
    figure, grid = panels(len(data))
    for axes, (title, (reference, model)) in zip(grid, data.items(), strict=True):
        samples = np.concatenate([reference, model])
        edges: list[float] = np.histogram_bin_edges(samples, bins=40).tolist()
        axes.hist(reference, edges, density=True, color=BAND, label="reference")
        axes.hist(model, edges, density=True, histtype="step", color=MODEL, label="model")
        if title in limits:
            axes.axvline(limits[title], color="k", linewidth=0.8, linestyle=":")
        axes.set(title=title, xlabel=x_label, yticks=[])
    grid[-1].legend(frameon=False)
    return figure
