"""Reading trajectories: LAMMPS text dumps and extended XYZ, one frame at a time.

Whatever the file, a frame comes out with its atoms in one fixed order, positions in Angstrom and
velocities in Angstrom/fs.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import ase
import ase.io
import numpy as np
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray

Units = Literal["metal", "real"]

# One unit of velocity (metal: Angstrom/ps, real: Angstrom/fs) in Angstrom/fs.
VELOCITY_IN_ANGSTROM_PER_FS = {"metal": 1e-3, "real": 1.0}
# One unit of time (metal: ps, real: fs) in fs.
TIME_IN_FS = {"metal": 1e3, "real": 1.0}
# k_B / (1 g/mol) in (Angstrom/fs)^2 / K.
BOLTZMANN = 8.31446261815324e-7

EXTENDED_XYZ_SUFFIXES = {".xyz", ".extxyz"}
VELOCITY_ARRAYS = ("velocities", "velocity", "vel", "velo")
DUMP_COMMAND = "dump 1 all custom 10 nve.dump id type xu yu zu vx vy vz"


class TrajectoryError(Exception):
    """A trajectory from which no data set can be made; the message says what to change."""


class Species(NamedTuple):
    """The elements of a data set, in the order that species indices refer to.

    type_index: species index of LAMMPS type 1, 2, …
    """

    elements: list[str]
    masses: list[float]
    type_index: list[int]

    @classmethod
    def from_types(cls, elements: Sequence[str], masses: Sequence[float] | None = None) -> Species:
        """Species of LAMMPS types.

        elements: element of LAMMPS type 1, 2, …; types may share an element.
        masses: g/mol, of each type; standard atomic weights if not given.

        Raises TrajectoryError for an unknown element or a wrong number of masses.
        """
        for element in elements:
            if atomic_numbers.get(element, 0) == 0:
                raise TrajectoryError(
                    f"--elements: '{element}' is not a chemical element; write one symbol for "
                    "each LAMMPS type, e.g. --elements Si O"
                )
        if masses is not None and len(masses) != len(elements):
            raise TrajectoryError(
                f"--masses: {len(masses)} given for {len(elements)} elements; write one for each"
            )
        if masses is None:
            masses = [float(atomic_masses[atomic_numbers[element]]) for element in elements]
        order = list(dict.fromkeys(elements))
        unique = dict(zip(elements, masses, strict=True))
        for element, mass in zip(elements, masses, strict=True):
            if mass != unique[element]:
                raise TrajectoryError(
                    f"--masses: {mass:g} and {unique[element]:g} g/mol for types of {element}; "
                    "give every type of an element the same mass"
                )
        return cls(
            elements=order,
            masses=[unique[element] for element in order],
            type_index=[order.index(element) for element in elements],
        )


@dataclass(frozen=True)
class Frame:
    """The state of a system at one time.

    step:        MD step written in the file (or the number of the frame where it has none).
    time:        fs, None if the file does not say.
    ids:         (N,) int64, ascending; the same in every frame of a trajectory.
    species:     (N,) int64, index into the elements of the data set.
    masses:      (N,) g/mol, None if not in the file.
    positions:   (N, 3) Angstrom, relative to the origin of the cell.
    unwrapped:   whether positions are continuous in time.
    velocities:  (N, 3) Angstrom/fs.
    cell:        (3, 3) Angstrom, rows are the lattice vectors.
    pbc:         (3,) bool.
    """

    step: int
    time: float | None
    ids: NDArray[np.int64]
    species: NDArray[np.int64]
    masses: NDArray[np.float64] | None
    positions: NDArray[np.float64]
    unwrapped: bool
    velocities: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]

    def temperature(self, masses: NDArray[np.float64]) -> float:
        """Kinetic temperature in K, from the velocities about the centre of mass.

        masses: (N,) g/mol.
        """
        mean = masses @ self.velocities / masses.sum()
        twice_kinetic = float(np.sum(masses[:, None] * (self.velocities - mean) ** 2))
        return twice_kinetic / (max(3 * len(masses) - 3, 1) * BOLTZMANN)


def read_frames(path: Path, species: Species, units: Units, timestep: float | None) -> Frames:
    """Open a trajectory: extended XYZ by its suffix (.xyz, .extxyz), else a LAMMPS text dump.

    units: LAMMPS units of the velocities in the file.
    timestep: fs per MD step; None where the file carries its own time.

    Raises TrajectoryError, also while the frames are read.
    """
    if not path.is_file():
        raise TrajectoryError(f"{path}: no such file")
    if path.suffix in EXTENDED_XYZ_SUFFIXES:
        return ExtendedXYZ(path, species, units, timestep)
    return LammpsDump(path, species, units, timestep)


class Frames:
    """The frames of one file, in its order; `position` tells how far reading has come."""

    def __init__(self, path: Path, species: Species, units: Units, timestep: float | None) -> None:
        self.path = path
        self.species = species
        self.units = units
        self.timestep = timestep
        self.size = path.stat().st_size
        self.position = 0

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    def error(self, message: str, step: int | None = None) -> TrajectoryError:
        where = f"{self.path}" if step is None else f"{self.path}, step {step}"
        return TrajectoryError(f"{where}: {message}")


class LammpsDump(Frames):
    """A text dump of style custom: id, type or element, x y z [ix iy iz] or xu yu zu, vx vy vz."""

    def __iter__(self) -> Iterator[Frame]:
        elements: list[str] | None = None
        first: NDArray[np.float64] | None = None
        try:
            with self.path.open() as lines:
                while True:
                    header = self._read_header(lines)
                    if header is None:
                        return
                    # A shrink-wrapped box follows the atoms: its corner is no place to count from.
                    first = header.origin if first is None else first
                    header.zero = np.where(header.pbc, header.origin, first)
                    columns = self._check_columns(header)
                    # islice must not read past the last atom: the header of the next frame follows.
                    rows = list(itertools.islice(lines, header.num_atoms))
                    self.position += sum(map(len, rows))
                    if len(rows) != header.num_atoms:
                        raise self.error(
                            "the file ends inside this frame; delete the incomplete frame",
                            header.step,
                        )
                    if "type" not in columns and elements is None:
                        elements = self._read_elements(rows, header)
                    yield self._frame(header, columns, rows, elements)
        except UnicodeDecodeError:
            raise self.error(
                f"is not a text file; write a text dump, e.g. '{DUMP_COMMAND}'"
            ) from None

    def _read_header(self, lines: TextIO) -> _DumpHeader | None:
        header = _DumpHeader()
        for line in lines:
            self.position += len(line)
            if not line.strip():
                continue
            if not line.startswith("ITEM:"):
                raise self.error(
                    "expected 'ITEM: ...', found "
                    f"'{line.strip()[:40]}'; write a text dump, e.g. '{DUMP_COMMAND}'",
                    header.step if header.num_atoms else None,
                )
            words = line.split()[1:]
            try:
                if words[0] == "TIMESTEP":
                    header.step = int(self._next(lines))
                elif words[0] == "UNITS":
                    self._check_units(self._next(lines).strip())
                elif words[0] == "TIME":
                    header.time = float(self._next(lines))
                elif words[:3] == ["NUMBER", "OF", "ATOMS"]:
                    header.num_atoms = int(self._next(lines))
                elif words[:2] == ["BOX", "BOUNDS"]:
                    bounds = np.array(
                        [[float(word) for word in self._next(lines).split()] for _ in range(3)]
                    )
                    header.cell, header.origin = _cell_from_bounds(words[2:], bounds)
                    header.pbc = np.array([word == "pp" for word in words[-3:]])
                elif words[0] == "ATOMS":
                    header.columns = words[1:]
                    return header
            except (ValueError, IndexError):
                raise self.error(
                    f"cannot read '{line.strip()}' of this frame; delete the broken frame",
                    header.step,
                ) from None
        return None

    def _next(self, lines: TextIO) -> str:
        line = lines.readline()
        self.position += len(line)
        return line

    def _check_units(self, units: str) -> None:
        if units != self.units:
            raise self.error(
                f"was written with 'units {units}', but --units is {self.units}; "
                + (
                    f"write --units {units}"
                    if units in TIME_IN_FS
                    else "use a run in units metal or real"
                )
            )

    def _check_columns(self, header: _DumpHeader) -> list[str]:
        """The columns to read, in a fixed order; all but `element` are numbers."""
        have = set(header.columns)
        wanted = ["id", "vx", "vy", "vz"]
        if {"xu", "yu", "zu"} <= have:
            wanted += ["xu", "yu", "zu"]
        else:
            wanted += ["x", "y", "z"]
            # Image flags come for every direction or are of no use.
            if {"ix", "iy", "iz"} <= have:
                wanted += ["ix", "iy", "iz"]
        if "mass" in have:
            wanted += ["mass"]
        if "type" in have or "element" not in have:
            wanted += ["type"]
        missing = [column for column in wanted if column not in have]
        if missing:
            raise self.error(
                f"has no column {' '.join(missing)}; dump these columns: '{DUMP_COMMAND}'",
                header.step,
            )
        return wanted

    def _read_elements(self, rows: list[str], header: _DumpHeader) -> list[str]:
        """Elements by id, for dumps without types; an atom keeps its element."""
        element, number = header.columns.index("element"), header.columns.index("id")
        pairs = [(int(words[number]), words[element]) for words in map(str.split, rows)]
        symbols = [symbol for _, symbol in sorted(pairs)]
        unknown = sorted(set(symbols) - set(self.species.elements))
        if unknown:
            raise self.error(
                f"element {unknown[0]} is not among --elements "
                f"{' '.join(self.species.elements)}; add it there",
                header.step,
            )
        return symbols

    def _frame(
        self,
        header: _DumpHeader,
        columns: list[str],
        rows: list[str],
        elements: list[str] | None,
    ) -> Frame:
        try:
            table = np.loadtxt(
                rows, usecols=[header.columns.index(name) for name in columns], ndmin=2
            )
        except ValueError as error:
            raise self.error(f"unreadable atom line ({error})", header.step) from None
        table = table[np.argsort(table[:, 0])]
        column = {name: table[:, k] for k, name in enumerate(columns)}

        def vectors(*names: str) -> NDArray[np.float64]:
            return np.stack([column[name] for name in names], axis=1)

        unwrapped = "xu" in column or "ix" in column
        positions = vectors("xu", "yu", "zu") if "xu" in column else vectors("x", "y", "z")
        positions = positions - header.zero
        if "ix" in column:
            positions += vectors("ix", "iy", "iz") @ header.cell
        if elements is None:
            types = column["type"].astype(np.int64)
            largest = len(self.species.type_index)
            if types.size and (types.min() < 1 or types.max() > largest):
                raise self.error(
                    f"atom type {types.max()}, but --elements names {largest}; write one "
                    "element for each LAMMPS type",
                    header.step,
                )
            species = np.array(self.species.type_index, dtype=np.int64)[types - 1]
        else:
            species = np.array([self.species.elements.index(symbol) for symbol in elements])
        if header.time is not None:
            time: float | None = header.time * TIME_IN_FS[self.units]
        else:
            time = None if self.timestep is None else header.step * self.timestep
        return Frame(
            step=header.step,
            time=time,
            ids=table[:, 0].astype(np.int64),
            species=species,
            masses=column.get("mass"),
            positions=positions,
            unwrapped=unwrapped,
            velocities=vectors("vx", "vy", "vz") * VELOCITY_IN_ANGSTROM_PER_FS[self.units],
            cell=header.cell,
            pbc=header.pbc,
        )


@dataclass
class _DumpHeader:
    step: int = 0
    time: float | None = None
    num_atoms: int = 0
    cell: NDArray[np.float64] = None  # type: ignore[assignment]
    origin: NDArray[np.float64] = None  # type: ignore[assignment]
    zero: NDArray[np.float64] = None  # type: ignore[assignment]
    pbc: NDArray[np.bool_] = None  # type: ignore[assignment]
    columns: list[str] = None  # type: ignore[assignment]


def _cell_from_bounds(
    words: list[str], bounds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cell (rows) and origin from the three lines of a LAMMPS box, whichever form they have."""
    if words[:2] == ["abc", "origin"]:
        return bounds[:, :3].copy(), bounds[:, 3].copy()
    low, high = bounds[:, 0].copy(), bounds[:, 1].copy()
    xy, xz, yz = bounds[:, 2] if words[:3] == ["xy", "xz", "yz"] else (0.0, 0.0, 0.0)
    # A triclinic dump gives the box that bounds the cell, not lo and hi of the cell itself.
    low[0] -= min(0.0, xy, xz, xy + xz)
    high[0] -= max(0.0, xy, xz, xy + xz)
    low[1] -= min(0.0, yz)
    high[1] -= max(0.0, yz)
    cell = np.diag(high - low)
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    return cell, low


class ExtendedXYZ(Frames):
    """Extended XYZ, read by ASE.

    Velocities come from an array `velocities` (or velocity, vel, velo) in LAMMPS units, or from
    ASE's `momenta`; the time from `time` (fs) or `step` in the comment line.
    """

    def __iter__(self) -> Iterator[Frame]:
        try:
            with self.path.open("rb") as raw, io.TextIOWrapper(raw) as lines:
                frames: Iterable[Any] = ase.io.iread(lines, index=":", format="extxyz")
                for number, atoms in enumerate(frames):
                    self.position = raw.tell()
                    yield self._frame(number, atoms)
        except TrajectoryError:
            raise
        except Exception as error:  # ASE raises whatever its parser meets
            raise self.error(f"cannot be read as extended XYZ ({error})") from None

    def _frame(self, number: int, atoms: ase.Atoms) -> Frame:
        step = int(atoms.info.get("step", number))
        time: float | None = None
        if "time" in atoms.info:
            time = float(atoms.info["time"])
        elif "step" in atoms.info and self.timestep is not None:
            time = step * self.timestep
        symbols = atoms.get_chemical_symbols()
        unknown = sorted(set(symbols) - set(self.species.elements))
        if unknown:
            raise self.error(
                f"element {unknown[0]} is not among --elements "
                f"{' '.join(self.species.elements)}; add it there",
                step,
            )
        named = [name for name in VELOCITY_ARRAYS if atoms.has(name)]
        if named:
            velocities = atoms.get_array(named[0]) * VELOCITY_IN_ANGSTROM_PER_FS[self.units]
        elif atoms.has("momenta"):
            velocities = atoms.get_velocities() * ase.units.fs
        else:
            raise self.error(
                "has no velocities; write a column velocities:R:3 (or ASE's momenta:R:3)", step
            )
        return Frame(
            step=step,
            time=time,
            ids=np.arange(1, len(symbols) + 1),
            species=np.array([self.species.elements.index(s) for s in symbols], dtype=np.int64),
            masses=atoms.get_masses() if atoms.has("masses") else None,
            positions=atoms.get_positions(),
            unwrapped=False,
            velocities=velocities,
            cell=np.array(atoms.cell.array, dtype=np.float64),
            pbc=np.array(atoms.pbc, dtype=bool),
        )


def checked(frames: Frames, interval: float | None = None) -> Iterator[Frame]:
    """The frames of one NVE trajectory: every fault that would spoil a data set is an error, and
    positions come out continuous in time.

    Wrapped positions are continued by the nearest image of the frame before.

    interval: fs between frames, where the file has no time of its own.

    Raises TrajectoryError naming the file and the step.
    """
    first: Frame | None = None
    last: Frame | None = None
    spacing: float | None = None
    for frame in frames:
        if frame.time is None and interval is not None:
            start = 0.0 if last is None or last.time is None else last.time + interval
            frame = replace(frame, time=start)
        if first is None or last is None:
            _check_first(frames, frame)
            first = frame
        else:
            spacing = _check_next(frames, first, last, frame, spacing)
            if not frame.unwrapped:
                frame = _continue_from(last, frame)
        last = frame
        yield frame
    if first is None:
        raise frames.error("holds no frame")


def _check_first(frames: Frames, frame: Frame) -> None:
    _check_finite(frames, frame)
    if frame.time is None:
        raise frames.error(
            "does not say when its frames were taken; write --timestep, the MD time step in fs "
            "(or --interval, the time between frames, where the file has no step numbers)"
        )
    # Of an open direction the cell need not say anything.
    vectors = frame.cell[frame.pbc]
    if len(vectors) and np.linalg.svd(vectors, compute_uv=False).min() < 1e-4:
        raise frames.error('is periodic but has no cell; write Lattice="..."', frame.step)
    masses = np.array(frames.species.masses)[frame.species]
    temperature = frame.temperature(masses)
    # The units differ by 1000 in velocity, a million in temperature: no run lies in between.
    if temperature > 1e5 or 0.0 < temperature < 1e-2:
        raise frames.error(
            f"the velocities mean {temperature:.3g} K: they are not in units {frames.units}; "
            f"write --units {'real' if frames.units == 'metal' else 'metal'}",
            frame.step,
        )


def _check_finite(frames: Frames, frame: Frame) -> None:
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.velocities).all()):
        raise frames.error("a position or velocity is not a finite number", frame.step)


def _check_next(
    frames: Frames, first: Frame, last: Frame, frame: Frame, spacing: float | None
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
        raise frames.error("the element of an atom has changed", frame.step)
    if not np.array_equal(frame.pbc, first.pbc):
        raise frames.error("the boundary conditions have changed", frame.step)
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
    return elapsed if spacing is None else spacing


def _continue_from(last: Frame, frame: Frame) -> Frame:
    moved = frame.positions - last.positions
    if frame.pbc.any():
        # An open direction may have a zero lattice vector: any independent one does here.
        cell = np.array(ase.geometry.complete_cell(frame.cell))
        fractional = np.linalg.solve(cell.T, moved.T).T
        moved = moved - np.where(frame.pbc, np.round(fractional), 0.0) @ cell
    return replace(frame, positions=last.positions + moved)
