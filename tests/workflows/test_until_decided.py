"""Production that goes on until every check is decided, the call for programs, and speed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from validations import CONFIG, write_system

from lammps_trajcast.lammps_runs.runner import Runner, cpu_time
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader
from lammps_trajcast.validation import production
from lammps_trajcast.validation.compare import Check, ReportSection
from lammps_trajcast.validation.config import Lengths, Protocol, SetupError, ValidationConfig
from lammps_trajcast.validation.outcome import validate_model
from lammps_trajcast.validation.speed import measure, steps_of
from lammps_trajcast.validation.validate import Validation

LENGTHS: dict[str, Any] = {"equilibration": 1, "production": 2, "nve": 1, "until_decided": True}


class Runs:
    """Stand for runs of a check of value 0.8 with a tolerance of 1, known the better the longer."""

    name = "equilibrium"
    part_length = 2.0

    def __init__(
        self, lengths: Lengths, scatter: float = 0.4, error: str = "", fails_after: int = 99
    ) -> None:
        self.said: list[str] = []
        self.fails_after = fails_after
        self.parts, self.scatter, self.error = 1, scatter, error
        self.validation = SimpleNamespace(
            config=SimpleNamespace(lengths={"short": lengths}),
            length="short",
            tell=lambda _, words: self.said.append(words),
        )

    @property
    def length(self) -> float:
        return self.part_length * self.parts

    def grow(self, parts: int) -> None:
        self.parts = parts

    def seconds_of_part(self) -> float:
        return 900.0

    def compared(self) -> list[ReportSection]:
        check = Check("x", 0.8, limit=1.0, error=self.scatter / np.sqrt(self.parts))
        failures = Check("failures", float(bool(self.error)), limit=0.0)
        slow = Check("slow", 2.0 if self.parts >= self.fails_after else 0.5, limit=1.0)
        return [ReportSection("", "", [failures]), ReportSection("", "", [check, slow])]


@pytest.mark.parametrize(
    ("change", "scatter", "parts", "words"),
    [
        # 0.4 / sqrt(16) is half of what is missing.
        ({}, 0.4, 16, "are decided after 32 ps."),
        ({}, 0.2, 4, "are decided after 8 ps."),
        ({"longest": 11}, 0.4, 5, "1 check undecided after 10 ps, the bound: x."),
        ({"longest": 3.9}, 0.4, 1, "1 check undecided after 2 ps, the bound: x."),
        ({}, 0.5, 16, "1 check undecided after 32 ps, the bound: x."),
        # 15 minutes a part that is added; as many as fit, not only twice as many.
        ({"max_hours": 0.9}, 0.4, 4, "more would take longer than 0.9 hours"),
        ({"max_hours": 1.4}, 0.4, 6, "more would take longer than 1.4 hours"),
        ({"max_hours": 100}, 0.5, 32, "are decided after 64 ps."),
        ({"until_decided": False}, 0.4, 1, ""),
    ],
)
def test_runs_go_on_until_all_is_decided(
    change: dict[str, Any],
    scatter: float,
    parts: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = Runs(Lengths(**(LENGTHS | change)), scatter)
    monkeypatch.setattr(production.time, "monotonic", lambda: 900.0 * runs.parts)
    found, note = production.until_decided(runs, 900.0)  # type: ignore[arg-type]
    assert runs.parts == parts and words in note
    assert len(runs.said) == int(np.ceil(np.log2(parts)))
    assert (found[1].checks[0].verdict == "undecided") == ("are decided" not in note)


def test_parts_that_took_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(Lengths(**(LENGTHS | {"max_hours": 1.0})))
    monkeypatch.setattr(production.time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(runs, "seconds_of_part", lambda: 0.0)
    _, note = production.until_decided(runs, 0.0)  # type: ignore[arg-type]
    assert runs.parts == 16 and "are decided after 32 ps." in note


@pytest.mark.parametrize(("until_failed", "parts"), [(True, 4), (False, 16)])
def test_what_fails_is_not_continued(until_failed: bool, parts: int) -> None:
    runs = Runs(Lengths(**LENGTHS, until_failed=until_failed), fails_after=3)
    _, note = production.until_decided(runs, 0.0)  # type: ignore[arg-type]
    assert runs.parts == parts
    assert ("none is continued, as a check fails: slow." in note) == until_failed


def test_a_model_that_fails_to_run_is_not_continued() -> None:
    runs = Runs(Lengths(**LENGTHS), error="Lost atoms")
    _, note = production.until_decided(runs, 0.0)  # type: ignore[arg-type]
    assert runs.parts == 1 and "ended early" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"longest": 1.5}, r"longest \(1.5 ps\) is less than production \(2 ps\)"),
        ({"until_decided": False, "max_hours": 1}, "need until_decided: true; write that, too"),
        (
            {"until_decided": False, "until_failed": True},
            "needs until_decided: true; write that, too",
        ),
    ],
)
def test_bounds_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lengths(**(LENGTHS | change))


def test_old_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert Protocol(**{"hot_half": (200, 600)}).two_temperature == (200.0, 600.0)
    assert "WARNING: hot_half is now two_temperature" in capsys.readouterr().err
    config = ValidationConfig(**{**CONFIG, "tolerances": {"spreads": 3, "rdf": 0.1}})
    assert config.tolerances.rdf == 0.1
    assert "WARNING: spreads has no effect" in capsys.readouterr().err
    Protocol(two_temperature=(200, 600))
    assert not capsys.readouterr().err
    with pytest.raises(ValueError, match="exactly one of temperature, quench, two_temperature"):
        Protocol(**{"hot_half": (200, 600), "temperature": 100})
    with pytest.raises(ValueError, match="fix_options of a protocol is for two_temperature alone"):
        Protocol(temperature=100, fix_options="conserve yes")


@pytest.mark.usefixtures("forked_runs")
def test_continued_runs(tmp_path: Path) -> None:
    """Both sides go on from their last frames; what is finished is not run again."""
    home = write_system(tmp_path)
    lengths = {
        **CONFIG["lengths"]["short"],
        **{"equilibration": 0.3, "reference_runs": 1, "speed": 0, "runs": 2},
    }
    config = ValidationConfig.load(home / "validate.yaml")

    def with_lengths(**more: Any) -> ValidationConfig:
        return config.model_copy(update={"lengths": {"short": Lengths(**lengths, **more)}})

    seen: list[tuple[str, str, float | None]] = []
    first = validate_model(with_lengths(), home / "out", observe=lambda *what: seen.append(what))
    assert first.status == {"passed": 0, "failed": 2, "undecided": 3}[first.verdict]
    assert first.undecided and first.pages == [home / "out" / "quartz-short.html"]
    assert first.speed is None and not any("part" in path.name for path in runs_of(home))
    assert seen[-1] == ("equilibrium", first.reports[0].words, None)
    before = {path: path.stat().st_mtime_ns for path in runs_of(home)}

    # The same equilibration, given: none is run, and the reference goes the same way.
    (equilibration,) = (home / "out" / "runs").glob("equilibration-*/state.dump")
    given = with_lengths()
    reference = given.reference.model_copy(update={"equilibrated": equilibration.parent})
    given = given.model_copy(update={"reference": reference})
    again = validate_model(given, home / "given")
    runs = home / "given" / "runs"
    assert not list(runs.glob("equilibration-*"))
    for start in ("reference", "model-1"):
        one, two = (
            next(place.glob(f"equilibrium-{start}-*/frames.dump")).read_bytes()
            for place in (home / "out" / "runs", runs)
        )
        assert one == two
    tests = [
        [(check.name, check.value) for check in o.checks if check.name.startswith("reference,")]
        for o in (first, again)
    ]
    assert tests[0] == tests[1] and len(tests[0]) > 3

    # As if nothing were decided but by chance.
    second = validate_model(with_lengths(until_decided=True, longest=2.5), home / "out")
    assert "after 2.4 ps" in second.reports[0].note, second.reports[0].note
    after = runs_of(home)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    new = sorted(path.parent.name[:-11] for path in after if path not in before)
    assert new == [
        "equilibrium-energies-part2",
        "equilibrium-model-1-part2",
        "equilibrium-model-2-part2",
        "equilibrium-reference-part2",
    ]
    reader = Validation(config, "short", home / "out" / "runs").reader
    for name, last in (("reference", 1200), ("model-1", 40), ("model-2", 40)):
        one, two = (frames(reader, home, f"equilibrium-{name}{part}") for part in ("", "-part2"))
        assert one.steps[-1] == last and two.steps[0] == 0 and two.steps[-1] == last
        np.testing.assert_allclose(two.positions[0], one.positions[-1], atol=1e-7)
        np.testing.assert_allclose(two.velocities[0], one.velocities[-1], atol=1e-12)
        assert np.abs(two.positions[1] - one.positions[-1]).max() > 1e-3
    # Twice as many samples: the energies of both parts.
    means = [
        check.reference for o in (first, second) for check in o.checks if "mean pot" in check.name
    ]
    assert means[0] != means[1]
    texts = [path.parent.joinpath("in.lmp").read_text() for path in after if "model" in str(path)]
    seeds = [text.split("fix             bath all ")[1].split()[4] for text in texts]
    assert len(set(seeds)) == len(seeds) == 4, "each part has random numbers of its own"


def runs_of(home: Path) -> list[Path]:
    return sorted((home / "out" / "runs").glob("*/done.json"))


def frames(reader: TrajectoryReader, home: Path, name: str) -> Any:
    (path,) = (home / "out" / "runs").glob(f"{name}-{10 * '[0-9a-f]'}/frames.dump")
    return reader.read(path, 1.0)


def test_a_protocol_that_is_not_there(tmp_path: Path) -> None:
    home = write_system(tmp_path)
    config = ValidationConfig.load(home / "validate.yaml")
    with pytest.raises(SetupError, match="no protocol 'melt'; there are equilibrium"):
        validate_model(config, home / "out", protocols=["equilibrium", "melt"])
    assert not (home / "out").exists()


def test_an_equilibration_that_is_none(tmp_path: Path) -> None:
    home = write_system(tmp_path)
    text = (home / "validate.yaml").read_text()
    assert "reference:" in text
    (home / "validate.yaml").write_text(
        text.replace("reference:", "reference:\n  equilibrated: elsewhere", 1)
    )
    config = ValidationConfig.load(home / "validate.yaml")
    assert config.reference.equilibrated == home / "elsewhere"
    with pytest.raises(SetupError, match="elsewhere has no state.dump and log.lammps; name the"):
        validate_model(config, home / "out")


# ---- speed ---------------------------------------------------------------------------------------


def test_speed_on_a_machine_that_others_use() -> None:
    """The ratio of two known costs, 2 and 50 ms a step with time steps of 1 and 30 fs, is found.

    Starts are of any length, others fill the caches, and one piece is disturbed.
    """
    random = np.random.default_rng(1)
    order = []

    def run(of_model: bool, steps: int, pair: int) -> Sequence[float]:
        order.append((pair, of_model))
        slower = 1.0 + 0.5 * pair + (3.0 if of_model and pair == 1 else 0.0)
        start = random.uniform(1.0, 9.0)
        warm = random.uniform(0.0, 5.0)
        return [start, start + warm, start + warm, start + warm + cost(of_model) * steps * slower]

    def cost(of_model: bool) -> float:
        return 0.05 if of_model else 0.002

    found = measure(run, (3000, 100), (1.0, 30.0), 5)
    assert found is not None
    assert found.ratio == pytest.approx(30.0 * 0.002 / 0.05)
    assert len(found.ratios) == 5 and min(found.ratios) < 0.5 * found.ratio
    assert order == [
        (p, m) for p in range(5) for m in ((False, True) if p % 2 == 0 else (True, False))
    ]
    # The second slowest of the five took twice as long; 2 ms a step, 1 fs.
    assert found.reference.step == pytest.approx(4.0)
    assert found.reference.nanoseconds_a_day == pytest.approx(1e-6 / 0.004 * 86400.0)
    assert measure(lambda *_: [1.0, 1.0, 1.0, 1.0], (1, 1), (1.0, 1.0), 3) is None
    assert measure(lambda *_: [], (1, 1), (1.0, 1.0), 3) is None
    assert steps_of(0.01, 30) == 500 * 30 and steps_of(100.0) == 5


def test_cpu_time_of_all_processes() -> None:
    """Two children, one of which has ended, each with 0.3 s of CPU time by its own clock."""
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\n"
    program = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {busy!r}])\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy + 'input()'!r}])\n"
        "child.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["done\n"] * 2
        assert 0.55 < cpu_time(process.pid) < 1.5
        assert not cpu_time(process.pid) < 0.55
    finally:
        process.communicate("\n")
    assert np.isnan(cpu_time(process.pid))


def test_observers_are_told_of_steps(tmp_path: Path) -> None:
    """Also where there is no terminal for a bar; only lines of output count as steps."""
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nprint('72 atoms\\n1 by 1 by 1 MPI processor grid')\n"
        "for step in (0, 10, 10, 25, 40): print('  ', step, 0.5, -1e-3)\n"
        "print('Loop time of 1 on 1 procs for 30 steps')\n"
    )
    program.chmod(0o755)
    seen: list[tuple[str, str, float | None]] = []
    runner = Runner(
        tmp_path / "runs", tmp_path, [str(program)], observe=lambda *what: seen.append(what)
    )
    run = runner.run("name", "run 10\nrun 30\n", clock=True)
    assert [what[:2] for what in seen] == [("name", f"step {k} of 40") for k in (10, 25, 40)]
    left = [what[2] for what in seen]
    assert left[-1] == 0.0 and left[0] is not None and left[0] > 0.0
    assert len(run.cpu) == 5
    assert runner.run("name", "run 10\nrun 30\n").cpu == pytest.approx(run.cpu, nan_ok=True)


def test_a_figure_beyond_by_chance_is_no_failure() -> None:
    check = Check("x", 1.3, limit=1.0, error=0.2)
    assert check.verdict == "undecided" and check.remark == "between 0.9 and 1.7"
    # By two standard errors, and by three.
    assert replace(check, error=0.14).verdict == "undecided"
    assert replace(check, error=0.09).passed is False
    assert replace(check, error=float("nan")).verdict == "undecided"
    assert replace(check, value=float("inf")).passed is False
    assert replace(check, error=None).passed is False
    # Runs that do not see all of it can show that it fails, not that it passes.
    blind = replace(check, value=0.5, blind="too coarse")
    assert blind.verdict == "undecided" and blind.remark == "too coarse"
    assert replace(blind, value=2.0).passed is False and replace(blind, blind="").passed is True
