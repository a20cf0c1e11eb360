"""The reference passes its own checks before it judges: its equilibration, tests and verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from models import tiny_model
from numpy.typing import NDArray
from validations import CONFIG, invoke, write_system

from lammps_trajcast.analysis.blocks import Blocks, inefficiency
from lammps_trajcast.analysis.thermal import degrees_of_freedom
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.units import BOLTZMANN_PER_MASS
from lammps_trajcast.validation import validate
from lammps_trajcast.validation.compare import (
    Check,
    ReferenceSelfCheck,
    ReportSection,
    compare_curves,
)
from lammps_trajcast.validation.comparison import Comparison, Production, splits_of
from lammps_trajcast.validation.config import Tolerances, ValidationConfig
from lammps_trajcast.validation.constant_energy import Nve, nve_part
from lammps_trajcast.validation.equilibration import EquilibrationCheck, Sample, equilibrium_checks
from lammps_trajcast.validation.report import Report, table_of_reports
from lammps_trajcast.validation.thermodynamics import energy, temperatures, waves
from lammps_trajcast.validation.validate import Validation

TARGET = 300.0

# ---- tests of equilibrium ------------------------------------------------------------------------


def oscillators(
    seed: int, at_rest: bool, number: int = 600, frequencies: int = 20, length: float = 2.5
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Modes of a crystal, some of each frequency, that exchange no energy. Times in ps.

    at_rest: all begin without displacement, with velocities of twice the temperature; otherwise
    both are drawn canonically. A global thermostat scales all energies alike and lets the total
    fluctuate as it should, which a vibration does not do by itself. Returns temperature, potential
    and total energy (in kT, of a mode) over time.
    """
    random = np.random.default_rng(seed)
    times = np.linspace(0.0, length, 500) + 5.0
    omega = 2.0 * np.pi * np.linspace(3.0, 15.0, frequencies)[:, None]
    shape = (frequencies, number // frequencies)
    x, v = random.normal(size=(2, *shape))
    if at_rest:
        x, v = np.zeros(shape), np.sqrt(2.0) * v
    turn = omega[..., None] * times
    kinetic = (v[..., None] * np.cos(turn) - x[..., None] * np.sin(turn)) ** 2
    potential = (x[..., None] * np.cos(turn) + v[..., None] * np.sin(turn)) ** 2
    both = [0.5 * energy.reshape(-1, 500).mean(0) for energy in (kinetic, potential)]
    # Of 2 x 600 squares, with a memory of 0.1 ps.
    scale = 1.0 + np.sqrt(1.0 / number) * autoregressive(random, np.exp(-length / 500 / 0.1), 500)
    scale /= sum(both)[0]
    return 2.0 * TARGET * scale * both[0], scale * both[1], scale * sum(both)


def autoregressive(random: np.random.Generator, memory: float, number: int) -> NDArray[np.float64]:
    """A Gaussian series of variance 1 with the correlations memory^k."""
    series = np.empty(number)
    last = random.normal()
    for k, noise in enumerate(np.sqrt(1.0 - memory**2) * random.normal(size=number)):
        series[k] = last = memory * last + noise
    return series


def figures(
    temperature: NDArray[np.float64],
    potential: NDArray[np.float64] | None = None,
    total: NDArray[np.float64] | None = None,
    freedom: int = 600,
    **more: Any,
) -> dict[str, EquilibrationCheck]:
    """By name."""
    little = np.random.default_rng(0).normal(size=len(temperature)) * 0.01
    energies = [little if series is None else series for series in (potential, total)]
    sample = Sample(temperature, *energies, more.pop("elements", {}), 0.0)
    found = equilibrium_checks(
        sample, TARGET, freedom, more.pop("shares", {}), Tolerances(), **more
    )
    return {figure.name: figure for figure in found}


def test_modes_in_step_are_no_equilibrium() -> None:
    """Their mean temperature is right, and so is every other check but one."""
    name = "fluctuation of the temperature"
    for seed in range(10):
        canonical = figures(*oscillators(seed, at_rest=False))
        assert all(figure.passed for figure in canonical.values()), canonical
        in_step = figures(*oscillators(seed, at_rest=True))
        assert not in_step[name].passed and in_step[name].deviation > 0.2, in_step[name]
        assert [each for each in in_step if not in_step[each].passed] == [name]
    # Another thermostat lets the temperature fluctuate less, which is its nature.
    flat = np.full(500, TARGET) + np.random.default_rng(1).normal(size=500)
    assert not figures(flat)[name].passed
    assert figures(flat, canonical=False)[name].passed


def canonical_series(
    random: np.random.Generator, freedom: int, memory: float, number: int = 500
) -> NDArray[np.float64]:
    """Temperature of so many velocities in a Langevin bath, exact at every step, K."""
    velocity = random.normal(size=freedom)
    series = np.empty(number)
    for k in range(number):
        series[k] = TARGET * np.mean(velocity**2)
        velocity = memory * velocity + np.sqrt(1.0 - memory**2) * random.normal(size=freedom)
    return series


def test_false_alarms_are_rare_and_faults_are_seen() -> None:
    """The variance of the temperature of f velocities is 2 T^2 / f: known without this code."""
    random = np.random.default_rng(7)
    runs = [canonical_series(random, 40, memory) for memory in (0.0, 0.5, 0.9) for _ in range(60)]
    pooled = np.concatenate(runs)
    assert pooled.var() == pytest.approx(2.0 * TARGET**2 / 40, rel=0.05)
    alarms: dict[str, int] = {}
    errors: dict[str, list[float]] = {}
    for run in runs:
        for name, figure in figures(run, freedom=40).items():
            # Without a tolerance only chance is left.
            strict = replace(figure, tolerance=1e-9)
            alarms[name] = alarms.get(name, 0) + (not strict.passed and figure.error > 0.0)
            errors.setdefault(name, []).append(figure.deviation / max(figure.error, 1e-9))
    for name in ("temperature", "fluctuation of the temperature"):
        assert alarms[name] <= 4, alarms
        assert 0.6 < np.std(errors[name]) < 1.5
    base = canonical_series(random, 600, 0.5)
    wider = TARGET + 1.4 * (base - TARGET)
    for series, name in (
        (base + 12.0, "temperature"),
        (wider, "fluctuation of the temperature"),
        (TARGET + 0.6 * (base - TARGET), "fluctuation of the temperature"),
    ):
        found = figures(series)
        assert [each for each in found if not found[each].passed] == [name]
    drifting = 0.02 * random.normal(size=500) + np.linspace(0.0, 0.5, 500)
    found = figures(base, drifting)
    drift = found["potential energy, second half less first"]
    assert drift.deviation == pytest.approx(0.25, abs=0.02) and not drift.passed
    assert figures(base, 0.02 * random.normal(size=500))[drift.name].passed
    # Elements: cold oxygen behind the right mean.
    elements = {"Si": base * 1.1, "O": base * 0.95}
    found = figures(base, elements=elements, shares={"Si": 200.0, "O": 400.0})
    assert not found["temperature of Si"].passed and not found["temperature of O"].passed
    drifting_away = equilibrium_checks(
        Sample(base, 0.0 * base, 0.0 * base, {}, 0.05), TARGET, 600.0, {}, Tolerances()
    )
    assert [figure.name for figure in drifting_away if not figure.passed] == [
        "kinetic energy of the center of mass"
    ]


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9])
def test_errors_of_correlated_samples(memory: float) -> None:
    """The inefficiency of an autoregressive series is the known one.

    (1 + a) / (1 - a) samples count as one, for the variance (1 + a^2) / (1 - a^2).
    """
    random = np.random.default_rng(3)
    found = []
    for _ in range(20):
        series = autoregressive(random, memory, 20000)
        found.append(inefficiency(series))
    of_mean, of_variance = np.mean(found, axis=0)
    assert of_mean == pytest.approx((1.0 + memory) / (1.0 - memory), rel=0.1, abs=0.15)
    square = memory**2
    assert of_variance == pytest.approx((1.0 + square) / (1.0 - square), rel=0.1)
    assert inefficiency(np.ones(5)) == (5.0, 5.0)


# ---- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.05, 0.5, float("nan")])
def test_where_the_reference_fails_nothing_is_said_of_the_model(value: float) -> None:
    fails = Check(
        "x", value, "%", 0.2, own=ReferenceSelfCheck(0.47, "beside the canonical", error=0.1)
    )
    assert fails.passed is None and fails.verdict == "reference fails"
    assert fails.remark == "reference itself 47 % ± 10 % (beside the canonical), not ≤ 20 %"
    data = fails.as_dict()
    assert data["passed"] is None and data["verdict"] == "reference fails"
    assert data["reference_itself"]["value"] == 0.47 and data["reference_itself"]["limit"] == 0.2
    judged = replace(fails, own=ReferenceSelfCheck(0.19, "beside the canonical"))
    assert judged.passed is (value == 0.05) and judged.remark == ""
    assert replace(fails, own=ReferenceSelfCheck(float("nan"), "", error=0.1)).passed is None
    # Beyond the limit by chance: the reference may well be right.
    assert replace(fails, own=ReferenceSelfCheck(0.47, "", error=0.24)).passed is (value == 0.05)
    assert replace(fails, own=ReferenceSelfCheck(0.47, "", error=0.23)).passed is None
    # A limit of its own, and one that is the least.
    assert replace(fails, own=ReferenceSelfCheck(0.47, "", limit=0.5)).passed is (value == 0.05)
    least = Check("x", 0.99, limit=0.97, at_least=True, own=ReferenceSelfCheck(0.9, "halves"))
    assert least.verdict == "reference fails" and "not ≥ 0.97" in least.remark
    # What is not judged cannot fail for the reference.
    assert replace(fails, limit=None).verdict == "not judged"


def test_halves_of_the_reference() -> None:
    """A curve that drifts is told from one that is only noise, whose spread excuses it."""
    random = np.random.default_rng(4)
    curve = 5.0 + np.sin(np.linspace(0.0, 6.0, 100))
    splits = splits_of(1, 8)
    assert splits == [([0, 1, 2, 3], [4, 5, 6, 7])]
    assert splits_of(2, 3) == [([0, 1, 3, 4], [2, 5]), ([0, 1, 2], [3, 4, 5])]
    noise = 0.3 * random.normal(size=(8, 100))

    def check(values: NDArray[np.float64]) -> Check:
        reference = Blocks(values)
        return compare_curves("x", reference, reference, total, 0.03, splits)

    def total(of: NDArray[np.float64]) -> float:
        return float(of.sum())

    assert check(curve + noise).passed is True
    drift = np.linspace(-1.0, 1.0, 8)[:, None]
    drifting = check(curve + noise + drift)
    assert drifting.verdict == "reference fails" and drifting.own is not None
    # Means over halves lie 4/7 to both sides of the whole.
    assert drifting.own.value == pytest.approx(4.0 / 7.0 * 100 / curve.sum(), rel=0.1)
    # Of two blocks nothing says what is chance.
    two = compare_curves("x", Blocks(curve + noise[:2]), Blocks(curve + noise), total, 0.03)
    assert two.own is None
    slow = Nve(np.arange(5.0), -1.0 - 0.01 * np.arange(5.0), np.full(5, 300.0))
    steady = replace(slow, energy=np.full(5, -1.0))
    drifts = [
        nve_part(one, other, None, 2, "metal", 1.0, "").checks[1]
        for one, other in ((slow, slow), (steady, slow), (steady, steady))
    ]
    assert [each.passed for each in drifts] == [None, False, True]


# So many frames that two standard errors are less than each tolerance.
ATOMS, FRAMES, BLOCKS = 60, 4000, 4
MASSES = np.repeat([28.085, 15.999], [20, 40])


def production(seed: int, spoil: Callable[[Trajectory], NDArray[np.float64]] | None) -> Production:
    """Momenta of two elements drawn canonically, independent from frame to frame.

    spoil: factors (F, N) for the velocities.
    """
    random = np.random.default_rng(seed)
    shares = degrees_of_freedom(MASSES)
    velocities = random.normal(size=(FRAMES, ATOMS, 3))
    velocities *= np.sqrt(BOLTZMANN_PER_MASS * TARGET / MASSES[:, None])
    velocities -= np.einsum("n,fnc->fc", MASSES, velocities)[:, None] / MASSES.sum()
    positions = random.uniform(0.0, 12.0, (1, ATOMS, 3)) + 0.05 * random.normal(
        size=(FRAMES, ATOMS, 3)
    )
    steps = np.arange(1, FRAMES + 1)
    whole = Trajectory(
        steps=steps,
        times=30.0 * steps,
        positions=positions,
        velocities=velocities,
        species=np.repeat([0, 1], [20, 40]),
        elements=["Si", "O"],
        masses=MASSES,
        cell=12.0 * np.eye(3),
        pbc=np.ones(3, dtype=bool),
    )
    if spoil is not None:
        whole = replace(whole, velocities=velocities * spoil(whole)[..., None])
    twice = np.einsum("n,fnc,fnc->f", MASSES, whole.velocities, whole.velocities)
    energy = BOLTZMANN_METAL * TARGET * np.sqrt(ATOMS * 1.5) * random.normal(size=FRAMES)
    size = FRAMES // BLOCKS
    parts = [whole.part(k * size, (k + 1) * size) for k in range(BLOCKS)]
    return Production(parts, parts, twice / (BOLTZMANN_PER_MASS * shares.sum()), energy, [])


BOLTZMANN_METAL = 8.617333262e-5


def uneven(frames: Trajectory) -> NDArray[np.float64]:
    """Si hotter, O colder; their mean right."""
    return np.where(frames.species == 0, np.sqrt(1.2), np.sqrt(0.9))[None] * np.ones((FRAMES, 1))


def swinging(_: Trajectory) -> NDArray[np.float64]:
    """A temperature that swings by 20 % about its mean."""
    return np.sqrt(1.0 + 0.2 * np.sin(np.arange(FRAMES)))[:, None] * np.ones(ATOMS)


def hot(_: Trajectory) -> NDArray[np.float64]:
    return np.full((FRAMES, ATOMS), np.sqrt(1.08))


def scaled(*temperatures: float) -> Callable[[Trajectory], NDArray[np.float64]]:
    """Other temperatures, over that of the thermostat, one for each part of a run."""
    parts = np.array_split(np.ones(FRAMES), len(temperatures))
    shares = np.concatenate([part * t for part, t in zip(parts, temperatures, strict=True)])
    return lambda _: np.sqrt(shares)[:, None] * np.ones(ATOMS)


@pytest.mark.parametrize(
    ("reference", "model", "verdict", "value"),
    [
        (None, None, "passed", 0.0),
        (None, scaled(0.8), "failed", 0.2),
        # A start that is off by chance: the model keeps what it was given, or not.
        (scaled(0.85), scaled(0.85), "passed", 0.0),
        (scaled(0.85), None, "failed", 0.15),
        # More than chance makes: a reference whose waves have half of the energy judges nobody.
        (scaled(0.5), scaled(0.5), "reference fails", 0.0),
    ],
)
def test_waves_are_compared_from_the_same_start(
    validation: Validation,
    reference: Callable[[Trajectory], NDArray[np.float64]] | None,
    model: Callable[[Trajectory], NDArray[np.float64]] | None,
    verdict: str,
    value: float,
) -> None:
    plan = replace(validation.plan, blocks=BLOCKS)
    runs = ([production(1, reference)], [production(2, model)])
    both = Comparison(validation.config, "metal", False, plan, TARGET, *runs)
    (check,) = waves(both).checks
    assert check.verdict == verdict
    assert check.value == pytest.approx(value, abs=0.02)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    home = write_system(tmp_path_factory.mktemp("verdicts"))
    config = ValidationConfig.load(home / "validate.yaml")
    return Validation(config, "short", home / "runs")


def chapters(
    validation: Validation, reference: Production, model: Production
) -> list[ReportSection]:
    plan = replace(validation.plan, blocks=BLOCKS)
    both = Comparison(validation.config, "metal", False, plan, TARGET, [reference], [model])
    # Pictures take most of the time.
    return [replace(part, plots=[]) for part in (temperatures(both), energy(both))]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (uneven, ("temperature of Si", "temperature of O")),
        (
            swinging,
            (
                "temperature, fluctuation against the canonical",
                "fluctuation of the potential energy",
            ),
        ),
        (hot, ("temperature", "temperature of Si", "temperature of O")),
    ],
)
def test_a_bad_reference_does_not_fail_the_model(
    validation: Validation,
    spoil: Callable[[Trajectory], NDArray[np.float64]],
    named: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same fault, in the reference and in the model."""
    good, bad = production(1, None), production(2, spoil)
    for reference, model, verdict in (
        (good, production(3, None), "passed"),
        (good, bad, "failed"),
        (bad, good, "reference fails"),
        (bad, bad, "reference fails"),
    ):
        parts = chapters(validation, reference, model)
        checks = {check.name: check for part in parts for check in part.checks}
        for name in named:
            if verdict == "failed" and name.startswith("fluctuation of the potential"):
                # The energies are those of a good run.
                assert checks[name].verdict == "passed"
                continue
            assert checks[name].verdict == verdict, (name, checks[name])
        others = [check for name, check in checks.items() if name not in named]
        assert all(check.verdict == "passed" for check in others), others

    # The command: its status, what it prints and writes.
    status, out, html, data = reported(
        validation, chapters(validation, bad, good), tmp_path, monkeypatch
    )
    assert status == 3 and data["verdict"] == "undecided" and data["failed"] == []
    assert set(data["undecided"]) == set(named)
    judged = sum(len(part.checks) for part in chapters(validation, bad, good))
    words = f"Undecided: {judged - len(named)} of {judged} checks pass. Undecided: "
    assert words + "; ".join(data["undecided"]) in out
    assert out.count("), not ≤ ") == html.count("), not ≤ ") == len(named)
    assert "reference fails" in out and "undecided" in html
    table = table_of_reports([tmp_path / "validation" / "quartz-short.json"])
    assert table.count("(reference fails)") == len(named)
    assert f"| undecided ({len(named)} undecided) |" in table
    status, *_ = reported(validation, chapters(validation, good, bad), tmp_path, monkeypatch)
    assert status == 2
    status, *_ = reported(validation, chapters(validation, good, good), tmp_path, monkeypatch)
    assert status == 0


def reported(
    validation: Validation, parts: list[ReportSection], home: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str, dict[str, Any]]:
    """The command, for given chapters: status, output, HTML and JSON."""
    write_system(home)

    def run(self: Validation, _: object) -> list[Report]:
        named = (self.config, "short", self.model, self.metadata, "equilibrium", "Test")
        return [Report(*named, parts)]

    monkeypatch.setattr(validate.Validation, "run", run)
    status, out, _ = invoke("validate", home / "validate.yaml")
    page = home / "validation" / "quartz-short.html"
    return status, out, page.read_text(), json.loads(page.with_suffix(".json").read_text())


# ---- LAMMPS --------------------------------------------------------------------------------------

SILICON = """\
units           metal
atom_style      atomic
lattice         diamond 5.431
region          box block 0 3 0 3 0 3
create_box      1 box
create_atoms    1 box
mass            1 28.0855
pair_style      sw
pair_coeff      * * Si.sw Si
"""


def silicon(home: Path, **reference: object) -> Validation:
    """216 atoms in their perfect places, and a model that is not run."""
    home.mkdir(exist_ok=True)
    (home / "system.lmp").write_text(SILICON)
    tiny_model(
        architecture={"num_chem_elements": 1}, metadata={"species": ("Si",), "masses": (28.0855,)}
    ).save(home / "silicon.safetensors")
    lengths = {"equilibration": 5, "production": 3, "blocks": 4, "nve": 0.03}
    data = {
        "name": "silicon",
        "model": "silicon.safetensors",
        "system": "system.lmp",
        "elements": ["Si"],
        "temperature": TARGET,
        "reference": {"timestep": 1, "initial_temperature": 2 * TARGET, **reference},
        "lengths": {"short": lengths},
    }
    (home / "validate.yaml").write_text(yaml.safe_dump(data))
    return Validation(ValidationConfig.load(home / "validate.yaml"), "short", home / "runs")


@pytest.mark.usefixtures("forked_runs")
def test_a_crystal_that_starts_perfect(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    """With a global thermostat its modes stay in step; a local one puts an end to it."""
    name = "fluctuation of the temperature"
    globally = silicon(tmp_path / "global", equilibration="thermostat", rounds=1)
    start = globally.equilibrated(TARGET)
    (fault,) = start.faults
    assert fault.name == name and fault.deviation > 0.2 and fault.errors > 3.0
    assert start.time == pytest.approx(5.0, abs=0.05)
    assert "not in equilibrium after 5.01 ps: fluctuation of" in capsys.readouterr().err

    locally = silicon(tmp_path / "local")
    start = locally.equilibrated(TARGET)
    assert start.faults == [] and start.time == pytest.approx(5.0, abs=0.05)
    assert not capsys.readouterr().err
    # What goes on from there with the global thermostat: the canonical value from its formula.
    run = locally.reference("reference", locally.inputs(TARGET).reference(), start.run)
    loops = run.loops()
    temperature = np.concatenate([loop.columns["Temp"] for loop in loops[:-1]])
    canonical = TARGET * np.sqrt(2.0 / (3.0 * 216.0 - 3.0))
    ratio = temperature.std() / canonical
    assert ratio == pytest.approx(1.0, abs=0.2)
    record_property(
        "reliability",
        {
            "table": "guard",
            "name": "`validate` from a perfect crystal: 216 atoms of silicon, `temp/csvr`",
            "result": "equilibrated with the thermostat alone its temperature fluctuates "
            f"{100.0 * fault.deviation:.0f} % more than the canonical, which is said; with "
            f"`langevin` first {100.0 * (ratio - 1.0):+.0f} %",
        },
    )
    # It begins with the very state.
    states = [(start.run, "state.dump"), (run, "frames.dump")]
    first, second = (
        (place.directory / file).read_text().splitlines()[9:10] for place, file in states
    )
    both = [np.array(lines[0].split(), dtype=float) for lines in (first, second)]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("forked_runs")
def test_rounds_have_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each goes on from the last and takes twice as long; then it is said, and validation goes on.

    Two elements of the same kind count as one, and what is chosen is what is run.
    """
    home = write_system(tmp_path)
    change: dict[str, Any] = {
        "reference": {**CONFIG["reference"], "rounds": 3, "damping": 0.02},
        "thermostat": "langevin {start} {stop} 0.1 {seed}",
    }
    lengths = {"short": {**CONFIG["lengths"]["short"], "equilibration": 0.06}}
    (home / "validate.yaml").write_text(yaml.safe_dump({**CONFIG, **change, "lengths": lengths}))
    config = ValidationConfig.load(home / "validate.yaml")
    validation = Validation(config, "short", home / "runs")
    bad = EquilibrationCheck("temperature", 0.3, 0.01, 0.01, "390 K")
    monkeypatch.setattr(validate, "equilibrium_checks", lambda *_: [bad])
    found = validation.equilibrated(TARGET, 1)
    assert found.time == pytest.approx(7 * 0.06) and found.faults == [bad]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == (
        "equilibration-300K-2: not in equilibrium after 0.06 ps: temperature 30 % off "
        "(30 standard errors); 0.12 ps more, round 2 of 3"
    )
    assert lines[2].endswith("going on from there")
    texts = [path.read_text() for path in sorted((home / "runs").glob("*/in.lmp"))]
    assert [text.count("read_dump") for text in texts] == [0, 1, 1]
    assert [text.count("velocity ") for text in texts] == [1, 0, 0]
    seeds = [text.split("langevin 300 300 0.02 ")[1].split()[0] for text in texts]
    assert len(set(seeds)) == 3
    for text, steps in zip(texts, (30, 60, 120), strict=True):
        assert text.count(f"run             {steps}\n") == 2
    part = validate.reference_part([found, found], 3)
    (row,) = part.checks
    assert row.verdict == "reference fails" and row.passed is None and not row.reference_fails
    assert "In 2 of 2 starts the reference is not in equilibrium after 3 rounds" in part.text
    assert "fails in 2 of 2 starts" in row.reference
    status, out, html, data = reported(validation, [part], home, monkeypatch)
    assert status == 3 and data["undecided"] == ["reference, temperature"]
    assert "The reference was not in equilibrium at its start" in out + html
    assert "390 K" in out and "390 K" in html


def test_inputs_of_an_equilibration(tmp_path: Path) -> None:
    """A molecule keeps neither momentum; times are in the unit of the system."""
    home = write_system(tmp_path)
    config = ValidationConfig.load(home / "validate.yaml")
    validation = Validation(config, "short", home / "runs")
    validation.system = replace(validation.system, units="real")
    validation.model = replace(validation.model, angular=True)
    text = validation.inputs(TARGET).equilibration(0, 0)
    # An eighth of 0.3 ps, in fs.
    assert "langevin 300 300 37.5 4928\n" in text
    assert "fix             still all momentum 1 linear 1 1 1 angular\n" in text
    long = replace(validation.plan, equilibration=200)
    validation.plan = long
    assert "langevin 300 300 200 4928\n" in validation.inputs(TARGET).equilibration(0, 0)
    for protocol in (
        validation.inputs(TARGET).quench(300.0, 150.0, 10, False),
        validation.inputs(TARGET).two_temperature(300.0, 150.0, 10, False),
        validation.inputs(TARGET).another_reference(1),
        validation.inputs(TARGET).sampling(10, 1, True, 0),
    ):
        assert "read_dump       ${start} 0 " in protocol and "all create" not in protocol
