"""What a training tells: lines for a log file, one line for a terminal, a status for a program."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from trainings import dataset, write_config  # noqa: F401
from typer.testing import CliRunner

from lammps_trajcast.cli import app
from lammps_trajcast.data.baseline import cheap_comparison
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.progress import Console, ProgressReporter, Status, describe, duration
from lammps_trajcast.training.train import train


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_log_of_a_training(tmp_path: Path, dataset: Path) -> None:
    """Every stage says what it is, in whole lines, and the figures are those of the data."""
    path = write_config(tmp_path, dataset, steps=20)
    result = CliRunner().invoke(app, ["train", str(path)])
    assert result.exit_code == 0, result.stderr
    assert "\r" not in result.stderr and result.stderr.endswith("\n")
    lines = result.stderr.splitlines()
    stages = [
        *("checking the data set", "averaging over the data set", "counting neighbors"),
        *("looking for what to beat", "compiling the network", "solving for the read-out"),
        *("measuring the errors on the test split", "writing the model file"),
    ]
    places = [next(k for k, line in enumerate(lines) if stage in line) for stage in stages]
    assert places == sorted(places)
    (about,) = [line for line in lines if "pairs to train on" in line]
    assert "32 pairs to train on, 4 to validate; 6 atoms in the first" in about
    assert "neighbors within 3 Angstrom" in about
    assert any(line.endswith(" left") and "s per step; 20 steps" in line for line in lines)
    assert sum(line.startswith("step 10: errors displacement ") for line in lines) == 1
    assert "ended after 20 steps, as asked" in lines


def test_status_for_a_program(tmp_path: Path, dataset: Path) -> None:
    told: list[Status] = []
    config = TrainingConfig.load(write_config(tmp_path, dataset, steps=30))
    errors = train(config, progress=False, observer=told.append)
    assert errors is not None
    steps = [status.step for status in told]
    assert steps == sorted(steps) and set(range(1, 31)) <= set(steps)
    assert all(status.last_step == 30 for status in told if status.stage == "training")
    in_the_end = told[-1]
    assert in_the_end.outcome == "ended after 30 steps, as asked"
    assert in_the_end.seconds_left == 0.0 and in_the_end.seconds > 0.0
    with (config.directory / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["validation_velocity_error"]]
    logged = float(rows[-1]["validation_velocity_error"])
    assert in_the_end.errors["velocity"] == pytest.approx(logged, rel=1e-5)
    # Free flight: straight flight makes no error, and nothing is compared with it.
    assert in_the_end.baseline["velocity"] == 0.0
    assert "velocity_over_baseline" not in rows[-1]
    summary = json.loads((config.directory / "summary.json").read_text())
    assert summary["test_errors"] == errors and summary["baseline"]["kind"] == "straight flight"


def test_errors_are_compared_with_the_baseline(tmp_path: Path, dataset: Path) -> None:
    """Velocities that turn a little in a step: straight flight has known errors."""
    copy = tmp_path / "turning.h5"
    copy.write_bytes(dataset.read_bytes())
    random = np.random.default_rng(1)
    with h5py.File(copy, "a") as file:
        for segment in file["segments"].values():
            kicks = 0.001 * random.normal(size=segment["velocities"].shape)
            masses = file.attrs["masses"][:][segment["species"][:]]
            kicks -= np.einsum("n,fnc->fc", masses, kicks)[:, None] / masses.sum()
            segment["velocities"][:] += np.cumsum(kicks, axis=0)
            segment["positions"][1:] = segment["positions"][0] + np.cumsum(
                10.0 * segment["velocities"][:-1], axis=0
            )
    config = TrainingConfig.load(write_config(tmp_path, copy, steps=10, read_out_pairs=0))
    errors = train(config, progress=False)
    assert errors is not None
    found = cheap_comparison(copy, 6, 32)
    assert found.kind == "straight flight" and found.displacement == pytest.approx(0.0, abs=1e-9)
    assert 0.05 < found.velocity < 0.7
    summary = json.loads((config.directory / "summary.json").read_text())
    assert summary["errors_over_baseline"]["velocity"] == pytest.approx(
        errors["velocity"] / found.velocity
    )
    with (config.directory / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["velocity_over_baseline"]]
    assert float(row["velocity_over_baseline"]) * found.velocity == pytest.approx(
        float(row["validation_velocity_error"]), rel=1e-5
    )


# ---- lines -------------------------------------------------------------------------------------


def written(terminal: bool) -> tuple[io.StringIO, FakeClock, Console]:
    stream, clock = io.StringIO(), FakeClock()
    return stream, clock, Console(stream, terminal, clock)


def test_a_log_file_has_signs_of_life_at_intervals() -> None:
    """The first after five seconds, later ones when a tenth of the time has passed, or a minute."""
    stream, clock, console = written(terminal=False)
    console(Status(stage="compiling"))
    times = []
    for second in range(1, 3601):
        clock.now = float(second)
        before = stream.tell()
        console.tick()
        if stream.tell() > before:
            times.append(second)
    assert times[:3] == [5, 10, 15]
    gaps = np.diff(times)
    assert gaps.max() == 60 and len(times) < 120
    assert stream.getvalue().splitlines()[:2] == ["compiling", "compiling (5 s)"]


def test_steps_do_not_fill_a_log_file() -> None:
    stream, clock, console = written(terminal=False)
    reporter = ProgressReporter([console])
    for step in range(1, 10_001):
        clock.now = 0.05 * step
        reporter.tell(stage="training", step=step, last_step=10_000, seconds_per_step=0.05)
    lines = stream.getvalue().splitlines()
    assert 20 < len(lines) < 60
    assert lines[0] == "step 100 of 10,000, 0.05 s per step, 8 min left"
    reporter.line("to be kept")
    assert stream.getvalue().endswith("\nto be kept\n")


def test_a_terminal_has_one_line_that_changes() -> None:
    stream, clock, console = written(terminal=True)
    reporter = ProgressReporter([console])
    reporter.stage("reading a long name of something")
    for step in range(1, 101):
        clock.now = 0.1 * step
        reporter.tell(stage="training", step=step)
    reporter.line("step 100: errors")
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    shown = text.split("\r")
    assert 10 < len(shown) < 30
    # The rest of a longer line is covered.
    assert len(shown[2]) == len("reading a long name of something")
    assert shown[-1].rstrip() == "step 100: errors"


def test_what_is_left_is_of_the_whole() -> None:
    status = Status(stage="training", step=1000, last_step=5000, seconds_per_step=0.9)
    assert status.seconds_left == 3600.0
    assert describe(status) == "step 1,000 of 5,000, 0.9 s per step, 60 min left"
    most = Status(
        stage="training", step=10, last_step=100, last_step_is="at most", seconds_per_step=1.2
    )
    assert describe(most) == "step 10 of at most 100, 1.2 s per step, at most 2 min left"
    assert [duration(s) for s in (4.4, 600, 12_000, 200_000)] == [
        *("4 s", "10 min", "3 h 20 min", "2.3 days"),
    ]
    assert Status(step=3).seconds_left is None


def test_a_plateau_tells_why_it_ends(tmp_path: Path, dataset: Path) -> None:
    path = write_config(
        *(tmp_path, dataset),
        **{"schedule": "plateau", "steps": 60, "epoch_steps": 4, "patience": 4, "min_fall": 0.99},
        **{"learning_rate": 1e-9, "final_learning_rate": 0.0, "warmup_steps": 0},
    )
    result = CliRunner().invoke(app, ["train", str(path)])
    assert result.exit_code == 0, result.stderr
    says = "step 16: the error has stopped falling; the learning rate goes down until step 20"
    assert says in result.stderr.splitlines()
    assert "converged: the validation error had stopped falling" in result.stderr
