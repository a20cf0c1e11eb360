"""Numbers of a finished LAMMPS run, from its log and its dump."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from coordination import coordination_numbers

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.data.frames import Species
from lammps_trajcast.data.lammps_dump import LammpsDump
from lammps_trajcast.data.trajectory import checked
from lammps_trajcast.lammps_runs.log import first_error, loop_times, read_loops
from lammps_trajcast.units import Units

MOST_BLOCKS = 9  # of a mean over time, whose scatter gives its error


class RunError(Exception):
    """A run that did not end well or wrote too little; the message says what is missing."""


@dataclass(frozen=True)
class Thermo:
    """Thermodynamic output of the last `run` of a log.

    steps:        number of steps.
    time:         simulated time, ps.
    wall_time:    s.
    temperature:  (L,) K, one for each line of output.
    """

    steps: int
    time: float
    wall_time: float
    temperature: np.ndarray

    @property
    def timestep(self) -> float:
        """Time that a step advances, fs."""
        return self.time * 1e3 / self.steps

    @property
    def ns_per_day(self) -> float:
        """Simulated nanoseconds in a day of computing."""
        return self.time * 1e-3 / self.wall_time * 86400.0


def read_thermo(log: Path) -> Thermo:
    """Read the log of a run in units metal whose thermo_style has step, time, temp and cpu.

    Raises RunError.
    """
    if not log.is_file():
        raise RunError(f"{log}: no such file; did lmp run?")
    text = log.read_text(errors="replace")
    error = first_error(text.splitlines())
    if error is not None:
        raise RunError(f"{log}: {error}")
    if not loop_times(text):
        raise RunError(f"{log}: the run has not finished")
    loops = read_loops(log)
    if not loops:
        raise RunError(f"{log}: no thermodynamic output")
    run = loops[-1].columns
    missing = [key for key in ("Step", "Time", "Temp", "CPU") if key not in run]
    if missing:
        raise RunError(
            f"{log}: no column {' '.join(missing)}; write thermo_style custom step time temp cpu"
        )
    steps = int(run["Step"][-1] - run["Step"][0])
    if steps < 1 or run["CPU"][-1] <= 0.0:
        raise RunError(f"{log}: the last run made no step")
    return Thermo(
        steps=steps,
        time=run["Time"][-1] - run["Time"][0],
        wall_time=run["CPU"][-1],
        temperature=run["Temp"],
    )


@dataclass(frozen=True)
class Temperatures:
    """Temperatures of several groups of atoms, averaged by `fix ave/time`.

    step:    (L,) at the end of each average.
    values:  by name of the group, (L,) K.
    """

    step: np.ndarray
    values: dict[str, np.ndarray]

    def means(self, skip: float = 0.1) -> dict[str, tuple[float, float]]:
        """Mean and standard error of each, K, without the first part (a share) of the run."""
        first = int(skip * len(self.step))
        size = max(1, (len(self.step) - first) // MOST_BLOCKS)
        found = {}
        for name, values in self.values.items():
            # Whole blocks from the end: a remainder goes with what is skipped.
            blocks = Blocks(
                values[first + (len(values) - first) % size :].reshape(-1, size).mean(1)
            )
            found[name] = (float(blocks.mean), float(blocks.error))
        return found


def read_temperatures(path: Path, names: Sequence[str]) -> Temperatures:
    """Read a file of `fix ave/time` whose values are temperatures, one for each name.

    Raises RunError.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; did the run get as far?")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a file without a line
        table = np.loadtxt(path, ndmin=2)
    if not table.size:
        raise RunError(f"{path}: holds no average; was the run shorter than one?")
    if table.shape[1] != 1 + len(names):
        raise RunError(
            f"{path}: {table.shape[1] - 1} values in a line, but {len(names)} for "
            f"{', '.join(names)}; give fix ave/time these temperatures"
        )
    return Temperatures(table[:, 0], dict(zip(names, table[:, 1:].T, strict=True)))


@dataclass(frozen=True)
class Structure:
    """What the frames of a dump show.

    frames:          number of frames.
    atoms:           number of atoms.
    miscoordinated:  (F,) atoms without the coordination number of their element, per frame.
    first_fault:     step of the first frame with such an atom, None if there is none.
    momentum_drift:  largest |P(t) - P(0)| / sum of m |v| at t = 0, dimensionless.
    """

    frames: int
    atoms: int
    miscoordinated: np.ndarray
    first_fault: int | None
    momentum_drift: float


def read_structure(
    dump: Path,
    elements: Sequence[str],
    coordination: dict[str, int],
    cutoff: float,
    units: Units,
    timestep: float,
) -> Structure:
    """Follow the coordination of the atoms and their total momentum through a dump.

    elements: of LAMMPS type 1, 2, …
    coordination: number of unlike neighbors within `cutoff` (Angstrom) that each element should
        have.
    timestep: fs.

    Raises TrajectoryError.
    """
    species = Species.from_types(elements)
    expected = np.array([coordination[element] for element in species.elements])
    masses = np.array(species.masses)
    miscoordinated: list[int] = []
    first_fault: int | None = None
    start = np.zeros(3)
    scale = drift = 0.0
    atoms = 0
    # A model predicts displacements and velocities apart: here its run is judged, not refused.
    for frame in checked(LammpsDump(dump, species, units, timestep), velocities=False):
        momenta = masses[frame.species, None] * frame.velocities
        if not miscoordinated:
            atoms = len(momenta)
            start = momenta.sum(axis=0)
            scale = float(np.linalg.norm(momenta, axis=1).sum())
        drift = max(drift, float(np.linalg.norm(momenta.sum(axis=0) - start)))
        numbers = coordination_numbers(
            frame.positions, frame.cell, frame.pbc, frame.species, cutoff
        )
        miscoordinated.append(int(np.sum(numbers != expected[frame.species])))
        if miscoordinated[-1] and first_fault is None:
            first_fault = frame.step
    return Structure(
        frames=len(miscoordinated),
        atoms=atoms,
        miscoordinated=np.array(miscoordinated),
        first_fault=first_fault,
        momentum_drift=drift / scale if scale > 0.0 else 0.0,
    )
