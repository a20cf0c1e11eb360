"""The stages that prove a model: a probe that chooses the kind of steps, and the validation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lammps_trajcast.fit.config import Round
from lammps_trajcast.fit.proof import Outcome
from lammps_trajcast.fit.stages import Stages
from lammps_trajcast.fit.survey import Survey
from lammps_trajcast.fit.validating import (
    PROBE,
    judge,
    model_step_seconds,
    production_in,
    seconds_a_picosecond,
    validation_config,
)
from lammps_trajcast.fit.watch import watch_runs
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.validation.compare import TO_FAIL
from lammps_trajcast.validation.config import ValidationConfig

# The share of the budget that the validation of the second kind of steps needs.
ENOUGH = 0.1
# The share of the time left that a validation may take, and where the other kind comes after it.
SHARE, HALF = 0.7, 0.35


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

    @property
    def needs_training(self) -> bool:
        """Whether more training is a better use of time than longer runs."""
        return not self.converged and self.outcome.doubtful > 0 and self.outcome.verdict != "fails"


class Proving:
    """Validates the model of a round."""

    def __init__(self, stages: Stages, survey: Survey) -> None:
        self.stages = stages
        self.survey = survey

    def prove(
        self,
        number: int,
        horizon: float,
        model: Path,
        converged: bool,
        training: str,
    ) -> Candidate:
        """Choose plain or reversible steps by a short run, and validate; the other if it fails."""
        plan = self.stages.config.chosen.rounds[number - 1]
        order = self._variants(number, horizon, model, plan)
        best: Candidate | None = None
        settled = False
        for reversible in order:
            last = reversible == order[-1]
            if best is not None and self.stages.left < ENOUGH * self.stages.config.seconds:
                break
            subject = (number, horizon, model, reversible, converged, training)
            found = self._validate(*subject, share=SHARE if last else HALF)
            outcome = found.outcome
            if outcome.verdict == "undecided" and not outcome.leaning and not last:
                found = self._validate(*subject, share=SHARE, again=True)
            if best is None or found.outcome.rank < best.outcome.rank:
                best = found
            settled = last or not _suspect(best.outcome)
            if settled:
                break
        assert best is not None
        rounds = list(self.stages.config.chosen.rounds)
        # With more time the other kind, which there was no time for, still has its turn.
        rounds[number - 1] = plan.model_copy(
            update={
                "reversible": best.reversible if settled else None,
                "production": best.plan.production,
            }
        )
        self.stages.choose(rounds=tuple(rounds))
        return best

    def run_on(self, candidate: Candidate) -> Candidate:
        """Decide what was left undecided, as no training makes the model better any more."""
        subject = (candidate.number, candidate.plan.horizon, candidate.model)
        return self._validate(
            *(*subject, candidate.reversible, candidate.converged, candidate.training),
            share=SHARE,
            forced=True,
        )

    def _validation(
        self,
        horizon: float,
        model: Path,
        reversible: bool,
        max_hours: float | None = None,
        **lengths: float,
    ) -> ValidationConfig:
        return validation_config(
            self.stages.config,
            self.survey.inspected,
            self.stages.survey_runs.time_unit,
            model=model,
            horizon=horizon,
            timestep=self.survey.timestep,
            initial_temperature=self.survey.initial_temperature,
            equilibration=self.survey.equilibration,
            rounds=self.survey.rounds,
            start=None if self.survey.faults else self.survey.start,
            # The groups of a molecule turn, and it may; it does not diffuse.
            liquid=self.survey.motion.liquid and not self.survey.inspected.isolated,
            reversible=reversible,
            lengths=lengths,
            max_hours=max_hours,
        )

    def _variants(self, number: int, horizon: float, model: Path, plan: Round) -> list[bool]:
        """Which kinds of steps to validate with, the better one first; by a short run of each.

        Plain steps, a third of the cost, if nothing speaks against them.
        """
        config = self.stages.config
        if config.reversible is not None:
            return [config.reversible]
        if plan.reversible is not None:
            return [plan.reversible]
        if horizon >= 0.5 * self.survey.motion.period:
            return [False]
        duration = self._probe_length()
        outcomes: dict[bool, Outcome] = {}
        for reversible in (False, True):
            kind = "reversible" if reversible else "plain"
            settings = self._validation(
                *(horizon, model, reversible),
                probe=duration,
                full=duration,
                longest=duration,
            )
            depends = [
                *self.stages.base,
                ModelFile.load(model).fingerprint(),
                _content(settings),
                "probe",
            ]

            def work(settings: ValidationConfig = settings) -> dict[str, Any]:
                done = judge(settings, "short", self.stages.validation_runs, self.stages.command)
                return done.outcome.as_dict()

            found = self.stages.run(
                f"probe {number}, {kind} steps",
                depends,
                work,
                fraction=watch_runs(self.stages.validation_runs),
            )
            outcomes[reversible] = Outcome.from_dict(found)
            self.stages.tell(f"probe of {duration:.3g} ps, {kind} steps: {outcomes[reversible]}")
            # A few ps do not see slow heating: what they leave undecided is no recommendation.
            if outcomes[reversible].verdict == "proven":
                break
        if True not in outcomes:
            return [False, True]
        better = outcomes[True].rank < outcomes[False].rank
        # Where both fail, the worse one need not be validated at length.
        both = not outcomes[better].fails
        return [better, not better] if both else [better]

    def _probe_length(self) -> float:
        """ps; a fiftieth of the budget for its reference."""
        given = self.stages.config.validation.probe
        if given:
            return given
        fits = (
            0.02
            * self.stages.config.seconds
            / self.survey.motion.step_seconds
            * self.survey.timestep
            * 1e-3
        )
        return float(f"{min(max(fits, PROBE[0]), PROBE[1]):.3g}")

    def _validate(
        self,
        number: int,
        horizon: float,
        model: Path,
        reversible: bool,
        converged: bool,
        training: str,
        share: float,
        again: bool = False,
        forced: bool = False,
    ) -> Candidate:
        """Validate until no check is undecided by chance, for a share of the time left.

        What fails after the first length is not run on: the time is for a better model. What was
        undecided goes on where it ended ``again``, and where the budget has grown. A model that
        training may make better is run on only if that is ``forced``, and one that was trained
        further since not at all.
        """
        superseded = number < len(self.stages.config.chosen.rounds) and not forced
        plan = self._with_lengths(number, horizon)
        assert plan.production is not None
        given = self.stages.config.validation
        longest = given.longest or given.production or math.inf
        budget = self.stages.config.seconds
        kind = "reversible" if reversible else "plain"
        name = f"validation {number}, {kind} steps"
        place = self.stages.output / "reports" / f"{number}_{kind}"
        settings = self._validation(
            *(horizon, model, reversible),
            probe=plan.production,
            full=plan.production,
            longest=longest,
        )
        depends = [
            *self.stages.base,
            ModelFile.load(model).fingerprint(),
            _content(settings),
        ]
        at_first = self._validation(
            *(horizon, model, reversible),
            probe=plan.production,
            full=plan.production,
            longest=0.0,
        )
        bounded = self._validation(
            *(horizon, model, reversible, max(share * self.stages.left, 60.0) / 3600.0),
            probe=plan.production,
            full=plan.production,
            longest=longest,
        )

        def work() -> dict[str, Any]:
            assert plan.production is not None
            done = judge(at_first, "full", self.stages.validation_runs, self.stages.command)
            # Where there is time to train the model further, it is not worth longer runs.
            another = number < self.stages.config.rounds and self.stages.time_for_another
            train = another and not converged and done.outcome.doubtful > 0 and not forced
            noisy = done.outcome.noisy and not done.outcome.fails
            if noisy and not train and not superseded and longest > plan.production:
                done = judge(bounded, "full", self.stages.validation_runs, self.stages.command)
            page = done.report.write(place).name if done.report is not None else None
            found = {"speed": done.speed, "length": done.length, "report": page}
            criterion = {"budget": budget, "to_fail": TO_FAIL, "forced": forced}
            return {**done.outcome.as_dict(), **found, **criterion}

        def finished(found: dict[str, Any]) -> bool:
            if superseded:
                return True
            # Failures of earlier releases: of two standard errors. The runs are there already, but
            # for those that failed.
            if found["fails"] and found.get("to_fail") != TO_FAIL and not found["unstable"]:
                return False
            if found["fails"] or not found["noisy"] or longest <= (plan.production or 0.0):
                return True
            if forced and not found.get("forced"):
                return False
            return budget <= found.get("budget", budget) and not again

        found = dict(
            self.stages.run(
                *(name, depends, work, 0.5 * self.stages.left),
                watch_runs(self.stages.validation_runs),
                finished,
            )
        )
        speed, length, page = (found.pop(key) for key in ("speed", "length", "report"))
        for key in ("budget", "to_fail", "forced"):
            found.pop(key, None)
        outcome = Outcome.from_dict(found)
        self.stages.tell(f"{name}: {outcome}")
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

    def _with_lengths(self, number: int, horizon: float) -> Round:
        """The plan of a round with the lengths of its validation."""
        config = self.stages.config
        plan, given = config.chosen.rounds[number - 1], config.validation
        # Without a probe: ten times a step of the reference is a guess.
        of_model = (
            model_step_seconds(self.stages.validation_runs)
            or 10.0 * self.survey.motion.step_seconds
        )
        a_picosecond = seconds_a_picosecond(
            *(self.survey.timestep, horizon, self.survey.motion.step_seconds),
            *(of_model, given.runs),
        )
        time_left = 0.5 * max(self.stages.left, 0.05 * config.seconds)
        fits = production_in(time_left, a_picosecond, horizon, given.blocks)
        begin = max(0.25 * fits, min(fits, 40.0 * given.blocks * horizon * 1e-3))
        probe = self._probe_length()
        # A validation of about that length begins with the runs of the probe, and continues them.
        if probe <= fits and begin <= 2.0 * probe:
            begin = probe
        production = given.production or plan.production or float(f"{begin:.3g}")
        return plan.model_copy(update={"production": production})


def _suspect(outcome: Outcome) -> bool:
    """Whether the other kind of steps might be better."""
    return outcome.verdict == "fails" or outcome.leaning > 0


def _content(settings: ValidationConfig) -> dict[str, Any]:
    """What the result of a validation in equilibrium depends on.

    Tolerances of other protocols do not count; files of earlier releases did not have them.
    """
    return settings.model_dump(
        mode="json", exclude={"tolerances": {"elastic", "density", "expansion"}}
    )
