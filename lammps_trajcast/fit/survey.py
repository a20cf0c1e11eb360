"""The stages that measure the reference: equilibrium, spectrum, range of the forces."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lammps_trajcast.fit import choose
from lammps_trajcast.fit.config import FitError
from lammps_trajcast.fit.force_range import ForceRange, measure_range
from lammps_trajcast.fit.motion import Motion, measure_motion
from lammps_trajcast.fit.reference import Inspected, ReferenceAlone, inspect
from lammps_trajcast.fit.stages import Stages
from lammps_trajcast.fit.verdict import narrow_cell
from lammps_trajcast.fit.watch import watch_runs
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader

# The share of the time of a survey that the range of the forces takes.
RANGE_SHARE = 0.1


@dataclass(frozen=True)
class Survey:
    """What is known of the reference.

    Attributes:
        timestep: fs, that it is run with from now on.
        start: directory of its equilibration.
        faults: what is not in equilibrium at its end.
    """

    inspected: Inspected
    motion: Motion
    reach: ForceRange
    timestep: float
    initial_temperature: float
    equilibration: float
    rounds: int
    start: Path
    faults: list[str]


class Surveyor:
    """Measures the reference."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages

    def survey(self) -> Survey:
        """Do whatever has not been done; raises FitError for a system that is no use."""
        config, runs, chosen = (
            self.stages.config,
            self.stages.survey_runs,
            self.stages.config.chosen,
        )
        found = self.stages.run("system", self.stages.base, lambda: asdict(inspect(runs)))
        inspected = Inspected(**found)
        self._check_system(inspected)
        sides = " x ".join(f"{height:.3g}" for height in inspected.heights)
        self.stages.tell(
            f"system: {inspected.atoms} atoms, cell {sides} Å, units {runs.system.units}"
        )

        # Not the one that is chosen later: the same stages have to be found again.
        first = config.timestep or inspected.timestep
        if first is None:
            first = choose.first_step(inspected.masses)
        time = choose.SURVEY_SHARE * config.seconds
        equilibration = config.validation.equilibration or chosen.equilibration
        if equilibration is None:
            # The first round takes at most a tenth of the time of the survey.
            fits = 0.1 * time / inspected.step_seconds * first * 1e-3
            equilibration = float(f"{min(max(fits, 0.5), 4.0):.2g}")
        hot = chosen.initial_temperature or config.temperature * (2.0 if inspected.at_rest else 1.0)
        rounds = choose.rounds_of_equilibration(equilibration, first, inspected.step_seconds, time)
        alone = ReferenceAlone(
            *(config, runs, inspected),
            timestep=first,
            equilibration=equilibration,
            initial_temperature=hot,
            rounds=rounds,
        )
        depends = [*self.stages.base, found["masses"], first, equilibration, hot]
        if not self.stages.is_finished("equilibration", depends):
            self.stages.need("the equilibration of the reference")

        def equilibrate() -> dict[str, Any]:
            done = alone.equilibrated(config.temperature)
            return {
                "directory": done.run.directory.name,
                "key": done.run.key,
                "faults": [fault.text() for fault in done.faults],
                "picoseconds": done.time,
            }

        result = self.stages.run(
            "equilibration", depends, equilibrate, fraction=watch_runs(runs.runner.directory)
        )
        start = FinishedRun(runs.runner.directory / result["directory"], result["key"])
        self.stages.tell(
            f"equilibrated at {config.temperature:g} K in {result['picoseconds']:.3g} ps"
            + (f", but {'; '.join(result['faults'])}" if result["faults"] else "")
        )
        motion = self._motion(inspected, start, alone.reader, first, time, [*depends, result])
        reach = self._range(inspected, start, alone.reader, time, [*depends, result])
        timestep = config.timestep or chosen.timestep or inspected.timestep
        if timestep is None:
            timestep = choose.reference_step(motion.period)
        self.stages.choose(timestep=timestep, initial_temperature=hot, equilibration=equilibration)
        return Survey(
            *(inspected, motion, reach, timestep, hot, equilibration, rounds),
            start=start.directory,
            faults=result["faults"],
        )

    def _motion(
        self,
        inspected: Inspected,
        start: FinishedRun,
        reader: TrajectoryReader,
        timestep: float,
        time: float,
        depends: Any,
    ) -> Motion:
        runs = self.stages.survey_runs
        fits = 0.3 * time / inspected.step_seconds * timestep * 1e-3
        duration = min(max(fits, 2.0), 6.0)
        if not self.stages.is_finished("spectrum", depends):
            self.stages.need("the spectrum of the reference")
        found = self.stages.run(
            "spectrum",
            depends,
            lambda: measure_motion(*(runs, inspected, start, reader, timestep, duration))._asdict(),
            duration * 1e3 / timestep * inspected.step_seconds,
            watch_runs(runs.runner.directory),
        )
        motion = Motion(**found)
        kind = "atoms leave their places" if motion.liquid else "atoms keep their places"
        self.stages.tell(
            f"shortest period {motion.period:.3g} fs ({motion.highest:.3g} THz); {kind}; "
            f"{1e3 * motion.step_seconds:.2g} ms a step"
        )
        return motion

    def _range(
        self,
        inspected: Inspected,
        start: FinishedRun,
        reader: TrajectoryReader,
        time: float,
        depends: Any,
    ) -> ForceRange:
        runs = self.stages.survey_runs
        found = self.stages.run(
            "range of the forces",
            depends,
            lambda: measure_range(
                *(runs, inspected.step_seconds, start, reader, RANGE_SHARE * time)
            )._asdict(),
            fraction=watch_runs(runs.runner.directory),
        )
        reach = ForceRange(**found)
        self.stages.tell(
            f"cutoff {reach.cutoff:g} Å: beyond it {100 * reach.beyond:.2g} % of the response of "
            "the forces"
            + (f", {100 * reach.between:.2g} % of that between molecules" * (reach.between > 0.0))
            + ("" if reach.reached else ", but no longer cutoff is tried")
            + narrow_cell(inspected, self.stages.config.network.get("edge_cutoff", reach.cutoff))
        )
        return reach

    def _check_system(self, inspected: Inspected) -> None:
        config = self.stages.config
        if "T" in self.stages.survey_runs.system.variables and not config.trajectories:
            raise FitError(
                f"{config.system}: defines the variable 'T', which a recording has, too: give it "
                "another name"
            )
        if inspected.isolated and config.recording.strain:
            raise FitError(
                "recording.strain: an isolated molecule has no cell to be strained; leave it out"
            )
        if not inspected.isolated and not all(inspected.periodic):
            flags = " ".join("p" if flag else "f" for flag in inspected.periodic)
            raise FitError(
                f"{config.system}: its boundaries are {flags}; a cell has to be periodic in all "
                "directions, or in none for a molecule: write 'boundary p p p' and leave a vacuum "
                "in the cell"
            )
