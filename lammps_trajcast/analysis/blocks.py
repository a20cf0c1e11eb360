"""Averages over blocks of a trajectory, and what their spread says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Halves(NamedTuple):
    """Distance of a half from the whole, and how large it is by chance, None if not known."""

    distance: float
    chance: float | None


@dataclass(frozen=True)
class Blocks:
    """A quantity or curve, measured in each of several blocks of equal length.

    Attributes:
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

    def halves(self, first: Sequence[int], second: Sequence[int], scale: float = 1.0) -> Halves:
        """How far the means over two halves of the blocks are from that of both; numbers of blocks.

        What differs from block to block within a half says how far they would be if it were for
        chance alone.
        """
        both = [Blocks(self.values[list(half)]) for half in (first, second)]
        distance = 0.5 * both[0].distance(both[1].mean, scale)
        # The distance of a block from b - 1 others is sqrt(b / (b - 1)) times a block's own.
        own = [
            half.own_distance(scale) * np.sqrt(1.0 - 1.0 / len(half.values))
            for half in both
            if len(half.values) > 1
        ]
        if not own:
            return Halves(distance, None)
        chance = 0.5 * np.mean(own) * np.sqrt(sum(1.0 / len(half.values) for half in both))
        return Halves(distance, float(chance))

    def own_distance(self, scale: float = 1.0) -> float:
        """Mean distance of a block from the mean of the others; zero if there is one block only."""
        number = len(self.values)
        if number < 2 or scale <= 0.0:
            return 0.0
        others = (number * self.mean - self.values) / (number - 1)
        distances = np.abs(self.values - others).reshape(number, -1).sum(axis=1)
        return float(distances.mean()) / scale


def inefficiency(series: Floats) -> tuple[float, float]:
    """How many samples of a series (L,) count as one, for its mean and for its variance.

    For the mean 1 + 2 sum r(k) of the autocorrelation r, up to where the sum of two neighbors is
    no longer positive (Geyer's sequence). For the variance of a Gaussian series 1 + 2 sum r(k)^2,
    up to a quarter of the series, without what the noise of r(k) adds. Neither is below 1.
    """
    number = len(series)
    deviation = series - series.mean()
    power = np.abs(np.fft.rfft(deviation, 2 * number)) ** 2
    correlation = np.fft.irfft(power)[:number]
    if number < 2 or correlation[0] <= 0.0:
        return float(number), float(number)
    correlation = correlation / correlation[0]
    pairs = correlation[: number // 2 * 2].reshape(-1, 2).sum(axis=1)
    positive = np.flatnonzero(pairs <= 0.0)
    of_mean = 2.0 * pairs[: positive[0] if len(positive) else None].sum() - 1.0
    lags = max(number // 4, 2)
    of_variance = 1.0 + 2.0 * np.square(correlation[1:lags]).sum()
    # The variance of each r(k) is that of the result over the number of samples (Bartlett).
    of_variance /= 1.0 + 2.0 * lags / number
    return max(float(of_mean), 1.0), max(float(of_variance), 1.0)
