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
    """A production run of the model, as far as it came. error: why it ended early, or empty."""

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
        path = run.directory / name
        try:
            return self.reader.read(path, self.plan.horizon / steps, whole=whole)
        except TrajectoryError as error:
            raise SetupError(f"{path}: {error}") from None

    def last_step(self, run: FinishedRun, name: str) -> int:
        if not (run.directory / name).is_file():
            return 0
        return int(self.read(run, name, 1, whole=False).steps[-1])

    def blocks(self, run: FinishedRun, name: str, steps: int, blocks: int) -> list[Trajectory]:
        whole = self.read(run, f"{name}.dump", steps, whole=not run.error)
        size = self.plan.block * steps
        return [whole.part(block * size, (block + 1) * size) for block in range(blocks)]

    def windows(self, run: FinishedRun, steps: int, blocks: int) -> list[Trajectory]:
        return [self.read(run, f"spectrum.{block}.dump", steps) for block in range(blocks)]

    def model_run(self, run: FinishedRun) -> ModelRun:
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
        taken = np.concatenate([block.steps for block in frames])
        temperature = at(loops, "Temp", taken)
        energy = at(loops if energies is None else [energies], "PotEng", taken)
        return Production(frames, spectra, temperature, energy, loops)

    def nve(self, loop: Loop, steps: int, energies: Loop | None) -> Nve:
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
    return np.concatenate([loop.columns[name] for loop in loops])


def at(loops: Sequence[Loop], name: str, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Column of thermodynamic output at given steps.

    Raises SetupError if it has no line for one of them.
    """
    known = dict(zip(column(loops, "Step").astype(int), column(loops, name), strict=True))
    missing = [int(step) for step in steps if int(step) not in known]
    if missing:
        raise SetupError(f"the log has no finite {name} for step {missing[0]}")
    return np.array([known[int(step)] for step in steps])
