"""The radial network as a table of the distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MIN_DISTANCE = 0.1
"""Distance at which tables begin, in Angstrom; atoms never come so close.

Below, the Bessel functions' 1 / (r + 1e-5) would need ever smaller intervals; edges shorter than
this have the weights at this distance.
"""

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-7}
"""Largest error of a tabulated weight, in units of the largest weight."""

_FIRST_INTERVALS, _MOST_INTERVALS = 64, 1 << 15
_BLOCK = 1024


class RadialTable(NamedTuple):
    """Path weights of the distance, as cubic Hermite polynomials on equal intervals.

    Attributes:
        nodes: (intervals + 1, 2, paths, channels), at each node value and derivative, the latter
            times the spacing.
        first: distance of node 0, Angstrom.
        spacing: distance between nodes, Angstrom.
    """

    nodes: Tensor
    first: float
    spacing: float

    def positions(self, lengths: Tensor) -> Tensor:
        """Map distances (E,) to positions in the table, 0 to intervals."""
        return ((lengths - self.first) / self.spacing).clamp(0.0, self.nodes.size(0) - 1.0)

    def interpolate(self, positions: Tensor) -> Tensor:
        """Return the weights (E, paths * channels) at positions (E,), as the kernels do."""
        cell = positions.long().clamp(0, self.nodes.size(0) - 2)
        t = (positions - cell)[:, None, None]
        left, right = self.nodes[cell], self.nodes[cell + 1]
        rise = t * t * (3.0 - 2.0 * t)
        weights = (
            (1.0 - rise) * left[:, 0]
            + t * (1.0 - t) ** 2 * left[:, 1]
            + rise * right[:, 0]
            + t * t * (t - 1.0) * right[:, 1]
        )
        return weights.flatten(1)


def tabulate(
    weights_of: Callable[[Tensor], Tensor],
    cutoff: float,
    channels: int,
    dtype: torch.dtype,
    tolerance: float | None = None,
) -> RadialTable:
    """Tabulate a radial network between ``MIN_DISTANCE`` and the cutoff.

    Args:
        weights_of: maps distances (E,), float64, to weights (E, paths * channels); differentiable
            in forward mode.
        cutoff: in Angstrom.
        channels: number of channels.
        dtype: of the table; it is computed in double.
        tolerance: largest error, in units of the largest weight; by default ``TOLERANCE[dtype]``.

    Raises:
        ValueError: if no table of a reasonable size is as accurate as that.
    """
    tolerance = TOLERANCE[dtype] if tolerance is None else tolerance
    intervals = _FIRST_INTERVALS
    while intervals <= _MOST_INTERVALS and cutoff > MIN_DISTANCE:
        table = _table(weights_of, cutoff, channels, intervals)
        error = _largest_error(table, weights_of)
        if error <= tolerance:
            return table._replace(nodes=table.nodes.to(dtype))
        # The error falls with the fourth power of the spacing, once that is small.
        growth = min((error / tolerance) ** 0.25 * 1.02, 2.0)
        intervals = math.ceil(intervals * max(growth, 1.1))
    raise ValueError(
        f"the radial network cannot be tabulated to {tolerance:g} of its largest weight between "
        f"{MIN_DISTANCE} and {cutoff} Angstrom: use the kernels without a table"
    )


@torch.no_grad()
def _table(
    weights_of: Callable[[Tensor], Tensor], cutoff: float, channels: int, intervals: int
) -> RadialTable:
    distances = torch.linspace(MIN_DISTANCE, cutoff, intervals + 1, dtype=torch.float64)
    spacing = (cutoff - MIN_DISTANCE) / intervals
    blocks = []
    for block in distances.split(_BLOCK):
        value_and_slope = torch.func.jvp(weights_of, (block,), (torch.full_like(block, spacing),))
        blocks.append(torch.stack(list(value_and_slope), dim=1))
    nodes = torch.cat(blocks)
    return RadialTable(nodes.view(intervals + 1, 2, -1, channels), MIN_DISTANCE, spacing)


@torch.no_grad()
def _largest_error(table: RadialTable, weights_of: Callable[[Tensor], Tensor]) -> float:
    """Return the largest error, in units of the largest weight.

    Midway between nodes, where the error of a Hermite polynomial is largest as long as the fourth
    derivative does not change much within an interval.
    """
    middle = torch.arange(table.nodes.size(0) - 1, dtype=torch.float64) + 0.5
    error = 0.0
    for block in middle.split(_BLOCK):
        exact = weights_of(table.first + block * table.spacing)
        error = max(error, float((table.interpolate(block) - exact).abs().max()))
    return error / max(float(table.nodes[:, 0].abs().max()), 1e-300)
