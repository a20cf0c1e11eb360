"""Protocols without equilibrium: what the figures say of known series, and runs in LAMMPS."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from validations import CONFIG, invoke, write_system

from lammps_trajcast.analysis.thermal import degrees_of_freedom, kinetic_temperatures
from lammps_trajcast.lammps_runs.log import read_loops
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.validation.compare import Check
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.protocols import Series, quench_parts, two_temperature_parts
from lammps_trajcast.validation.report import table_of_reports
from lammps_trajcast.validation.strain import Cell, Pressures, strain_parts

FRAMES, ATOMS, HORIZON = 200, 400, 30.0
MASSES = np.full(ATOMS, 16.0)
CELL = 20.0 * np.eye(3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ValidationConfig:
    directory = write_system(tmp_path_factory.mktemp("config"))
    return ValidationConfig.load(directory / "validate.yaml")


@pytest.fixture(scope="module")
def plan(config: ValidationConfig) -> RunSchedule:
    return RunSchedule.make(config.lengths["short"], HORIZON, 1.0)


def series(seed: int, temperatures: np.ndarray, lower: np.ndarray | None = None) -> Series:
    """Atoms at rest in space, with velocities of exactly these temperatures (F,) or (F, 2).

    lower: (N,) which atoms have the first of two temperatures.
    """
    random = np.random.default_rng(seed)
    positions = random.uniform(0.0, 20.0, (ATOMS, 3))
    if lower is not None:
        # Lattice coordinates decide, of atoms outside of the cell too.
        positions[:, 2] = np.where(lower, random.uniform(20.0, 29.0, ATOMS), 15.0)
    velocities = random.normal(size=(len(temperatures), ATOMS, 3))
    shares = degrees_of_freedom(MASSES)
    groups = [np.arange(ATOMS)] if lower is None else [np.flatnonzero(x) for x in (lower, ~lower)]
    for column, atoms in enumerate(groups):
        wanted = temperatures if lower is None else temperatures[:, column]
        found = kinetic_temperatures(velocities[:, atoms], MASSES[atoms], shares[atoms])
        velocities[:, atoms] *= np.sqrt(wanted / found)[:, None, None]
    steps = np.arange(len(temperatures))
    frames = Trajectory(
        steps=steps,
        times=steps * HORIZON,
        positions=positions + 0.001 * steps[:, None, None],
        velocities=velocities,
        species=np.zeros(ATOMS, dtype=int),
        elements=["O"],
        masses=MASSES,
        cell=CELL,
        pbc=np.ones(3, dtype=bool),
    )
    return frames, ATOMS * np.linspace(0.0, -1.0, len(temperatures))


def named(checks: list[Check], start: str) -> Check:
    (found,) = (check for check in checks if check.name.startswith(start))
    return found


COOLING = np.linspace(300.0, 100.0, FRAMES, endpoint=False)


def test_a_quench_that_lags_behind(config: ValidationConfig, plan: RunSchedule) -> None:
    """20 K too hot; means over twenty parts go through 190 K."""
    runs = [series(seed, COOLING) for seed in (1, 2, 3)]
    late = [series(seed, COOLING + 20.0) for seed in (1, 2, 3)]
    (part,) = quench_parts(config, plan, runs, late)
    check = named(part.checks, "temperature")
    assert check.value == pytest.approx(20.0 / 190.0, rel=1e-6)
    assert check.passed is False
    assert check.floor == pytest.approx(0.0, abs=1e-9)
    for name in ("potential energy", "mean-square displacement", "g(r) O-O"):
        assert named(part.checks, name).value == pytest.approx(0.0, abs=1e-9)


def test_runs_are_averaged(config: ValidationConfig, plan: RunSchedule) -> None:
    """Deviations to both sides cancel, and are what the noise is taken from."""
    runs = [series(seed, COOLING) for seed in (1, 2)]
    (part,) = quench_parts(
        config, plan, runs, [series(1, COOLING + 19.0), series(2, COOLING - 19.0)]
    )
    check = named(part.checks, "temperature")
    assert check.value == pytest.approx(0.0, abs=1e-9)
    # Standard deviation of +-0.1 with n - 1, over sqrt 2, times the mean |x| of a normal.
    assert check.floor == pytest.approx(0.1 * np.sqrt(2.0 / np.pi), rel=1e-6)
    (alone,) = quench_parts(config, plan, runs[:1], [series(1, COOLING + 19.0)])
    check = named(alone.checks, "temperature")
    assert check.value == pytest.approx(0.1, rel=1e-6)
    assert check.floor == pytest.approx(0.0, abs=1e-9) and "beyond" not in check.model


def test_runs_of_the_reference_that_disagree(config: ValidationConfig, plan: RunSchedule) -> None:
    """Each half of them is half of 60 K from all: no measure for a model."""
    runs = [series(1, COOLING + 30.0), series(2, COOLING - 30.0)]
    (part,) = quench_parts(config, plan, runs, [series(1, COOLING), series(2, COOLING)])
    check = named(part.checks, "temperature")
    assert check.own is not None and check.own.value == pytest.approx(30.0 / 190.0, rel=1e-6)
    assert check.verdict == "reference fails"
    # All of another structure: what is judged by the reference's own spread is judged.
    assert named(part.checks, "potential energy").verdict == "passed"


def test_when_it_goes_wrong(config: ValidationConfig, plan: RunSchedule) -> None:
    """Right for three quarters of the time."""
    wrong = COOLING + np.where(np.arange(FRAMES) < 150, 0.0, 60.0)
    (part,) = quench_parts(
        config,
        plan,
        [series(seed, COOLING) for seed in (1, 2)],
        [series(seed, wrong) for seed in (1, 2)],
    )
    spacing = plan.every * plan.horizon * 1e-3
    assert f"; beyond 10 % from {150 * spacing:.3g} ps" in named(part.checks, "temperature").model


def test_a_model_that_was_stopped(config: ValidationConfig, plan: RunSchedule) -> None:
    """Its run counts as far as it went, and so does the reference's from the same start."""
    runs = [series(1, COOLING), series(2, COOLING + 100.0)]
    found = [series(1, COOLING), series(2, COOLING[:40] + 100.0)]
    (part,) = quench_parts(config, plan, runs, found)
    assert named(part.checks, "temperature").value == pytest.approx(0.0, abs=1e-9)
    # All of them, early: there are fewer frames than parts.
    (part,) = quench_parts(config, plan, runs[:1], [series(1, COOLING[:7])])
    assert named(part.checks, "temperature").value == pytest.approx(0.0, abs=1e-9)


def test_halves(config: ValidationConfig, plan: RunSchedule) -> None:
    """Each run has halves of its own, by where its atoms are at the start."""
    down = np.linspace(600.0, 400.0, FRAMES, endpoint=False)
    up = 800.0 - down
    both, wrong = np.stack([down, up], axis=1), np.stack([down, up - 9.5], axis=1)
    halves = [np.arange(ATOMS) < number for number in (150, 250)]
    runs = [series(seed, both, half) for seed, half in enumerate(halves)]
    (part,) = two_temperature_parts(
        config, plan, runs, [series(seed, wrong, half) for seed, half in enumerate(halves)]
    )
    assert named(part.checks, "temperature of the hot").value == pytest.approx(0.0, abs=1e-9)
    assert named(part.checks, "temperature of the cold").value == pytest.approx(0.05, rel=1e-6)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = write_system(tmp_path)
    data: dict[str, Any] = {
        **CONFIG,
        "lengths": {
            "short": {
                **CONFIG["lengths"]["short"],
                **{"equilibration": 0.3, "runs": 2, "reference_runs": 1},
            }
        },
        "protocols": {
            "quench": {"quench": [300, 150, 250]},
            "relax": {
                **{"two_temperature": [200, 600], "duration": 0.6},
                "fix_options": "guard warn",
            },
        },
    }
    (directory / "validate.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return directory


@pytest.mark.usefixtures("forked_runs")
def test_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ("--protocol", "quench", "--protocol", "relax")
    status, out, error = invoke("validate", home / "validate.yaml", *words)
    assert status in (0, 2, 3), error
    assert out.count("failures in 2 runs") == 2
    runs = home / "validation" / "runs"
    inputs = {path.parent.name[:-11]: path.read_text() for path in runs.glob("*/in.lmp")}
    starts = {f"equilibration-{start}" for start in ("300K", "300K-2", "200K", "200K-2")}
    assert {name for name in inputs if "round" not in name} == starts | {
        f"{name}{what}"
        for name in ("quench", "relax")
        for what in ("", "-2", "-reference", "-reference-2", "-energies")
    }
    assert out.count("reference, fluctuation of the temperature") == 2
    for name, text in inputs.items():
        if name.startswith("quench") and "energies" not in name:
            bath = re.findall(r"^fix +bath all temp/csvr (\S+) (\S+) ", text, re.MULTILINE)[-1]
            assert bath == ("300", "150")
        assert ("python/trajcast ${model} Si O guard warn" in text) == (
            name in ("relax", "relax-2")
        )
    # Starts of their own, and the model begins where the reference does.
    first_frames = {}
    for run in runs.glob("*/series.dump"):
        first = run.read_text().split("ITEM: TIMESTEP")[1]
        first_frames[run.parent.name[:-11]] = first
    for name in ("quench", "relax"):
        assert first_frames[name] == first_frames[f"{name}-reference"]
        assert first_frames[f"{name}-2"] == first_frames[f"{name}-reference-2"]
        assert first_frames[name] != first_frames[f"{name}-2"]
    files = {name: home / "validation" / f"quartz-short-{name}" for name in ("quench", "relax")}
    checks = {}
    for name, file in files.items():
        data = json.loads(file.with_suffix(".json").read_text())
        assert data["protocol"] == name and str(file.with_suffix(".html")) in out
        assert file.with_suffix(".html").is_file()
        (chapter,) = data["chapters"]
        checks[name] = {
            check["name"]: check for part in chapter["parts"] for check in part["checks"]
        }
    assert not (home / "validation" / "quartz-short.html").exists()
    # Both protocols of a model are one column.
    table = table_of_reports([file.with_suffix(".json") for file in files.values()])
    assert table.splitlines()[0] == "| check | 30 fs (quartz.safetensors) |"
    assert "quench: from" in table and "relax: a half" in table
    hot = checks["relax"]["temperature of the hot half, K, over time"]
    first, last = (float(word) for word in hot["reference"].split(" to "))
    # Half of the heat is in the bonds, and the rest crosses to the other half.
    assert 350.0 < first < 650.0 and last < first
    assert hot["error"] > 0.0 and hot["chance"] > 0.0


# ---- strain --------------------------------------------------------------------------------------

STIFFNESS = np.array([[156.0, 39.0, 63.0], [39.0, 160.0, 60.0], [63.0, 60.0, 277.0]])
STRAIN = 0.01


def pressures(
    seed: int,
    stiffness: np.ndarray,
    offset: float = 0.0,
    noise: float = 0.05,
    length: int = 400,
    strain: float = STRAIN,
) -> Pressures:
    """Two runs in each cell of a linear solid, GPa."""
    random = np.random.default_rng(seed)
    found = Pressures()
    for d in range(3):
        for sign in (1, -1):
            mean = offset - stiffness[:, d] * sign * strain
            found.series[Cell(d, sign, 300.0)] = [
                mean + noise * random.normal(size=(length, 3)) for _ in "ab"
            ]
    return found


def test_elastic_constants_of_a_linear_solid(config: ValidationConfig) -> None:
    model = pressures(2, 1.05 * STIFFNESS, offset=0.5)
    (part,) = strain_parts(config, STRAIN, 5, range(3), pressures(1, STIFFNESS), model)
    checks = {check.name.split()[-1]: check for check in part.checks}
    assert set(checks) == {"C11", "C12", "C13", "C22", "C23", "C33", "pressure"}
    for i in range(3):
        for j in range(i, 3):
            check = checks[f"C{i + 1}{j + 1}"]
            scale = np.sqrt(STIFFNESS[i, i] * STIFFNESS[j, j])
            assert check.value == pytest.approx(0.05 * STIFFNESS[i, j] / scale, abs=0.005)
            # Of means of 800 lines on each side of both.
            expected = 0.05 / np.sqrt(800) / np.sqrt(2.0) / STRAIN * np.sqrt(2.0) / scale
            if i != j:
                expected /= np.sqrt(2.0)
            assert check.error == pytest.approx(expected, rel=0.6)
            assert check.passed is True
    density = named(part.checks, "density")
    assert density.value == pytest.approx(0.5 / STIFFNESS.mean(), rel=0.02)
    assert density.passed is True


def test_a_model_that_is_too_stiff(config: ValidationConfig) -> None:
    """Along c three times; and its density is off by a per cent."""
    wrong = STIFFNESS * np.where(np.arange(9).reshape(3, 3) == 8, 3.0, 1.0)
    model = pressures(2, wrong, offset=0.01 * STIFFNESS.mean())
    (part,) = strain_parts(config, STRAIN, 5, range(3), pressures(1, STIFFNESS), model)
    failed = [check.name.split()[-1] for check in part.checks if check.passed is False]
    assert failed == ["C33", "pressure"]


def test_strains_of_a_slab_and_of_runs_that_failed(config: ValidationConfig) -> None:
    reference, model = pressures(1, STIFFNESS), pressures(2, STIFFNESS)
    (part,) = strain_parts(config, STRAIN, 5, [0, 1], reference, model)
    assert [check.name.split()[-1] for check in part.checks] == ["C11", "C12", "C22"]
    model.series[Cell(1, -1, 300.0)] = []
    assert strain_parts(config, STRAIN, 5, [0, 1], reference, model) == []


# Linear expansion along each direction, 1/K.
EXPANSION = np.array([12e-6, 14e-6, 8e-6])


def heat(side: Pressures, stiffness: np.ndarray, expansion: np.ndarray, seed: int) -> Pressures:
    """Add the cell as it is at 200 and 500 K, in which nothing can expand."""
    random = np.random.default_rng(seed)
    for temperature in (200.0, 500.0):
        mean = stiffness @ expansion * (temperature - 200.0)
        side.series[Cell(None, 0, temperature)] = [
            mean + 0.05 * random.normal(size=(400, 3)) for _ in "ab"
        ]
    return side


@pytest.mark.parametrize(("factor", "passed"), [(1.1, True), (1.4, False)])
def test_thermal_expansion_of_a_linear_solid(
    config: ValidationConfig, factor: float, passed: bool
) -> None:
    """A model that is 5 % too stiff has more pressure, and takes less strain to lose it."""
    reference = heat(pressures(1, STIFFNESS), STIFFNESS, EXPANSION, 3)
    stiff = 1.05 * STIFFNESS
    model = heat(pressures(2, stiff), stiff, factor * EXPANSION, 4)
    (part,) = strain_parts(config, STRAIN, 5, range(3), reference, model, (200.0, 500.0))
    check = named(part.checks, "thermal expansion")
    assert check.value == pytest.approx(factor - 1.0, abs=0.02)
    assert check.reference.startswith("34.") or check.reference.startswith("33.")
    assert check.passed is passed
    # A run that failed says nothing.
    model.series[Cell(None, 0, 500.0)] = []
    (part,) = strain_parts(config, STRAIN, 5, range(3), reference, model, (200.0, 500.0))
    assert not any(check.name.startswith("thermal expansion") for check in part.checks)


def test_the_error_of_an_expansion_knows_that_of_the_constants(config: ValidationConfig) -> None:
    """Strains of 0.1 % tell the constants so badly that right models failed: 10 of 400."""
    deviations, errors, told = [], [], []
    small = 0.001
    for seed in range(100):
        sides = [
            heat(
                pressures(2 * seed + k, STIFFNESS, noise=0.9, strain=small),
                *(STIFFNESS, EXPANSION, 1000 + 2 * seed + k),
            )
            for k in (0, 1)
        ]
        (part,) = strain_parts(config, small, 5, range(3), *sides, (200.0, 500.0))
        check = named(part.checks, "thermal expansion")
        deviations.append(check.value)
        errors.append(check.error)
        told.append([float(word) for word in check.reference.split()[:3:2]])
    assert np.sqrt(np.mean(np.square(deviations))) == pytest.approx(
        np.sqrt(np.mean(np.square(errors))), rel=0.25
    )
    # The error beside the value of one side is that of this side alone.
    values, of_values = np.array(told).T
    assert np.std(values) == pytest.approx(np.sqrt(np.mean(of_values**2)), rel=0.25)


def box_of(path: Path) -> np.ndarray:
    """Edges and tilts of the first frame of a dump: lx, ly, lz, xy, xz, yz."""
    lines = path.read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("ITEM: BOX BOUNDS"))
    low, high, tilts = np.array([line.split() for line in lines[start + 1 : start + 4]], float).T
    xy, xz, yz = tilts
    low -= [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
    high -= [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
    return np.concatenate([high - low, tilts])


@pytest.mark.usefixtures("forked_runs")
def test_strain_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A skewed cell keeps its shape but for the strain; pressures are those of the logs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = yaml.safe_load((home / "validate.yaml").read_text())
    data["protocols"] = {"stiff": {"strain": STRAIN, "expansion": [200, 400], "duration": 0.9}}
    data["lengths"]["short"]["runs"] = 1
    # An energy that reaches farther than the steps.
    model = ModelFile.load(home / "quartz.safetensors")
    assert model.energy is not None
    cutoff = model.metadata.architecture.edge_cutoff + 0.5
    basis = model.energy.basis.model_copy(update={"cutoff": cutoff})
    farther = model.energy._replace(basis=basis)
    ModelFile(model.metadata, model.state_dict, farther).save(home / "quartz.safetensors")
    (home / "validate.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    status, out, error = invoke("validate", home / "validate.yaml", "--protocol", "stiff")
    assert status in (0, 2, 3), error
    assert re.search(r"passed +failures in 8 runs +0 ", out)
    runs = {path.name[:-11]: path for path in (home / "validation" / "runs").iterdir()}
    (state,) = [run / "state.dump" for name, run in runs.items() if name.startswith("equil")][:1]
    original = box_of(state)
    assert original[3] < -1.0
    factors = {"x": [0, 3, 4], "y": [1, 5], "z": [2]}
    for axis, places in factors.items():
        for sign in (1, -1):
            expected = original.copy()
            expected[places] *= 1.0 + sign * STRAIN
            for side in ("", "-reference"):
                run = runs[f"stiff-{axis}{'+' if sign > 0 else '-'}{side}"]
                np.testing.assert_allclose(box_of(run / "series.dump"), expected, atol=1e-6)
    for temperature in ("200K", "400K"):
        for side in ("", "-reference"):
            run = runs[f"stiff-{temperature}{side}"]
            np.testing.assert_allclose(box_of(run / "series.dump"), original, atol=1e-6)
            kelvin = read_loops(run / "log.lammps")[-1].columns["Temp"].mean()
            assert kelvin == pytest.approx(float(temperature[:-1]), rel=0.15)
    report = json.loads((home / "validation" / "quartz-short-stiff.json").read_text())
    (chapter,) = report["chapters"]
    checks = {check["name"]: check for part in chapter["parts"] for check in part["checks"]}
    loops = {
        sign: read_loops(runs[f"stiff-z{sign}-reference"] / "log.lammps")[-1].columns["Pzz"].mean()
        for sign in "+-"
    }
    stiffness = -1e-4 * (loops["+"] - loops["-"]) / (2.0 * STRAIN)
    words = checks["elastic constant C33"]["reference"]
    assert float(words.split()[0]) == pytest.approx(stiffness, rel=0.05)
    assert 150.0 < stiffness < 400.0
    assert checks["thermal expansion, 200 to 400 K"]["limit"] == 0.2


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"temperature": 300, "expansion": [200, 400]}, "expansion needs strain beside it"),
        ({"strain": STRAIN, "expansion": [400, 200]}, "second temperature has to be above"),
    ],
)
def test_an_expansion_that_makes_no_sense(home: Path, protocol: Any, words: str) -> None:
    data = yaml.safe_load((home / "validate.yaml").read_text())
    data["protocols"] = {"stiff": protocol}
    (home / "validate.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    status, _, error = invoke("validate", home / "validate.yaml", "--protocol", "stiff")
    assert status == 1 and words in " ".join(error.split())


def test_a_strain_needs_its_time(home: Path) -> None:
    data = yaml.safe_load((home / "validate.yaml").read_text())
    data["protocols"] = {"stiff": {"strain": STRAIN, "duration": 0.2}}
    (home / "validate.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    status, _, error = invoke("validate", home / "validate.yaml", "--protocol", "stiff")
    assert status == 1 and "7 frames for 4 blocks; write a duration of at least 0.24" in error


def test_a_strain_needs_an_energy(home: Path) -> None:
    data = yaml.safe_load((home / "validate.yaml").read_text())
    data["protocols"] = {"stiff": {"strain": STRAIN}}
    (home / "validate.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    model = home / "quartz.safetensors"
    file = ModelFile.load(model)
    ModelFile(file.metadata, file.state_dict, None).save(model)
    status, _, error = invoke("validate", home / "validate.yaml", "--protocol", "stiff")
    assert status == 1 and "add one with 'lammps-trajcast add-energy'" in error
