"""The section of speed: both measured back to back, in CPU time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lammps_trajcast.validation.compare import Check, ReportSection

# About so long a piece takes, s, without the start.
SECONDS = 5.0
# Least number of horizons in it.
LEAST = 5
# Lines of output of a piece: beginning and end of what makes it warm, and of what is measured.
LINES = 4


class Speed(NamedTuple):
    """Of one side.

    Attributes:
        nanoseconds_a_day: simulated time in a day of CPU time.
        step: CPU time of a step, ms.
    """

    nanoseconds_a_day: float
    step: float

    def __str__(self) -> str:
        return f"{self.nanoseconds_a_day:.4g} ns per CPU day, {self.step:.3g} CPU ms a step"


@dataclass(frozen=True)
class Speeds:
    """Of both sides: medians over pairs of pieces that ran one after the other.

    Attributes:
        ratio: simulated time of the model in the same CPU time, over that of the reference.
        ratios: of each pair.
    """

    reference: Speed
    model: Speed
    ratio: float
    ratios: tuple[float, ...]


def steps_of(seconds: float, steps: int = 1) -> int:
    """Steps of a piece. seconds: of a horizon, roughly. steps: in a horizon."""
    return max(int(SECONDS / seconds) if seconds > 0.0 else LEAST, LEAST) * steps


def measure(
    run: Callable[[bool, int, int], Sequence[float]],
    steps: tuple[int, int],
    timesteps: tuple[float, float],
    pairs: int,
) -> Speeds | None:
    """Measure reference and model in turn, without their starts.

    Args:
        run: CPU times (s) at the lines of output of a piece, by whether it is the model's, its
            steps, and the number of the pair.
        steps: of a piece, of reference and model.
        timesteps: fs, of both.
        pairs: of pieces.

    Returns:
        The medians over the pairs; None if there is no pair in which both took a time that can be
        told from zero.
    """
    found = []
    for pair in range(pairs):
        of_step = [0.0, 0.0]
        # Who is first changes: a machine may become slower meanwhile.
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            times = run(side == 1, steps[side], pair)
            if len(times) >= LINES:
                of_step[side] = (times[-1] - times[-2]) / steps[side]
        if min(of_step) > 0.0 and np.isfinite(of_step).all():
            found.append(of_step)
    if not found:
        return None
    speeds = np.array(timesteps) * 1e-6 / np.array(found) * 86400.0
    ratios = speeds[:, 1] / speeds[:, 0]
    middle, of_steps = np.median(speeds, axis=0), np.median(found, axis=0)
    reference, model = (Speed(float(middle[k]), 1e3 * float(of_steps[k])) for k in (0, 1))
    return Speeds(reference, model, float(np.median(ratios)), tuple(ratios.tolist()))


def speed_part(speeds: Speeds | None) -> ReportSection:
    """The section of the report."""
    checks = []
    if speeds is not None:
        spread = np.std(speeds.ratios, ddof=1) if len(speeds.ratios) > 1 else None
        checks.append(
            Check(
                "simulated time, times that of the reference",
                value=speeds.ratio,
                unit="x",
                reference=str(speeds.reference),
                model=str(speeds.model),
                error=None if spread is None else float(spread / np.sqrt(len(speeds.ratios))),
                freedom=max(len(speeds.ratios) - 1.0, 1.0),
            )
        )
    return ReportSection(
        "Speed",
        "In the same CPU time, user and system, of all processes of LAMMPS: medians of pairs of "
        "runs of both, one after the other, without output and without their starts. "
        "What a GPU computes meanwhile is not CPU time.",
        checks,
    )
