"""Which unit or time step would explain velocities that do not fit to the displacements."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Angstrom/fs.
VELOCITY_UNITS = {
    "Angstrom/fs": 1.0,
    "Angstrom/ps": 1e-3,
    "nm/ps": 1e-2,
    "ASE's unit (Angstrom sqrt(eV/u))": 0.0982269478,
    "Bohr per atomic unit of time": 21.8769126,
    "m/s": 1e-5,
}
# fs.
TIME_UNITS = {
    "ps": 1e3,
    "fs": 1.0,
    "ASE's unit (Angstrom sqrt(u/eV))": 10.1805057,
    "atomic units": 0.0241888433,
}


class Clock(NamedTuple):
    """Where the times of a file come from.

    Attributes:
        source: "timestep" or "interval", the options; "time", the file.
        fs: value of the option; of the file: its unit of time.
        interval: fs between frames.
    """

    source: str
    fs: float
    interval: float


def explain(factor: float, velocity_unit: float, temperature: float, clock: Clock) -> str:
    """What would make displacements so many times velocity times time, and what to write.

    Args:
        factor: of the displacements.
        velocity_unit: that the velocities were taken to be in, Angstrom/fs.
        temperature: K, that they mean.
        clock: of the times.
    """
    if factor < 0.0:
        return (
            "the velocities point against the displacements; write the frames in the order of time"
        )
    # By how much (logarithm) a unit misses the factor, and what to say.
    candidates: list[tuple[float, str]] = []

    def consider(unit: float, assumed: float, words: str) -> None:
        miss = abs(np.log(factor * assumed / unit))
        if unit != assumed and miss < 0.12:
            candidates.append((miss, words))

    assumed_name = next(n for n, u in VELOCITY_UNITS.items() if np.isclose(u, velocity_unit))
    for name, unit in VELOCITY_UNITS.items():
        if 0.1 < temperature * factor**2 < 1e5:
            remedy = {"Angstrom/fs": "write --units real", "Angstrom/ps": "write --units metal"}
            multiply = f"multiply them by {unit / velocity_unit:.4g}"
            if name.startswith("ASE"):
                multiply += ", or store ASE's momenta"
            words = f"velocities in {name} instead of {assumed_name}"
            consider(unit, velocity_unit, f"{words} ({remedy.get(name, multiply)})")
    if clock.source == "time":
        for name, unit in TIME_UNITS.items():
            words = f"times in {name} instead of {_name_of_time(clock.fs)}"
            consider(
                *(unit, clock.fs),
                f"{words} (write --interval {_round(clock.interval * factor)})",
            )
    closest = min((miss for miss, _ in candidates), default=0.0)
    found = [words for miss, words in candidates if miss < closest + 0.01]
    if clock.source != "time" and (not found or temperature > 1.0):
        what = "time step" if clock.source == "timestep" else "time between frames"
        found.append(
            f"a {what} of {_round(clock.fs * factor)} fs instead of {clock.fs:g} "
            f"(write --{clock.source} {_round(clock.fs * factor)})"
        )
    if not found:
        return "velocities or times are in another unit; write velocities in units metal or real"
    return "what would explain it: " + ", or ".join(found)


def explain_temperature(temperature: float, velocity_unit: float) -> str:
    """What to write for velocities that mean an impossible temperature.

    Args:
        temperature: K.
        velocity_unit: that they were taken to be in, Angstrom/fs.
    """
    hints = [f"write --units {'metal' if velocity_unit == 1.0 else 'real'}"]
    for name, unit in VELOCITY_UNITS.items():
        factor = unit / velocity_unit
        if name not in ("Angstrom/fs", "Angstrom/ps") and 10 < temperature * factor**2 < 3000:
            hints.append(f"multiply them by {factor:.4g} if they are in {name}")
    return ", or ".join(hints)


def _name_of_time(unit: float) -> str:
    return next((name for name, fs in TIME_UNITS.items() if np.isclose(fs, unit)), f"{unit:g} fs")


def _round(value: float) -> str:
    """Round to a number that a person may have written, if one is near."""
    for digits in (1, 2):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) < 0.02 * value:
            return f"{rounded:g}"
    return f"{value:.3g}"
