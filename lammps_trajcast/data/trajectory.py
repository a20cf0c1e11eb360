"""Reading trajectories: LAMMPS text dumps, extended XYZ and ASE's, one frame at a time.

Whatever the file, a frame comes out with its atoms in one fixed order, positions in Angstrom and
velocities in Angstrom/fs. Columns that say the same have to agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import ase.geometry
import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from lammps_trajcast.data import extended_xyz
from lammps_trajcast.data.compressed import DAMAGE, CompressionError, open_text, suffix
from lammps_trajcast.data.consistency import Fault, Jump, MotionCheck
from lammps_trajcast.data.wrong_units import Clock, explain, explain_temperature
from lammps_trajcast.units import (
    ASE_VELOCITY,
    BOLTZMANN_PER_MASS,
    TIME_IN_FS,
    VELOCITY_IN_ANGSTROM_PER_FS,
    Units,
)

ASE_SUFFIX = ".traj"
EXTENDED_XYZ_SUFFIXES = {".xyz", ".extxyz"}
VELOCITY_COLUMNS = ("velocities", "velocity", "vel", "velo")
DUMP_COMMAND = "dump 1 all custom 10 nve.dump id type xu yu zu vx vy vz"


class TrajectoryError(Exception):
    """A trajectory from which no data set can be made; the message says what to change."""


class Species(NamedTuple):
    """The elements of a data set, in the order that species indices refer to.

    type_index: species index of LAMMPS type 1, 2, …
    masses_given: whether masses are not just the standard atomic weights.
    """

    elements: list[str]
    masses: list[float]
    type_index: list[int]
    masses_given: bool = False

    def of_types(self) -> list[str]:
        """Element of LAMMPS type 1, 2, …"""
        return [self.elements[index] for index in self.type_index]

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
        given = masses is not None
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
            masses_given=given,
        )


@dataclass(frozen=True)
class Frame:
    """The state of a system at one time.

    step:        MD step written in the file (or the number of the frame where it has none).
    time:        fs, None if the file does not say.
    ids:         (N,) int64, ascending; the same in every frame of a trajectory.
    species:     (N,) int64, index into the elements of the data set.
    masses:      (N,) g/mol, None if not in the file.
    divided:     whether velocities are momenta over the masses of the species.
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
    divided: bool = False

    def temperature(self, masses: NDArray[np.float64]) -> float:
        """Kinetic temperature in K, from the velocities about the centre of mass.

        masses: (N,) g/mol.
        """
        mean = masses @ self.velocities / masses.sum()
        twice_kinetic = float(np.sum(masses[:, None] * (self.velocities - mean) ** 2))
        return twice_kinetic / (max(3 * len(masses) - 3, 1) * BOLTZMANN_PER_MASS)


def read_frames(path: Path, species: Species, units: Units, timestep: float | None) -> Frames:
    """Open a trajectory: extended XYZ (.xyz, .extxyz) and ASE's own (.traj) by their suffixes, else
    a LAMMPS text dump.

    Either may be compressed.

    units: LAMMPS units of the velocities in the file.
    timestep: fs per MD step; None where the file carries its own time.

    Raises TrajectoryError, also while the frames are read.
    """
    if not path.is_file():
        raise TrajectoryError(f"{path}: no such file")
    if suffix(path) in EXTENDED_XYZ_SUFFIXES:
        return ExtendedXYZ(path, species, units, timestep)
    if suffix(path) == ASE_SUFFIX:
        from lammps_trajcast.data.ase_trajectory import ASETrajectory

        return ASETrajectory(path, species, units, timestep)
    return LammpsDump(path, species, units, timestep)


class Frames:
    """The frames of one file, in its order.

    Attributes:
        clock: where times come from: "timestep", or "time" where the file says.
        time_unit: of such times, fs.
        has_steps: whether the file says the MD step of its frames.
    """

    def __init__(self, path: Path, species: Species, units: Units, timestep: float | None) -> None:
        self.path = path
        self.species = species
        self.units = units
        self.timestep = timestep
        self.size = path.stat().st_size
        self.clock = "timestep"
        self.time_unit = 1.0
        self.has_steps = True
        self._raw: BinaryIO | None = None

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError

    @property
    def position(self) -> int:
        """How far reading has come, in bytes."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def error(self, message: str, step: int | None = None) -> TrajectoryError:
        where = f"{self.path}" if step is None else f"{self.path}, step {step}"
        return TrajectoryError(f"{where}: {message}")

    @contextmanager
    def _open(self, kind: str) -> Iterator[TextIO]:
        """The text of the file. Raises TrajectoryError for what is no text.

        kind: what should have been written, for the message.
        """
        try:
            self._raw, lines = open_text(self.path)
            with self._raw, lines:
                yield lines
        except CompressionError as error:
            raise self.error(str(error)) from None
        except UnicodeDecodeError:
            raise self.error(f"is not a text file; write {kind}") from None
        except DAMAGE as error:
            raise self.error(f"cannot be read ({error}); write it anew") from None

    def _species(
        self,
        step: int,
        types: NDArray[np.int64] | None,
        words: Mapping[str, Sequence[str]],
    ) -> NDArray[np.int64]:
        """Species (N,) from all that a frame says about what its atoms are, which has to agree.

        Args:
            step: of the frame.
            types: (N,) LAMMPS types.
            words: column by name: elements, or labels of types, which are names of elements where
                there is nothing else.
        """
        found: NDArray[np.int64] | None = None
        if types is not None:
            largest = len(self.species.type_index)
            if types.size and (types.min() < 1 or types.max() > largest):
                wrong = types.min() if types.min() < 1 else types.max()
                raise self.error(
                    f"atom type {wrong}, but --elements names {largest}; write one "
                    "element for each LAMMPS type",
                    step,
                )
            found = np.array(self.species.type_index, dtype=np.int64)[types - 1]
        # Labels come last: where they are no elements, something else has to say what atoms are.
        for name in sorted(words, key=lambda name: name in LABEL_COLUMNS):
            column = words[name]
            symbols = {word: _symbol(word, name) for word in set(column)}
            unknown = sorted(word for word, symbol in symbols.items() if symbol is None)
            if unknown and name in LABEL_COLUMNS and found is not None:
                continue
            if unknown:
                raise self.error(
                    f"'{unknown[0]}' in column {name} is not a chemical element; dump the column "
                    "type, or an element: 'dump_modify ID element "
                    f"{' '.join(self.species.of_types())}' (LAMMPS)",
                    step,
                )
            if found is not None:
                self._compare_elements(step, found, types, name, [symbols[w] for w in column])
                continue
            absent = sorted({str(symbol) for symbol in symbols.values()})
            absent = [symbol for symbol in absent if symbol not in self.species.elements]
            if absent:
                raise self.error(
                    f"element {absent[0]} is not among --elements "
                    f"{' '.join(self.species.elements)}; add it there",
                    step,
                )
            index = {w: self.species.elements.index(str(s)) for w, s in symbols.items()}
            found = np.array([index[word] for word in column], dtype=np.int64)
        assert found is not None
        return found

    def _compare_elements(
        self,
        step: int,
        found: NDArray[np.int64],
        types: NDArray[np.int64] | None,
        name: str,
        symbols: Sequence[str | None],
    ) -> None:
        elements = self.species.elements
        wrong = next((k for k, s in enumerate(symbols) if s != elements[found[k]]), None)
        if wrong is None:
            return
        if types is None:
            raise self.error(
                f"column {name} says {symbols[wrong]} where another column says "
                f"{elements[found[wrong]]}; leave the wrong one out",
                step,
            )
        of_type = dict(zip(types.tolist(), symbols, strict=True))
        count = len(self.species.type_index)
        remedy = (
            "write --elements " + " ".join(str(of_type[k + 1]) for k in range(count))
            if all(k + 1 in of_type for k in range(count)) and len(set(of_type.values())) > 1
            else "correct --elements, or 'dump_modify ID element' (LAMMPS writes C without it)"
        )
        raise self.error(
            f"column {name} says that type {types[wrong]} is {symbols[wrong]}, but --elements says "
            f"{elements[found[wrong]]}; {remedy}",
            step,
        )


# Columns of names of atom types, which need not be elements.
LABEL_COLUMNS = {"typelabel", "type"}


def _symbol(word: str, column: str) -> str | None:
    """The chemical element that a word means, if it does.

    Extended XYZ may have it in any case; labels of types are in the case of the force field.
    """
    word = word if column in LABEL_COLUMNS else word.capitalize()
    return word if atomic_numbers.get(word, 0) > 0 else None


class LammpsDump(Frames):
    """A text dump of style custom: id, type or element, x y z [ix iy iz] or xu yu zu, vx vy vz.

    Coordinates may be scaled: xs ys zs [ix iy iz] or xsu ysu zsu.
    """

    def __iter__(self) -> Iterator[Frame]:
        first: NDArray[np.float64] | None = None
        with self._open(f"a text dump, e.g. '{DUMP_COMMAND}'") as lines:
            while True:
                header = self._read_header(lines)
                if header is None:
                    return
                # A shrink-wrapped box follows the atoms: its corner is no place to count from.
                first = header.origin if first is None else first
                header.zero = np.where(header.pbc, header.origin, first)
                columns = self._check_columns(header)
                if header.num_atoms < 1:
                    raise self.error("holds no atoms in this frame; delete it", header.step)
                # islice must not read past the last atom: the header of the next frame follows.
                rows = list(itertools.islice(lines, header.num_atoms))
                if len(rows) != header.num_atoms:
                    raise self.error(
                        "the file ends inside this frame; delete the incomplete frame",
                        header.step,
                    )
                yield self._frame(header, columns, rows)

    def _read_header(self, lines: TextIO) -> _DumpHeader | None:
        header = _DumpHeader()
        for line in lines:
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
                    if not np.isfinite(header.time):
                        raise ValueError
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
        return lines.readline()

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
        """The columns of numbers to read, in a fixed order."""
        have = set(header.columns)
        wanted = ["id", "vx", "vy", "vz"]
        coordinates = next((names for names in COORDINATES if set(names) <= have), ("x", "y", "z"))
        wanted += coordinates
        # Image flags come for every direction or are of no use.
        if coordinates[0] in ("x", "xs") and {"ix", "iy", "iz"} <= have:
            wanted += ["ix", "iy", "iz"]
        if "mass" in have:
            wanted += ["mass"]
        if not have & {"type", "element", "typelabel"}:
            wanted += ["type"]
        missing = [column for column in wanted if column not in have]
        if missing:
            raise self.error(
                f"has no column {' '.join(missing)}; dump these columns: '{DUMP_COMMAND}'",
                header.step,
            )
        return wanted

    def _frame(self, header: _DumpHeader, columns: list[str], rows: list[str]) -> Frame:
        names: list[str] = [
            name for name in ("type", "element", "typelabel") if name in header.columns
        ]
        try:
            table = np.loadtxt(
                rows,
                usecols=[header.columns.index(name) for name in columns],
                ndmin=2,
                comments=None,
            )
            places = [header.columns.index(name) for name in names]
            words = [[line.split(None, k + 1)[k] for line in rows] for k in places]
        except (ValueError, IndexError) as error:
            raise self.error(f"unreadable atom line ({error})", header.step) from None
        order = np.argsort(table[:, 0], kind="stable")
        table = table[order]
        column = {name: table[:, k] for k, name in enumerate(columns)}
        texts = {
            name: [of_atoms[k] for k in order] for name, of_atoms in zip(names, words, strict=True)
        }
        types = _whole_numbers(texts.get("type", []))
        if types is not None:
            del texts["type"]

        def vectors(*names: str) -> NDArray[np.float64]:
            return np.stack([column[name] for name in names], axis=1)

        used = next(names for names in COORDINATES if names[0] in column)
        positions = vectors(*used)
        if used[0] in ("xs", "xsu"):
            # Fractions of the lattice vectors: of the cell, not of the box that bounds it.
            positions = positions @ header.cell + header.origin
        positions = positions - header.zero
        if "ix" in column:
            positions += vectors("ix", "iy", "iz") @ header.cell
        species = self._species(header.step, types, texts)
        if header.time is not None:
            time: float | None = header.time * TIME_IN_FS[self.units]
            self.clock, self.time_unit = "time", TIME_IN_FS[self.units]
        else:
            time = None if self.timestep is None else header.step * self.timestep
        return Frame(
            step=header.step,
            time=time,
            ids=table[:, 0].astype(np.int64),
            species=species,
            masses=column.get("mass"),
            positions=positions,
            unwrapped=used[0] in ("xu", "xsu") or "ix" in column,
            velocities=vectors("vx", "vy", "vz") * VELOCITY_IN_ANGSTROM_PER_FS[self.units],
            cell=header.cell,
            pbc=header.pbc,
        )


# In the order of preference: unwrapped ones, and those that lose fewer digits.
COORDINATES = (("xu", "yu", "zu"), ("xsu", "ysu", "zsu"), ("x", "y", "z"), ("xs", "ys", "zs"))


def _whole_numbers(words: Sequence[str]) -> NDArray[np.int64] | None:
    """Numbers of LAMMPS types (N,); None if they are labels, or there are none."""
    if not words:
        return None
    try:
        numbers = {word: int(word) for word in set(words)}
        return np.array([numbers[word] for word in words], dtype=np.int64)
    except (ValueError, OverflowError):
        return None


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
    """Extended XYZ, of ASE and of LAMMPS's `dump extxyz`.

    Velocities come from a column `velocities` (or velocity, vel, velo) in LAMMPS units, or from
    ASE's `momenta`; the time from `time` (fs), LAMMPS's `Time` (in its unit), or `step` or
    LAMMPS's `Timestep` in the comment line. Atoms are in the order of a column `id`, if there is
    one.
    """

    def __iter__(self) -> Iterator[Frame]:
        with self._open("extended XYZ") as lines:
            try:
                for number, found in enumerate(extended_xyz.read(lines)):
                    yield self._frame(number, found)
            except extended_xyz.FormatError as error:
                raise self.error(f"cannot be read as extended XYZ ({error})") from None

    def _frame(self, number: int, found: extended_xyz.Frame) -> Frame:
        step = found.number("step", "Step", "Timestep")
        self.has_steps = step is not None
        step = number if step is None else int(step)
        time = found.number("time")
        self.time_unit = 1.0
        if time is None:
            time = found.number("Time")
            self.time_unit = TIME_IN_FS[self.units]
        if time is not None:
            self.clock, time = "time", time * self.time_unit
        elif self.has_steps and self.timestep is not None:
            time = step * self.timestep
        count = found.num_atoms
        ids = found.whole_numbers("id")
        order = np.arange(count) if ids is None else np.argsort(ids, kind="stable")
        species = self._species_of(step, found)
        masses = found.column(("mass", "masses"))
        velocities = found.column(VELOCITY_COLUMNS, 3)
        momenta = found.column(("momenta", "momentum"), 3)
        divided = False
        if velocities is not None:
            velocities = velocities * VELOCITY_IN_ANGSTROM_PER_FS[self.units]
        elif momenta is not None:
            divided = masses is None
            of_atoms = np.array(self.species.masses)[species] if masses is None else masses
            velocities = momenta / of_atoms[:, None] * ASE_VELOCITY
        else:
            raise self.error(
                "has no velocities; write a column velocities:R:3 (or ASE's momenta:R:3; LAMMPS: "
                "'dump_modify ID vel yes')",
                step,
            )
        positions = found.column(("pos", "positions"), 3)
        if positions is None:
            raise self.error("has no positions; write a column pos:R:3", step)
        return Frame(
            step=step,
            time=time,
            ids=np.arange(1, count + 1) if ids is None else ids[order],
            species=species[order],
            masses=None if masses is None else masses[order],
            positions=positions[order],
            unwrapped=False,
            velocities=velocities[order],
            cell=found.cell,
            pbc=found.pbc,
            divided=divided,
        )

    def _species_of(self, step: int, found: extended_xyz.Frame) -> NDArray[np.int64]:
        words = {
            name: column
            for name in ("species", "element", "elements", "symbols", "type", "types", "typelabel")
            if (column := found.words(name)) is not None
        }
        numbers = found.whole_numbers("z", "numbers", "atomic_numbers")
        if numbers is not None:
            known = np.where((numbers > 0) & (numbers < len(chemical_symbols)), numbers, 0)
            words["numbers"] = [chemical_symbols[k] for k in known]
        types: NDArray[np.int64] | None = None
        # LAMMPS writes the number of the type for the element, if it was told none.
        for name in ("type", "types", "species"):
            if (of_column := _whole_numbers(words.get(name, ()))) is not None:
                del words[name]
                if types is not None and not np.array_equal(types, of_column):
                    raise self.error(f"column {name} contradicts another one with types", step)
                types = of_column
        if not words and types is None:
            raise self.error("does not say what its atoms are; write a column species:S:1", step)
        if "types" in words:
            words["type"] = words.pop("types")
        return self._species(step, types, words)


def checked(
    frames: Frames, interval: float | None = None, *, velocities: bool = True
) -> Iterator[Frame]:
    """The frames of one NVE trajectory: every fault that would spoil a data set is an error, and
    positions come out continuous in time.

    Wrapped positions are continued by the nearest image of the frame before. A fault in the
    velocities is found some frames later, at the end at the latest.

    interval: fs between frames; comes before times and steps in the file.
    velocities: whether they have to be those of the displacements.

    Raises TrajectoryError naming the file and the step.
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
        raise frames.error("holds no frame")
    if motion is not None:
        motion.finish()


class _Clock:
    """Times of frames that are so many fs apart; what the file says shows where frames are missing.

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
        raise frames.error("a number of the cell is not finite", frame.step)
    if not (np.isfinite(frame.positions).all() and np.isfinite(frame.velocities).all()):
        raise frames.error("a position or velocity is not a finite number", frame.step)


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
