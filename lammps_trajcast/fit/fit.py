"""`lammps-trajcast fit`: the stages, in their order."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lammps_trajcast.child_processes import interruptible
from lammps_trajcast.data.frames import TrajectoryError
from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.fit import choose
from lammps_trajcast.fit.config import FitConfig, FitError, Round
from lammps_trajcast.fit.dataset import (
    SEGMENTS_OF_A_SHARD,
    from_trajectories,
    horizon_of,
    record_segments,
)
from lammps_trajcast.fit.force_range import ForceRange, measure_range
from lammps_trajcast.fit.motion import Motion, measure_motion
from lammps_trajcast.fit.progress import Progress, in_words
from lammps_trajcast.fit.proof import Outcome
from lammps_trajcast.fit.reference import Inspected, ReferenceAlone, SurveyRuns, inspect
from lammps_trajcast.fit.script import write_script
from lammps_trajcast.fit.state import State, digest
from lammps_trajcast.fit.training import (
    LEAST,
    Watch,
    end_of,
    epoch_steps,
    seconds_a_step,
    training_config,
)
from lammps_trajcast.fit.validating import (
    PROBE,
    judge,
    model_step_seconds,
    production_in,
    seconds_a_picosecond,
    validation_config,
)
from lammps_trajcast.fit.verdict import Facts, Verdict, make_verdict, put_on_top
from lammps_trajcast.fit.watch import watch_runs, watch_shards
from lammps_trajcast.lammps_runs.errors import LaunchError
from lammps_trajcast.lammps_runs.program import lammps_command
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader
from lammps_trajcast.lock import InUseError, alone_in
from lammps_trajcast.model.file import ModelFile, ModelFileError
from lammps_trajcast.training.config import TrainingConfig, TrainingError
from lammps_trajcast.validation.config import SetupError, ValidationConfig
from lammps_trajcast.validation.system import Model, System

# The share of the budget that another round of training and validation needs.
ANOTHER = 0.2
ERRORS = (
    DatasetError,
    TrajectoryError,
    TrainingError,
    ModelFileError,
    SetupError,
    LaunchError,
    InUseError,
    OSError,
)


class OutOfTimeError(Exception):
    """The budget does not suffice for the next stage; the message says which."""


@dataclass(frozen=True)
class Survey:
    """What is known of the reference. timestep: fs, that it is run with from now on.

    start: an equilibrated state. faults: what is not in equilibrium there.
    """

    inspected: Inspected
    motion: Motion
    reach: ForceRange
    timestep: float
    initial_temperature: float
    equilibration: float
    rounds: int
    faults: list[str]


@dataclass(frozen=True)
class Candidate:
    """A validated model of a round."""

    number: int
    plan: Round
    reversible: bool
    model: Path
    outcome: Outcome
    validation: ValidationConfig
    report: Path | None
    speed: float | None
    production: float
    converged: bool
    training: str


def fit(config: FitConfig, output: Path, progress: Progress | None = None) -> Verdict:
    """Do whatever has not been done, and judge.

    Args:
        config: see :class:`FitConfig`; paths absolute.
        output: directory of everything; made if it is not there.
        progress: display; by default on standard error.

    Returns:
        How the checks of the model came out.

    Raises:
        FitError: the fit cannot go on; a later call continues from what was finished.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with alone_in(output, "name another --output"):
            return _Fit(config, output.resolve(), progress).run()
    except ERRORS as error:
        raise FitError(str(error)) from None


class _Fit:
    """The stages of one fit, with what they share."""

    def __init__(self, config: FitConfig, output: Path, progress: Progress | None) -> None:
        self.output = output
        self.file = output / "fit.yaml"
        self.config = config
        _check_files(config)
        self.state = State(output / "state.json")
        self.progress = progress or Progress(config.seconds, lambda: self.state.elapsed)
        self.command = lammps_command(config.lmp)
        self.survey_runs = SurveyRuns(config, output / "survey", self.command)
        self.validation_runs = output / "runs"
        self._what = "start"
        # What every stage depends on.
        self.base = [config.asked, self.survey_runs.content]

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.config.seconds - self.state.elapsed

    # ---- stages ----------------------------------------------------------------------------------

    def run(self) -> Verdict:
        self._save()
        best: Candidate | None = None
        out_of_time = ""
        self.progress.stages = 8
        with interruptible():
            try:
                survey = self._survey()
                for candidate in self._rounds(survey):
                    if best is None or candidate.outcome.rank < best.outcome.rank:
                        best = candidate
                        self._keep(survey, best)
                    else:
                        self.progress.tell(
                            f"the model of round {best.number} is better and is kept"
                        )
            except OutOfTimeError as error:
                out_of_time = str(error)
            except KeyboardInterrupt:
                self.state.save()
                raise FitError(self._interrupted("interrupted", best)) from None
            except ERRORS as error:
                self.state.save()
                raise FitError(self._interrupted(str(error), best)) from None
            if best is None:
                self.state.save()
                raise FitError(
                    f"{out_of_time}: there is no model that has been validated; what has been "
                    f"reached is in {self.output}, and the same command with a larger --budget "
                    "goes on from there"
                )
            return self._conclude(survey, best, out_of_time)

    def _interrupted(self, why: str, best: Candidate | None) -> str:
        kept = f"; the best model so far is {self._model_file}" if best else ""
        # Some stages say so themselves.
        why = why.partition("; the same command goes on")[0]
        return f"stage {self._what}: {why}{kept}; the same command goes on from there"

    def _stage(
        self,
        name: str,
        depends: Any,
        work: Callable[[], dict[str, Any]],
        expected: float | None = None,
        fraction: Callable[[], tuple[float, str]] | None = None,
    ) -> dict[str, Any]:
        """Do a stage unless it is finished; returns what it found."""
        self._what = name
        known = self.state.result(name, depends)
        if known is not None:
            self.progress.skip(name)
            return known
        with (
            self.progress.stage(name, expected, fraction, self.state.note_time),
            self._quiet(),
        ):
            result = work()
        self.state.finish(name, depends, result)
        return result

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """What the stages print goes to a file: there is one display."""
        with (
            (self.output / "log.txt").open("a") as log,
            contextlib.redirect_stderr(log),
            contextlib.redirect_stdout(log),
        ):
            yield

    def _need(self, what: str, seconds: float = 0.0) -> None:
        if self.left < seconds or self.left <= 0.0:
            raise OutOfTimeError(
                f"the budget of {self.config.budget} ends before {what}"
                + (f", which takes about {in_words(seconds)}" if seconds else "")
            )

    def _choose(self, **chosen: Any) -> None:
        """Note what was chosen in the YAML file."""
        update = self.config.chosen.model_copy(update=chosen)
        self.config = self.config.model_copy(update={"chosen": update})
        self._save()

    def _save(self) -> None:
        self.config.save(self.file)

    def _tell(self, text: str) -> None:
        self.progress.tell(text)

    # ---- the reference ---------------------------------------------------------------------------

    def _survey(self) -> Survey:
        config, runs, chosen = self.config, self.survey_runs, self.config.chosen
        found = self._stage("system", self.base, lambda: asdict(inspect(runs)))
        inspected = Inspected(**found)
        self._check_system(inspected)
        sides = " x ".join(f"{height:.3g}" for height in inspected.heights)
        self._tell(f"system: {inspected.atoms} atoms, cell {sides} Å, units {runs.system.units}")

        # Not the one that is chosen later: the same stages have to be found again.
        first = config.timestep or inspected.timestep
        if first is None:
            first = 0.5 if "H" in config.elements else 1.0
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
        self._need("the equilibration of the reference")
        depends = [*self.base, found["masses"], first, equilibration, hot]

        def equilibrate() -> dict[str, Any]:
            done = alone.equilibrated(config.temperature)
            return {
                "directory": done.run.directory.name,
                "key": done.run.key,
                "faults": [fault.text() for fault in done.faults],
                "picoseconds": done.time,
            }

        result = self._stage(
            "equilibration", depends, equilibrate, fraction=watch_runs(runs.runner.directory)
        )
        start = FinishedRun(runs.runner.directory / result["directory"], result["key"])
        self._tell(
            f"equilibrated at {config.temperature:g} K in {result['picoseconds']:.3g} ps"
            + (f", but {'; '.join(result['faults'])}" if result["faults"] else "")
        )
        motion = self._motion(inspected, start, alone.reader, first, time, [*depends, result])
        reach = self._range(inspected, start, alone.reader, [*depends, result])
        timestep = config.timestep or chosen.timestep or inspected.timestep
        if timestep is None:
            timestep = choose.reference_step(motion.period)
        self._choose(timestep=timestep, initial_temperature=hot, equilibration=equilibration)
        return Survey(
            *(inspected, motion, reach, timestep, hot, equilibration, rounds, result["faults"])
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
        runs = self.survey_runs
        fits = 0.3 * time / inspected.step_seconds * timestep * 1e-3
        duration = min(max(fits, 2.0), 6.0)
        self._need("the spectrum of the reference")
        found = self._stage(
            "spectrum",
            depends,
            lambda: measure_motion(*(runs, inspected, start, reader, timestep, duration))._asdict(),
            duration * 1e3 / timestep * inspected.step_seconds,
            watch_runs(runs.runner.directory),
        )
        motion = Motion(**found)
        kind = "atoms leave their places" if motion.liquid else "atoms keep their places"
        self._tell(
            f"shortest period {motion.period:.3g} fs ({motion.highest:.3g} THz); {kind}; "
            f"{1e3 * motion.step_seconds:.2g} ms a step"
        )
        return motion

    def _range(
        self, inspected: Inspected, start: FinishedRun, reader: TrajectoryReader, depends: Any
    ) -> ForceRange:
        runs = self.survey_runs
        found = self._stage(
            "range of the forces",
            depends,
            lambda: measure_range(runs, inspected, start, reader)._asdict(),
            fraction=watch_runs(runs.runner.directory),
        )
        reach = ForceRange(**found)
        self._tell(
            f"cutoff {reach.cutoff:g} Å: beyond it {100 * reach.beyond:.2g} % of the response of "
            "the forces" + ("" if reach.reached else "; they reach farther")
        )
        return reach

    def _check_system(self, inspected: Inspected) -> None:
        config = self.config
        if inspected.isolated and config.reversible:
            raise FitError(
                "reversible: does not go with an isolated molecule, whose angular momentum is "
                "kept; leave it out"
            )
        if not inspected.isolated and not all(inspected.periodic):
            flags = " ".join("p" if flag else "f" for flag in inspected.periodic)
            raise FitError(
                f"{config.system}: its boundaries are {flags}; a cell has to be periodic in all "
                "directions, or in none for a molecule: write 'boundary p p p' and leave a vacuum "
                "in the cell"
            )

    # ---- rounds ----------------------------------------------------------------------------------

    def _rounds(self, survey: Survey) -> Iterator[Candidate]:
        """Train and validate until a model is proven or the budget ends."""
        before: list[Candidate] = []
        for number in range(1, self.config.rounds + 1):
            planned = self.config.chosen.rounds
            if number <= len(planned):
                plan: Round | None = planned[number - 1]
            elif number == 1:
                plan = None
            else:
                if self.left < ANOTHER * self.config.seconds:
                    return
                plan = None
            self.progress.stages = 4 + 4 * number
            candidate = self._round(survey, number, plan, before)
            yield candidate
            before.append(candidate)
            if candidate.outcome.verdict != "fails":
                return

    def _round(
        self, survey: Survey, number: int, plan: Round | None, before: list[Candidate]
    ) -> Candidate:
        config = self.config
        horizon = plan.horizon if plan else self._horizon(survey, before)
        if config.horizon is not None:
            horizon = config.horizon
        choose.check_horizon(horizon, survey.timestep)
        if horizon / survey.timestep < PAYS_BELOW:
            self._tell(
                f"a horizon of {horizon:g} fs is {horizon / survey.timestep:.3g} steps of the "
                "reference: a model hardly pays here"
            )
        network = self._network(survey)
        dataset, segments = self._data(survey, number, horizon, plan, before)
        start, start_number = self._start(before)
        model, converged, training = self._train(
            number, survey, horizon, plan, dataset, segments, network, start, start_number
        )
        return self._prove(survey, number, horizon, model, converged, training)

    def _horizon(self, survey: Survey, before: list[Candidate]) -> float:
        """The longest first; the next shorter one if a converged model of that did not pass."""
        config = self.config
        known = horizon_of(config)
        if known is not None:
            return known
        period = survey.motion.period
        longest = choose.longest_horizon(period, survey.timestep)
        if not before:
            return longest
        last = before[-1]
        if not last.converged:
            return last.plan.horizon
        shorter = choose.longest_horizon(period, survey.timestep, choose.NEXT)
        return min(shorter, last.plan.horizon)

    def _network(self, survey: Survey) -> dict[str, Any]:
        chosen = self.config.chosen.network
        if chosen is not None:
            return chosen | self.config.network
        network = choose.make_network(self.config, survey.reach.cutoff, survey.inspected.isolated)
        if self.config.start_from is not None:
            # Training goes on with the network that is there.
            there = ModelFile.load(self.config.start_from).metadata.architecture
            network |= there.model_dump(mode="json", include=set(network) - {"speed_limit_rms"})
            network["speed_limit_rms"] = None if there.speed_limit is None else 2.0
            network |= self.config.network
        self._choose(network=network)
        return network

    def _data(
        self,
        survey: Survey,
        number: int,
        horizon: float,
        plan: Round | None,
        before: list[Candidate],
    ) -> tuple[list[Path], int]:
        """The data set of a round and its number of segments for each temperature."""
        config, runs, inspected = self.config, self.survey_runs, survey.inspected
        name = f"data for {horizon:g} fs, round {number}"
        if config.trajectories:
            output = self.output / "data" / f"trajectories_{horizon:g}fs.h5"
            depends = [*self.base, horizon, survey.timestep]

            def build() -> dict[str, Any]:
                units = runs.system.units
                files = from_trajectories(config, units, output, horizon, survey.timestep)
                return {"files": [str(file) for file in files]}

            return [Path(file) for file in self._stage(name, depends, build)["files"]], 1
        step_seconds = survey.motion.step_seconds
        temperatures = len(config.recorded)
        time = min(choose.RECORD_SHARE * config.seconds, 0.5 * self.left)
        segments, times = choose.recording_plan(
            config, horizon, survey.timestep, step_seconds, time
        )
        if plan is not None:
            segments = plan.segments
        elif before and before[-1].plan.horizon == horizon:
            segments = before[-1].plan.segments + segments // 2
        times = config.chosen.recording or times
        self._choose(recording=times)
        expected = choose.recording_seconds(
            segments, times, temperatures, survey.timestep, step_seconds
        )
        if plan is None:
            self._need("the data set is recorded", expected)
        # A recording of another kind lies elsewhere; one of more segments goes on.
        kind = [config.elements, config.masses, config.recorded, config.seed, runs.content]
        key = digest([*kind, horizon, times, survey.timestep])[:6]
        directory = self.output / f"data_{horizon:g}fs_{key}"
        shards = temperatures * -(-segments // SEGMENTS_OF_A_SHARD)
        depends = [*self.base, horizon, segments, times, survey.timestep]

        def record() -> dict[str, Any]:
            files = record_segments(
                *(runs, inspected, directory),
                horizon=horizon,
                timestep=survey.timestep,
                initial_factor=2.0 if inspected.at_rest else 1.0,
                segments=segments,
                times=times,
            )
            return {"files": [file.name for file in files]}

        found = self._stage(name, depends, record, expected, watch_shards(directory, shards))
        self._tell(
            f"data set: {segments} segments of {1e3 * times['segment_length']:.3g} fs at each of "
            f"{' '.join(f'{t:g}' for t in config.recorded)} K"
        )
        return [directory / file for file in found["files"]], segments

    def _start(self, before: list[Candidate]) -> tuple[Path | None, int | None]:
        """The model that a training begins with: the last one, or the given one."""
        if before:
            return before[-1].model, before[-1].number
        return self.config.start_from, None

    def _train(
        self,
        number: int,
        survey: Survey,
        horizon: float,
        plan: Round | None,
        dataset: list[Path],
        segments: int,
        network: dict[str, Any],
        start: Path | None,
        start_number: int | None,
    ) -> tuple[Path, bool, str]:
        """Train; returns the model, whether it converged, and how it ended in words."""
        from lammps_trajcast.training.train import train as run_training

        config = self.config
        directory = self.output / f"training_{number}"
        output = self.output / f"{config.name}_{number}.safetensors"
        size = config.chosen.batch_size or choose.batch_size(survey.inspected.atoms)

        def settings(every: int, steps: int | None, hours: float | None) -> TrainingConfig:
            return training_config(
                config,
                dataset=dataset,
                output=output,
                directory=directory,
                network=network,
                batch_size=size,
                epoch_steps=every,
                steps=steps,
                hours=hours,
                start_from=start,
            )

        if plan is None:
            every, steps, hours = self._length_of_training(number, settings)
            now = Round(
                horizon=horizon,
                segments=segments,
                epoch_steps=every,
                hours=hours,
                steps=steps,
                start_from=start_number,
            )
            self._choose(rounds=(*config.chosen.rounds, now), batch_size=size)
        else:
            every, steps, hours = plan.epoch_steps, plan.steps, plan.hours
        begins = [start.name, _fingerprint(start)] if start else None
        files = [path.name for path in dataset]
        length = [every, steps, hours]
        depends = [*self.base, horizon, segments, network, length, size, begins, files]
        watch = Watch()

        def work() -> dict[str, Any]:
            trained = settings(every, steps, hours)
            errors = run_training(trained, progress=False, observer=watch.observe)
            assert errors is not None
            converged, taken, words = end_of(directory)
            return {**errors, "converged": converged, "steps": taken, "end": words}

        found = self._stage(
            f"training {number}", depends, work, 3600.0 * hours if hours else None, watch.look
        )
        self._tell(
            f"trained {found['steps']} steps: errors {found['displacement']:.4f} of displacements, "
            f"{found['velocity']:.4f} of velocities; {found['end'].partition(',')[0]}"
        )
        return output, found["converged"], found["end"]

    def _length_of_training(
        self, number: int, settings: Callable[..., TrainingConfig]
    ) -> tuple[int, int | None, float | None]:
        """Steps between validations, steps at most, hours at most."""
        given = self.config.optimization
        if "steps" in given:
            return int(given.get("epoch_steps", max(int(given["steps"]) // 20, 1))), None, None
        timed: list[float] = []
        with self.progress.stage(f"training {number}: time of a step"), self._quiet():
            timed.append(seconds_a_step(settings(EPOCH_TIMED, LEAST, None)))
        seconds = min(choose.TRAIN_SHARE * self.config.seconds, 0.6 * self.left)
        self._need(f"training {number} is worth it", LEAST * timed[0])
        every = int(given.get("epoch_steps", epoch_steps(seconds, timed[0])))
        return every, None, round(seconds / 3600.0, 4)

    # ---- proof -----------------------------------------------------------------------------------

    def _prove(
        self,
        survey: Survey,
        number: int,
        horizon: float,
        model: Path,
        converged: bool,
        training: str,
    ) -> Candidate:
        """Choose plain or reversible steps by a short run, and validate; the other if it fails."""
        plan = self.config.chosen.rounds[number - 1]
        order = self._variants(survey, number, horizon, model, plan)
        best: Candidate | None = None
        for reversible in order:
            if best is not None and self.left < 0.25 * self.config.seconds:
                break
            found = self._validate(survey, number, horizon, model, reversible, converged, training)
            if best is None or found.outcome.rank < best.outcome.rank:
                best = found
            if best.outcome.verdict != "fails":
                break
        assert best is not None
        rounds = list(self.config.chosen.rounds)
        rounds[number - 1] = plan.model_copy(
            update={
                "reversible": best.reversible,
                "production": best.plan.production,
                "longest": best.plan.longest,
            }
        )
        self._choose(rounds=tuple(rounds))
        return best

    def _validation(
        self,
        survey: Survey,
        horizon: float,
        model: Path,
        reversible: bool,
        max_hours: float | None = None,
        **lengths: float,
    ) -> ValidationConfig:
        return validation_config(
            self.config,
            survey.inspected,
            self.survey_runs.time_unit,
            model=model,
            horizon=horizon,
            timestep=survey.timestep,
            initial_temperature=survey.initial_temperature,
            equilibration=survey.equilibration,
            rounds=survey.rounds,
            liquid=survey.motion.liquid,
            reversible=reversible,
            lengths=lengths,
            max_hours=max_hours,
        )

    def _variants(
        self, survey: Survey, number: int, horizon: float, model: Path, plan: Round
    ) -> list[bool]:
        """Which kinds of steps to validate with, the better one first; by a short run of each.

        Plain steps, a third of the cost, if nothing speaks against them.
        """
        config = self.config
        if config.reversible is not None:
            return [config.reversible]
        if plan.reversible is not None:
            return [plan.reversible]
        if survey.inspected.isolated or horizon >= 0.5 * survey.motion.period:
            return [False]
        duration = config.validation.probe or self._probe_length(survey, horizon)
        outcomes: dict[bool, Outcome] = {}
        for reversible in (False, True):
            kind = "reversible" if reversible else "plain"
            settings = self._validation(
                *(survey, horizon, model, reversible),
                probe=duration,
                full=duration,
                longest=duration,
            )
            depends = [*self.base, _fingerprint(model), settings.model_dump(mode="json"), "probe"]

            def work(settings: ValidationConfig = settings) -> dict[str, Any]:
                done = judge(settings, "short", self.validation_runs, self.command)
                return done.outcome.as_dict()

            found = self._stage(
                f"probe {number}, {kind} steps",
                depends,
                work,
                fraction=watch_runs(self.validation_runs),
            )
            outcomes[reversible] = Outcome.from_dict(found)
            self._tell(f"probe of {duration:.3g} ps, {kind} steps: {outcomes[reversible]}")
            # A few ps do not show slow heating: undecided checks must not decide for this variant.
            if outcomes[reversible].verdict == "proven":
                break
        if True not in outcomes:
            return [False, True]
        better = outcomes[True].rank < outcomes[False].rank
        # Where both fail, the worse one need not be validated at length.
        both = not outcomes[better].fails
        return [better, not better] if both else [better]

    def _probe_length(self, survey: Survey, horizon: float) -> float:
        """ps; a fiftieth of the budget for its reference."""
        fits = 0.02 * self.config.seconds / survey.motion.step_seconds * survey.timestep * 1e-3
        return float(f"{min(max(fits, PROBE[0]), PROBE[1]):.3g}")

    def _validate(
        self,
        survey: Survey,
        number: int,
        horizon: float,
        model: Path,
        reversible: bool,
        converged: bool,
        training: str,
    ) -> Candidate:
        """Validate until no check is undecided by chance, as long as the budget allows.

        What fails after the first length is not run on: the time is for a better model.
        """
        plan = self._with_lengths(survey, number, horizon)
        assert plan.production is not None and plan.longest is not None
        kind = "reversible" if reversible else "plain"
        name = f"validation {number}, {kind} steps"
        place = self.output / "reports" / f"{number}_{kind}"
        settings = self._validation(
            *(survey, horizon, model, reversible),
            probe=plan.production,
            full=plan.production,
            longest=plan.longest,
        )
        depends = [*self.base, _fingerprint(model), settings.model_dump(mode="json")]
        at_first = self._validation(
            *(survey, horizon, model, reversible),
            probe=plan.production,
            full=plan.production,
            longest=0.0,
        )
        bounded = self._validation(
            *(survey, horizon, model, reversible, max(0.7 * self.left, 60.0) / 3600.0),
            probe=plan.production,
            full=plan.production,
            longest=plan.longest,
        )

        def work() -> dict[str, Any]:
            assert plan.production is not None and plan.longest is not None
            done = judge(at_first, "full", self.validation_runs, self.command)
            if done.outcome.noisy and not done.outcome.fails and plan.longest > plan.production:
                done = judge(bounded, "full", self.validation_runs, self.command)
            page = done.report.write(place).name if done.report is not None else None
            found = {"speed": done.speed, "length": done.length, "report": page}
            return {**done.outcome.as_dict(), **found}

        found = dict(
            self._stage(name, depends, work, 0.5 * self.left, watch_runs(self.validation_runs))
        )
        speed, length, page = (found.pop(key) for key in ("speed", "length", "report"))
        outcome = Outcome.from_dict(found)
        self._tell(f"{name}: {outcome}")
        return Candidate(
            number=number,
            plan=plan,
            reversible=reversible,
            model=model,
            outcome=outcome,
            validation=settings,
            report=place / page if page else None,
            speed=speed,
            production=length or plan.production,
            converged=converged,
            training=training,
        )

    def _with_lengths(self, survey: Survey, number: int, horizon: float) -> Round:
        """The plan of a round with the lengths of its validation."""
        config = self.config
        plan, given = config.chosen.rounds[number - 1], config.validation
        # Without a probe: ten times a step of the reference is a guess.
        of_model = model_step_seconds(self.validation_runs) or 10.0 * survey.motion.step_seconds
        a_picosecond = seconds_a_picosecond(
            *(survey.timestep, horizon, survey.motion.step_seconds),
            *(of_model, given.runs),
        )
        time_left = 0.5 * max(self.left, 0.05 * config.seconds)
        fits = production_in(time_left, a_picosecond, horizon, given.blocks)
        begin = max(0.25 * fits, min(fits, 40.0 * given.blocks * horizon * 1e-3))
        production = given.production or plan.production or float(f"{begin:.3g}")
        longest = given.longest or plan.longest or (given.production or max(fits, production))
        return plan.model_copy(update={"production": production, "longest": longest})

    # ---- the end ---------------------------------------------------------------------------------

    @property
    def _model_file(self) -> Path:
        return self.output / f"{self.config.name}.safetensors"

    def _keep(self, survey: Survey, best: Candidate) -> None:
        """The best model so far, its report and its input script, under their final names."""
        _copy(best.model, self._model_file)
        report = self.output / "report.html"
        if best.report is not None:
            _copy(best.report, report)
            with contextlib.suppress(FileNotFoundError):
                _copy(best.report.with_suffix(".json"), report.with_suffix(".json"))
        else:
            report.unlink(missing_ok=True)
        model = Model(
            path=self._model_file,
            fingerprint="",
            timestep=best.plan.horizon,
            cutoff=ModelFile.load(best.model).metadata.architecture.edge_cutoff,
            angular=survey.inspected.isolated,
        )
        system = System.read(self.config.system)
        write_script(
            self.output / f"in.{self.config.name}", self.config, best.validation, model, system
        )

    def _conclude(self, survey: Survey, best: Candidate, out_of_time: str) -> Verdict:
        facts = Facts(
            model=self._model_file,
            horizon=best.plan.horizon,
            timestep=survey.timestep,
            reversible=best.reversible,
            production=best.production,
            speed=best.speed,
            cutoff=ModelFile.load(best.model).metadata.architecture.edge_cutoff,
            converged=best.converged,
            training=best.training,
            out_of_time=out_of_time,
        )
        verdict = make_verdict(self.config, survey.inspected, best.outcome, facts)
        if best.report is not None:
            put_on_top(self.output / "report.html", verdict)
        (self.output / "verdict.txt").write_text(f"{verdict.word}\n{verdict}\n")
        self.state.save()
        return verdict


# Steps of the reference in a horizon below which there is a warning.
PAYS_BELOW = choose.PAYS
# Steps between validations in a training that is only timed.
EPOCH_TIMED = 100


def _check_files(config: FitConfig) -> None:
    """Raise FitError if a file that is needed late is missing."""
    named = {"trajectories": config.trajectories, "start_from": (config.start_from,)}
    for key, paths in named.items():
        for path in paths:
            if path is not None and not path.is_file():
                raise FitError(f"{key}: {path}: no such file")


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".part")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def _fingerprint(model: Path) -> str:
    return ModelFile.load(model).fingerprint()
