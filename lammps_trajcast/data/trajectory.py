"""Reading trajectories: LAMMPS text dumps, extended XYZ and ASE's, one frame at a time.

Whatever the file, a frame comes out with its atoms in one fixed order, positions in Angstrom and
velocities in Angstrom/fs. Columns that say the same have to agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ase.geometry
import numpy as np

from lammps_trajcast.data.compressed import suffix
from lammps_trajcast.data.consistency import Fault, Jump, MotionCheck
from lammps_trajcast.data.frames import Frame, Frames, Species, TrajectoryError
from lammps_trajcast.data.lammps_dump import LammpsDump
from lammps_trajcast.data.wrong_units import Clock, explain, explain_temperature
from lammps_trajcast.data.xyz_trajectory import ExtendedXYZ
from lammps_trajcast.units import (
    VELOCITY_IN_ANGSTROM_PER_FS,
    Units,
)

ASE_SUFFIX = ".traj"
EXTENDED_XYZ_SUFFIXES = {".xyz", ".extxyz"}


def read_frames(path: Path, species: Species, units: Units, timestep: float | None) -> Frames:
    """Open a trajectory.

    The suffix tells the format: .xyz and .extxyz are extended XYZ, .traj is ASE's own, everything
    else is a LAMMPS text dump. Each may be compressed.

    Args:
        path: the file.
        species: elements of the data set, and of LAMMPS's types.
        units: LAMMPS units of the velocities in the file.
        timestep: fs per MD step; None where the file carries its own time.

    Raises:
        TrajectoryError: the file is missing or damaged; reading the frames may raise it as well.
    """
    if not path.is_file():
        raise TrajectoryError(f"{path}: no such file")
    if suffix(path) in EXTENDED_XYZ_SUFFIXES:
        return ExtendedXYZ(path, species, units, timestep)
    if suffix(path) == ASE_SUFFIX:
        # Of ASE this needs much more than its tables of elements.
        from lammps_trajcast.data.ase_trajectory import ASETrajectory

        return ASETrajectory(path, species, units, timestep)
    return LammpsDump(path, species, units, timestep)


def checked(
    frames: Frames, interval: float | None = None, *, velocities: bool = True
) -> Iterator[Frame]:
    """Yield the frames of one NVE trajectory, checked, with positions continuous in time.

    Every fault that would spoil a data set is an error. Wrapped positions are continued by the
    nearest image of the frame before. A fault in the velocities is found some frames later, at the
    end at the latest.

    Args:
        frames: of the file.
        interval: fs between frames; it replaces times and steps in the file.
        velocities: whether they have to agree with the displacements.

    Raises:
        TrajectoryError: a frame is at fault; the message names the file and the step.
    """
    first: Frame | None = None
    last: Frame | None = None
    spacing: float | None = None
    clock = _Clock(interval)
    motion: _Motion | None = None
    for frame in frames:
        if interval is not None:
            frame = clock.set(frame)
        if first is None or last is None:
            _check_first(frames, frame)
            first = frame
            if velocities:
                motion = _Motion(frames, frame, interval)
        else:
            spacing = _check_next(frames, first, last, frame, spacing, interval)
            if not frame.unwrapped:
                frame = _continue_from(last, frame)
            if motion is not None:
                motion.add(frame, spacing)
        last = frame
        yield frame
    if first is None:
        raise frames.error("holds no frame; leave it out, or dump frames more often")
    if motion is not None:
        motion.finish()


class _Clock:
    """Times of frames that are so many fs apart; what the file says shows where frames are missing.

    Attributes:
        interval: fs.
    """

    def __init__(self, interval: float | None) -> None:
        self._interval = interval
        self._start: float | None = None
        self._unit: float | None = None

    def set(self, frame: Frame) -> Frame:
        raw = float(frame.step) if frame.time is None else frame.time
        if self._start is None:
            self._start = raw
        elif self._unit is None and raw > self._start:
            assert self._interval is not None
            self._unit = self._interval / (raw - self._start)
        return replace(frame, time=(raw - self._start) * (self._unit or 1.0))


class _Motion:
    """Compares the velocities of a trajectory with its displacements.

    Raises TrajectoryError where they cannot be those of the same motion.
    """

    def __init__(self, frames: Frames, first: Frame, interval: float | None) -> None:
        self._frames = frames
        self._interval = interval
        masses = first.masses
        if masses is None:
            masses = np.array(frames.species.masses)[first.species]
        self._temperature = first.temperature(masses)
        self._ids = first.ids
        self._check = MotionCheck(first.species, masses)
        self._spacing: float | None = None
        self._first: Frame | None = first

    def add(self, frame: Frame, spacing: float) -> None:
        if self._first is not None:
            start, self._first = self._first, None
            self._check.add(start.step, start.positions, start.velocities, spacing)
        self._spacing = spacing
        self._refuse(self._check.add(frame.step, frame.positions, frame.velocities, spacing))

    def finish(self) -> None:
        if self._spacing is not None:
            self._refuse(self._check.finish())

    def _refuse(self, found: Fault | Jump | None) -> None:
        if found is None:
            return
        frames, spacing = self._frames, self._spacing
        assert spacing is not None
        if isinstance(found, Jump):
            raise frames.error(
                f"atom {self._ids[found.atom]} is {found.distance:.3g} Angstrom from where it was "
                f"{spacing:g} fs before, farther than its velocity allows; the atoms have changed "
                "their order: write every frame in the same order, or with IDs",
                found.step,
            )
        names = frames.species.elements
        atoms = "atoms" if found.species is None else f"atoms of {names[found.species]}"
        if found.kind == "still":
            raise frames.error(f"the velocities of {atoms} are zero, but they move; dump vx vy vz")
        if found.kind == "unrelated":
            raise frames.error(
                f"{atoms} do not move where their velocities point: the order of atoms changes "
                "from frame to frame, or velocities belong to other atoms; write every frame in "
                "the same order, or with IDs"
            )
        source, unit = frames.clock, frames.time_unit
        if self._interval is not None:
            source, unit = "interval", self._interval
        elif source == "timestep":
            assert frames.timestep is not None
            unit = frames.timestep
        why = explain(
            found.factor,
            VELOCITY_IN_ANGSTROM_PER_FS[frames.units],
            self._temperature,
            Clock(source, unit, spacing),
        )
        if found.species is not None:
            why = (
                f"the velocities of other atoms are right; were those of {names[found.species]} "
                "made of momenta with another mass? write --masses"
            )
        raise frames.error(
            f"from frame to frame {atoms} move {found.factor:.3g} times as far as velocity times "
            f"time; {why}"
        )


def _check_first(frames: Frames, frame: Frame) -> None:
    _check_finite(frames, frame)
    if frame.time is None and frames.has_steps:
        raise frames.error(
            "does not say when its frames were taken; write --timestep, the MD time step in fs "
            "(or --interval, the time between frames)"
        )
    if frame.time is None:
        raise frames.error(
            "does not say when its frames were taken, nor their step numbers; write --interval, "
            "the time between frames in fs: the MD time step times the steps from frame to frame"
        )
    # Of an open direction the cell need not say anything.
    vectors = frame.cell[frame.pbc]
    if len(vectors) and np.linalg.svd(vectors, compute_uv=False).min() < 1e-4:
        raise frames.error('is periodic but has no cell; write Lattice="..."', frame.step)
    masses = frame.masses
    if masses is None:
        masses = np.array(frames.species.masses)[frame.species]
    temperature = frame.temperature(masses)
    # The units differ by 1000 in velocity, a million in temperature: no run lies in between.
    if temperature > 1e5 or 0.0 < temperature < 1e-2:
        hint = explain_temperature(temperature, VELOCITY_IN_ANGSTROM_PER_FS[frames.units])
        raise frames.error(
            f"the velocities mean {temperature:.3g} K: they are not in units {frames.units}; "
            f"{hint}",
            frame.step,
        )


def _check_finite(frames: Frames, frame: Frame) -> None:
    if not np.isfinite(frame.cell).all():
        raise frames.error(
            "a number of the cell is not finite: the run was unstable; use another run", frame.step
        )
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.velocities).all()):
        raise frames.error(
            "a position or velocity is not a finite number: the run was unstable; use another run, "
            "e.g. with a shorter time step",
            frame.step,
        )


def _check_next(
    frames: Frames,
    first: Frame,
    last: Frame,
    frame: Frame,
    spacing: float | None,
    interval: float | None,
) -> float:
    """Compare a frame with the ones before; returns the time between frames in fs."""
    if len(frame.species) != len(first.species):
        raise frames.error(
            f"{len(frame.species)} atoms, but {len(first.species)} in the first frame; a data "
            "set needs a run that loses no atoms",
            frame.step,
        )
    if not np.array_equal(frame.ids, first.ids):
        lost = np.setdiff1d(first.ids, frame.ids)
        raise frames.error(
            f"atom {lost[0]} is gone; a data set needs the same atoms in every frame", frame.step
        )
    if not np.array_equal(frame.species, first.species):
        changed = first.ids[np.flatnonzero(frame.species != first.species)[0]]
        raise frames.error(
            f"the element of atom {changed} has changed; write every frame in the same order, or "
            "with IDs",
            frame.step,
        )
    if not np.array_equal(frame.pbc, first.pbc):
        raise frames.error(
            "the boundary conditions have changed; give every run a file of its own", frame.step
        )
    # In an open direction the box means nothing, and may follow the atoms.
    before, now = first.cell[first.pbc], frame.cell[first.pbc]
    if not np.allclose(now, before, rtol=0.0, atol=1e-6 * np.abs(before).max(initial=0.0)):
        raise frames.error(
            "the cell has changed; a data set needs a run at constant volume (fix nve)", frame.step
        )
    _check_finite(frames, frame)
    assert frame.time is not None and last.time is not None
    elapsed = frame.time - last.time
    if elapsed <= 0.0:
        raise frames.error(
            f"follows step {last.step}: time does not increase; give every run a file of its own",
            frame.step,
        )
    if spacing is not None and abs(elapsed - spacing) > 1e-3 * spacing:
        raise frames.error(
            f"{elapsed:g} fs after the frame before, but the frames before it are {spacing:g} fs "
            "apart; a frame is missing, or the file holds several runs: give each its own file",
            frame.step,
        )
    if interval is None:
        _check_timestep(frames, last, frame, elapsed)
    return elapsed if spacing is None else spacing


def _check_timestep(frames: Frames, last: Frame, frame: Frame, elapsed: float) -> None:
    """Compare --timestep with the times in the file."""
    if frames.timestep is None or frames.clock != "time" or not frames.has_steps:
        return
    expected = (frame.step - last.step) * frames.timestep
    # Extended XYZ has times with six decimals.
    if abs(expected - elapsed) > 1e-2 * elapsed:
        raise frames.error(
            f"{elapsed:g} fs after the frame before by the times in the file, but {expected:g} fs "
            f"by --timestep {frames.timestep:g}; leave --timestep out, or write --interval "
            f"{expected:g} if the times are not in {'fs' if frames.time_unit == 1.0 else 'ps'}",
            frame.step,
        )


def _continue_from(last: Frame, frame: Frame) -> Frame:
    moved = frame.positions - last.positions
    if frame.pbc.any():
        # An open direction may have a zero lattice vector: any independent one does here.
        cell = np.array(ase.geometry.complete_cell(frame.cell))
        fractional = np.linalg.solve(cell.T, moved.T).T
        moved = moved - np.where(frame.pbc, np.round(fractional), 0.0) @ cell
    return replace(frame, positions=last.positions + moved)
