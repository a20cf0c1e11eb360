"""The section of speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lammps_trajcast.validation.compare import Check, Part
from lammps_trajcast.validation.runner import Loop


class Speed(NamedTuple):
    """Of several runs together. step: wall time, ms."""

    nanoseconds_a_day: float
    step: float

    def __str__(self) -> str:
        return f"{self.nanoseconds_a_day:.4g} ns/day, {self.step:.3g} ms a step"


def speed_of(loops: Sequence[Loop], timestep: float) -> Speed | None:
    """timestep: fs."""
    if not loops:
        return None
    steps = sum(loop.steps for loop in loops)
    seconds = sum(loop.seconds for loop in loops)
    return Speed(steps * timestep * 1e-6 / seconds * 86400.0, seconds / steps * 1e3)


def speed_part(of_reference: Speed | None, of_model: Speed | None) -> Part:
    checks = []
    if of_reference and of_model:
        checks.append(
            Check(
                "simulated time, times that of the reference",
                value=of_model.nanoseconds_a_day / of_reference.nanoseconds_a_day,
                unit="x",
                reference=str(of_reference),
                model=str(of_model),
            )
        )
    return Part(
        "Speed",
        "Of the runs with a thermostat, with their output, on the machine that ran them, busy "
        "or not.",
        checks,
    )
