"""The linear map: exact for a harmonic crystal, and as wrong as the noise that is put in."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from lammps_trajcast.cli import app
from lammps_trajcast.data.baseline import (
    NoCrystalError,
    ballistic_baseline,
    cheap_comparison,
    linear_baseline,
)
from lammps_trajcast.data.layout import DatasetError

HORIZON = 12.0  # fs
ATOMS = 8  # on the corners of a cube of 2.5 Angstrom
MASSES = np.repeat([28.0, 16.0], ATOMS // 2)


def harmonic_crystal(
    path: Path, amplitude: float = 0.05, noise: float = 0.0, segments: int = 5, pairs: int = 40
) -> None:
    """Normal modes with known frequencies: x - x0 and v rotate in phase space."""
    random = np.random.default_rng(2)
    cell = np.array([[5.0, 0, 0], [1.0, 5.0, 0], [0, -0.5, 5.0]])
    lattice = np.array([[i, j, k] for i in (0, 0.5) for j in (0, 0.5) for k in (0, 0.5)]) @ cell
    weight = np.repeat(np.sqrt(MASSES), 3)
    # Mass-weighted modes: uniform translations first, which get no amplitude.
    basis = np.concatenate([np.kron(np.sqrt(MASSES), np.eye(3)), random.normal(size=(21, 24))])
    modes = np.linalg.qr(basis.T)[0][:, 3:]
    omega = random.uniform(0.05, 0.2, 21)  # 1/fs
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="lammps-trajcast dataset", format_version=1, horizon=HORIZON, units="real"
        )
        file.attrs["elements"], file.attrs["masses"] = ["Si", "O"], [28.0, 16.0]
        for k in range(segments):
            split = ["train", "train", "train", "validation", "test"][k % 5]
            phase = random.uniform(0, 2 * np.pi, 21)
            size = amplitude * random.uniform(0.5, 1.5, 21)
            q, p = [], []
            for t in HORIZON * np.arange(pairs + 1):
                q.append(modes @ (size * np.cos(omega * t + phase)) / weight * 4.0)
                p.append(modes @ (-size * omega * np.sin(omega * t + phase)) / weight * 4.0)
            x = lattice + np.reshape(q, (-1, ATOMS, 3))
            # Where a run happens to have put the images and the crystal as a whole.
            x += random.integers(-2, 3, (ATOMS, 3)) @ cell + random.normal(size=3)
            v = np.reshape(p, (-1, ATOMS, 3))
            v = v + noise * random.normal(size=v.shape) * np.std(v)
            segment = file.create_group(f"segments/{k:06d}")
            segment.attrs.update(split=split, source="modes", first_step=0)
            segment["species"] = np.repeat([0, 1], ATOMS // 2)
            segment["cell"], segment["pbc"] = cell, np.ones(3, dtype=bool)
            segment["positions"], segment["velocities"] = x, v
            segment["pairs"] = np.column_stack([np.arange(pairs), np.arange(1, pairs + 1)])


def test_harmonic_crystal_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "modes.h5"
    harmonic_crystal(path)
    words = ["baseline", str(path), "--json", str(tmp_path / "baseline.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "baseline.json").read_text())
    assert found["training_pairs"] == 120 and found["test_pairs"] == 40
    assert found["unknowns"] == 49 and found["atoms"] == ATOMS
    assert found["displacement"] < 1e-3 and found["velocity"] < 1e-3
    assert found["ballistic_velocity"] > 0.5
    assert f"velocity {found['velocity']:.4f}" in result.stdout


def test_many_files_of_which_few_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of more files than may be open at once ended with an error of HDF5."""
    whole = tmp_path / "whole.h5"
    harmonic_crystal(whole, noise=0.01)
    shards = []
    with h5py.File(whole) as file:
        for name in file["segments"]:
            shards.append(tmp_path / f"{name}.h5")
            with h5py.File(shards[-1], "w") as shard:
                shard.attrs.update(file.attrs)
                file.copy(f"segments/{name}", shard, f"segments/{name}")
    expected = linear_baseline(whole)
    monkeypatch.setattr("lammps_trajcast.data.layout.MAX_OPEN_FILES", 1)
    assert linear_baseline(shards) == expected
    assert cheap_comparison(shards, ATOMS, 120) == cheap_comparison(whole, ATOMS, 120)


def test_errors_are_in_units_of_the_rms(tmp_path: Path) -> None:
    """Going straight on, worked out from the file; the map cannot be better than the noise."""
    path = tmp_path / "modes.h5"
    harmonic_crystal(path, noise=0.3, segments=25)
    found = linear_baseline(path)
    squares = np.zeros(4)
    with h5py.File(path) as file:
        for segment in file["segments"].values():
            if segment.attrs["split"] == "test":
                x, v = segment["positions"][:], segment["velocities"][:]
                moved = np.diff(x, axis=0)
                error = moved - HORIZON * v[:-1]
                squares += [
                    *(np.sum(error**2), np.sum(moved**2)),
                    *(np.sum(np.diff(v, axis=0) ** 2), np.sum(v[1:] ** 2)),
                ]
    assert found.ballistic_displacement == pytest.approx(np.sqrt(squares[0] / squares[1]))
    assert found.ballistic_velocity == pytest.approx(np.sqrt(squares[2] / squares[3]))
    least = 0.3 / np.sqrt(1.0 + 0.3**2)
    assert least < found.velocity < 1.5 * least


def test_few_pairs_need_the_ridge(tmp_path: Path) -> None:
    path = tmp_path / "modes.h5"
    harmonic_crystal(path, noise=0.1, segments=25)
    few = linear_baseline(path, training_pairs=30)
    some = linear_baseline(path, training_pairs=200)
    assert few.training_pairs == 30 and few.ridge > 0.0
    assert some.velocity < few.velocity < 1.0
    with pytest.raises(DatasetError, match="--pairs 601: the data set has 600 pairs"):
        linear_baseline(path, training_pairs=601)


def test_a_liquid_has_straight_flight(tmp_path: Path) -> None:
    """No linear map, and why; the errors of x + v t, v, worked out from the file."""
    path = tmp_path / "melt.h5"
    harmonic_crystal(path, amplitude=2.0)
    with pytest.raises(NoCrystalError, match="this is not a crystal"):
        linear_baseline(path)
    words = ["baseline", str(path), "--json", str(tmp_path / "baseline.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("no linear map: atoms stray ")
    assert "\r" not in result.stderr
    found = json.loads((tmp_path / "baseline.json").read_text())
    with h5py.File(path) as file:
        (test,) = [s for s in file["segments"].values() if s.attrs["split"] == "test"]
        x, v = test["positions"][:], test["velocities"][:]
    moved = np.diff(x, axis=0)
    expected = np.linalg.norm(moved - HORIZON * v[:-1]) / np.linalg.norm(moved)
    assert found["ballistic_displacement"] == pytest.approx(expected)
    expected = np.linalg.norm(np.diff(v, axis=0)) / np.linalg.norm(v[1:])
    assert found["ballistic_velocity"] == pytest.approx(expected)
    assert found["test_pairs"] == 40 and found["horizon"] == HORIZON
    assert f"velocity {expected:.4f}" in result.stdout
    assert ballistic_baseline(path).as_dict() == found


def test_what_training_compares_with(tmp_path: Path) -> None:
    """The linear map where it is better and cheap, else straight flight."""
    crystal, melt = tmp_path / "crystal.h5", tmp_path / "melt.h5"
    harmonic_crystal(crystal)
    harmonic_crystal(melt, amplitude=2.0)
    found = cheap_comparison(crystal, ATOMS, 120)
    assert found.kind == "linear map" and found.velocity < 1e-3
    for path, atoms in ((melt, ATOMS), (crystal, 10_000)):
        flight = ballistic_baseline(path)
        assert cheap_comparison(path, atoms, 120) == (
            *("straight flight", flight.displacement, flight.velocity),
        )


def test_other_atoms_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        harmonic_crystal(tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "b.h5", "a") as file:
        file["segments/000001/species"][0] = 1
    with pytest.raises(DatasetError, match="b.h5, /segments/000001: holds other atoms"):
        linear_baseline([tmp_path / "a.h5", tmp_path / "b.h5"])
