"""Extended XYZ as a trajectory, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from lammps_trajcast.data import extended_xyz
from lammps_trajcast.data.frames import Frame, Frames, whole_numbers
from lammps_trajcast.data.labels import Labels, labels_from_ev
from lammps_trajcast.units import (
    ASE_VELOCITY,
    TIME_IN_FS,
    VELOCITY_IN_ANGSTROM_PER_FS,
)

VELOCITY_COLUMNS = ("velocities", "velocity", "vel", "velo")


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
                raise self.error(
                    f"cannot be read as extended XYZ ({error}); correct the file, or write it anew"
                ) from None

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
            labels=self._labels(found, order),
        )

    def _labels(self, found: extended_xyz.Frame, order: NDArray[np.int64]) -> Labels:
        """Energy, virial and forces in units of ASE, whatever those of velocities are."""
        # Forces are the derivatives of the free energy where there are both.
        energy = found.number("free_energy", "energy", "Energy")
        virial, stress = found.tensor("virial"), found.tensor("stress")
        if virial is None and stress is not None:
            virial = -stress * abs(np.linalg.det(found.cell))
        forces = found.column(("forces", "force"), 3)
        return labels_from_ev(
            energy,
            virial if found.pbc.all() else None,
            None if forces is None else forces[order],
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
            if (of_column := whole_numbers(words.get(name, ()))) is not None:
                del words[name]
                if types is not None and not np.array_equal(types, of_column):
                    raise self.error(f"column {name} contradicts another one with types", step)
                types = of_column
        if not words and types is None:
            raise self.error("does not say what its atoms are; write a column species:S:1", step)
        if "types" in words:
            words["type"] = words.pop("types")
        return self._species(step, types, words)
