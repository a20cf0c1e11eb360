"""Averages over blocks of a trajectory, and what their spread says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """A quantity or curve, measured in each of several blocks of equal length.

    values: (B, …)
    """

    values: Floats

    @property
    def mean(self) -> Floats:
        """Mean over blocks (…)."""
        return np.asarray(self.values.mean(axis=0))

    @property
    def spread(self) -> Floats:
        """Standard deviation from block to block (…); zero if there is one only."""
        if len(self.values) < 2:
            return np.zeros(self.values.shape[1:])
        return np.asarray(self.values.std(axis=0, ddof=1))

    @property
    def error(self) -> Floats:
        """Standard error of the mean, if blocks are independent (…)."""
        return self.spread / np.sqrt(len(self.values))

    def distance(self, other: Floats, scale: float = 1.0) -> float:
        """Sum over the curve of |mean - other|, over `scale`."""
        return float(np.abs(self.mean - other).sum()) / scale if scale > 0.0 else float("inf")

    def own_distance(self, scale: float = 1.0) -> float:
        """Mean distance of a block from the mean of the others; zero if there is one block only."""
        number = len(self.values)
        if number < 2 or scale <= 0.0:
            return 0.0
        others = (number * self.mean - self.values) / (number - 1)
        distances = np.abs(self.values - others).reshape(number, -1).sum(axis=1)
        return float(distances.mean()) / scale
