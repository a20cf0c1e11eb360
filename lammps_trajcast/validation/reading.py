"""From the directories of runs to what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.data.frames import TrajectoryError
from lammps_trajcast.lammps_runs.runner import FinishedRun, Loop
from lammps_trajcast.lammps_runs.trajectory import Trajectory, TrajectoryReader
from lammps_trajcast.validation.comparison import Production
from lammps_trajcast.validation.config import SetupError
from lammps_trajcast.validation.constant_energy import Nve
from lammps_trajcast.validation.plan import RunSchedule


@dataclass(frozen=True)
class ModelRun:
    """A production run of the model, as far as it came.

    Attributes:
        error: why it ended early, or empty.
    """

    run: FinishedRun
    frames: list[Trajectory]
    spectra: list[Trajectory]
    error: str


@dataclass(frozen=True)
class RunReader:
    """Reads the runs of a plan."""

    reader: TrajectoryReader
    plan: RunSchedule

    def read(self, run: FinishedRun, name: str, steps: int, whole: bool = True) -> Trajectory:
        """Read a dump of a run.

        Args:
            run: holds the file.
            name: of the file.
            steps: MD steps in a horizon: 1 for the model, more for the reference.
            whole: whether it is an error if the file ends within a frame.

        Raises:
            SetupError: the file cannot be read; the message names it.
        """
        path = run.directory / name
        try:
            return self.reader.read(path, self.plan.horizon / steps, whole=whole)
        except TrajectoryError as error:
            raise SetupError(f"{path}: {error}") from None

    def last_step(self, run: FinishedRun, name: str) -> int:
        """Return the step of the last whole frame of a model's dump; 0 if there is no file."""
        if not (run.directory / name).is_file():
            return 0
        return int(self.read(run, name, 1, whole=False).steps[-1])

    def blocks(self, run: FinishedRun, name: str, steps: int, blocks: int) -> list[Trajectory]:
        """Read a dump and cut it into the first blocks of the plan.

        Args:
            run: holds the file.
            name: of the file, without its suffix .dump.
            steps: MD steps in a horizon.
            blocks: number of blocks.

        Raises:
            SetupError: the file cannot be read.
        """
        whole = self.read(run, f"{name}.dump", steps, whole=not run.error)
        size = self.plan.block * steps
        return [whole.part(block * size, (block + 1) * size) for block in range(blocks)]

    def windows(self, run: FinishedRun, steps: int, blocks: int) -> list[Trajectory]:
        """Read the velocities for the spectrum, one dense window for each block.

        Args:
            run: holds the files.
            steps: MD steps in a horizon.
            blocks: number of blocks.

        Raises:
            SetupError: a file cannot be read.
        """
        return [self.read(run, f"spectrum.{block}.dump", steps) for block in range(blocks)]

    def model_run(self, run: FinishedRun) -> ModelRun:
        """Read a production run of the model: the whole blocks that it came to.

        Raises:
            SetupError: a file cannot be read.
        """
        blocks = self.last_step(run, "frames.dump") // self.plan.block
        early = bool(run.error) or blocks < self.plan.blocks
        if not blocks:
            return ModelRun(run, [], [], self.why(run))
        return ModelRun(
            run,
            self.blocks(run, "frames", 1, blocks),
            self.windows(run, 1, blocks),
            self.why(run) if early else "",
        )

    def production(
        self,
        frames: list[Trajectory],
        spectra: list[Trajectory],
        loops: list[Loop],
        energies: Loop | None,
    ) -> Production:
        """Join frames with the thermodynamic output at their steps.

        Args:
            frames: positions, one trajectory for each block.
            spectra: velocities, one window for each block.
            loops: thermodynamic output of the run.
            energies: potential energies by the reference; None if those of the loops are.

        Raises:
            SetupError: the output has no line for one of the frames.
        """
        taken = np.concatenate([block.steps for block in frames])
        temperature = at(loops, "Temp", taken)
        energy = at(loops if energies is None else [energies], "PotEng", taken)
        return Production(frames, spectra, temperature, energy, loops)

    def nve(self, loop: Loop, steps: int, energies: Loop | None) -> Nve:
        """Return energy and temperature of a run without thermostat, at the steps of the plan.

        Args:
            loop: thermodynamic output of the run.
            steps: MD steps in a horizon.
            energies: potential energies by the reference; None if those of the loop are.

        Raises:
            SetupError: the output has no line for one of the steps.
        """
        taken = loop.columns["Step"]
        taken = taken[taken % (self.plan.nve_every * steps) == 0]
        potential = at([loop] if energies is None else [energies], "PotEng", taken)
        return Nve(
            times=taken * (self.plan.horizon / steps) * 1e-3,
            energy=at([loop], "KinEng", taken) + potential,
            temperature=at([loop], "Temp", taken),
        )

    def why(self, run: FinishedRun) -> str:
        """Why a run of the model ended early."""
        if run.error:
            return run.error
        log = (run.directory / "log.lammps").read_text(errors="replace")
        words = [line for line in log.splitlines() if "WARNING" in line and "trajcast" in line]
        return words[-1] if words else "it ended early"


def joined(parts: Sequence[Production]) -> Production:
    """One run from its parts, in their order."""
    return Production(
        [block for part in parts for block in part.frames],
        [window for part in parts for window in part.spectra],
        np.concatenate([part.temperature for part in parts]),
        np.concatenate([part.energy for part in parts]),
        [loop for part in parts for loop in part.loops],
    )


def column(loops: Sequence[Loop], name: str) -> NDArray[np.float64]:
    """Return a column (lines,) of the thermodynamic output of several runs, one after another."""
    return np.concatenate([loop.columns[name] for loop in loops])


def at(loops: Sequence[Loop], name: str, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a column of thermodynamic output at given steps.

    Args:
        loops: thermodynamic output.
        name: of the column.
        steps: (S,) MD steps.

    Returns:
        (S,) values in LAMMPS's unit.

    Raises:
        SetupError: the output has no line for one of the steps.
    """
    known = dict(zip(column(loops, "Step").astype(int), column(loops, name), strict=True))
    missing = [int(step) for step in steps if int(step) not in known]
    if missing:
        raise SetupError(f"the log has no finite {name} for step {missing[0]}")
    return np.array([known[int(step)] for step in steps])
