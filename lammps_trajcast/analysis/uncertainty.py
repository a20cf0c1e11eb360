"""Standard errors of quantities that are computed from averages over blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import inefficiency

Floats = NDArray[np.float64]

# An interval reaches so many standard errors to both sides, if the error is known exactly.
STANDARD_ERRORS = 2.0


class Error(NamedTuple):
    """A standard error, and from how many degrees of freedom it is known (infinity: exactly)."""

    size: float
    freedom: float = float("inf")

    @property
    def half_width(self) -> float:
        """Half of the interval that covers as much as two exact standard errors to both sides."""
        return self.width_of(STANDARD_ERRORS)

    def width_of(self, errors: float) -> float:
        """Half of the interval that covers as much as so many exact standard errors.

        At most twice `half_width`: an error of one or two degrees of freedom would else exclude
        nothing.
        """
        if not self.size > 0.0:
            return 0.0
        return min(quantile(self.freedom, errors), 2.0 * quantile(self.freedom)) * self.size


@functools.lru_cache(maxsize=1000)
def quantile(freedom: float, errors: float = STANDARD_ERRORS) -> float:
    """Student's t that covers as much as so many standard deviations of a normal distribution."""
    if not np.isfinite(freedom):
        return errors
    return float(scipy.stats.t.ppf(scipy.stats.norm.cdf(errors), max(freedom, 1.0)))


def combined(errors: Sequence[Error]) -> Error:
    """The error of a sum of independent quantities.

    Its degrees of freedom are those of Welch and Satterthwaite.
    """
    variances = np.array([error.size**2 for error in errors])
    total = float(variances.sum())
    if not total > 0.0 or not np.isfinite(total):
        return Error(float(np.sqrt(total)))
    spent = sum(v**2 / error.freedom for v, error in zip(variances, errors, strict=True))
    return Error(float(np.sqrt(total)), total**2 / spent if spent > 0.0 else float("inf"))


def jackknife(function: Callable[[Floats, Floats], float], first: Floats, second: Floats) -> Error:
    """Standard error of a function of two averages, however nonlinear.

    Every block is left out once. A side with a single block, which says nothing of its error, is
    taken to vary from block to block as the other does.

    Args:
        function: function of the two averages (…).
        first: (B, …) values of the blocks whose mean is the first average.
        second: (C, …) the same for the second average.

    Returns:
        The standard error, in the unit of the function; infinity if it has no value without
        one of the blocks.
    """
    found = []
    for side, blocks in enumerate((first, second)):
        number = len(blocks)
        if number < 2:
            continue
        mean, other = blocks.mean(axis=0), (second, first)[side].mean(axis=0)
        values = []
        for block in blocks:
            # The mean of the others.
            rest = (number * mean - block) / (number - 1)
            values.append(function(rest, other) if side == 0 else function(other, rest))
        deviations = np.array(values) - np.mean(values)
        if not np.isfinite(deviations).all():
            return Error(float("inf"))
        size = float(np.sqrt((number - 1) / number * np.sum(deviations**2)))
        found.append((Error(size, number - 1.0), number))
    if not found:
        return Error(float("inf"))
    errors = [error for error, _ in found]
    if len(found) == 1:
        (error, number) = found[0]
        errors.append(Error(error.size * np.sqrt(number), error.freedom))
        # Both are the same estimate.
        return Error(float(np.sqrt(sum(each.size**2 for each in errors))), error.freedom)
    return combined(errors)


def mean_error(runs: Sequence[Floats], blocks: int) -> Error:
    """Standard error of the mean over several series (L,) of correlated samples.

    Of two estimates the one that gives the wider interval: from the means of `blocks` parts of each
    run, and from the autocorrelation, which sees what changes more slowly than a block lasts.

    Args:
        runs: one series (L,) for each run; lengths may differ.
        blocks: number of parts that each series is cut into.

    Returns:
        The error, in the unit of the samples.
    """
    parts = np.array([part.mean() for run in runs for part in np.array_split(run, blocks)])
    of_blocks = Error(0.0)
    if len(parts) > 1:
        of_blocks = Error(float(parts.std(ddof=1) / np.sqrt(len(parts))), len(parts) - 1.0)
    samples = sum(len(run) for run in runs)
    sums = [np.var(run) * inefficiency(run)[0] * len(run) for run in runs]
    of_samples = Error(float(np.sqrt(sum(sums)) / samples))
    return max(of_blocks, of_samples, key=lambda error: error.half_width)


def deviation_error(runs: Sequence[Floats], blocks: int) -> Error:
    """Standard error of the standard deviation of several series (L,), relative to it.

    From the mean squares of 2 x `blocks` parts of each run. A series need not be Gaussian: one that
    swings regularly has a well known deviation, for which the autocorrelation would say little.

    Args:
        runs: one series (L,) for each run; lengths may differ.
        blocks: number of blocks of a run.

    Returns:
        The error, dimensionless; infinity if there are fewer than two parts or nothing varies.
    """
    squares = []
    for run in runs:
        parts = np.array_split((run - run.mean()) ** 2, max(min(2 * blocks, len(run) // 4), 1))
        squares += [part.mean() for part in parts]
    mean, number = float(np.mean(squares)), len(squares)
    if number < 2 or mean <= 0.0:
        return Error(float("inf"))
    spread = float(np.std(squares, ddof=1) / np.sqrt(number))
    return Error(0.5 * spread / mean, number - 1.0)


def slope_error(times: Floats, values: Floats) -> Error:
    """Standard error of the slope of the straight line through correlated values.

    Args:
        times: (L,) at equal intervals.
        values: (L,) at these times.

    Returns:
        The error, in the unit of the values over that of the times; infinity for fewer than four.
    """
    number = len(times)
    if number < 4:
        return Error(float("inf"))
    rest = values - np.polyval(np.polyfit(times, values, 1), times)
    spread = float(np.sum((times - times.mean()) ** 2))
    count = inefficiency(rest)[0] if np.var(rest) > 0.0 else 1.0
    freedom = max(number / count - 2.0, 1.0)
    size = np.sqrt(float(np.sum(rest**2)) / (number - 2) * count / spread)
    return Error(float(size), freedom)


def chance_distance(first: Floats, second: Floats) -> Floats:
    """Mean |difference| of two averages that differ by chance alone, at each point.

    For normal errors it is sqrt(2 / pi) of the standard error of the difference.

    Args:
        first: (B, …) values of the blocks whose mean is the first average.
        second: (C, …) the same for the second average.

    Returns:
        (…) in the unit of the values; infinity if neither side has two blocks.
    """
    spreads = [
        np.asarray(blocks.var(axis=0, ddof=1)) if len(blocks) > 1 else None
        for blocks in (first, second)
    ]
    known = [spread for spread in spreads if spread is not None]
    if not known:
        return np.full(first.shape[1:], np.inf)
    variance = np.zeros(first.shape[1:])
    for spread, blocks in zip(spreads, (first, second), strict=True):
        variance += (known[0] if spread is None else spread) / len(blocks)
    return np.asarray(np.sqrt(2.0 / np.pi * variance))
