"""The extended XYZ format: frames as they stand in the file, nothing interpreted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from ase.io.extxyz import key_val_str_to_dict
from numpy.typing import NDArray

from lammps_trajcast.data.labels import VOIGT
from lammps_trajcast.units import LAMMPS_ORDER


class FormatError(Exception):
    """What is wrong in a file."""


@dataclass(frozen=True)
class _Column:
    kind: str  # "S": text, "R", "I", "L": numbers
    first: int
    width: int


class Frame:
    """A frame.

    Args:
        comment: the second line.
        rows: lines of the atoms.

    Raises:
        FormatError: they are not of this format.
    """

    def __init__(self, comment: str, rows: list[str]) -> None:
        try:
            self._info: dict[str, Any] = dict(key_val_str_to_dict(comment.strip()))
        except Exception as error:  # the parser meets whatever a line may hold
            raise FormatError(f"comment line: {error}") from None
        self._rows = [row.split() for row in rows]
        self._columns = _columns(str(self._info.get("Properties", "species:S:1:pos:R:3")))
        wanted = sum(column.width for column in self._columns.values())
        short = next((row for row in self._rows if len(row) < wanted), None)
        if short is not None:
            raise FormatError(f"{len(short)} words in an atom line with {wanted} columns")
        lattice = self._info.get("Lattice")
        periodic = self._info.get("pbc", [lattice is not None] * 3)
        self.cell: NDArray[np.float64] = np.zeros((3, 3))
        if lattice is not None:
            try:
                # ASE's parser has lattice vectors as columns.
                self.cell = np.array(lattice, dtype=np.float64).T.reshape(3, 3)
            except (ValueError, TypeError):
                raise FormatError("Lattice has to hold nine numbers") from None
        try:
            self.pbc: NDArray[np.bool_] = np.array(np.broadcast_to(periodic, 3), dtype=bool)
        except ValueError:
            raise FormatError('pbc has to be as "T T F"') from None

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return len(self._rows)

    def number(self, *keys: str) -> float | None:
        """A number of the comment line, under the first key that is there."""
        for key in keys:
            if key in self._info:
                try:
                    found = float(self._info[key])
                except (ValueError, TypeError):
                    found = np.nan
                if not np.isfinite(found):
                    raise FormatError(f"{key} is not a finite number")
                return found
        return None

    def tensor(self, key: str) -> NDArray[np.float64] | None:
        """A symmetric tensor (6,) of the comment line: xx, yy, zz, xy, xz, yz."""
        if key not in self._info:
            return None
        try:
            found = np.array(self._info[key], dtype=np.float64)
        except (ValueError, TypeError):
            found = np.empty(0)
        if found.size == len(VOIGT):  # in ASE's order: xx, yy, zz, yz, xz, xy
            found = found.reshape(-1)[LAMMPS_ORDER]
        elif found.size == 9:
            found = found.reshape(3, 3)
            if not np.allclose(found, found.T, rtol=1e-3, atol=1e-6 * np.abs(found).max()):
                raise FormatError(f"{key} is not symmetric")
            found = np.array([found[place] for place in VOIGT])
        else:
            raise FormatError(f"{key} has to hold nine numbers, or six: xx yy zz yz xz xy")
        if not np.isfinite(found).all():
            raise FormatError(f"{key} holds what is not a finite number")
        return found

    def column(self, names: Sequence[str], width: int = 1) -> NDArray[np.float64] | None:
        """Numbers (N,) or (N, width) of the first of the columns that is there."""
        name = next((name for name in names if name in self._columns), None)
        if name is None:
            return None
        column = self._columns[name]
        if column.kind not in ("R", "I") or column.width != width:
            raise FormatError(f"column {name} has to be of kind R:{width}")
        places = range(column.first, column.first + width)
        try:
            table = np.array([[float(row[k]) for k in places] for row in self._rows])
        except ValueError as error:
            raise FormatError(f"column {name}: {error}") from None
        return table.reshape((-1,) if width == 1 else (-1, width))

    def whole_numbers(self, *names: str) -> NDArray[np.int64] | None:
        """Whole numbers (N,) of the first of the columns that is there."""
        numbers = self.column(names)
        if numbers is None:
            return None
        if not (np.abs(numbers) < 2**53).all():
            raise FormatError(f"column {names[0]} has to hold whole numbers")
        return numbers.astype(np.int64)

    def words(self, name: str) -> list[str] | None:
        """Words (N,) of a column, if it is there."""
        column = self._columns.get(name)
        if column is None or column.width != 1 or column.kind == "R":
            return None
        return [row[column.first] for row in self._rows]


def read(lines: TextIO) -> Iterator[Frame]:
    """Yield the frames of a file.

    Raises:
        FormatError: the text is not extended XYZ.
    """
    for line in lines:
        if not line.strip():
            continue
        try:
            count = int(line)
        except ValueError:
            raise FormatError(f"expected a number of atoms, found '{line.strip()[:40]}'") from None
        comment = lines.readline()
        rows = list(itertools.islice(lines, max(count, 0)))
        if count < 1 or len(rows) < count:
            raise FormatError(f"a frame has {len(rows)} atoms instead of {count}")
        yield Frame(comment, rows)


def _columns(properties: str) -> dict[str, _Column]:
    """Columns by their names in lower case: writers differ in these."""
    words = properties.split(":")
    columns: dict[str, _Column] = {}
    first = 0
    try:
        for name, kind, width in zip(words[::3], words[1::3], words[2::3], strict=True):
            columns[name.lower()] = _Column(kind, first, int(width))
            if int(width) < 1:
                raise ValueError
            first += int(width)
    except ValueError:
        raise FormatError(f"Properties={properties[:60]}: not triples name:kind:number") from None
    return columns
