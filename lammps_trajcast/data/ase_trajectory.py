"""ASE's own trajectories (`.traj`): binary, with momenta and without times."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.trajectory import TrajectoryReader
from numpy.typing import NDArray
from typing_extensions import override

from lammps_trajcast.data.compressed import DAMAGE, CompressionError, open_bytes
from lammps_trajcast.data.frames import Frame, Frames, TrajectoryError
from lammps_trajcast.data.labels import VOIGT, Labels, labels_from_ev
from lammps_trajcast.units import ASE_VELOCITY, LAMMPS_ORDER


class ASETrajectory(Frames):
    """What `ase.io.Trajectory` and the molecular dynamics of ASE write.

    Frames are numbered: the file knows neither their times nor their MD steps.
    """

    has_steps = False

    def __iter__(self) -> Iterator[Frame]:
        self.has_steps = False
        with self._decompressed() as path:
            try:
                reader = TrajectoryReader(path)
                count = len(reader)
            except Exception as error:  # the parser meets whatever a file may hold
                raise self._damaged(error) from None
            with reader:
                for number in range(count):
                    try:
                        atoms = reader[number]
                    except Exception as error:
                        raise self._damaged(error) from None
                    self._part = (number + 1) / count
                    yield self._frame(number, atoms)

    _part = 0.0

    @property
    @override
    def position(self) -> int:
        return int(self._part * self.size)

    def _damaged(self, error: Exception) -> TrajectoryError:
        what = " ".join(str(error).split()) or type(error).__name__
        return self.error(f"cannot be read as a trajectory of ASE ({what}); write it anew")

    @contextmanager
    def _decompressed(self) -> Iterator[Path]:
        """The file itself, or a copy that is not compressed."""
        try:
            raw, content = open_bytes(self.path)
            with raw, content:
                if content is raw:
                    yield self.path
                    return
                with tempfile.NamedTemporaryFile(suffix=".traj") as copy:
                    shutil.copyfileobj(content, copy)
                    copy.flush()
                    yield Path(copy.name)
        except CompressionError as error:
            raise self.error(str(error)) from None
        except DAMAGE as error:
            raise self.error(
                f"cannot be read ({error}); check its permissions, or write it anew"
            ) from None

    def _frame(self, number: int, atoms: Atoms) -> Frame:
        if len(atoms) < 1:
            raise self.error("holds no atoms in this frame; leave it out", number)
        if "momenta" not in atoms.arrays:
            raise self.error(
                "has no momenta, and so no velocities; write the trajectory of a run of molecular "
                "dynamics",
                number,
            )
        species = self._species(number, None, {"numbers": atoms.get_chemical_symbols()})
        masses: NDArray[np.float64] | None = None
        if atoms.has("masses"):
            masses = atoms.get_masses()
        of_atoms = np.array(self.species.masses)[species] if masses is None else masses
        return Frame(
            step=number,
            time=None,
            ids=np.arange(1, len(atoms) + 1),
            species=species,
            masses=masses,
            positions=atoms.get_positions(),
            unwrapped=False,
            velocities=atoms.get_momenta() / of_atoms[:, None] * ASE_VELOCITY,
            cell=np.array(atoms.cell.array),
            pbc=np.array(atoms.pbc),
            divided=masses is None,
            labels=_labels(atoms),
        )


def _labels(atoms: Atoms) -> Labels:
    """What the calculator of the run had found, as far as it is in the file."""
    results = {} if atoms.calc is None else atoms.calc.results
    energy = results.get("free_energy", results.get("energy"))
    virial = None
    if results.get("stress") is not None and atoms.pbc.all():
        stress = np.asarray(results["stress"], dtype=np.float64)
        if stress.shape == (6,):
            stress = stress[LAMMPS_ORDER]
        elif stress.shape == (3, 3):
            stress = np.array([stress[place] for place in VOIGT])
        virial = -stress * atoms.get_volume()
    forces = results.get("forces")
    return labels_from_ev(
        None if energy is None else float(energy),
        virial,
        None if forces is None else np.asarray(forces, dtype=np.float64),
    )
