"""`lammps-trajcast fit`: what it measures, chooses and says, and all of it once in small."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import ase.io
import ase.units
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray
from runs import lammps_binary, lammps_environment
from typer.testing import CliRunner

from lammps_trajcast.cli import app
from lammps_trajcast.data.frames import Species
from lammps_trajcast.data.layout import DatasetError, open_dataset
from lammps_trajcast.fit import choose
from lammps_trajcast.fit.config import MARK, FitConfig, FitError, Round, seconds_of
from lammps_trajcast.fit.dataset import from_trajectories, horizon_of
from lammps_trajcast.fit.fit import fit
from lammps_trajcast.fit.force_range import Response, choose_cutoff, find_molecules
from lammps_trajcast.fit.motion import (
    highest_frequency,
    leaves_its_places,
    measure_motion,
    some_of_each,
)
from lammps_trajcast.fit.progress import Progress
from lammps_trajcast.fit.proof import Outcome
from lammps_trajcast.fit.reference import Inspected, SurveyRuns, distances_from
from lammps_trajcast.fit.request import make_request
from lammps_trajcast.fit.state import State
from lammps_trajcast.fit.training import epoch_steps
from lammps_trajcast.fit.validating import production_in
from lammps_trajcast.fit.verdict import Facts, make_verdict, twice
from lammps_trajcast.lammps_runs.script import DUMP, commands_in
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.plugin import plugin_directory
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.validation.compare import Check, ReferenceSelfCheck

ARGON = """\
units           real
atom_style      atomic
lattice         fcc 5.4
region          box block 0 2 0 2 0 2
create_box      1 box
create_atoms    1 box
mass            1 39.948
pair_style      lj/cut 5.3
pair_coeff      1 1 0.238 3.405
"""
TINY: dict[str, Any] = {
    "name": "argon",
    "system": "argon.lmp",
    "elements": ["Ar"],
    "temperature": 40.0,
    "temperatures": [40.0],
    "horizon": 40.0,
    "reversible": False,
    "budget": "1h",
    "rounds": 1,
    "network": {
        "num_hidden_channels": 8,
        "num_mp_layers": 1,
        "max_rotation_order": 1,
        "edge_mlp_kwargs": {"n_neurons": [8]},
    },
    "optimization": {"steps": 12, "epoch_steps": 4, "read_out_pairs": 10},
    "recording": {"segments": 10, "segment_length": 0.2, "decorrelate": 0.1, "equilibration": 0.5},
    "validation": {"equilibration": 1.0, "production": 2.4, "nve": 0.4, "blocks": 3, "speed": 0},
}
STAGES = (
    *("system", "equilibration", "spectrum", "range", "data", "training"),
    *("potential energy", "validation"),
)


def invoke(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def write(directory: Path, system: str = ARGON, **changes: Any) -> Path:
    """The system and the YAML file of a tiny fit."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "argon.lmp").write_text(system)
    path = directory / "fit.yaml"
    content = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
    path.write_text(f"# by hand\n{yaml.safe_dump(content, sort_keys=False)}")
    return path


def quiet() -> Progress:
    return Progress(3600.0, lambda: 0.0, StringIO())


def run(path: Path) -> Any:
    return fit(FitConfig.load(path), path.parent, quiet())


# ---- what is measured ----------------------------------------------------------------------------


def test_highest_frequency_is_that_of_the_fastest_mode() -> None:
    """Of modes of 5 and of 18 THz, the latter with 2 % of the power, and overtones of 0.1 %."""
    frequencies = np.arange(0.0, 100.0, 0.5)
    density = np.zeros_like(frequencies)
    density[frequencies == 5.0] = 0.979
    density[frequencies == 18.0] = 0.02
    density[frequencies == 36.0] = 0.001
    assert highest_frequency(frequencies, density) == pytest.approx(18.0, abs=0.5)


def _spectrum(
    lines: list[tuple[float, float, float]], beyond: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A spectrum of Gaussian lines (THz, weight, width), and overtones up to 75 THz."""
    frequencies = np.arange(0.0, 150.0, 0.5)
    density = np.zeros(len(frequencies))
    for center, weight, width in lines:
        line = np.exp(-(((frequencies - center) / width) ** 2) / 2)
        density += weight * line / line.sum()
    flat = (frequencies > 40.0) & (frequencies < 75.0)
    density[flat] += beyond / flat.sum() * (1.0 + 0.5 * np.sin(frequencies[flat] / 3.0))
    return frequencies, density


def test_overtones_of_a_solid_do_not_shorten_its_period() -> None:
    band = [(20.0, 0.6, 6.0), (38.0, 0.394, 0.7)]
    found = highest_frequency(*_spectrum(band, beyond=0.006))
    assert found == pytest.approx(39.5, abs=1.0)
    # A liquid has no band that ends.
    assert highest_frequency(*_spectrum(band, beyond=0.006), liquid=True) > 50.0


@pytest.mark.parametrize("width", [0.7, 2.0, 4.0])
def test_a_few_stiff_bonds_among_many_atoms_are_seen(width: float) -> None:
    lines = [(20.0, 0.6, 6.0), (38.0, 0.385, 0.7), (100.0, 0.009, width)]
    found = highest_frequency(*_spectrum(lines, beyond=0.006))
    assert found == pytest.approx(100.0, abs=2.0 * width)


def test_a_sharp_overtone_is_no_line() -> None:
    """Of nitrogen at 1000 K, seen from a Morse potential."""
    assert highest_frequency(*_spectrum([(71.0, 0.9983, 0.5), (140.0, 0.0017, 0.5)])) < 73.0


def test_a_liquid_is_told_from_a_solid() -> None:
    random = np.random.default_rng(1)
    vibrating = 0.1 * random.normal(size=(400, 30, 3))
    diffusing = np.cumsum(0.1 * random.normal(size=(400, 30, 3)), axis=0)
    assert not leaves_its_places(vibrating, 2.5)
    assert leaves_its_places(diffusing, 2.5)


def response(
    distances: list[float],
    squares: list[float],
    elements: list[int] | None = None,
    between: list[bool] | None = None,
) -> Response:
    count = len(distances)
    return Response(
        np.array(distances),
        np.array(squares),
        np.array(elements or [0] * count),
        np.array(between or [False] * count),
    )


def test_cutoff_leaves_less_than_three_per_cent() -> None:
    distances = [2.4, 3.8, 4.6, 6.1]
    reach = choose_cutoff(response(distances, [1.0, 0.1, 0.01, 1e-6]))
    assert reach.cutoff == 4.75
    assert reach.reached
    assert reach.beyond == pytest.approx(np.sqrt(1e-6 / 1.110001))
    far = choose_cutoff(response(distances, [1.0, 0.1, 0.01, 0.1]))
    assert far.cutoff == 6.25
    assert far.reached
    beyond = choose_cutoff(response([2.4, 9.0], [1.0, 1.0]))
    assert not beyond.reached
    assert beyond.cutoff == 7.0
    with pytest.raises(FitError, match="no interactions"):
        choose_cutoff(response(distances, [0.0] * 4))


def test_stiff_bonds_do_not_hide_the_forces_between_molecules() -> None:
    """Bonds of 1 Å, a thousand times as stiff as what acts between molecules; a soft element.

    The cutoff was 3.5 Å for water and methane, where a quarter of the forces between molecules are
    beyond.
    """
    distances, squares = [1.0, 3.0, 4.4, 6.0], [1e6, 1.0, 0.2, 0.02]
    between = [False, True, True, True]
    reach = choose_cutoff(response(distances, squares, between=between))
    assert reach.cutoff == 4.5 and reach.reached
    assert reach.between == pytest.approx(np.sqrt(0.02 / 1.22))
    assert choose_cutoff(response(distances, squares)).cutoff == 3.5
    # Coulomb forces have no end.
    slow = choose_cutoff(response(distances, [1e6, 1.0, 0.5, 0.5], between=between))
    assert slow.cutoff == 5.0 and slow.reached and slow.between == pytest.approx(0.5)
    assert choose_cutoff(response(distances, squares, [0, 1, 1, 1])).cutoff == 4.5


def test_molecules_are_told_from_crystals_and_atoms() -> None:
    """Two waters, one of them across the faces of the cell; silicon; argon."""
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    # Hydrogen bonds are 1.9 Å long.
    positions = np.concatenate([water + 4.0, water + [6.86, 4.0, 4.0], water + [0.0, 0.0, 0.1]])
    positions %= 9.0
    species = np.array([1, 0, 0] * 3)
    pbc = np.ones(3, dtype=bool)
    molecules = find_molecules(species, ["H", "O"], positions, 9.0 * np.eye(3), pbc)
    assert [len(set(molecules[3 * k : 3 * k + 3])) for k in range(3)] == [1, 1, 1]
    assert len(set(molecules)) == 3
    for crystal, element, number in (
        (bulk("Si", cubic=True).repeat(2), "Si", 1),
        (bulk("NaCl", "rocksalt", a=5.64, cubic=True), "Na Cl", 1),
        (bulk("Ar", "fcc", a=5.3, cubic=True), "Ar", 4),
    ):
        elements = element.split()
        kinds = np.array([elements.index(symbol) for symbol in crystal.symbols])
        cell = np.array(crystal.cell)
        found = find_molecules(kinds, elements, crystal.positions, cell, pbc)
        assert len(set(found)) == number


def test_every_element_is_watched() -> None:
    """A single hydrogen in a metal was left out, and an element at every third place."""
    species = np.zeros(864, dtype=int)
    species[700] = 1
    watched = some_of_each(species, 400)
    assert 700 in watched and len(watched) == 201
    pattern = some_of_each(np.tile([1, 0, 0], 400), 400)
    assert np.bincount(np.tile([1, 0, 0], 400)[pattern]).tolist() == [200, 200]
    few = some_of_each(np.tile([1, 0, 0], 10), 400)
    assert few.tolist() == list(range(30))


def test_the_spectrum_of_a_large_system_has_every_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """864 atoms, of which one is of a second element: it is in what LAMMPS is told to watch."""
    system = ARGON.replace("0 2 0 2 0 2", "0 6 0 6 0 6").replace(
        "create_box      1", "create_box 2"
    )
    system = system.replace("mass            1 39.948", "mass * 39.948\nset atom 701 type 2")
    path = write(tmp_path, system.replace("pair_coeff      1 1", "pair_coeff * *"))
    config = FitConfig.load(path).model_copy(update={"elements": ["Ar", "Kr"]})
    runs = SurveyRuns(config, tmp_path / "survey", None)
    reader = TrajectoryReader(Species.from_types(["Ar", "Kr"], [39.948, 39.948]), "real")
    start = runs.run(
        "start",
        "include argon.lmp\nvelocity all create 40 1\nfix 1 all nve\nrun 0\n"
        f"write_dump all custom ${{out}}/state.dump {DUMP} modify sort id format float %.10g\n",
    )
    inspected = replace(INSPECTED, atoms=864)
    motion = measure_motion(runs, inspected, start, reader, 10.0, 0.4)
    assert set(motion.elements) == {"Ar", "Kr"}


def test_commands_on_several_lines() -> None:
    assert commands_in("units me&\ntal") == [["units", "metal"]]
    assert commands_in(
        "fix move all &\n    nvt temp &\r\n 1 1 0.1 # why\n\n# no\nunits metal\n"
    ) == [
        "fix move all nvt temp 1 1 0.1".split(),
        ["units", "metal"],
    ]


def test_nearest_images_of_a_skewed_cell() -> None:
    """Against all images within two cells."""
    cell = np.array([[5.0, 0.0, 0.0], [2.4, 5.0, 0.0], [2.4, 2.4, 5.0]])
    positions = np.random.default_rng(2).uniform(size=(20, 3)) @ cell
    found = distances_from(positions, 3, cell, np.array([True, True, True]))
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3) @ cell
    known = np.linalg.norm(positions[:, None] - positions[3] + shifts[None], axis=2).min(axis=1)
    np.testing.assert_allclose(found, known, atol=1e-12)


# ---- what is chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "timestep", "horizon"), [(55.5, 2.0, 24.0), (9.0, 0.25, 4.0), (319.0, 5.0, 140.0)]
)
def test_time_steps_follow_from_the_shortest_period(
    period: float, timestep: float, horizon: float
) -> None:
    """Silicon, water, argon. Twice the horizon is less than the period."""
    assert choose.reference_step(period) == timestep
    found = choose.longest_horizon(period, timestep)
    assert found == pytest.approx(horizon)
    assert 2.0 * found < period


def test_a_horizon_has_to_be_a_multiple() -> None:
    choose.check_horizon(24.0, 2.0)
    with pytest.raises(FitError, match="write 24"):
        choose.check_horizon(25.0, 2.0)


def test_lengths_keep_to_the_time() -> None:
    assert epoch_steps(4000.0, 1.0) == 100
    assert epoch_steps(1.0, 1.0) == 10
    assert production_in(100.0, 2.0, 20.0, 5) == 50.0
    assert production_in(1.0, 2.0, 20.0, 5) == 1.0
    config = FitConfig(**{**TINY, "recording": {}})
    segments, times = choose.recording_plan(config, 40.0, 5.0, 4e-3, 60.0, 108)
    took = choose.recording_seconds(segments, times, 1, 5.0, 4e-3)
    assert 0.5 * 60.0 < took <= 60.0


@pytest.mark.parametrize("equilibrated", [True, False])
def test_an_expensive_reference_is_recorded_in_its_time(equilibrated: bool) -> None:
    """64 atoms with a machine-learned potential: 0.2 s a step, 18 minutes for 11 ps in all."""
    config = FitConfig(**{**TINY, "recording": {}, "temperatures": [225.0, 300.0, 375.0]})
    segments, times = choose.recording_plan(config, 22.0, 2.0, 0.2, 1080.0, 64, equilibrated)
    assert segments >= 8
    assert choose.recording_seconds(segments, times, 3, 2.0, 0.2) <= 1080.0
    cheap, standard = choose.recording_plan(config, 22.0, 2.0, 0.01, 1080.0, 64, equilibrated)
    assert cheap > 3 * segments and standard["decorrelate"] > times["decorrelate"]


def test_of_a_few_atoms_most_of_the_time_is_recorded() -> None:
    """Ethanol with GFN2-xTB, 9 minutes: a frame of 9 atoms says little."""
    config = FitConfig(**{**TINY, "recording": {}})
    plans = {
        atoms: choose.recording_plan(config, 4.0, 0.25, 1.7e-3, 540.0, atoms) for atoms in (9, 90)
    }
    recorded = {}
    for atoms, (segments, times) in plans.items():
        assert choose.recording_seconds(segments, times, 1, 0.25, 1.7e-3) <= 540.0
        recorded[atoms] = segments * times["segment_length"]
    assert recorded[9] > 4.0 * recorded[90]


@pytest.mark.parametrize(
    ("horizon", "timestep", "interval"),
    [(22.0, 2.0, 2.0), (24.0, 2.0, 8.0), (3.75, 0.25, 1.25), (26.0, 2.0, 26.0), (4.0, 2.0, 4.0)],
)
def test_several_pairs_begin_within_a_horizon(
    horizon: float, timestep: float, interval: float
) -> None:
    """Of 11 steps too, which nothing but 1 and 11 divides; of 13 it would be too many frames."""
    assert choose.frame_interval(horizon, timestep) == pytest.approx(interval)
    for steps in range(3, 200):
        chosen = choose.longest_horizon(float(steps), 1.0, 1.0)
        assert steps - 2 <= chosen <= steps
        assert 3 <= chosen / choose.frame_interval(chosen, 1.0) <= 12


@pytest.mark.parametrize(
    ("masses", "step"),
    [([1.008, 15.999], 0.5), ([6.94], 1.0), ([28.0855], 2.0), ([15.999, 90], 1.0)],
)
def test_first_steps_follow_from_the_lightest_atom(masses: list[float], step: float) -> None:
    assert choose.first_step(masses) == step


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45 s", 45), ("1.5h", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "2x", "-1h", "0s", "1h x", "1.2.3h"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="write 2h|longer"):
        seconds_of(text)


# ---- the verdict ---------------------------------------------------------------------------------


def checks(**values: float) -> list[Check]:
    known = {
        "failures in 1 run": Check("failures in 1 run", 0.0, limit=0.0),
        "temperature": Check("temperature", 0.004, "%", 0.01, error=0.002),
        "spectrum": Check("spectrum", 0.99, limit=0.97, at_least=True),
    }
    return [replace(c, value=values.get(name.split()[0], c.value)) for name, c in known.items()]


def test_outcomes_of_checks() -> None:
    assert Outcome.of_checks(checks()).verdict == "proven"
    assert Outcome.of_checks(checks(temperature=0.2)).verdict == "fails"
    close = Outcome.of_checks(checks(temperature=0.013))
    assert (close.verdict, close.noisy, close.leaning) == ("undecided", ["temperature"], 1)
    within = Outcome.of_checks(checks(temperature=0.009))
    assert (within.verdict, within.leaning) == ("undecided", 0)
    assert within.rank < close.rank
    # Beyond the limit of 0.01 by more than two standard errors of 0.002, and by less than three.
    (check,) = [
        replace(check, value=0.015, error=0.002)
        for check in checks()
        if check.name == "temperature"
    ]
    assert check.verdict == "undecided" and check.doubtful
    assert check.remark == "between 0.9 % and 2.1 %"
    assert check.as_dict()["interval_to_fail"] == pytest.approx([0.009, 0.021])
    doubtful = Outcome.of_checks([check])
    assert (doubtful.doubtful, doubtful.leaning, doubtful.verdict) == (1, 1, "undecided")
    assert close.rank < doubtful.rank < Outcome.of_checks(checks(temperature=0.2)).rank
    assert not replace(check, value=0.013).doubtful
    least = Check("spectrum", 0.945, limit=0.97, at_least=True, error=0.01)
    assert least.verdict == "undecided" and least.doubtful
    assert replace(least, value=0.935).verdict == "failed"
    low = Outcome.of_checks(checks(spectrum=0.9))
    assert low.fails == ["spectrum 0.9 (≥ 0.97)"]
    itself = Check("energy", 0.5, "kT", 0.1, own=ReferenceSelfCheck(0.4, "half"))
    assert Outcome.of_checks([*checks(), itself]).verdict == "undecided"
    noisy = replace(checks()[1], error=0.05)
    assert Outcome.of_checks([noisy]).verdict == "undecided"
    assert Outcome.of_checks([]).verdict == "undecided"
    assert Outcome.of_checks(checks(temperature=float("nan"))).verdict == "fails"


def test_a_model_whose_runs_end_early_is_the_worst() -> None:
    """It has fewer failing checks, as most are absent."""
    early = Outcome.of_checks(checks(failures=1.0)[:1])
    bad = Outcome.of_checks(checks(temperature=0.2, spectrum=0.5))
    better = Outcome.of_checks(checks(temperature=0.1, spectrum=0.5))
    assert better.rank < bad.rank < early.rank
    assert Outcome.from_dict(bad.as_dict()).fails == bad.fails


INSPECTED = Inspected(216, [28.0], None, [True] * 3, [16.3] * 3, True, 1e-3, 2.35)
FACTS = Facts(Path("silicon.safetensors"), 24.0, 2.0, True, 50.0, 1.7, 4.0, True, "converged")


def test_verdicts_say_use_checks_and_advice() -> None:
    config = FitConfig(**TINY)
    for outcome, word, status in (
        (Outcome(23, [], [], [], 0.0), "proven", 0),
        (Outcome(20, ["temperature 3 %"], [], [], 3.0), "fails", 2),
        (Outcome(20, [], ["temperature 1.1 %"], ["temperature"], 0.0), "undecided", 3),
    ):
        verdict = make_verdict(config, INSPECTED, outcome, FACTS)
        assert (verdict.word, verdict.status) == (word, status)
        use, of_checks, advice = str(verdict).split("\n")
        assert use.startswith("USE: silicon.safetensors")
        assert "24 fs a step, reversible steps" in use
        assert all(name in of_checks for name in [*outcome.fails, *outcome.undecided])
        assert advice.startswith("NEXT: ")
    assert "1.7 times faster than the reference" in use
    slow = make_verdict(config, INSPECTED, Outcome(9, [], [], [], 0.0), replace(FACTS, speed=0.2))
    assert "5 times slower than the reference" in str(slow)
    waves = Outcome(20, ["temperature of waves longer than 5 Å 9.7 % (≤ 5 %)"], [], [], 3.0)
    assert "fix langevin" in str(make_verdict(config, INSPECTED, waves, FACTS))
    unfinished = replace(FACTS, converged=False, training="did not converge: ended by max_hours")
    said = str(make_verdict(config, INSPECTED, Outcome(1, ["x"], [], [], 1.0), unfinished))
    # Of one hour.
    assert "did not converge" in said and "--budget 2h or more goes on" in said
    assert (twice(720.0), twice(2700.0), twice(1.0)) == ("24m", "1h30m", "1m")
    narrow = replace(INSPECTED, heights=[7.0] * 3)
    assert "only 7 Å wide" in str(make_verdict(config, narrow, Outcome(9, [], [], [], 0.0), FACTS))


# ---- the file and the display --------------------------------------------------------------------


def test_yaml_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path)
    config = FitConfig.load(path)
    chosen = config.chosen.model_copy(
        update={"timestep": 5.0, "rounds": (Round(horizon=40.0, segments=10, epoch_steps=5),)}
    )
    config = config.model_copy(update={"chosen": chosen, "budget": "3h"})
    config.save(path)
    config.save(path)
    text = path.read_text()
    assert text.startswith("# by hand\n")
    assert text.count(MARK) == 1
    again = FitConfig.load(path)
    assert again.chosen == chosen
    assert again.budget == "3h"
    assert (
        again.asked
        == FitConfig.load(write(tmp_path / "other"))
        .model_copy(update={"system": again.system})
        .asked
    )


def test_another_file_goes_on_or_is_refused(tmp_path: Path) -> None:
    """Its requests were lost, and with them or without what had been chosen."""
    (tmp_path / "files").mkdir()
    output = tmp_path / "out"
    output.mkdir()
    source = write(tmp_path / "files", horizon=40.0)
    config, directory = make_request(source, output, {"budget": "5h"})
    assert directory == output
    chosen = config.chosen.model_copy(update={"timestep": 5.0})
    config.model_copy(update={"chosen": chosen}).save(output / "fit.yaml")
    again, _ = make_request(source, output, {})
    assert again.chosen == chosen
    write(tmp_path / "files", horizon=60.0)
    with pytest.raises(FitError, match="was begun with horizon 40.0, not 60.0; name another"):
        make_request(source, output, {})
    assert FitConfig.load(output / "fit.yaml").horizon == 40.0


def test_display_tells_stage_time_and_finding() -> None:
    stream = StringIO()
    shown = Progress(3600.0, lambda: 600.0, stream)
    shown.stages = 8
    shown.tell("cutoff 4 Å")
    with shown.stage("training", 100.0, lambda: (0.25, "step 5 of 20")):
        time.sleep(0.05)
    assert stream.getvalue().splitlines() == [
        "  cutoff 4 Å",
        "[1/8] training | step 5 of 20 | at most 50 min left",
    ]


def test_damaged_state_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(FitError, match="damaged; delete it"):
        State(tmp_path / "state.json")


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "changes", "message"),
    [
        (None, {}, "no such file"),
        ("units lj\n", {}, "needs a line 'units metal' or 'units real'"),
        (ARGON.replace("lj/cut 5.3", "no/such 5.3"), {}, "the reference failed: ERROR: "),
        (ARGON, {"elements": ["Ar", "Ne"]}, "2 named (Ar Ne), but"),
        (ARGON, {"horizon": 41.0}, "41 fs is not a multiple"),
        (f"boundary p p f\n{ARGON}", {}, "periodic in all directions, or in none"),
        (ARGON, {"start_from": "absent.safetensors"}, "absent.safetensors"),
        (ARGON, {"horizon": None, "trajectories": ["absent.h5"]}, "absent.h5"),
        (ARGON, {"trajectories": ["absent.traj"]}, "absent.traj: no such file"),
        (ARGON.replace("lattice         fcc 5.4", "lattice fcc 50.0"), {}, "no interactions"),
        (f"{ARGON}fix 1 all langevin 40 40 100 1\n", {}, "has the line 'fix 1 all langevin 40"),
        (f"{ARGON}fix 1 all nve\n", {}, "integrator and thermostat are added"),
        (f"{ARGON}fix 1 all nve/limit 0.1\n", {}, "integrator and thermostat are added"),
        (f"{ARGON}run 100\n", {}, "has the line 'run 100'"),
        (f"{ARGON}fix 1 all &\n  nvt temp 40 40 100\n", {}, "integrator and thermostat are added"),
        (f"{ARGON}fix 1 all shake 1e-4 20 0 t 1\n", {}, "a network cannot keep constraints"),
        (f"{ARGON}fix hold all setforce 0 0 0\n", {}, "fix hold (setforce) acts on the atoms"),
        (f"dimension 2\n{ARGON}".replace("0 2 0 2 0 2", "0 2 0 2 -0.1 0.1").replace("fcc", "sq"),
         {}, "is two-dimensional"),
        (f"variable T index 4\n{ARGON}", {}, "defines the variable 'T', which a recording has"),
        (f"variable out index 4\n{ARGON}", {}, "defines the variable 'out'"),
        (f"variable u index real\n{ARGON.replace('units           real', 'units ${u}')}", {},
         "'units ${u}' is read without LAMMPS"),
        (f"{ARGON}group one id 1\ndelete_atoms group one compress no\n", {},
         "write 'reset_atoms id' at the end"),
        (ARGON.replace("units           real", "units real\nboundary f f f"),
         {"recording": {"strain": 0.01}}, "an isolated molecule has no cell to be strained"),
        (f"{ARGON}log other.lammps\n", {}, "has the line 'log other.lammps'; every run has"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    tmp_path: Path, system: str | None, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, system or "", **changes)
    if system is None:
        (tmp_path / "argon.lmp").unlink()
    status, out, err = invoke("fit", path)
    assert status == 1
    lines = [line for line in err.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 1, err
    assert message in lines[0]
    assert "Traceback" not in out + err


def test_a_budget_that_does_not_reach_a_model(tmp_path: Path) -> None:
    status, out, err = invoke("fit", write(tmp_path, budget="0.01s"))
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("ERROR")]
    assert (
        "the budget of 0.01s ends before" in line and "larger --budget goes on from there" in line
    )
    kept = json.loads((tmp_path / "state.json").read_text())["stages"]
    assert list(kept) == ["system"]
    assert "Traceback" not in out + err


CALCULATOR = """\
from ase.calculators.lj import LennardJones


class Calculator(LennardJones):
    calls = 0

    def calculate(self, *args, **kwargs):
        Calculator.calls += 1
        if Calculator.calls > {calls}:
            raise RuntimeError("out of licenses")
        super().calculate(*args, **kwargs)
"""


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        (0, ["; correct ", "argon.lmp"]),
        (300, ["stage equilibration: ", "the same command goes on from there"]),
    ],
)
def test_a_calculator_that_raises(tmp_path: Path, calls: int, words: list[str]) -> None:
    """At once, or after a while: its own words, and what has been reached is kept."""
    head = ARGON.partition("pair_style")[0]
    system = f"{head}pair_style python/ase failing:Calculator rc 5.3\npair_coeff * * Ar\n"
    path = write(tmp_path, system)
    (tmp_path / "failing.py").write_text(CALCULATOR.format(calls=calls))
    status, out, err = invoke("fit", path)
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("ERROR")]
    assert all(word in line for word in ["RuntimeError: out of licenses", *words])
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["argon.lmp"], "--output: is missing"),
        (["argon.lmp", "-o", "x"], "--elements: is missing"),
        (["argon.lmp", "-o", "x", "--elements", "Ar"], "--temperature: is missing"),
        (["argon.lmp", "-o", "x", "--elements", "Xx", "--temperature", "40"], "not a chemical"),
        (["argon.lmp", "-o", "x", "--elements", "Ar", "--temperature", "40", "--budget", "soon"],
         "is not a duration; write 2h"),
        (["fit.yaml", "--temperature", "50"], "everything is in"),
        (["argon.lmp", "-o", ".", "--elements", "Ar", "--temperature", "50"], "was begun with"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    write(tmp_path, name=tmp_path.name)
    monkeypatch.chdir(tmp_path)
    status, _, err = invoke("fit", *words)
    assert status == 1
    assert err.startswith("ERROR: ")
    assert message in err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temprature", 3, "did you mean temperature"),
        ("network", {"chanels": 3}, "chanels"),
        ("optimization", {"steps": -3}, "steps"),
        ("budget", "never", "not a duration"),
        ("name", "a b", "letters, digits"),
        ("budget", 12, "not 12: write text, in quotes"),
        ("temperature", "hot", "not hot: write a number"),
        ("elements", "Ar", r"not Ar: write a list, as \[Si, O\]"),
        ("from", ["data.h5"], "from: no such key; write trajectories"),
    ],
)
def test_mistakes_in_the_yaml_file(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = write(tmp_path, **{key: value})
    with pytest.raises(FitError, match=message) as caught:
        FitConfig.load(path)
    assert f"{path}, line " in str(caught.value)


def test_a_key_with_a_typo_is_one_mistake(tmp_path: Path) -> None:
    """It said first that the right key is missing."""
    path = write(tmp_path, temperature=None, temprature=40.0)
    with pytest.raises(FitError) as caught:
        FitConfig.load(path)
    said = str(caught.value)
    assert said.endswith("temprature: no such key; did you mean temperature?")
    assert "required" not in said


# ---- all of it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny fit, from its beginning to its verdict."""
    path = write(tmp_path_factory.mktemp("fit"))
    run(path)
    return path.parent


def outcome_of(directory: Path) -> tuple[str, list[Any]]:
    """The model and what was found about it."""
    stages = json.loads((directory / "state.json").read_text())["stages"]
    found = [stages[name]["result"] for name in stages if name.startswith("validation")]
    for result in found:
        result["speed"] = None
    return ModelFile.load(directory / "argon.safetensors").fingerprint(), found


def test_a_fit_leaves_all_that_is_needed(whole: Path) -> None:
    word, *lines = (whole / "verdict.txt").read_text().splitlines()
    assert word in ("fails", "undecided")  # 12 steps make no model
    assert [line.split(":")[0] for line in lines] == ["USE", "CHECKS", "NEXT"]
    content = json.loads((whole / "verdict.json").read_text())
    assert content["lines"] == lines and content["verdict"] == word
    assert (content["horizon"], content["timestep"], content["reversible"]) == (40.0, 5.0, False)
    known = json.loads((whole / "report.json").read_text())
    assert len(content["fails"]) == len(known["failed"])
    report = (whole / "report.html").read_text()
    assert report.index("USE: ") < report.index("<h1>")
    assert "The model argon.safetensors" in report and "argon_1" not in report
    chosen = yaml.safe_load((whole / "fit.yaml").read_text())["chosen"]
    assert chosen["rounds"] == [
        {
            "horizon": 40.0,
            "segments": 10,
            "epoch_steps": 4,
            "reversible": False,
            "production": 2.4,
        }
    ]
    assert chosen["timestep"] == 5.0
    # Harmonic at best up to there: beyond 5.3 Angstrom there is no force at all.
    assert 3.5 <= chosen["network"]["edge_cutoff"] <= 5.5
    stages = json.loads((whole / "state.json").read_text())["stages"]
    assert [next(s for s in STAGES if n.startswith(s)) for n in stages] == list(STAGES)
    # The highest frequency of fcc argon: 2 THz at equilibrium density, more when compressed.
    assert 1.5 < stages["spectrum"]["result"]["highest"] < 4.5
    assert stages["spectrum"]["result"]["liquid"] is False
    # The recorded frames have energies, so the model gets one, and the script prints it.
    assert ModelFile.load(whole / "argon.safetensors").energy is not None
    script = (whole / "in.argon").read_text()
    assert "fix_modify      integrate energy yes virial yes\n" in script
    assert "time temp pe etotal press cpu\n" in script
    assert "potential energy of the model, error over fluctuation" in report


# A tetrahedron, bound by some fifty times the thermal energy.
CLUSTER = """\
units           real
atom_style      atomic
boundary        f f f
region          box block -15 15 -15 15 -15 15
create_box      1 box
create_atoms    1 single 1.35 1.35 1.35
create_atoms    1 single -1.35 -1.35 1.35
create_atoms    1 single -1.35 1.35 -1.35
create_atoms    1 single 1.35 -1.35 -1.35
mass            1 39.948
pair_style      lj/cut 12.0
pair_coeff      1 1 0.238 3.405
"""


def test_a_molecule_keeps_its_angular_momentum(tmp_path: Path) -> None:
    """In the bath of a recording it begins to turn; a network that stopped it could not learn."""
    path = write(tmp_path, CLUSTER, temperature=5.0, temperatures=[5.0])
    run(path)
    architecture = ModelFile.load(tmp_path / "argon.safetensors").metadata.architecture
    assert architecture.conserve_ang_mom and architecture.net_ang_mom is None
    turns = []
    with open_dataset(sorted(tmp_path.glob("data_*/*.h5"))) as file:
        for segment in file["segments"].values():
            positions, velocities = segment["positions"][0], segment["velocities"][0]
            about = positions - positions.mean(axis=0)
            scale = np.linalg.norm(about) * np.linalg.norm(velocities)
            turns.append(np.linalg.norm(np.cross(about, velocities).sum(axis=0)) / scale)
            assert np.linalg.norm(velocities.sum(axis=0)) < 1e-6 * np.linalg.norm(velocities)
    assert np.median(turns) > 0.1
    # A bath that pushes each atom, for modes that do not share their energy; the whole is still.
    for name in ("equilibrium-reference", "equilibrium-model-1"):
        (directory,) = (tmp_path / "runs").glob(f"{name}-*")
        text = (directory / "in.lmp").read_text()
        assert re.search(r"fix +bath all langevin 5 5 500 ", text)
        assert re.search(r"fix +still all momentum 1 linear 1 1 1 angular", text)
        with (directory / "frames.dump").open() as file:
            head, *rows = file.read().split("ITEM: ATOMS ")[-1].splitlines()
        first = head.split().index("vx") - 3
        table = np.array([[float(word) for word in row.split()[first:][:6]] for row in rows])
        about = table[:, :3] - table[:, :3].mean(axis=0)
        spin = np.linalg.norm(np.cross(about, table[:, 3:]).sum(axis=0))
        assert spin < 1e-4 * np.linalg.norm(about) * np.linalg.norm(table[:, 3:])
    assert "langevin" in (tmp_path / "in.argon").read_text()
    checks = json.loads((tmp_path / "report.json").read_text())["chapters"]
    names = [check["name"] for part in checks for p in part["parts"] for check in p["checks"]]
    assert not [name for name in names if name.startswith("diffusion")]


def test_the_same_command_again_does_nothing_new(whole: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.glob("runs/*/log.lammps")}
    before |= {p: p.stat().st_mtime_ns for p in whole.glob("argon_1.safetensors")}
    status, out, err = invoke("fit", whole / "fit.yaml")
    assert status in (2, 3)
    assert out.startswith("USE: ")
    assert err.count("finished before") == len(STAGES)
    assert all(path.stat().st_mtime_ns == time_then for path, time_then in before.items())


def test_the_input_script_needs_no_reference(whole: Path, tmp_path: Path) -> None:
    """With its model and its data alone: potential files and calculators may be elsewhere."""
    for name in ("in.argon", "argon.data", "argon.safetensors"):
        shutil.copy(whole / name, tmp_path)
    done = subprocess.run(
        [lammps_binary(), "-in", "in.argon", "-log", "none", "-var", "steps", "2"],
        cwd=tmp_path,
        env=lammps_environment(LAMMPS_PLUGIN_PATH=plugin_directory()),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "Loop time" in done.stdout
    # From equilibrium: the first line of output has the temperature that was asked for.
    (first,) = re.findall(r"^ +0 +0 +(\S+)", done.stdout, re.MULTILINE)
    assert float(first) == pytest.approx(40.0, rel=0.5)
    assert "lj/cut" not in (whole / "in.argon").read_text()


def test_a_finished_fit_is_told_again_when_its_budget_is_used_up(whole: Path) -> None:
    """The same command: it was an error that the budget ended before the first stage."""
    before = (whole / "state.json").read_text()
    (whole / "state.json").write_text(json.dumps({**json.loads(before), "seconds": 1e6}))
    try:
        status, out, err = invoke("fit", whole / "fit.yaml")
    finally:
        (whole / "state.json").write_text(before)
    assert status in (2, 3) and out.startswith("USE: "), err


def test_a_corrected_command_is_not_held_to_a_wrong_one(tmp_path: Path) -> None:
    """A command that cannot begin leaves no fit.yaml that the right one would contradict."""
    (tmp_path / "argon.lmp").write_text(ARGON)
    words = ("fit", tmp_path / "argon.lmp", "--temperature", "40", "-o", tmp_path / "out")
    status, _, err = invoke(*words, "--elements", "Kr")
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("ERROR")]
    assert "type 1 is named Kr" in line and "39.95" in line and "near that of Ar" in line
    assert not (tmp_path / "out" / "fit.yaml").exists()
    status, _, err = invoke(*words, "--elements", "Ar", "--budget", "0.01s")
    assert status == 1 and "ends before" in err


def test_trajectories_of_any_kind_make_the_same_data(whole: Path, tmp_path: Path) -> None:
    """The reference's own dump, the same frames from ASE, and the data set made of either."""
    dump = next(whole.glob("survey/motion-*/motion.dump"))
    seen = TrajectoryReader(Species.from_types(["Ar"]), "real").read(dump, 1.0)
    frames = [
        Atoms(
            f"Ar{len(x)}", x, velocities=v / ase.units.fs, cell=seen.cell, pbc=True,
            masses=[39.948] * len(x),
        )
        for x, v in zip(seen.positions, seen.velocities, strict=True)
    ]  # fmt: skip
    ase.io.write(tmp_path / "run.traj", frames)
    config = FitConfig(**{**TINY, "horizon": None})
    found = []
    for path in (dump, tmp_path / "run.traj"):
        given = config.model_copy(update={"trajectories": (path,), "interval": 2.0})
        (made,) = from_trajectories(given, "real", tmp_path / f"{path.suffix}.h5", 40.0, 1.0)
        with open_dataset(made) as file:
            segments = list(file["segments"].values())
            found.append(np.concatenate([segment["velocities"][:] for segment in segments]))
        ready = config.model_copy(update={"trajectories": (made,)})
        assert horizon_of(ready) == 40.0
        assert from_trajectories(ready, "real", tmp_path / "x.h5", 40.0, 5.0) == [made]
        with pytest.raises(DatasetError, match="its horizon is 40 fs"):
            from_trajectories(ready, "real", tmp_path / "x.h5", 50.0, 5.0)
    assert horizon_of(config) is None
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)


def test_fine_tuning_on_frames_that_are_there(whole: Path, tmp_path: Path) -> None:
    """No recording; a network and a speed limit other than the defaults; one step of training."""
    start = tmp_path / "start.safetensors"
    assert invoke("clamp-speed", whole / "argon.safetensors", "--factor", 3.5, "-o", start)[0] == 0
    data = sorted(whole.glob("data_40fs_*/*.h5"))
    path = write(
        tmp_path / "fine",
        horizon=None,
        network=None,
        recording=None,
        trajectories=[str(path) for path in data],
        start_from=str(start),
        optimization={"steps": 1, "epoch_steps": 1, "learning_rate": 1e-9, "read_out_pairs": 0},
    )
    run(path)
    chosen = yaml.safe_load(path.read_text())["chosen"]
    before, after = ModelFile.load(start), ModelFile.load(path.parent / "argon.safetensors")
    assert after.metadata.architecture == before.metadata.architecture
    assert chosen["rounds"][0]["horizon"] == 40.0
    assert not list(path.parent.glob("data_*"))
    errors = [
        json.loads((home / "state.json").read_text())["stages"]["training 1"]["result"]
        for home in (whole, path.parent)
    ]
    # The weights of the start, moved by next to nothing.
    assert errors[1]["velocity"] == pytest.approx(errors[0]["velocity"], rel=0.05)


def test_two_fits_in_a_directory_are_refused(whole: Path) -> None:
    from lammps_trajcast.lock import alone_in

    with alone_in(whole, "x"), pytest.raises(FitError, match="in use by another process"):
        run(whole / "fit.yaml")


def test_interrupted_after_each_stage(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage is interrupted before it is noted that it is finished; the result is the same."""
    path = write(tmp_path / "again")
    finish = State.finish
    interrupted: list[str] = []

    def interrupting(self: State, stage: str, *rest: Any) -> None:
        if stage not in interrupted:
            interrupted.append(stage)
            raise KeyboardInterrupt
        finish(self, stage, *rest)

    monkeypatch.setattr(State, "finish", interrupting)
    for number in range(len(STAGES)):
        with pytest.raises(FitError, match=f"stage {STAGES[number]}.*interrupted; the same") as e:
            run(path)
        assert "goes on from there" in str(e.value)
    run(path)
    assert len(interrupted) == len(STAGES)
    assert outcome_of(path.parent) == outcome_of(whole)


def test_an_interrupted_training_has_its_share_of_a_larger_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length was kept however large the budget had become."""
    path = write(tmp_path, optimization={"epoch_steps": 4, "read_out_pairs": 10})
    hours: list[float] = []

    def interrupted(config: TrainingConfig, **_: Any) -> None:
        assert config.optimization.max_hours is not None
        hours.append(config.optimization.max_hours)
        raise KeyboardInterrupt

    monkeypatch.setattr("lammps_trajcast.training.train.train", interrupted)
    for budget in ("1h", "1h", "3h", "3h"):
        config = FitConfig.load(path).model_copy(update={"budget": budget})
        with pytest.raises(FitError, match="stage training 1: interrupted"):
            fit(config, tmp_path, quiet())
    assert 0.5 < hours[0] < 0.58
    assert hours[1] == hours[0]
    assert 1.6 < hours[2] < 3 * 0.58
    assert hours[3] == hours[2]


@pytest.mark.long
def test_killed_in_the_training(whole: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "killed")
    process = subprocess.Popen(
        [Path(sys.executable).parent / "lammps-trajcast", "fit", path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 600.0
    while not list((tmp_path / "killed" / "training_1").glob("step*.ckpt")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "argon.safetensors").exists()
    run(path)
    assert outcome_of(path.parent) == outcome_of(whole)
