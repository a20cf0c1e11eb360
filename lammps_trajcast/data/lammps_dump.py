"""LAMMPS text dumps, one frame at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.data.frames import Frame, Frames, whole_numbers
from lammps_trajcast.data.labels import Labels
from lammps_trajcast.units import (
    ENERGY_IN_KCAL,
    TIME_IN_FS,
    VELOCITY_IN_ANGSTROM_PER_FS,
)

DUMP_COMMAND = "dump 1 all custom 10 nve.dump id type xu yu zu vx vy vz"


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
                # A shrink-wrapped box follows the atoms: its corner moves, so the first one counts.
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
        # Image flags are needed for every direction.
        if coordinates[0] in ("x", "xs") and {"ix", "iy", "iz"} <= have:
            wanted += ["ix", "iy", "iz"]
        if "mass" in have:
            wanted += ["mass"]
        if {"fx", "fy", "fz"} <= have:
            wanted += ["fx", "fy", "fz"]
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
            raise self.error(
                f"unreadable atom line ({error}); delete the broken frame", header.step
            ) from None
        order = np.argsort(table[:, 0], kind="stable")
        table = table[order]
        column = {name: table[:, k] for k, name in enumerate(columns)}
        texts = {
            name: [of_atoms[k] for k in order] for name, of_atoms in zip(names, words, strict=True)
        }
        types = whole_numbers(texts.get("type", []))
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
            labels=Labels(
                forces=vectors("fx", "fy", "fz") * ENERGY_IN_KCAL[self.units]
                if "fx" in column
                else None
            ),
        )


# In the order of preference: unwrapped ones, and those that lose fewer digits.
COORDINATES = (("xu", "yu", "zu"), ("xsu", "ysu", "zsu"), ("x", "y", "z"), ("xs", "ys", "zs"))


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
