"""What `lammps-trajcast fit` does next, by what came out: with stages that only pretend."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from models import tiny_model

from lammps_trajcast.fit import learning, proving, survey
from lammps_trajcast.fit.config import FitConfig, FitError
from lammps_trajcast.fit.fit import fit as run_fit
from lammps_trajcast.fit.force_range import ForceRange
from lammps_trajcast.fit.motion import Motion
from lammps_trajcast.fit.progress import Progress
from lammps_trajcast.fit.proof import Outcome
from lammps_trajcast.fit.reference import Inspected
from lammps_trajcast.fit.request import make_request
from lammps_trajcast.fit.validating import Judged
from lammps_trajcast.fit.verdict import Verdict
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.scripts import Inputs
from lammps_trajcast.validation.system import Model, System

GOOD = Outcome(20, [], [], [], 0.0)
BAD = Outcome(15, ["spectrum 0.9"], [], [], 2.0)
WORSE = Outcome(10, ["spectrum 0.5", "energy 2 kT"], [], [], 20.0)
CHANCE = Outcome(19, [], ["temperature"], ["temperature"], 0.0)
LEANS = replace(CHANCE, leaning=1)
DOUBTFUL = replace(LEANS, doubtful=1)
SYSTEM = "units metal\nboundary p p p\npair_style sw\n"
SURVEY = survey.Survey(
    Inspected(216, [28.0855], None, [True] * 3, [16.3] * 3, True, 1e-3, 2.35),
    Motion(18.0, 55.5, {"Si": 18.0}, False, 1e-3),
    ForceRange(4.0, 0.01, True),
    *(2.0, 600.0, 4.0, 3, Path("survey/equilibration"), []),
)


@dataclass
class Pretended:
    """outcomes: of the validations and probes in their order, by kind of steps.

    trained, judged: what was asked for.
    """

    directory: Path
    outcomes: dict[str, list[Outcome]]
    converged: bool = True
    a_step: float = 0.1
    trained: list[TrainingConfig] = field(default_factory=list)
    judged: list[tuple[str, ValidationConfig]] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)

    def train(self, config: TrainingConfig, **_: Any) -> dict[str, float]:
        self.trained.append(config)
        horizon = float(config.dataset[0].parent.name.split("_")[1].removesuffix("fs"))
        model = tiny_model(
            architecture={"num_chem_elements": 1, "vel_max": 0.1 + 0.01 * len(self.trained)},
            metadata={"species": ("Si",), "masses": (28.085,), "timestep": horizon},
        )
        model.save(config.output)
        config.directory.mkdir(exist_ok=True)
        summary = {"converged": self.converged, "steps": 100, "outcome": "did not converge: so"}
        (config.directory / "summary.json").write_text(json.dumps(summary))
        return {"displacement": 0.01, "velocity": 0.02}

    def judge(self, config: ValidationConfig, length: str, *_: Any) -> Judged:
        kind = "reversible" if "reversible yes" in config.fix_options else "plain"
        self.judged.append((f"{length} {kind}", config))
        return Judged(self.outcomes[f"{length} {kind}"].pop(0), None, 1.5)

    def record(self, *given: Any, segments: int, **_: Any) -> list[Path]:
        output: Path = given[2]
        output.mkdir(exist_ok=True)
        self.segments.append(segments)
        (output / "t300.000.h5").touch()
        return [output / "t300.000.h5"]

    def fit(self, **changes: Any) -> Verdict:
        content = {
            **{"name": "si", "system": "si.lmp", "elements": ["Si"], "temperature": 300},
            **changes,
        }
        path = self.directory / "fit.yaml"
        if not path.exists():
            (self.directory / "si.lmp").write_text(SYSTEM)
            path.write_text(yaml.safe_dump(content))
        quiet = Progress(7200.0, lambda: 0.0, StringIO())
        return run_fit(FitConfig.load(path), self.directory, quiet)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.judged]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**options: Any) -> Pretended:
        made = Pretended(tmp_path, **options)
        equilibrated = tmp_path / "equilibration"
        equilibrated.mkdir()
        (equilibrated / "state.dump").touch()
        known = replace(SURVEY, start=equilibrated)
        monkeypatch.setattr(survey.Surveyor, "survey", lambda _: known)
        monkeypatch.setattr(proving, "judge", made.judge)
        monkeypatch.setattr(learning, "record_segments", made.record)
        monkeypatch.setattr(learning, "seconds_a_step", lambda _: made.a_step)
        monkeypatch.setattr("lammps_trajcast.training.train.train", made.train)
        # There is no system in LAMMPS here.
        words = ("atomic", "p p p")
        monkeypatch.setattr("lammps_trajcast.fit.fit.write_data_file", lambda *_: words)
        return made

    return make


def rounds_of(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((directory / "fit.yaml").read_text())["chosen"][
        "rounds"
    ]
    return found


def test_plain_steps_if_nothing_speaks_against_them(pretend: Any) -> None:
    made = pretend(outcomes={"short plain": [GOOD], "full plain": [GOOD]})
    verdict = made.fit()
    assert verdict.status == 0
    assert made.kinds == ["short plain", "full plain"]
    assert "24 fs a step," in verdict.lines[0]
    assert "reversible" not in verdict.lines[0]


def test_reversible_steps_if_the_probe_recommends_them(pretend: Any) -> None:
    made = pretend(
        outcomes={"short plain": [BAD], "short reversible": [GOOD], "full reversible": [GOOD]}
    )
    verdict = made.fit()
    assert verdict.status == 0
    assert made.kinds == ["short plain", "short reversible", "full reversible"]
    assert "24 fs a step, reversible steps" in verdict.lines[0]
    assert rounds_of(made.directory)[0]["reversible"] is True
    assert "reversible yes" in (made.directory / "in.si").read_text()


def test_plain_steps_that_fail_at_length_are_followed_by_reversible_ones(pretend: Any) -> None:
    made = pretend(outcomes={"short plain": [GOOD], "full plain": [BAD], "full reversible": [GOOD]})
    assert made.fit().status == 0
    assert made.kinds == ["short plain", "full plain", "full reversible"]


def test_reversible_steps_have_their_turn_when_there_is_more_time(
    pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain steps failed and the budget was spent: the same command goes on with the others."""
    made = pretend(outcomes={"short plain": [GOOD], "full plain": [BAD], "full reversible": [GOOD]})
    monkeypatch.setattr(proving, "ENOUGH", 2.0)
    assert made.fit(rounds=1).status == 2
    assert made.kinds == ["short plain", "full plain"]
    assert "reversible" not in rounds_of(made.directory)[0]
    monkeypatch.setattr(proving, "ENOUGH", 0.1)
    assert made.fit(rounds=1).status == 0
    assert made.kinds == ["short plain", "full plain", "full reversible"]


def test_plain_steps_that_would_fail_if_they_ran_longer_are_followed_by_reversible_ones(
    pretend: Any,
) -> None:
    made = pretend(
        outcomes={
            "short plain": [GOOD],
            "full plain": [LEANS, LEANS],
            "full reversible": [GOOD],
        }
    )
    assert made.fit().status == 0
    assert made.kinds == ["short plain", "full plain", "full plain", "full reversible"]
    plain, reversible = (made.judged[k][1].lengths["full"].max_hours for k in (2, 3))
    assert plain is not None and plain < 0.5 * 2.0
    assert reversible is None


def test_plain_steps_that_chance_alone_leaves_open_take_the_time_of_both(pretend: Any) -> None:
    made = pretend(outcomes={"short plain": [GOOD], "full plain": [CHANCE] * 4})
    assert made.fit().status == 3
    assert made.kinds == ["short plain", *["full plain"] * 4]
    half, whole = (made.judged[k][1].lengths["full"].max_hours for k in (2, 4))
    assert whole == pytest.approx(2.0 * half, rel=0.01)
    assert made.fit().status == 3  # nothing is left to do
    assert len(made.kinds) == 5


def test_a_larger_budget_goes_on_with_an_undecided_validation(pretend: Any) -> None:
    """As its verdict promises."""
    made = pretend(outcomes={"full reversible": [CHANCE, CHANCE, CHANCE, GOOD]})
    verdict = made.fit(reversible=True, budget="1h")
    assert verdict.status == 3 and "longer runs decide" in verdict.lines[2]
    assert "--budget 2h or more goes on" in verdict.lines[2]
    path = made.directory / "fit.yaml"
    path.write_text(path.read_text().replace("budget: 1h", "budget: 3h"))
    assert made.fit().status == 0
    assert made.kinds == ["full reversible"] * 4
    first, second = made.judged[1][1], made.judged[3][1]
    hours = [config.lengths["full"].max_hours for config in (first, second)]
    assert hours[1] == pytest.approx(3.0 * hours[0], rel=0.01)
    assert len(made.trained) == 1


def test_a_doubtful_model_that_has_not_converged_is_trained_further(pretend: Any) -> None:
    """Not run on: a check is beyond its limit by two standard errors, but not by three."""
    made = pretend(outcomes={"full reversible": [DOUBTFUL, GOOD]}, converged=False)
    assert made.fit(reversible=True).status == 0
    assert len(made.trained) == 2


@pytest.mark.parametrize(("converged", "rounds"), [(True, 3), (False, 1)])
def test_a_doubtful_model_that_training_cannot_help_is_run_on(
    pretend: Any, converged: bool, rounds: int
) -> None:
    made = pretend(outcomes={"full reversible": [DOUBTFUL, GOOD]}, converged=converged)
    assert made.fit(reversible=True, rounds=rounds).status == 0
    assert made.kinds == ["full reversible"] * 2 and len(made.trained) == 1


def test_a_failure_by_two_standard_errors_is_judged_again(pretend: Any) -> None:
    """Of a fit of an earlier release; its runs are there already."""
    made = pretend(outcomes={"full reversible": [BAD, GOOD]})
    assert made.fit(reversible=True, rounds=1).status == 2
    assert made.fit().status == 2  # nothing is left to do
    state = made.directory / "state.json"
    content = json.loads(state.read_text())
    del content["stages"]["validation 1, reversible steps"]["result"]["to_fail"]
    state.write_text(json.dumps(content))
    assert made.fit().status == 0
    assert made.kinds == ["full reversible"] * 2


def test_a_round_that_was_trained_further_is_not_judged_again(pretend: Any) -> None:
    """Its result would replace that of the better model."""
    made = pretend(outcomes={"full reversible": [BAD, GOOD, CHANCE]}, converged=False)
    assert made.fit(reversible=True).status == 0
    state = made.directory / "state.json"
    content = json.loads(state.read_text())
    del content["stages"]["validation 1, reversible steps"]["result"]["to_fail"]
    state.write_text(json.dumps(content))
    kept = (made.directory / "si.safetensors").read_bytes()
    assert made.fit().status == 0 and len(made.kinds) == 2
    assert (made.directory / "si.safetensors").read_bytes() == kept


def test_a_doubtful_round_that_was_trained_further_is_not_run_on(pretend: Any) -> None:
    """With a larger budget of which hardly anything is left."""
    made = pretend(outcomes={"full reversible": [DOUBTFUL, GOOD]}, converged=False)
    assert made.fit(reversible=True, budget="1h").status == 0
    state = made.directory / "state.json"
    content = json.loads(state.read_text())
    content["seconds"] = 3500.0
    state.write_text(json.dumps(content))
    path = made.directory / "fit.yaml"
    path.write_text(path.read_text().replace("budget: 1h", "budget: 70m"))
    assert made.fit().status == 0 and len(made.kinds) == 2


def test_what_no_training_has_made_better_is_run_on(pretend: Any) -> None:
    """A doubtful model, and a second training that fails; the same command does nothing more."""
    made = pretend(outcomes={"full reversible": [DOUBTFUL, BAD, DOUBTFUL, GOOD]}, converged=False)
    verdict = made.fit(reversible=True, rounds=2)
    assert verdict.status == 0
    assert len(made.trained) == 2 and len(made.kinds) == 4
    assert made.judged[3][1].lengths["full"].until_decided
    assert made.fit().status == 0 and len(made.kinds) == 4


def test_a_doubtful_model_is_told_to_be_trained(pretend: Any) -> None:
    made = pretend(outcomes={"full reversible": [DOUBTFUL] * 9}, converged=False)
    verdict = made.fit(reversible=True, rounds=1)
    assert verdict.status == 3
    assert "trains it further" in verdict.lines[2] and "did not converge" in verdict.lines[2]
    assert "longer runs decide" not in verdict.lines[2]


def test_no_reversible_steps_beyond_half_a_period(pretend: Any) -> None:
    made = pretend(outcomes={"full plain": [GOOD]})
    assert made.fit(horizon=30.0).status == 0
    assert made.kinds == ["full plain"]


def test_a_converged_model_that_fails_is_followed_by_a_shorter_horizon(pretend: Any) -> None:
    made = pretend(outcomes={"full reversible": [BAD, GOOD]})
    assert made.fit(reversible=True).status == 0
    assert [entry["horizon"] for entry in rounds_of(made.directory)] == [24.0, 16.0]
    first, second = made.trained
    assert second.start_from == first.output
    assert "16 fs a step" in (made.directory / "verdict.txt").read_text()
    assert "timestep        0.016" in (made.directory / "in.si").read_text()


def test_a_training_that_has_not_converged_goes_on_with_more_data(pretend: Any) -> None:
    made = pretend(outcomes={"full reversible": [BAD, GOOD]}, converged=False)
    verdict = made.fit(reversible=True)
    assert [entry["horizon"] for entry in rounds_of(made.directory)] == [24.0, 24.0]
    assert made.segments[1] > made.segments[0]
    assert "did not converge" in verdict.lines[2]


def test_a_worse_model_does_not_replace_a_better_one(pretend: Any) -> None:
    made = pretend(outcomes={"full reversible": [BAD, WORSE]})
    verdict = made.fit(reversible=True, rounds=2)
    assert verdict.status == 2
    assert "spectrum 0.9" in verdict.lines[1]
    kept, first = (made.directory / name for name in ("si.safetensors", "si_1.safetensors"))
    assert kept.read_bytes() == first.read_bytes()
    assert kept.read_bytes() != (made.directory / "si_2.safetensors").read_bytes()


def test_what_chance_leaves_open_is_run_on_and_then_said(pretend: Any) -> None:
    made = pretend(outcomes={"full reversible": [CHANCE, CHANCE]})
    verdict = made.fit(reversible=True)
    assert verdict.status == 3
    assert "--budget 4h or more goes on" in verdict.lines[2]
    at_first, then = (config.lengths["full"] for _, config in made.judged)
    assert not at_first.until_decided
    assert then.until_decided and then.until_failed
    assert then.production == at_first.production and then.longest is None
    assert then.max_hours is not None and then.max_hours < 2.0


@pytest.mark.parametrize(("tolerances", "judged"), [({}, None), ({"displacement": 0.3}, 0.3)])
def test_displacements_of_a_molecule_that_turns_are_not_judged(
    pretend: Any, monkeypatch: pytest.MonkeyPatch, tolerances: dict[str, float], judged: Any
) -> None:
    """They were always undecided, as the reference did not pass itself."""
    made = pretend(outcomes={"short plain": [GOOD], "full plain": [GOOD]})
    alone = replace(SURVEY.inspected, periodic=[False] * 3)
    known = replace(SURVEY, start=made.directory / "equilibration", inspected=alone)
    monkeypatch.setattr(survey.Surveyor, "survey", lambda _: known)
    made.fit(tolerances=tolerances)
    assert [config.tolerances.displacement for _, config in made.judged] == [judged] * 2


def test_the_validation_of_an_expensive_reference_continues_the_probe(
    pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pretend(outcomes={"short plain": [GOOD], "full plain": [GOOD]})
    motion = SURVEY.motion._replace(step_seconds=0.2)
    known = replace(SURVEY, start=made.directory / "equilibration", motion=motion)
    monkeypatch.setattr(survey.Surveyor, "survey", lambda _: known)
    made.fit()
    probe, full = (
        Inputs(
            config,
            System.read(config.system),
            Model(config.model, "", 24.0, 4.0, False),
            RunSchedule.make(config.lengths[length], 24.0, config.reference.timestep),
            config.temperature,
        )
        for length, (_, config) in zip(("short", "full"), made.judged, strict=True)
    )
    assert probe.reference() == full.reference()
    assert probe.production(0) == full.production(0)
    assert probe.nve() == full.nve()


def test_a_budget_that_is_too_small_says_so_and_keeps_what_there_is(pretend: Any) -> None:
    made = pretend(outcomes={"full reversible": [GOOD]}, a_step=1000.0)
    with pytest.raises(FitError, match="the budget of 1h ends before training 1.*larger --budget"):
        made.fit(reversible=True, budget="1h")
    assert made.segments
    made.a_step = 0.1
    assert made.fit().status == 0
    assert len(made.segments) == 1  # not recorded again


def test_the_written_file_repeats_it_all(pretend: Any) -> None:
    """Nothing is measured or chosen again; what is given comes before what was chosen."""
    made = pretend(
        outcomes={"short plain": [BAD], "short reversible": [GOOD], "full reversible": [GOOD] * 2}
    )
    made.fit()
    (made.directory / "state.json").unlink()
    made.a_step = 1e9
    assert made.fit().status == 0
    assert made.kinds == ["short plain", "short reversible", *["full reversible"] * 2]
    first, second = made.trained
    assert first == second
    assert made.judged[-1][1] == made.judged[-2][1]


def test_what_a_cheap_reference_leaves_is_for_the_training(pretend: Any) -> None:
    """Nothing has been used here when the training begins: 58 % of the hour."""
    made = pretend(outcomes={"full reversible": [GOOD]})
    made.fit(reversible=True, budget="1h")
    assert made.trained[0].optimization.max_hours == pytest.approx(0.58, abs=0.01)


def test_data_of_another_start_are_recorded_anew(pretend: Any) -> None:
    """They lie in a directory of their own, where the files of the first are not."""
    made = pretend(outcomes={"full reversible": [GOOD, GOOD]})
    made.fit(reversible=True)
    made.fit()
    assert len(made.segments) == 1
    (made.directory / "equilibration" / "state.dump").write_text("another")
    made.fit()
    assert len(made.segments) == 2
    assert all(path.is_file() for path in made.trained[-1].dataset)


@pytest.mark.parametrize("way", ["in", "in/../in", "./in"])
def test_the_same_words_ask_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """All stages depend on it: another name of a file would do them again."""
    (tmp_path / "in").mkdir()
    for name in ("si.lmp", "old.dump", "old.safetensors"):
        (tmp_path / "in" / name).write_text(SYSTEM)
    given = {
        **{"elements": ["Si"], "temperature": 300.0, "interval": 1.0},
        "trajectories": [Path(way) / "old.dump"],
        "start_from": Path(way) / "old.safetensors",
    }
    monkeypatch.chdir(tmp_path)
    output = Path("fits/si")
    asked = []
    for _ in range(3):
        config, directory = make_request(Path(way) / "si.lmp", output, given)
        directory.mkdir(parents=True, exist_ok=True)
        config.save(directory / "fit.yaml")
        asked.append(config.asked)
    asked.append(make_request(output / "fit.yaml", None, {})[0].asked)
    assert asked == [asked[0]] * 4
