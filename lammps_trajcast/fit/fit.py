"""`lammps-trajcast fit`: the stages, in their order."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from lammps_trajcast.child_processes import interruptible
from lammps_trajcast.data.frames import TrajectoryError
from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.describe import energy_keywords, reach
from lammps_trajcast.fit import choose
from lammps_trajcast.fit.config import FitConfig, FitError, Round, write_whole
from lammps_trajcast.fit.dataset import horizon_of
from lammps_trajcast.fit.learning import Learning
from lammps_trajcast.fit.progress import Progress
from lammps_trajcast.fit.proving import Candidate, Proving
from lammps_trajcast.fit.script import write_data_file, write_script
from lammps_trajcast.fit.stages import OutOfTimeError, Stages
from lammps_trajcast.fit.survey import Survey, Surveyor
from lammps_trajcast.fit.verdict import Facts, Verdict, as_dict, make_verdict, put_on_top
from lammps_trajcast.lammps_runs.errors import LaunchError
from lammps_trajcast.lock import InUseError, alone_in
from lammps_trajcast.model.file import ModelFile, ModelFileError
from lammps_trajcast.training.config import TrainingError
from lammps_trajcast.validation.config import SetupError
from lammps_trajcast.validation.system import Model, System

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


def fit(config: FitConfig, output: Path, progress: Progress | None = None) -> Verdict:
    """Do whatever has not been done, and judge.

    Args:
        config: see :class:`FitConfig`; paths absolute.
        output: directory of everything; made if it is not there.
        progress: display; by default on standard error.

    Raises FitError; what has been reached is kept.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with alone_in(output, "name another --output"):
            return _Fit(config, output.resolve(), progress).run()
    except ERRORS as error:
        raise FitError(str(error)) from None


class _Fit:
    """The stages of one fit, in their order."""

    def __init__(self, config: FitConfig, output: Path, progress: Progress | None) -> None:
        self.stages = Stages(config, output, progress)
        self._model_file = self.stages.output / f"{config.name}.safetensors"

    def run(self) -> Verdict:
        stages = self.stages
        stages.save()
        best: Candidate | None = None
        out_of_time = ""
        stages.progress.stages = 9
        with interruptible():
            try:
                survey = Surveyor(stages).survey()
                for candidate in self._rounds(survey):
                    if best is None or candidate.outcome.rank < best.outcome.rank:
                        best = candidate
                        self._keep(survey, best)
                    else:
                        stages.tell(f"the model of round {best.number} is better and is kept")
                if best is not None and best.needs_training and stages.left > 0.0:
                    best = Proving(stages, survey).run_on(best)
                    self._keep(survey, best)
            except OutOfTimeError as error:
                out_of_time = str(error)
            except KeyboardInterrupt:
                stages.state.save()
                raise FitError(self._interrupted("interrupted", best)) from None
            except ERRORS as error:
                stages.state.save()
                raise FitError(self._interrupted(str(error), best)) from None
            except FitError:
                # What cannot begin leaves nothing behind that a corrected command would contradict.
                if stages.is_new and not stages.state.finished:
                    stages.file.unlink(missing_ok=True)
                raise
            if best is None:
                stages.state.save()
                raise FitError(
                    f"{out_of_time}: there is no model that has been validated; what has been "
                    f"reached is in {stages.output}, and the same command with a larger --budget "
                    "goes on from there"
                )
            return self._conclude(survey, best, out_of_time)

    def _interrupted(self, why: str, best: Candidate | None) -> str:
        kept = f"; the best model so far is {self._model_file}" if best else ""
        # Some stages say so themselves.
        for said in ("; the same command goes on", ", the same command goes on"):
            why = why.partition(said)[0]
        return f"stage {self.stages.name}: {why}{kept}; the same command goes on from there"

    # ---- rounds ----------------------------------------------------------------------------------

    def _rounds(self, survey: Survey) -> Iterator[Candidate]:
        """Train and validate until a model is proven or the budget ends."""
        before: list[Candidate] = []
        for number in range(1, self.stages.config.rounds + 1):
            planned = self.stages.config.chosen.rounds
            if number <= len(planned):
                plan: Round | None = planned[number - 1]
            elif number == 1:
                plan = None
            else:
                if not self.stages.time_for_another:
                    return
                plan = None
            self.stages.progress.stages = 4 + 5 * number
            candidate = self._round(survey, number, plan, before)
            yield candidate
            before.append(candidate)
            # A model that was trained further is not judged by what it was before.
            last = number >= len(self.stages.config.chosen.rounds)
            if last and not candidate.needs_training and candidate.outcome.verdict != "fails":
                return

    def _round(
        self, survey: Survey, number: int, plan: Round | None, before: list[Candidate]
    ) -> Candidate:
        config = self.stages.config
        horizon = plan.horizon if plan else self._horizon(survey, before)
        if config.horizon is not None:
            horizon = config.horizon
        choose.check_horizon(horizon, survey.timestep)
        if horizon / survey.timestep < choose.PAYS:
            self.stages.tell(
                f"a horizon of {horizon:g} fs is {horizon / survey.timestep:.3g} steps of the "
                "reference: a model hardly pays here"
            )
        self._tell_speed(survey, horizon)
        learning = Learning(self.stages, survey)
        network = learning.network()
        dataset, segments = learning.data(
            number, horizon, plan, before[-1].plan if before else None
        )
        start, start_number = self._start(before)
        model, converged, training = learning.train(
            number, horizon, plan, dataset, segments, network, start, start_number
        )
        model = learning.energies(number, model, dataset)
        proving = Proving(self.stages, survey)
        return proving.prove(number, horizon, model, converged, training)

    def _tell_speed(self, survey: Survey, horizon: float) -> None:
        """Say early if the reference is so fast that no model pays."""
        seconds = survey.motion.step_seconds
        steps = horizon / survey.timestep
        atoms = survey.inspected.atoms
        if choose.expected_speed(atoms, horizon, survey.timestep, seconds) < 0.7:
            self.stages.tell(
                f"the reference is fast: {1e3 * seconds:.2g} ms a step. A step of the network "
                f"takes some {1e3 * choose.NETWORK_SECONDS * atoms:.2g} ms on one core and "
                f"replaces {steps:.3g} of them: the model will probably be slower than it"
            )

    def _horizon(self, survey: Survey, before: list[Candidate]) -> float:
        """The longest first; the next shorter one if a converged model of that did not pass."""
        config = self.stages.config
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

    def _start(self, before: list[Candidate]) -> tuple[Path | None, int | None]:
        """The model that a training begins with: the last one, or the given one."""
        if before:
            return before[-1].model, before[-1].number
        return self.stages.config.start_from, None

    # ---- the end ---------------------------------------------------------------------------------

    def _keep(self, survey: Survey, best: Candidate) -> None:
        """The best model so far, its report and its input script, under their final names."""
        _copy(best.model, self._model_file)
        report = self.stages.output / "report.html"
        if best.report is not None:
            # The model has its final name there.
            names = (best.model.name, self._model_file.name)
            for suffix in (".html", ".json"):
                with contextlib.suppress(FileNotFoundError):
                    text = best.report.with_suffix(suffix).read_text()
                    write_whole(report.with_suffix(suffix), text.replace(*names))
        else:
            report.unlink(missing_ok=True)
        file = ModelFile.load(best.model)
        model = Model(
            path=self._model_file,
            fingerprint="",
            timestep=best.plan.horizon,
            cutoff=reach(file),
            angular=survey.inspected.isolated,
        )
        system = System.read(self.stages.config.system)
        data = self.stages.output / f"{self.stages.config.name}.data"
        try:
            with self.stages.quiet():
                style, boundary = write_data_file(data, self.stages.survey_runs, survey.start)
        except FitError as error:
            # The model and its verdict are there all the same.
            self.stages.tell(f"no input script: {error}")
            return
        write_script(
            self.stages.output / f"in.{self.stages.config.name}",
            self.stages.config,
            best.validation,
            model,
            system,
            (data, style, boundary),
            energy_keywords(file),
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
        verdict = make_verdict(self.stages.config, survey.inspected, best.outcome, facts)
        if best.report is not None:
            put_on_top(self.stages.output / "report.html", verdict)
        (self.stages.output / "verdict.txt").write_text(f"{verdict.word}\n{verdict}\n")
        content = as_dict(verdict, best.outcome, facts, self.stages.state.elapsed)
        write_whole(
            self.stages.output / "verdict.json", json.dumps(content, indent=1, ensure_ascii=False)
        )
        self.stages.state.save()
        return verdict


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".part")
    shutil.copyfile(source, partial)
    os.replace(partial, target)
