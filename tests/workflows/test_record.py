"""Recording: segments are NVE, starts differ, an interrupted recording goes on, mistakes say so."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import ase.units
import h5py
import numpy as np
import pytest
import torch
from ase.neighborlist import primitive_neighbor_list
from locations import ENVIRONMENT
from recordings import OPTIONS, SCRIPT, SYSTEM, changed
from reliability import workflow
from runs import lammps_environment, read_dump
from trainings import write_config
from typer.testing import CliRunner

from lammps_trajcast.cli import app
from lammps_trajcast.data.build import write_header, write_segment
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.frames import Frame, Species, TrajectoryError
from lammps_trajcast.data.lammps_dump import LammpsDump
from lammps_trajcast.data.layout import DatasetError, open_dataset
from lammps_trajcast.data.trajectory import checked
from lammps_trajcast.lammps_runs.state import Fix
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.recording import record as recording
from lammps_trajcast.recording.ensemble import sort_fixes, with_seed
from lammps_trajcast.recording.label import label
from lammps_trajcast.recording.record import RecordOptions, _Schedule, record
from lammps_trajcast.recording.strain import Box
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.train import train


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that was interrupted in the middle of its fourth shard, and finished."""
    directory = tmp_path_factory.mktemp("record")
    (directory / "in.argon").write_text(SCRIPT)
    before = recording._Worker.segment
    calls = []

    def interrupted(self, *arguments):
        calls.append(arguments[0])
        if len(calls) == 8:
            raise KeyboardInterrupt
        return before(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(recording._Worker, "segment", interrupted)
        with pytest.raises(DatasetError, match="interrupted; 3 shards are finished"):
            record(Path("in.argon"), Path("data"), OPTIONS, progress=False)
        names = sorted(path.name for path in Path("data").iterdir())
        assert names == [
            *("t20.000.h5", "t20.001.h5", "t20.002.state", "t20.log"),
            *("t60.000.h5", "t60.001.state", "t60.log"),
        ]
        shutil.copy("data/t60.001.state", "after_shard_0.state")
        shards = record(Path("in.argon"), Path("data"), OPTIONS, progress=False)
        assert calls == [0, 1, 2, 3, 0, 1, 2, 3, 2, 3]
    assert [shard.name for shard in shards] == [f"t{t}.00{k}.h5" for t in (20, 60) for k in (0, 1)]
    return directory


def lennard_jones(positions: np.ndarray, cell: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, virial and forces of SYSTEM in kcal/mol and Angstrom, by a sum over pairs."""
    receivers, senders, vectors = primitive_neighbor_list(
        "ijD", [True] * 3, cell, positions, cutoff=8.0
    )
    square = np.sum(vectors**2, axis=1)
    power = (3.4**2 / square) ** 3
    energy = 0.5 * np.sum(4.0 * 0.0104 * (power**2 - power))
    # Of the receiver, away from the sender.
    pair_forces = -(24.0 * 0.0104 * (2.0 * power**2 - power) / square)[:, None] * vectors
    forces = np.zeros_like(positions)
    np.add.at(forces, receivers, pair_forces)
    virial = -0.5 * np.einsum("pa,pb->ab", vectors, pair_forces)
    ev = 1.0 / (ase.units.kcal / ase.units.mol)
    return ev * energy, ev * virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], ev * forces


def test_energy_virial_and_forces_are_recorded(recorded: Path) -> None:
    with open_dataset(recorded / "data") as file:
        for segment in file["segments"].values():
            assert len(segment["energy"]) == len(segment["positions"])
            for k in (0, len(segment["energy"]) - 1):
                energy, virial, forces = lennard_jones(segment["positions"][k], segment["cell"][:])
                assert segment["energy"][k] == pytest.approx(energy, rel=1e-6)
                np.testing.assert_allclose(segment["virial"][k], virial, rtol=1e-6, atol=1e-5)
                np.testing.assert_allclose(segment["forces"][k], forces, atol=1e-5)


# Two atoms in the middle of a vacuum.
ISOLATED = (
    SCRIPT.replace("create_atoms 1 box", "create_atoms 1 single 1 1 1\ncreate_atoms 2 single 2 2 2")
    .replace("units metal", "units metal\nboundary f f f")
    .replace("restart 50 argon.*.restart\n", "")
)


def cells(directory: Path) -> np.ndarray:
    """Of the segments in a recording, (S, 3, 3)."""
    with open_dataset(directory) as file:
        return np.array([segment["cell"][:] for segment in file["segments"].values()])


@pytest.fixture(scope="module")
def strained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strained cells, recorded at once in `whole`, and in two calls in `parts`."""
    directory = tmp_path_factory.mktemp("strained")
    (directory / "in.argon").write_text(SCRIPT)
    options = changed(strain=0.02, temperatures=[20.0], segment_length=0.04)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        record(Path("in.argon"), Path("whole"), options, progress=False)
        before = recording._Worker.segment

        def interrupted(self, number, *arguments):
            if number == 3:
                raise KeyboardInterrupt
            return before(self, number, *arguments)

        patch.setattr(recording._Worker, "segment", interrupted)
        with pytest.raises(DatasetError, match="interrupted"):
            record(Path("in.argon"), Path("parts"), options, progress=False)
        patch.setattr(recording._Worker, "segment", before)
        record(Path("in.argon"), Path("parts"), options, progress=False)
        with pytest.raises(DatasetError, match="recorded with strain 0.02, not 0.0"):
            record(Path("in.argon"), Path("parts"), replace(options, strain=0.0), progress=False)
    return directory


def test_cells_are_strained(recorded: Path, strained: Path) -> None:
    """By up to 2 % of the script's cell, in six ways, each segment by another strain."""
    (original,) = np.unique(cells(recorded / "data"), axis=0)
    found = cells(strained / "whole")
    # Rows are edges: what the deformation gradient makes of them, less themselves.
    strain = np.array([np.linalg.solve(original, cell) - np.eye(3) for cell in found])
    upper = strain[:, [0, 1, 2, 1, 2, 2], [0, 1, 2, 0, 0, 1]]
    assert np.abs(upper).max() <= 0.02 + 1e-9 and np.abs(upper).max(axis=0).min() > 0.004
    assert np.abs(strain[:, [0, 0, 1], [1, 2, 2]]).max() < 1e-9
    assert len(np.unique(np.round(upper, 6), axis=0)) == len(found) == 4
    np.testing.assert_allclose(cells(strained / "parts"), found, atol=1e-9)


def test_atoms_are_strained_with_their_cell(strained: Path) -> None:
    """Energy and virial of LAMMPS are those of the positions and the cell that are stored."""
    with open_dataset(strained / "whole") as file:
        for segment in file["segments"].values():
            energy, virial, _ = lennard_jones(segment["positions"][0], segment["cell"][:])
            assert segment["energy"][0] == pytest.approx(energy, rel=1e-6)
            np.testing.assert_allclose(segment["virial"][0], virial, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("script", "strain", "message"),
    [
        (SCRIPT, 0.5, "--strain 0.5: must be between 0 and 0.05"),
        (SCRIPT.replace("all nve", "all nph iso 0 0 1"), 0.01, "fix integrate .nph. changes the"),
        (ISOLATED, 0.01, "no periodic direction"),
    ],
)
def test_what_cannot_be_strained(
    script: str, strain: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.argon").write_text(script)
    with pytest.raises(DatasetError, match=message):
        record(Path("in.argon"), Path("data"), changed(strain=strain), progress=False)


def test_a_strain_leaves_other_directions_alone() -> None:
    """A slab, and a box without tilts."""
    box = Box((0.0, 1.0, 0.0), (4.0, 9.0, 5.0), (0.0, 0.0, 0.0), (True, True, False), False)
    strained = box.strained((0.01, -0.01, 0.02, 0.03, 0.03, 0.03))
    assert strained.high == pytest.approx((4.04, 8.92, 5.0)) and strained.tilts == box.tilts
    assert re.fullmatch(
        r"change_box all x final 0 4\.04\d* y final 1 8\.9[12]\d* remap units box",
        strained.command(),
    )
    tilted = replace(box, triclinic=True).strained((0.0, 0.0, 0.0, 0.03, 0.03, 0.03))
    assert tilted.tilts == pytest.approx((0.24, 0.0, 0.0))
    assert re.search(r" xy final 0\.2[34]\d* remap units box$", tilted.command())


def without_labels(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    with h5py.File(target, "r+") as file:
        for segment in file["segments"].values():
            for name in ("energy", "virial", "forces"):
                segment.pop(name, None)
    return target


def test_label_finds_what_a_recording_would_have_stored(recorded: Path, tmp_path: Path) -> None:
    """A skewed cell; atoms that have left it."""
    (tmp_path / "system.lmp").write_text(SYSTEM)
    names = ["t20.000.h5", "t60.001.h5"]
    bare = [without_labels(recorded / "data" / name, tmp_path / name) for name in names]
    words = ["label", *map(str, bare), "--system", str(tmp_path / "system.lmp")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for name, path in zip(names, bare, strict=True):
        with h5py.File(recorded / "data" / name) as expected, h5py.File(path) as found:
            assert dict(found.attrs).keys() == dict(expected.attrs).keys()
            for segment in found["segments"]:
                ours, theirs = found["segments"][segment], expected["segments"][segment]
                assert set(ours) == set(theirs)
                np.testing.assert_allclose(ours["energy"], theirs["energy"], rtol=1e-9)
                np.testing.assert_allclose(ours["virial"], theirs["virial"], atol=1e-5)
                np.testing.assert_allclose(ours["forces"], theirs["forces"], atol=1e-5)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0 and "already" in again.output


def test_label_of_a_molecule(tmp_path: Path) -> None:
    """No cell, hence no virial; the molecule flies beyond the box of the input."""
    script = """
units real
boundary f f f
region box block -4 4 -4 4 -4 4
create_box 1 box
create_atoms 1 single 0 0 0
create_atoms 1 single 3.7 0 0
mass 1 39.948
pair_style lj/cut 12.0
pair_coeff 1 1 0.238 3.405
"""
    (tmp_path / "system.lmp").write_text(script)
    positions = np.array([[[0.0, 0.0, 0.0], [3.8, 0.0, 0.0]], [[5.0, 0.0, 9.0], [8.9, 0.0, 9.0]]])
    frames = [
        Frame(
            step=step,
            time=10.0 * step,
            ids=np.array([1, 2]),
            species=np.zeros(2, dtype=np.int64),
            masses=None,
            positions=positions[step],
            unwrapped=True,
            velocities=np.zeros((2, 3)),
            cell=8.0 * np.eye(3),
            pbc=np.zeros(3, dtype=bool),
        )
        for step in range(2)
    ]
    path = tmp_path / "pair.h5"
    with h5py.File(path, "w") as file:
        group = write_header(file, 10.0, Species.from_types(["Ar"]))
        file.attrs["masses"] = [39.948]
        write_segment(group, frames, 1, 1, "by hand")
        group["000000"].attrs["split"] = "train"
    label(path, tmp_path / "system.lmp", progress=False)
    with open_dataset(path) as file:
        segment = file["segments/000000"]
        power = (3.405 / np.array([3.8, 3.9])) ** 6
        expected = 4.0 * 0.238 * (power**2 - power)
        np.testing.assert_allclose(segment["energy"], expected, rtol=1e-9)
        assert "virial" not in segment
        assert segment["forces"].shape == (2, 2, 3)


def test_label_takes_the_forces_of_the_potential_alone(recorded: Path, tmp_path: Path) -> None:
    """A thermostat that the input leaves on would push the atoms in each frame."""
    (tmp_path / "system.lmp").write_text(f"{SYSTEM}\nfix b all langevin 900 900 0.01 7\n")
    path = without_labels(recorded / "data" / "t20.000.h5", tmp_path / "a.h5")
    label(path, tmp_path / "system.lmp", progress=False)
    with h5py.File(recorded / "data" / "t20.000.h5") as expected, h5py.File(path) as found:
        for name in found["segments"]:
            ours, theirs = (file[f"segments/{name}/forces"] for file in (found, expected))
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("timestep 0.002", "fix f all setforce 0 0 0"), r"fix f \(setforce\) may change"),
        (("0 3 0 3 0 3", "0 2 0 3 0 3"), "has 108 atoms, .*system.lmp 72; name the input"),
        (("mass 1 39.95", "mass 1 83.8"), "its atom \\d+ has a mass of 39.95 g/mol, atom \\d+ of"),
        (("units metal", "units lj"), "has units lj"),
        (("lj/cut 8.0", "lj/cat 8.0"), "LAMMPS stopped: .*lj/cat"),
    ],
)
def test_wrong_systems_are_not_labeled(
    recorded: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    assert change[0] in SYSTEM
    (tmp_path / "system.lmp").write_text(SYSTEM.replace(*change))
    path = without_labels(recorded / "data" / "t20.000.h5", tmp_path / "a.h5")
    before = path.read_bytes()
    with pytest.raises(DatasetError, match=message):
        label(path, tmp_path / "system.lmp", progress=False)
    assert path.read_bytes() == before
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.name != "log.lammps") in (
        [".h5", ".lmp"],
        [".h5", ".lmp", ".lock"],
    )


def test_what_is_recorded(recorded: Path) -> None:
    splits = []
    with open_dataset(recorded / "data") as file:
        assert file.attrs["horizon"] == 20.0
        assert file.attrs["masses"].tolist() == [39.95, 20.18]
        starts, temperatures = [], []
        for segment in file["segments"].values():
            splits.append(segment.attrs["split"])
            # 0.2 ps in 2 fs steps, stored every 5: a divisor of 10 near a third of the horizon.
            steps = segment["steps"][:]
            assert len(steps) == 21 and set(np.diff(steps)) == {5} and steps[0] % 5 == 0
            assert segment["pairs"][:].tolist() == [[k, k + 2] for k in range(19)]
            masses = np.array([39.95, 20.18])[segment["species"][:]]
            velocities = segment["velocities"][:]
            momentum = np.einsum("n,fnc->fc", masses, velocities) / masses.sum()
            assert np.abs(momentum).max() < 1e-9
            kinetic = np.einsum("n,fnc,fnc->f", masses, velocities, velocities)
            temperatures.append(kinetic.mean() / (3 * len(masses) * 8.31446e-7))
            starts.append(velocities[0] / np.linalg.norm(velocities[0]))
    assert sorted(splits[:4]) == ["test", "train", "train", "validation"] == sorted(splits[4:])
    assert 10 < np.mean(temperatures[:4]) < 30 < 40 < np.mean(temperatures[4:]) < 80
    # New momenta for every segment, in a crystal that forgets them in about a tenth of a ps.
    alike = [abs(np.sum(a * b)) for k, a in enumerate(starts) for b in starts[:k]]
    assert max(alike) < 0.5, alike
    pairs = TrajectoryPairs(recorded / "data" / "t*.h5", "train")
    assert len(pairs) == 4 * 19


def test_segments_are_constant_energy(recorded: Path, tmp_path: Path) -> None:
    """LAMMPS's own integrator, started from the first state of a pair, arrives at the second."""
    with open_dataset(recorded / "data/t60.001.h5") as file:
        segment = file["segments/000001"]
        x, v = segment["positions"][3], segment["velocities"][3] * 1e3
        x_after, v_after = segment["positions"][5], segment["velocities"][5]
    rows = [f"{k + 1} {' '.join(map(repr, map(float, (*x[k], *v[k]))))}" for k in range(len(x))]
    bounds = ["0 19.61", "0 16.96", "0 15.9"]
    tilts = ["2.65", "0", "1.06"]
    (tmp_path / "start.dump").write_text(
        f"ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n{len(x)}\n"
        "ITEM: BOX BOUNDS xy xz yz pp pp pp\n"
        + "\n".join(f"{b} {t}" for b, t in zip(bounds, tilts, strict=True))
        + "\nITEM: ATOMS id xu yu zu vx vy vz\n"
        + "\n".join(rows)
        + "\n"
    )
    (tmp_path / "in.nve").write_text(
        f"{SYSTEM}\nread_dump start.dump 0 x y z vx vy vz wrapped no box no replace yes\n"
        "fix 1 all nve\nrun 10\n"
        "write_dump all custom end.dump id xu yu zu vx vy vz modify sort id format float %.15g\n"
    )
    subprocess.run(
        [str(ENVIRONMENT / "bin/lmp"), "-in", "in.nve", "-log", "none"],
        cwd=tmp_path, env=lammps_environment(), check=True, capture_output=True, timeout=3600,
    )  # fmt: skip
    positions, velocities = read_dump(tmp_path / "end.dump")
    moved = positions - x
    edges = np.array([[15.9, 0, 0], [2.65, 15.9, 0], [0, 1.06, 15.9]])
    moved -= np.round(moved @ np.linalg.inv(edges)) @ edges
    np.testing.assert_allclose(moved, x_after - x, atol=1e-9)
    np.testing.assert_allclose(velocities * 1e-3, v_after, atol=1e-10)


def test_recording_goes_on_where_it_was(recorded: Path) -> None:
    """The state that the second call began with is the end of the last finished segment."""
    with h5py.File(recorded / "data/t60.000.h5") as file:
        segment = file["segments/000001"]
        last, step = segment["velocities"][-1], int(segment["steps"][-1])
    text = (recorded / "after_shard_0.state").read_text().splitlines()
    assert int(text[1]) == step
    state = np.array([[float(word) for word in line.split()] for line in text[9:]])
    np.testing.assert_allclose(state[:, 8:11] * 1e-3, last, rtol=1e-9)
    assert f"t60.001.state {step} x y z" in (recorded / "data/t60.log").read_text()
    # The script's own output was taken off: one dump every 7 steps until step 103.
    assert (recorded / "mine.dump").read_text().count("ITEM: TIMESTEP") == 15
    restarts = sorted(path.name for path in recorded.glob("*.restart"))
    assert restarts == ["argon.100.restart", "argon.50.restart"]


def test_finished_recording_is_left_alone(recorded: Path, monkeypatch) -> None:
    monkeypatch.chdir(recorded)
    before = {path: path.stat().st_mtime_ns for path in Path("data").iterdir()}
    words = ["record", "in.argon", "--elements", "Ar", "Ne", "--horizon", "20", "-o", "data"]
    words += ["--temperatures", "20", "60", "--segments", "4", "--segment-length", "0.2"]
    words += ["--decorrelate", "0.1", "--segments-per-shard", "2", "--split", "0.5", "0.25", "0.25"]
    result = CliRunner().invoke(app, [*words, "--var", "seed=99"])
    assert result.exit_code == 0, result.stderr
    assert "4 files" in result.stdout and "temperature" in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in Path("data").iterdir()}
    other = CliRunner().invoke(app, [*words, "--var", "seed=99", "--interval", "20"])
    assert other.exit_code == 1
    assert "was recorded with interval None, not 20" in other.stderr


@pytest.mark.parametrize(
    ("script", "changes", "message"),
    [
        (SCRIPT + "unfix bath\n", {}, "leaves no thermostat on"),
        (SCRIPT + "fix push all addforce 0 0 1\n", {}, r"write --keep push to leave it on"),
        (SCRIPT.replace("$T $T", "20 20").replace("(2*v_T)", "(40)"), {}, "not use the variable T"),
        (SCRIPT, {"elements": ["Ar"]}, "has 2 atom types, but --elements names 1"),
        (SCRIPT, {"horizon": 15.0}, "not a multiple of the script's time step of 2 fs"),
        (SCRIPT + "quit\n", {}, "must not 'quit'"),
        (SCRIPT + "nonsense\n", {}, r"LAMMPS stopped: ERROR: Unknown command"),
        ("units metal\n", {}, "LAMMPS has no simulation box"),
        (SCRIPT, {"lmp": "no-such-lmp"}, "--lmp no-such-lmp: no such program"),
        (SCRIPT, {"segments": 2}, "2 segment.s. for 3 splits"),
        (SCRIPT, {"keep": ["other"]}, "--keep other: the script leaves no fix of that name"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch, script: str, changes, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.argon").write_text(script)
    with pytest.raises(DatasetError, match=message) as error:
        record(Path("in.argon"), Path("data"), changed(**changes), progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("data/*.h5*"))


def fix(command: str) -> Fix:
    words = command.split()
    return Fix(name=words[1], style=words[3], group=words[2], commands=[command])


def test_fixes_are_sorted() -> None:
    fixes = [
        fix("fix 1 all nvt/omp temp 300 300 0.1"),
        fix("fix q all qeq/reaxff 1 0 10 1e-6 reaxff"),
        fix("fix 2 all shake 1e-4 20 0 b 1"),
        fix("fix out all ave/time 1 1 1 c_1"),
        fix("fix hold all spring/self 10"),
    ]
    ensemble = sort_fixes(fixes, ["hold"])
    assert ensemble.start() == ["unfix out", "unfix 2", "unfix 1"]
    assert ensemble.bath_on(3) == [fixes[0].commands[0], fixes[2].commands[0]]
    assert ensemble.bath_off() == ["unfix 2", "unfix 1"]
    assert ensemble.nve_on() == ["fix trajcast_record_nve all nve", fixes[2].commands[0]]
    assert ensemble.nve_off() == ["unfix 2", "unfix trajcast_record_nve"]
    with pytest.raises(DatasetError, match="no integrator on for all atoms"):
        sort_fixes([fix("fix 1 mobile nvt temp 300 300 0.1")], [])


@pytest.mark.parametrize(
    ("styles", "named"),
    [
        (["langevin 300 300 0.1 9"], None),
        (["langevin/omp 300 300 0.1 9", "temp/csvr 300 300 0.1 9"], None),
        (["gld 300 300 2 1 1 9"], None),
        (["temp/csvr 300 300 0.1 9"], "2"),
        (["momentum 100 linear 1 1 1", "temp/berendsen 300 300 0.1"], "3"),
        (["nvt/omp temp 300 300 0.1"], "2"),
    ],
)
def test_thermostats_that_draw_no_new_start(styles: list[str], named: str | None) -> None:
    """One that scales all velocities alike leaves a crystal's modes as they were."""
    fixes = [fix("fix 1 all nve")]
    fixes += [fix(f"fix {number} all {style}") for number, style in enumerate(styles, 2)]
    bath = sort_fixes(fixes, []).global_bath
    assert (bath and bath.name) == named


def test_a_global_thermostat_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    langevin = "langevin $T $T &\n    0.05 ${seed} zero yes"
    lines = SCRIPT.replace(langevin, "temp/csvr $T $T 0.05 ${seed}")
    assert lines != SCRIPT
    for name, script in (("global", lines), ("local", SCRIPT)):
        Path("in.argon").write_text(script)
        record(Path("in.argon"), Path(name), changed(temperatures=[20.0]), progress=False)
        warned = "fix bath (temp/csvr) scales all velocities alike" in capsys.readouterr().err
        assert warned == (name == "global")


@pytest.mark.parametrize(
    "command", ["fix 1 all langevin 300 300 0.1 9 zero yes", "fix 1 all temp/csvr 300 300 0.1 9"]
)
def test_every_segment_has_its_own_noise(command: str) -> None:
    seeds = {re.sub(r"^(\S+ ){7}(\d+).*", r"\2", with_seed(command, k)) for k in range(50)}
    assert len(seeds) == 50 and all(0 < int(seed) <= 900_000_000 for seed in seeds)
    assert with_seed(command, 0) == command
    assert with_seed("fix 1 all nvt temp 300 300 0.1", 3) == "fix 1 all nvt temp 300 300 0.1"


@pytest.mark.parametrize(
    ("horizon", "timestep", "interval"), [(30, 1, 10), (10, 1, 5), (7, 1, 7), (7, 0.25, 3.5)]
)
def test_frames_per_horizon(horizon: float, timestep: float, interval: float) -> None:
    schedule = _Schedule.of(RecordOptions(horizon=horizon, elements=["H"]), timestep)
    assert schedule.interval * timestep == interval
    assert schedule.segment % schedule.interval == 0


# ---- open boundaries -----------------------------------------------------------------------------

# A cluster that drifts, turns and breathes, in a box that means nothing.
CLUSTER = """
variable T index 20
units metal
boundary BOUNDARY
# Noise is dealt out in the order of the atoms in memory.
atom_modify sort 0 0.0
lattice fcc 5.3
region box block -4 6 -4 6 -4 6
create_box 1 box
region ball sphere 1 1 1 1.1
create_atoms 1 region ball
mass 1 39.95
pair_style lj/cut 8.0
pair_coeff * * 0.0104 3.4
timestep 0.002
neigh_modify every 1 delay 0 check no
velocity all create 40 4711 mom no
fix 1 all nve
fix 2 all langevin $T $T 0.1 48279
run 20
"""


def recorded_cluster(directory: Path, boundary: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory.mkdir()
    monkeypatch.chdir(directory)
    Path("in.cluster").write_text(CLUSTER.replace("BOUNDARY", boundary))
    options = changed(elements=["Ar"], temperatures=(), variables={}, segments_per_shard=4)
    record(Path("in.cluster"), Path("data"), options, progress=False)
    return directory / "data"


@pytest.mark.parametrize("boundary", ["s s s", "m m m", "p p s", "p s m"])
def test_open_boundaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boundary: str, record_property
) -> None:
    """No atom sees a boundary: the same motion as in a fixed box, whose corner does not move."""
    kinds = np.array([kind == "p" for kind in boundary.split()])
    data = [
        recorded_cluster(tmp_path / name, kind, monkeypatch)
        for name, kind in (("fixed", "f f f"), ("other", boundary))
    ]
    with open_dataset(data[0]) as fixed, open_dataset(data[1]) as other:
        assert len(fixed["segments"]) == len(other["segments"]) == 4
        for name, known in fixed["segments"].items():
            found = other["segments"][name]
            assert found["pbc"][:].tolist() == kinds.tolist()
            np.testing.assert_allclose(found["velocities"][:], known["velocities"][:], atol=1e-9)
            moves = [np.diff(s["positions"][:], axis=0) for s in (found, known)]
            np.testing.assert_allclose(*moves, atol=1e-7)
            assert np.abs(moves[0]).max() > 1e-2
            edges = np.diag(found["cell"][:])
            np.testing.assert_allclose(edges[kinds], 53.0)
            # Distances to neighbors are those of the fixed box, whatever the other one was.
            graphs = [
                build_graph(s["positions"][-1], s["cell"][:], s["pbc"][:], 6.0)
                for s in (found, known)
            ]
            lengths = [np.sort(g.edge_vectors.norm(dim=1).numpy()) for g in graphs]
            assert len(lengths[0]) > 20
            np.testing.assert_allclose(*lengths, atol=1e-7)
    if boundary == "s s s":
        assert np.abs(edges - 53.0).max() > 10.0
    result = "displacements and velocities of a run in a fixed box, within 1e-7"
    workflow(record_property, f"a data set of a run with boundary {boundary}", result)


def test_training_on_open_boundaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink-wrapped, and periodic in two directions: the same model as of the fixed box."""
    models = []
    for boundary in ("f f f", "s s s", "p p s"):
        directory = tmp_path / boundary.replace(" ", "")
        data = recorded_cluster(directory, boundary, monkeypatch)
        settings = {"steps": 3, "epoch_steps": 3, "pushforward_steps": 1, "batch_size": 2}
        settings["read_out_pairs"] = 0  # ill-conditioned after so short a training
        config = TrainingConfig.load(write_config(directory, data, **settings))
        network = config.network.model_copy(update={"edge_cutoff": 5.0})
        config = config.model_copy(update={"network": network})
        train(config, progress=False)
        models.append(ModelFile.load(config.output))
    for model in models[1:]:
        for name, weights in models[0].state_dict.items():
            torch.testing.assert_close(model.state_dict[name], weights, rtol=1e-4, atol=1e-6)
        limits = [m.metadata.limits for m in (model, models[0])]
        assert limits[0].min_distance[0][0] == pytest.approx(limits[1].min_distance[0][0])


def test_recording_with_open_boundaries_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a state whose box is another than that of the script."""
    whole = recorded_cluster(tmp_path / "whole", "s s s", monkeypatch)
    monkeypatch.chdir(tmp_path / "whole")
    options = changed(elements=["Ar"], temperatures=(), variables={}, segments_per_shard=2)
    before = recording._Worker.segment

    def interrupted(self, number, *arguments):
        if number == 2:
            raise KeyboardInterrupt
        return before(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recording._Worker, "segment", interrupted)
        with pytest.raises(DatasetError, match="interrupted; 1 shards are finished"):
            record(Path("in.cluster"), Path("parts"), options, progress=False)
    record(Path("in.cluster"), Path("parts"), options, progress=False)
    with open_dataset(whole) as one, open_dataset(Path("parts")) as other:
        for name, known in one["segments"].items():
            found = other["segments"][name]["velocities"][:]
            np.testing.assert_allclose(found, known["velocities"][:], atol=1e-8)


def test_changed_cell_is_refused_in_periodic_directions_alone(tmp_path: Path) -> None:
    """A hand-written dump: free flight, and a box of which one edge grows."""
    velocity = np.array([0.1, 0.2, 0.3])
    for kinds, edge, refused in (
        ("pp pp ss", 2, False),
        ("ss ff mm", 0, False),
        ("pp pp ss", 1, True),
    ):
        lines = []
        for frame in range(5):
            low, high = np.array([-3.0, -2.0, -1.0]), np.array([7.0, 8.0, 9.0])
            low[edge] -= 0.5 * frame
            high[edge] += 0.25 * frame
            lines += ["ITEM: TIMESTEP", str(10 * frame), "ITEM: NUMBER OF ATOMS", "2"]
            lines += [f"ITEM: BOX BOUNDS {kinds}"]
            lines += [f"{a} {b}" for a, b in zip(low, high, strict=True)]
            x = " ".join(map(repr, map(float, velocity * frame * 0.01)))
            lines += ["ITEM: ATOMS id type xu yu zu vx vy vz", f"1 1 {x} 0.1 0.2 0.3"]
            lines += ["2 1 3 3 3 0 0 0"]
        path = tmp_path / "x.dump"
        path.write_text("\n".join(lines) + "\n")
        file = LammpsDump(path, Species.from_types(["Ar"]), "metal", 1.0)
        if refused:
            with pytest.raises(TrajectoryError, match="the cell has changed"):
                list(checked(file))
            continue
        frames = list(checked(file))
        for frame in frames:
            flown = velocity * 1e-3 * frame.time
            np.testing.assert_allclose(frame.positions[0] - frames[0].positions[0], flown)
