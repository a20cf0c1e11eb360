"""`lammps-trajcast label`: energy, virial and forces for the frames of a data set."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.atomic_file import replacing
from lammps_trajcast.child_processes import interruptible
from lammps_trajcast.data.build import GIVEN_MASS
from lammps_trajcast.data.labels import Labels, arrays_of
from lammps_trajcast.data.layout import (
    DatasetError,
    DatasetSource,
    dataset_files,
    one_line_for_damage,
    open_dataset,
)
from lammps_trajcast.lammps_runs.errors import FailedRunError, LaunchError
from lammps_trajcast.lammps_runs.paths import PlainPaths
from lammps_trajcast.lammps_runs.program import lammps_command
from lammps_trajcast.lammps_runs.session import LammpsSession
from lammps_trajcast.lammps_runs.state import Fix, read_state
from lammps_trajcast.lock import InUseError, alone_with
from lammps_trajcast.progress_bar import ProgressBar
from lammps_trajcast.recording.ensemble import (
    BATHS,
    FORCE_FIELD,
    INTEGRATING_BATHS,
    OUTPUT,
    plain_style,
)
from lammps_trajcast.recording.thermodynamic_labels import (
    COMPUTE_VIRIAL,
    energies_every,
    labels_in,
)
from lammps_trajcast.units import ENERGY_IN_KCAL, TIME_IN_FS

# Angstrom around the atoms in directions that are not periodic.
MARGIN = 1.0


def label(
    dataset: DatasetSource,
    system: Path,
    variables: dict[str, str] | None = None,
    lmp: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Add what a reference says of each frame to a data set.

    A file appears anew when all of its frames are done: the same call goes on where it was
    interrupted.

    Args:
        dataset: files of the data set; those that have labels stay as they are.
        system: LAMMPS input with units, atoms and potential, of the atoms of the data set in the
            order of their IDs.
        variables: index variables of the input.
        lmp: command that starts LAMMPS; None: the `lmp` of this environment.
        progress: show a progress bar.

    Returns:
        The files that were written.

    Raises:
        DatasetError: LAMMPS stopped, the atoms are others, or a file cannot be written.
    """
    if not system.is_file():
        raise DatasetError(f"{system}: no such file")
    wanted = []
    frames = 0
    for path in dataset_files(dataset):
        with open_dataset(path) as file, one_line_for_damage(path):
            segments = list(file["segments"].values())
            if not all("energy" in segment and "forces" in segment for segment in segments):
                wanted.append(path)
                frames += sum(len(segment["positions"]) for segment in segments)
    if not wanted:
        return []
    try:
        command = lammps_command(lmp)
        with (
            PlainPaths() as paths,
            tempfile.TemporaryDirectory(prefix="lammps-trajcast-") as scratch,
            LammpsSession(command, dict(variables or {}), Path(scratch) / "log") as lammps,
            ProgressBar(total=frames, unit="frame", disable=not progress, file=sys.stderr) as bar,
            interruptible(),
        ):
            evaluator = _Evaluator(lammps, system, Path(scratch), paths)
            for path in wanted:
                bar.set_postfix_str(path.name)
                _label_file(path, evaluator, bar)
    except KeyboardInterrupt:
        raise DatasetError(
            "interrupted; the files that are finished stay, the same command goes on from there"
        ) from None
    except (InUseError, LaunchError, FailedRunError) as error:
        raise DatasetError(str(error)) from None
    return wanted


def _label_file(path: Path, evaluator: _Evaluator, bar: ProgressBar) -> None:
    try:
        with alone_with(path, "stop it"), replacing(path) as partial:
            shutil.copyfile(path, partial)
            with h5py.File(partial, "r+") as file, one_line_for_damage(path):
                masses = np.asarray(file.attrs["masses"], dtype=np.float64)
                for segment in file["segments"].values():
                    evaluator.check_atoms(path, masses[segment["species"][:]])
                    found = arrays_of(evaluator.labels(segment))
                    for name in Labels._fields:
                        if name in segment:
                            del segment[name]
                        if name in found:
                            segment[name] = found[name]
                    bar.update(len(segment["positions"]))
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DatasetError(f"cannot write {path}: {reason}") from None


def _without_forces(system: Path, fixes: list[Fix]) -> list[Fix]:
    """The fixes of an input that have no part in the potential; `rerun` would call them as well.

    Raises:
        DatasetError: what one does is not known.
    """
    found = []
    for fix in fixes:
        style = plain_style(fix.style)
        if style in FORCE_FIELD:
            continue
        known = {"nve", *INTEGRATING_BATHS, *BATHS, *OUTPUT}
        if style not in known and not style.startswith("ave/"):
            raise DatasetError(
                f"{system}: fix {fix.name} ({fix.style}) may change energies or forces, which are "
                "to be those of the potential; leave it out"
            )
        found.append(fix)
    return found


class _Evaluator:
    """A LAMMPS with the reference, which evaluates one segment after the other."""

    def __init__(
        self, lammps: LammpsSession, system: Path, scratch: Path, paths: PlainPaths
    ) -> None:
        self.lammps = lammps
        self.system = system
        self.frames = scratch / "frames.dump"
        self.forces = scratch / "forces.dump"
        self._frames, self._forces = paths.of(self.frames), paths.of(self.forces)
        echoed = lammps.run([f"include {paths.of(system)}"])
        state = read_state(lammps, echoed)
        if state.units not in TIME_IN_FS:
            raise DatasetError(
                f"{system}: has units {state.units}; write it in units metal or real"
            )
        self.units = state.units
        self.triclinic = any("Triclinic box" in line for line in lammps.run(["info system"]))
        for dump in state.dumps:
            lammps.run([f"undump {dump}"])
        lammps.run(
            [
                *(f"unfix {fix.name}" for fix in reversed(_without_forces(system, state.fixes))),
                COMPUTE_VIRIAL,
                f"write_dump all custom {self._forces} id mass modify sort id format float %.15g",
            ]
        )
        rows = self.forces.read_text().splitlines()[9:]
        self.masses = np.array([float(row.split()[1]) for row in rows])
        self.ids = [int(row.split()[0]) for row in rows]

    def check_atoms(self, path: Path, masses: NDArray[np.float64]) -> None:
        """Check that the atoms of a segment, of these masses (N,), are those of the system.

        Raises:
            DatasetError: they are others.
        """
        if len(masses) != len(self.masses):
            raise DatasetError(
                f"{path}: has {len(masses)} atoms, {self.system} {len(self.masses)}; name the "
                "input that it was recorded with (and its variables)"
            )
        wrong = np.flatnonzero(np.abs(masses - self.masses) > GIVEN_MASS * masses)
        if len(wrong):
            k = wrong[0]
            raise DatasetError(
                f"{path}: its atom {k + 1} has a mass of {masses[k]:g} g/mol, atom "
                f"{self.ids[k]} of {self.system} one of {self.masses[k]:g}; the atoms have to be "
                "in the same order"
            )

    def labels(self, segment: h5py.Group) -> list[Labels]:
        """Evaluate the frames of a segment.

        Raises:
            DatasetError: not all of them could be.
            FailedRunError: LAMMPS stops.
        """
        positions = segment["positions"][:]
        pbc = segment["pbc"][:].astype(bool)
        cell = self._cell(segment["cell"][:], pbc, positions)
        self._write(positions, pbc, *cell)
        self.forces.write_text("")
        printed = self.lammps.run(
            [
                *energies_every(1),
                f"dump trajcast_label all custom 1 {self._forces} id fx fy fz",
                "dump_modify trajcast_label sort id format float %.10g",
                f"rerun {self._frames} dump x y z wrapped no box yes",
                "undump trajcast_label",
            ]
        )
        found = labels_in(printed, self.units)
        forces = self.forces.read_text().split("ITEM: TIMESTEP\n")[1:]
        if len(found) < len(positions) or len(forces) < len(positions):
            raise DatasetError(
                f"{self.system}: LAMMPS evaluated {len(found)} of the {len(positions)} frames of "
                f"{segment.file.filename}, {segment.name}"
            )
        scale = ENERGY_IN_KCAL[self.units]
        return [
            found[k]._replace(
                virial=found[k].virial if pbc.all() else None,
                forces=scale * np.loadtxt(forces[k].splitlines()[8:], ndmin=2)[:, 1:],
            )
            for k in range(len(positions))
        ]

    def _cell(
        self, cell: NDArray[np.float64], pbc: NDArray[np.bool_], positions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Origin (3,) and lattice vectors (3, 3) that hold the atoms where nothing is periodic."""
        origin, vectors = np.zeros(3), cell.copy()
        for axis in np.flatnonzero(~pbc):
            low = min(0.0, positions[..., axis].min() - MARGIN)
            high = max(cell[axis, axis], positions[..., axis].max() + MARGIN)
            origin[axis], vectors[axis] = low, 0.0
            vectors[axis, axis] = high - low
        return origin, vectors

    def _write(
        self,
        positions: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        origin: NDArray[np.float64],
        vectors: NDArray[np.float64],
    ) -> None:
        """Write the frames as a dump, with their numbers as steps."""
        tilts = np.array([vectors[1, 0], vectors[2, 0], vectors[2, 1]])
        high = origin + np.diag(vectors)
        flags = " ".join("pp" if periodic else "ff" for periodic in pbc)
        xy, xz, yz = tilts
        if self.triclinic:
            low_x, high_x = min(0.0, xy, xz, xy + xz), max(0.0, xy, xz, xy + xz)
            bounds = [
                [origin[0] + low_x, high[0] + high_x, xy],
                [origin[1] + min(0.0, yz), high[1] + max(0.0, yz), xz],
                [origin[2], high[2], yz],
            ]
            head = f"ITEM: BOX BOUNDS xy xz yz {flags}"
        else:
            bounds = [[low, up] for low, up in zip(origin, high, strict=True)]
            head = f"ITEM: BOX BOUNDS {flags}"
        box = "\n".join(" ".join(f"{value:.15g}" for value in row) for row in bounds)
        with self.frames.open("w") as file:
            for step, frame in enumerate(positions):
                file.write(f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(frame)}\n")
                file.write(f"{head}\n{box}\nITEM: ATOMS id x y z\n")
                np.savetxt(file, np.column_stack([self.ids, frame]), fmt="%d %.15g %.15g %.15g")
