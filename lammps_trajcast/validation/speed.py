"""The section of speed: both measured back to back, in CPU time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lammps_trajcast.validation.compare import Check, Part

# About so long the longer of two lengths of a run takes, s; the shorter is a quarter of it.
SECONDS = 4.0
SHORTER = 4
# Least number of horizons of the shorter one.
LEAST = 2


class Speed(NamedTuple):
    """nanoseconds_a_day: simulated time in a day of CPU time. step: CPU time of a step, ms."""

    nanoseconds_a_day: float
    step: float

    def __str__(self) -> str:
        return f"{self.nanoseconds_a_day:.4g} ns per CPU day, {self.step:.3g} CPU ms a step"


@dataclass(frozen=True)
class Speeds:
    """Of both sides: medians over pairs of pieces that ran one after the other.

    ratio: simulated time of the model in the same CPU time, over that of the reference. ratios: of
    each pair.
    """

    reference: Speed
    model: Speed
    ratio: float
    ratios: tuple[float, ...]


def lengths_of(seconds: float, steps: int = 1) -> tuple[int, int]:
    """Steps of the shorter and of the longer run; seconds: of a horizon, roughly. steps: in one."""
    shorter = max(int(SECONDS / SHORTER / seconds) if seconds > 0.0 else LEAST, LEAST) * steps
    return shorter, SHORTER * shorter


def measure(
    cpu: Callable[[bool, int, int], float],
    lengths: tuple[tuple[int, int], tuple[int, int]],
    timesteps: tuple[float, float],
    pairs: int,
) -> Speeds | None:
    """Measure reference and model in turn; the difference of two lengths is without the start.

    Args:
        cpu: CPU time (s) of a run, by whether it is the model's, its steps, and the number of the
            pair.
        lengths: steps of the shorter and of the longer run, of reference and model.
        timesteps: fs, of both.
        pairs: of measurements.

    Returns None if no pair took a time that can be told from zero.
    """
    found = []
    for pair in range(pairs):
        times = np.zeros((2, 2))
        # What the machine does meanwhile changes slowly: short and long runs of both alternate.
        for which in (0, 1):
            for side in (0, 1) if pair % 2 == 0 else (1, 0):
                times[side, which] = cpu(side == 1, lengths[side][which], pair)
        steps = [longer - shorter for shorter, longer in lengths]
        found.append((times[:, 1] - times[:, 0]) / steps)
    of_step = np.array([pair for pair in found if (pair > 0.0).all()])
    if not len(of_step):
        return None
    speeds = np.array(timesteps) * 1e-6 / of_step * 86400.0
    ratios = speeds[:, 1] / speeds[:, 0]
    middle, steps_middle = np.median(speeds, axis=0), np.median(of_step, axis=0)
    reference, model = (Speed(float(middle[k]), 1e3 * float(steps_middle[k])) for k in (0, 1))
    return Speeds(reference, model, float(np.median(ratios)), tuple(ratios.tolist()))


def speed_part(speeds: Speeds | None) -> Part:
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
    return Part(
        "Speed",
        "In the same CPU time, user and system, of all processes of LAMMPS: medians of pairs of "
        "runs of both, one after the other, without output. The time of the start is subtracted. "
        "What a GPU computes meanwhile is not CPU time.",
        checks,
    )
