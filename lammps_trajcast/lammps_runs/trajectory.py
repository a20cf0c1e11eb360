"""Dumps as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.data.frames import Frame, Species, TrajectoryError
from lammps_trajcast.data.lammps_dump import LammpsDump
from lammps_trajcast.data.trajectory import checked
from lammps_trajcast.units import Units


@dataclass(frozen=True)
class Trajectory:
    """Frames of one run, atoms in the order of their IDs.

    Attributes:
        steps: (F,) of the run that wrote them.
        times: (F,) fs.
        positions: (F, N, 3) Angstrom, continuous in time.
        velocities: (F, N, 3) Angstrom/fs.
        species: (N,) index into elements.
        elements: symbols.
        masses: (N,) g/mol.
        cell: (3, 3) Angstrom.
        pbc: (3,).
    """

    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    species: NDArray[np.int64]
    elements: list[str]
    masses: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]

    def part(self, first: int, last: int) -> Trajectory:
        """The frames whose steps lie in first < step <= last."""
        chosen = (self.steps > first) & (self.steps <= last)
        return Trajectory(
            self.steps[chosen],
            self.times[chosen],
            self.positions[chosen],
            self.velocities[chosen],
            self.species,
            self.elements,
            self.masses,
            self.cell,
            self.pbc,
        )

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class TrajectoryReader:
    """Reads the dumps of a validation.

    Attributes:
        species: elements and masses by LAMMPS type.
    """

    species: Species
    units: Units

    def read(self, path: Path, timestep: float, *, whole: bool = True) -> Trajectory:
        """Read all frames of a dump.

        Args:
            path: LAMMPS text dump.
            timestep: of the run, fs.
            whole: whether a frame that cannot be used is an error; otherwise reading ends before
                it.

        Raises:
            TrajectoryError: there is no usable frame.
        """
        # A model predicts displacements and velocities apart: here it is judged, not refused.
        dump = LammpsDump(path, self.species, self.units, timestep)
        return self._collect(checked(dump, velocities=False), whole)

    def read_states(self, path: Path, timestep: float) -> Trajectory:
        """Frames that need not be equally spaced, nor follow one another."""
        return self._collect(iter(LammpsDump(path, self.species, self.units, timestep)), True)

    def _collect(self, frames: Iterator[Frame], whole: bool) -> Trajectory:
        found: list[Frame] = []
        try:
            for frame in frames:
                found.append(frame)
        except TrajectoryError:
            if whole or not found:
                raise
        first = found[0]
        return Trajectory(
            steps=np.array([frame.step for frame in found]),
            times=np.array([frame.time for frame in found]),
            positions=np.stack([frame.positions for frame in found]),
            velocities=np.stack([frame.velocities for frame in found]),
            species=first.species,
            elements=self.species.elements,
            masses=np.array(self.species.masses)[first.species],
            cell=first.cell,
            pbc=first.pbc,
        )
