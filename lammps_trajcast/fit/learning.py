"""The stages that make a model: data set and training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.fit import choose
from lammps_trajcast.fit.config import Round, seconds_of
from lammps_trajcast.fit.dataset import (
    SEGMENTS_OF_A_SHARD,
    from_trajectories,
    record_segments,
    start_of,
)
from lammps_trajcast.fit.stages import Stages
from lammps_trajcast.fit.state import digest
from lammps_trajcast.fit.survey import Survey
from lammps_trajcast.fit.training import (
    LEAST,
    Watch,
    end_of,
    epoch_steps,
    seconds_a_step,
    training_config,
)
from lammps_trajcast.fit.watch import watch_shards
from lammps_trajcast.lammps_runs.runner import file_key
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.progress import ProgressReporter, Status

# Steps between validations in a training that is only timed.
EPOCH_TIMED = 100


class Learning:
    """Makes the data set and the model of a round."""

    def __init__(self, stages: Stages, survey: Survey) -> None:
        self.stages = stages
        self.survey = survey

    def network(self) -> dict[str, Any]:
        """Return the keys of `network` for a training file."""
        chosen = self.stages.config.chosen.network
        if chosen is not None:
            # Files of earlier releases, which had no choice, do not say.
            before = {} if self.stages.config.start_from else {"speed_units": "all"}
            return before | chosen | self.stages.config.network
        network = choose.make_network(
            self.stages.config, self.survey.reach.cutoff, self.survey.inspected.isolated
        )
        if self.stages.config.start_from is not None:
            # Training goes on with the network that is there.
            there = ModelFile.load(self.stages.config.start_from).metadata.architecture
            # Its speed limit stays as it is, whatever it is in the new data.
            network.pop("speed_limit_rms", None)
            network.pop("speed_units", None)
            network |= there.model_dump(mode="json", include=set(network))
            network |= self.stages.config.network
        self.stages.choose(network=network)
        return network

    def data(
        self,
        number: int,
        horizon: float,
        plan: Round | None,
        last: Round | None,
    ) -> tuple[list[Path], int]:
        """The data set of a round and its number of segments for each temperature.

        last: the round before.
        """
        config, runs, inspected = self.stages.config, self.stages.survey_runs, self.survey.inspected
        name = f"data for {horizon:g} fs, round {number}"
        if config.trajectories:
            output = self.stages.output / "data" / f"trajectories_{horizon:g}fs.h5"
            depends = [*self.stages.base, horizon, self.survey.timestep]

            def build() -> dict[str, Any]:
                units = runs.system.units
                files = from_trajectories(config, units, output, horizon, self.survey.timestep)
                return {"files": [str(file) for file in files]}

            return [Path(file) for file in self.stages.run(name, depends, build)["files"]], 1
        step_seconds = self.survey.motion.step_seconds
        temperatures = len(config.recorded)
        time = min(choose.RECORD_SHARE * config.seconds, 0.5 * self.stages.left)
        # Not quite in equilibrium is nearer to it than the places in the include file.
        start = start_of(runs, self.survey.start)
        equilibrated = start is not None and not self.survey.faults
        segments, times = choose.recording_plan(
            *(config, horizon, self.survey.timestep, step_seconds, time),
            *(inspected.atoms, equilibrated),
        )
        strain = config.recording.strain
        times["strain"] = 0.0 if inspected.isolated else choose.STRAIN if strain is None else strain
        given = config.recording.model_dump(exclude={"segments"}, exclude_none=True)
        if plan is not None:
            segments = plan.segments
        elif last is not None and last.horizon == horizon:
            segments = last.segments + segments // 2
        if config.chosen.recording is not None:
            times = config.chosen.recording | {key: round(x, 6) for key, x in given.items()}
        self.stages.choose(recording=times)
        expected = choose.recording_seconds(
            segments, times, temperatures, self.survey.timestep, step_seconds
        )
        if plan is None:
            self.stages.need("the data set is recorded", expected)
        # A recording of another kind lies elsewhere; one of more segments goes on.
        kind: list[Any] = [config.elements, config.masses, config.recorded, config.seed]
        kind += [runs.content, start and file_key(self.survey.start / "state.dump")]
        interval = choose.frame_interval(horizon, self.survey.timestep)
        key = digest([*kind, horizon, times, self.survey.timestep, interval])[:6]
        directory = self.stages.output / f"data_{horizon:g}fs_{key}"
        shards = temperatures * -(-segments // SEGMENTS_OF_A_SHARD)
        # The directory too: what was finished in another one is not there.
        depends = [*self.stages.base, horizon, segments, times, directory.name]

        def record() -> dict[str, Any]:
            files = record_segments(
                *(runs, inspected, directory),
                horizon=horizon,
                timestep=self.survey.timestep,
                initial_factor=2.0 if inspected.at_rest else 1.0,
                segments=segments,
                times=times,
                interval=interval,
                start=start,
            )
            return {"files": [file.name for file in files]}

        found = self.stages.run(name, depends, record, expected, watch_shards(directory, shards))
        self.stages.tell(
            f"data set: {segments} segments of {1e3 * times['segment_length']:.3g} fs at each of "
            f"{' '.join(f'{t:g}' for t in config.recorded)} K"
        )
        return [directory / file for file in found["files"]], segments

    def train(
        self,
        number: int,
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

        config = self.stages.config
        directory = self.stages.output / f"training_{number}"
        output = self.stages.output / f"{config.name}_{number}.safetensors"
        size = config.chosen.batch_size or choose.batch_size(self.survey.inspected.atoms)

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
                budget=config.budget if hours else None,
                start_from=start_number,
            )
            self.stages.choose(rounds=(*config.chosen.rounds, now), batch_size=size)
        else:
            every, steps, hours = plan.epoch_steps, plan.steps, plan.hours
        begins = [start.name, ModelFile.load(start).fingerprint()] if start else None
        files = [path.name for path in dataset]

        def depends_on(hours: float | None) -> list[Any]:
            length = [every, steps, hours]
            return [*self.stages.base, horizon, segments, network, length, size, begins, files]

        name, watch = f"training {number}", Watch()
        if plan is not None and not self.stages.is_finished(name, depends_on(hours)):
            hours = self._lengthened(number, plan)
        depends = depends_on(hours)

        def work() -> dict[str, Any]:
            trained = settings(every, steps, hours)
            errors = run_training(trained, progress=False, observer=watch.observe)
            assert errors is not None
            converged, taken, words = end_of(directory)
            return {**errors, "converged": converged, "steps": taken, "end": words}

        expected = 3600.0 * hours if hours else None
        found = self.stages.run(name, depends, work, expected, watch.look)
        self.stages.tell(
            f"trained {found['steps']} steps: errors {found['displacement']:.4f} of displacements, "
            f"{found['velocity']:.4f} of velocities; {found['end'].partition(',')[0]}"
        )
        return output, found["converged"], found["end"]

    def _length_of_training(
        self, number: int, settings: Callable[..., TrainingConfig]
    ) -> tuple[int, int | None, float | None]:
        """Steps between validations, steps at most, hours at most."""
        given = self.stages.config.optimization
        if "steps" in given:
            return int(given.get("epoch_steps", max(int(given["steps"]) // 20, 1))), None, None
        timed: list[float] = []
        self.stages.name = f"training {number}: time of a step"
        with self.stages.progress.stage(self.stages.name), self.stages.quiet():
            timed.append(seconds_a_step(settings(EPOCH_TIMED, LEAST, None)))
        seconds = choose.TRAIN_SHARE * self.stages.left
        self.stages.need(f"training {number} can make {LEAST} steps", LEAST * timed[0])
        every = int(given.get("epoch_steps", epoch_steps(seconds, timed[0])))
        return every, None, round(seconds / 3600.0, 4)

    def _lengthened(self, number: int, plan: Round) -> float | None:
        """Hours at most of a training that was interrupted, in a budget that may be larger now."""
        config = self.stages.config
        if plan.hours is None or plan.budget is None or seconds_of(plan.budget) >= config.seconds:
            return plan.hours
        # What it has used already is not in what is left: too short rather than too long.
        hours = max(plan.hours, round(choose.TRAIN_SHARE * self.stages.left / 3600.0, 4))
        now = plan.model_copy(update={"hours": hours, "budget": config.budget})
        rounds = config.chosen.rounds
        self.stages.choose(rounds=(*rounds[: number - 1], now, *rounds[number:]))
        return hours

    def energies(self, number: int, model: Path, dataset: list[Path]) -> Path:
        """Give a model a potential energy; returns the file that has it, or the model if none can.

        Args:
            number: of the round.
            model: the trained model.
            dataset: that it was trained on.
        """
        from lammps_trajcast.energy.add import with_energy
        from lammps_trajcast.energy.regression import describe_errors

        output = model.with_name(f"{model.stem}_energy{model.suffix}")
        trained = ModelFile.load(model)
        depends = [*self.stages.base, trained.fingerprint(), [path.name for path in dataset]]
        now = Status()

        def observe(status: Status) -> None:
            nonlocal now
            now = status

        def look() -> tuple[float, str]:
            return (now.done / now.total if now.total else 0.0), now.stage

        def work() -> dict[str, Any]:
            limit = choose.ENERGY_SHARE * self.stages.config.seconds
            try:
                found = with_energy(trained, dataset, ProgressReporter([observe]), seconds=limit)
            except DatasetError as error:
                return {"why_not": str(error)}
            found.save(output)
            assert found.energy is not None
            return {"errors": describe_errors(found.energy.errors)}

        result = self.stages.run(f"potential energy {number}", depends, work, None, look)
        if "why_not" in result:
            self.stages.tell(f"no potential energy: {result['why_not']}")
            return model
        self.stages.tell(f"potential energy, in units of its fluctuation: {result['errors']}")
        return output
