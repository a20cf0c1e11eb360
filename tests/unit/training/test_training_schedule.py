"""When the learning rate goes down and a training ends: of known errors, of known times."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import dataset, same_weights, write_config  # noqa: F401

from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training import callbacks
from lammps_trajcast.training.config import OptimizationConfig, TrainingConfig, TrainingError
from lammps_trajcast.training.progress import Status
from lammps_trajcast.training.schedule import Schedule, fall_of
from lammps_trajcast.training.train import train


def plateau(**options: float) -> OptimizationConfig:
    return OptimizationConfig.model_validate(
        {
            **{"epoch_steps": 100, "warmup_steps": 50, "patience": 8, "min_fall": 0.02},
            **{"learning_rate": 0.01, "final_learning_rate": 0.0, "decay_share": 0.25},
            **options,
        }
    )


def run(
    schedule: Schedule,
    error: Callable[[int], float],
    seconds: Callable[[int], float] = lambda step: 1.0,
    first: int = 0,
    most: int = 200_000,
) -> int:
    """Go through a training without a network; returns the number of its steps."""
    step = first
    while schedule.end is None or step < schedule.end:
        stop = schedule.next_stop(step)
        while step < stop and (schedule.end is None or step < schedule.end):
            step += 1
            schedule.passed(step, seconds(step))
            assert step < most, "it has no end"
        schedule.validated(step, error(step))
    return step


# ---- the plateau -------------------------------------------------------------------------------


def test_ends_where_the_error_has_stopped_falling() -> None:
    """exp(-s / 1000) down to a floor: in 700 steps it falls by 2 % where that is solved for."""
    schedule = Schedule(plateau())
    end = run(schedule, lambda step: 0.1 + math.exp(-step / 1000.0))
    assert schedule.reason == "converged" and schedule.outcome(end).startswith("converged")
    begin = next(k for k in range(end) if k > 60 and schedule.factor(k) < 1.0) - 1
    assert begin % 100 == 0 and end == math.ceil(1.25 * begin)
    # Where the error of eight validations changes by about min_fall: 10 exp(-s / 1000) (1 - e^-0.7)
    expected = 1000.0 * math.log(10.0 * 2.0 * math.sinh(0.35) / 0.02) + 350.0
    assert begin == pytest.approx(expected, abs=150)


def test_a_power_law_is_followed_for_long() -> None:
    """s^-1/2 falls by 2 % in 700 steps until 350 x 700 / 14 = 17,500 steps."""
    schedule = Schedule(plateau())
    end = run(schedule, lambda step: step**-0.5)
    assert 0.8 * end == pytest.approx(0.5 * 700 / 0.02 + 350, rel=0.02)


@pytest.mark.parametrize("noise", [0.005, 0.03])
def test_noise_is_no_end(noise: float) -> None:
    """An error that falls by 6 % in each window, of noise: training must not end in its midst."""
    random = np.random.default_rng(3)
    for _ in range(5):
        schedule = Schedule(plateau(min_fall=0.03))

        def error(step: int) -> float:
            falling = math.exp(-0.12 * min(step, 7000) / 700)
            return falling * math.exp(noise * random.normal())

        end = run(schedule, error)
        assert 0.8 * end > 6000
        assert 0.8 * end < 12_000


def test_the_rate_in_between() -> None:
    schedule = Schedule(plateau(final_learning_rate=0.0001))
    assert schedule.factor(0) == pytest.approx(1 / 50)
    assert schedule.factor(49) == schedule.factor(5000) == 1.0
    for step in range(100, 1001, 100):
        schedule.validated(step, 0.5)
    # Flat from the first: eight validations are enough.
    assert schedule.end == 1000 and schedule.reason == "converged"
    assert schedule.factor(800) == 1.0
    assert schedule.factor(900) == pytest.approx(0.5 * 1.01)
    assert schedule.factor(1000) == pytest.approx(0.01)
    rates = [schedule.factor(step) for step in range(800, 1001)]
    assert sorted(rates, reverse=True) == rates


def test_errors_of_the_warm_up_do_not_count() -> None:
    """They fall by much; they would hide for long that nothing falls any more."""
    schedule = Schedule(plateau(warmup_steps=1000))
    end = run(schedule, lambda step: 0.5 if step > 1000 else 5.0)
    assert end == math.ceil(1.25 * 1800)


def test_steps_are_an_upper_bound() -> None:
    schedule = Schedule(plateau(steps=1234))
    assert run(schedule, lambda step: math.exp(-step / 500)) == 1234
    assert schedule.reason == "steps"
    assert schedule.latest_decay == 987
    assert schedule.factor(987) == 1.0 > schedule.factor(1000) and schedule.factor(1234) == 0.0
    # Over the eight validations from 287 steps on, which are 687 steps apart.
    says = schedule.outcome(1234)
    assert says.startswith("did not converge: ended by steps, the error still fell by ")
    percent = float(says.split("fell by ")[1].split(" %")[0])
    steps = int(says.split("the last ")[1].split(" steps")[0])
    assert percent == pytest.approx(100 * (1 - math.exp(-steps / 500)), abs=0.1)


def test_fewer_steps_than_validations_to_judge_by() -> None:
    schedule = Schedule(plateau(steps=40))
    assert run(schedule, lambda step: 1.0) == 40
    assert schedule.outcome(40) == "did not converge: ended by steps"


def test_fall_of_a_straight_line() -> None:
    errors = [(step, 0.3 * math.exp(-0.001 * step)) for step in range(0, 1000, 100)]
    fall = fall_of(errors, 10)
    assert fall is not None and fall.steps == 900
    assert fall.relative == pytest.approx(1 - math.exp(-0.9)) and fall.uncertainty < 1e-9
    assert fall_of(errors[:9], 10) is None
    # As numpy has it, of a noisy one.
    noisy = [(s, e * math.exp(0.1 * math.sin(7.0 * s))) for s, e in errors]
    (slope, _), covariance = np.polyfit(
        [s / 900 for s, _ in noisy], [math.log(e) for _, e in noisy], 1, cov=True
    )
    fall = fall_of(noisy, 10)
    assert fall is not None and fall.relative == pytest.approx(1 - math.exp(slope))
    assert fall.uncertainty == pytest.approx(math.sqrt(covariance[0, 0]))


def test_mean_weights_forget_on_the_way_down() -> None:
    """They look back on a tenth of it, so that they end where the weights end."""
    schedule = Schedule(plateau())
    assert schedule.longest_memory() == 1.0
    end = run(schedule, lambda step: 1.0)
    assert end == 1000 and schedule.longest_memory() == pytest.approx(1.0 - 10.0 / 200.0)
    weight, mean = 1.0, 1.0
    for step in range(800, 1000):
        weight = schedule.factor(step)
        mean += (1.0 - min(0.999, schedule.longest_memory())) * (weight - mean)
    assert abs(mean - weight) < 0.05
    # With the memory of a thousand steps the beginning would still weigh most.
    assert 0.999**200 > 0.8
    cosine = Schedule(OptimizationConfig(schedule="cosine", steps=10))
    assert cosine.longest_memory() == 1.0


# ---- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [0.05, 0.5, 2.0])
def test_ends_by_max_hours(hours: float) -> None:
    """A second a step, and half a minute for the first of them."""
    schedule = Schedule(plateau(max_hours=hours))
    end = run(
        schedule,
        lambda step: math.exp(-step / 5000),
        lambda step: 30.0 if step == 1 else 1.0,
    )
    assert schedule.seconds <= 3600 * hours
    assert schedule.seconds > 0.93 * 3600 * hours
    assert schedule.reason == "max_hours"
    assert schedule.factor(end) == pytest.approx(0.0, abs=1e-12)
    begin = next(k for k in range(60, end) if schedule.factor(k) < 1.0)
    assert end - begin == pytest.approx(0.2 * end, rel=0.1, abs=5)
    assert "ended by max_hours" in schedule.outcome(end)


def test_slower_steps_in_the_decay() -> None:
    """From some step on they take twice as long: the rest of the way down is shortened."""
    schedule = Schedule(plateau(max_hours=1.0))
    rates: list[float] = []

    def seconds(step: int) -> float:
        rates.append(schedule.factor(step))
        return 2.0 if step > 3100 else 1.0

    end = run(schedule, lambda step: math.exp(-step / 5000), seconds)
    assert end < 3500 and 3500 < schedule.seconds <= 3600
    assert schedule.factor(end) == pytest.approx(0.0, abs=1e-12)
    down = np.array(rates[100:])
    assert (np.diff(down) <= 1e-12).all() and np.abs(np.diff(down)).max() < 0.01


def test_time_counts_over_all_starts() -> None:
    """A start of half an hour, a checkpoint, another: together they take max_hours."""
    first = Schedule(plateau(max_hours=1.0))
    for step in range(1, 1801):
        first.passed(step, 1.0)
        if step % 100 == 0:
            first.validated(step, math.exp(-step / 5000))
    second = Schedule(plateau(max_hours=1.0))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(second, lambda step: math.exp(-step / 5000), first=1800)
    assert 3400 < second.seconds <= 3600


def test_a_wider_bound_goes_on() -> None:
    """A training that was ended by steps goes on with more of them, one that converged does not."""
    first = Schedule(plateau(steps=1000))
    run(first, lambda step: math.exp(-step / 500))
    state = json.loads(json.dumps(first.state_dict()))
    same, more = Schedule(plateau(steps=1000)), Schedule(plateau(steps=2000))
    same.load_state_dict(state)
    more.load_state_dict(state)
    assert same.end == 1000 and more.end is None and more.factor(1000) == 1.0
    # The error at the highest rate, as before.
    assert run(more, lambda step: math.exp(-step / 500), first=1000) == 2000
    flat = Schedule(plateau(steps=10_000))
    end = run(flat, lambda step: 1.0)
    again = Schedule(plateau(steps=20_000))
    again.load_state_dict(json.loads(json.dumps(flat.state_dict())))
    assert again.end == end == 1000


# ---- training ----------------------------------------------------------------------------------

SHORT = {
    **{"schedule": "plateau", "epoch_steps": 4, "patience": 4, "decay_share": 0.5},
    "warmup_steps": 3,
}


def steps_of(directory: Path) -> list[int]:
    return sorted(int(path.stem[4:]) for path in directory.glob("step*.ckpt"))


def test_training_converges_and_resumes_to_the_same_weights(
    tmp_path: Path,
    dataset: Path,
) -> None:
    """Errors that do not fall end the training.

    4 validations, half as many steps more, of which some are done again.
    """
    path = write_config(tmp_path, dataset, **SHORT, steps=500, min_fall=0.9, read_out_pairs=4)
    config = TrainingConfig.load(path)
    told: list[Status] = []
    train(config, progress=False, observer=told.append)
    assert steps_of(config.directory) == [20, 24]
    first = ModelFile.load(config.output)
    outcome = "converged: the validation error had stopped falling"
    assert first.metadata.provenance["outcome"] == told[-1].outcome == outcome
    with (config.directory / "metrics.csv").open() as file:
        assert max(int(row["step"]) for row in csv.DictReader(file)) == 23
    # Done: nothing is trained any more.
    train(config, progress=False)
    assert steps_of(config.directory) == [20, 24]
    again = ModelFile.load(config.output)
    assert all(torch.equal(first.state_dict[k], again.state_dict[k]) for k in first.state_dict)
    # From within the decay, and from before it.
    whole = config.output.read_bytes()
    (config.directory / "step00000024.ckpt").unlink()
    (config.directory / "best.ckpt").unlink()
    config.output.unlink()
    train(config, progress=False)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/model.safetensors").write_bytes(whole)
    same_weights(tmp_path / "whole", tmp_path, 1e-12)
    summary = json.loads((config.directory / "summary.json").read_text())
    assert summary["converged"] and summary["steps"] == 24 and summary["outcome"] == outcome


def test_training_that_is_stopped_before_its_decay(
    tmp_path: Path,
    dataset: Path,
) -> None:
    """What the schedule has seen before an interruption counts after it."""
    options = {**SHORT, "steps": 500, "min_fall": 0.9, "read_out_pairs": 4}
    for name in ("whole", "parts"):
        config = TrainingConfig.load(write_config(tmp_path / name, dataset, **options))

        def interrupt(status: Status) -> None:
            if status.step == 10 and not (tmp_path / "parts/went").exists():
                (tmp_path / "parts/went").touch()
                raise TrainingError("power cut")

        if name == "parts":
            with pytest.raises(TrainingError, match="power cut"):
                train(config, progress=False, observer=interrupt)
            assert steps_of(config.directory) == [4, 8]
        train(config, progress=False)
        assert steps_of(config.directory)[-1] == 24
    same_weights(tmp_path / "whole", tmp_path / "parts", 1e-12)


def test_training_ends_by_max_hours(
    tmp_path: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock that goes a minute with every step, half an hour in all."""
    ticks: Iterator[float] = iter(60.0 * k for k in range(10**6))
    monkeypatch.setattr(callbacks, "clock", lambda: next(ticks))
    options = {**SHORT, "epoch_steps": 25, "max_hours": 0.5, "read_out_pairs": 4}
    config = TrainingConfig.load(write_config(tmp_path, dataset, **options))
    config = config.model_copy(
        update={"optimization": config.optimization.model_copy(update={"steps": None})}
    )
    told: list[Status] = []
    train(config, progress=False, observer=told.append)
    (last,) = steps_of(config.directory)[-1:]
    assert last in (28, 29)
    assert told[-1].seconds == 60.0 * last
    outcome = told[-1].outcome
    assert outcome is not None and outcome.startswith("did not converge: ended by max_hours")
    known = [status.last_step for status in told if status.last_step_is == "exact"]
    assert known[-1] == last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosine", "steps": None}, "a cosine needs to know its last step"),
        ({"schedule": "cosine", "max_hours": 1.0}, "max_hours goes with schedule: plateau"),
        ({"schedule": "plateau", "early_stopping": 3}, "early_stopping goes with schedule: cosine"),
        ({"schedule": "plateau", "patience": 3}, "optimization.patience"),
        ({"schedule": "linear"}, "optimization.schedule"),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path,
    dataset: Path,
    options: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(TrainingError, match=rf"line \d+: .*{message}"):
        TrainingConfig.load(write_config(tmp_path, dataset, **options))
