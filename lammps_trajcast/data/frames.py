"""A frame of a trajectory, whatever file it is from, and what all readers share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray

from lammps_trajcast.data.compressed import DAMAGE, CompressionError, open_text
from lammps_trajcast.data.labels import Labels
from lammps_trajcast.units import (
    BOLTZMANN_PER_MASS,
    Units,
)


class TrajectoryError(Exception):
    """A trajectory from which no data set can be made; the message says what to change."""


class Species(NamedTuple):
    """The elements of a data set, in the order that species indices refer to.

    Attributes:
        type_index: species index of LAMMPS type 1, 2, …
        masses_given: whether masses are not just the standard atomic weights.
    """

    elements: list[str]
    masses: list[float]
    type_index: list[int]
    masses_given: bool = False

    def of_types(self) -> list[str]:
        """Element of each LAMMPS type, from type 1 on."""
        return [self.elements[index] for index in self.type_index]

    @classmethod
    def from_types(cls, elements: Sequence[str], masses: Sequence[float] | None = None) -> Species:
        """Species of LAMMPS types.

        Args:
            elements: element of each LAMMPS type, from type 1 on; types may share an element.
            masses: g/mol, of each type; standard atomic weights if not given.

        Raises:
            TrajectoryError: an element is unknown, the number of masses is wrong, or types of one
                element have different masses.
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

    Attributes:
        step: MD step written in the file (or the number of the frame where it has none).
        time: fs, None if the file does not say.
        ids: (N,) int64, ascending; the same in every frame of a trajectory.
        species: (N,) int64, index into the elements of the data set.
        masses: (N,) g/mol, None if not in the file.
        divided: whether velocities are momenta over the masses of the species.
        positions: (N, 3) Angstrom, relative to the origin of the cell.
        unwrapped: whether positions are continuous in time.
        velocities: (N, 3) Angstrom/fs.
        cell: (3, 3) Angstrom, rows are the lattice vectors.
        pbc: (3,) bool.
        labels: energy, virial and forces, as far as the file has them.
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
    labels: Labels = Labels()

    def temperature(self, masses: NDArray[np.float64]) -> float:
        """Kinetic temperature in K, from the velocities about the center of mass.

        Args:
            masses: (N,) g/mol.
        """
        mean = masses @ self.velocities / masses.sum()
        twice_kinetic = float(np.sum(masses[:, None] * (self.velocities - mean) ** 2))
        return twice_kinetic / (max(3 * len(masses) - 3, 1) * BOLTZMANN_PER_MASS)


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
        """Return an error whose message names the file.

        Args:
            message: what is wrong and what to write instead.
            step: MD step of the frame, if one is at fault.
        """
        where = f"{self.path}" if step is None else f"{self.path}, step {step}"
        return TrajectoryError(f"{where}: {message}")

    @contextmanager
    def _open(self, kind: str) -> Iterator[TextIO]:
        """Open the file as text.

        Args:
            kind: what should have been written, for the message.

        Raises:
            TrajectoryError: the file is not text, or is damaged.
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
            raise self.error(
                f"cannot be read ({error}); check its permissions, or write it anew"
            ) from None

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
        # Labels come last: where they are not elements, other keys must give the elements.
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


def whole_numbers(words: Sequence[str]) -> NDArray[np.int64] | None:
    """Numbers of LAMMPS types (N,); None if they are labels, or there are none."""
    if not words:
        return None
    try:
        numbers = {word: int(word) for word in set(words)}
        return np.array([numbers[word] for word in words], dtype=np.int64)
    except (ValueError, OverflowError):
        return None
