"""Data sets of several files: read as one, frame by frame; faults are named by file and step."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from reliability import fault

from lammps_trajcast.data import layout
from lammps_trajcast.data.build import new_file
from lammps_trajcast.data.check import check_dataset
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.layout import DatasetError, dataset_files, open_dataset
from lammps_trajcast.data.statistics import dataset_statistics


def write_shard(path: Path, seed: int, segments: int = 2, horizon: float = 20.0) -> None:
    """Random paths; every third step is stored, a horizon is two of them."""
    random = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="lammps-trajcast dataset", format_version=1, horizon=horizon, units="real"
        )
        file.attrs["elements"] = ["Si", "O"]
        file.attrs["masses"] = [28.0, 16.0]
        for k in range(segments):
            segment = file.create_group(f"segments/{k:06d}")
            segment.attrs.update(split="train", source=f"{seed}.{k}.dump", first_step=30)
            segment["species"] = np.array([0, 1, 1, 0, 1])
            segment["cell"] = np.eye(3) * 9.0
            segment["pbc"] = np.ones(3, dtype=bool)
            velocities = random.normal(size=(6, 5, 3)) * 1e-3
            moved = 0.25 * horizon * (velocities[1:] + velocities[:-1])
            start = random.uniform(0.0, 9.0, (1, 5, 3))
            segment["positions"] = np.cumsum(np.concatenate([start, moved]), axis=0)
            segment["velocities"] = velocities
            segment["steps"] = 30 + 3 * np.arange(6)
            segment["pairs"] = [[0, 2], [1, 3], [2, 4], [3, 5]]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.h5" for name in "abc"]
    for seed, path in enumerate(paths):
        write_shard(path, seed, segments=seed + 1)
    return paths


def test_shards_are_read_as_one(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with fewer files open than there are; never more than a frame is read at once."""
    monkeypatch.setattr(layout, "MAX_OPEN_FILES", 2)
    # As for data sets that are not kept in memory.
    monkeypatch.setattr("lammps_trajcast.data.dataset.IN_MEMORY", 0)
    whole = TrajectoryPairs(shards, "train")
    parts = [TrajectoryPairs(path, "train") for path in shards]
    assert len(whole) == sum(map(len, parts)) == 24
    expected = [part[k] for part in parts for k in range(len(part))]
    sizes: list[int] = []
    read = h5py.Dataset.__getitem__

    def watched(self, place, *more):
        value = read(self, place, *more)
        sizes.append(np.size(value))
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    for index in torch.randperm(24).tolist():
        for value, other in zip(whole[index], expected[index], strict=True):
            assert torch.equal(value, other)
    assert max(sizes) == 15
    later = whole.later_states(12, 5)
    torch.testing.assert_close(
        later[0].positions, expected[14].positions + expected[14].displacement
    )
    assert len(later) == 1 and len(whole.later_states(14, 5)) == 0
    (before,) = whole.earlier_states(14, 5)
    assert torch.equal(before.positions, expected[12].positions)


def test_statistics_are_those_of_all_shards(shards: list[Path]) -> None:
    whole, parts = dataset_statistics(shards), [dataset_statistics(path) for path in shards]
    assert whole.pairs == sum(part.pairs for part in parts)
    assert whole.max_speed == max(part.max_speed for part in parts)
    squares = sum(part.pairs * part.rms_displacement**2 for part in parts)
    assert whole.rms_displacement == pytest.approx(np.sqrt(squares / whole.pairs))


def test_ways_to_name_files(shards: list[Path]) -> None:
    directory = shards[0].parent
    assert dataset_files(directory) == shards
    assert dataset_files(str(directory / "[ab].h5")) == shards[:2]
    assert dataset_files([shards[2], directory / "*.h5"]) == [shards[2], *shards[:2]]
    with pytest.raises(DatasetError, match="no file has such a name"):
        dataset_files(directory / "x*.h5")
    (directory / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no .h5 file"):
        dataset_files(directory / "empty")


def test_shards_must_fit_together(shards: list[Path]) -> None:
    write_shard(shards[1], 1, horizon=30.0)
    with pytest.raises(DatasetError, match=f"{shards[1]}: horizon 30.0, but 20.0 in {shards[0]}"):
        TrajectoryPairs(shards, "train")


def set_to_nan(segment: h5py.Group) -> None:
    segment["velocities"][3, 2, 1] = np.nan


def shift_a_step(segment: h5py.Group) -> None:
    segment["steps"][4:] += 3


def lose_an_atom(segment: h5py.Group) -> None:
    frames = segment["velocities"][:, :4]
    del segment["velocities"]
    segment["velocities"] = frames


def flatten_the_cell(segment: h5py.Group) -> None:
    segment["cell"][2] = 0.0


def cut_frames(segment: h5py.Group) -> None:
    for name in ("positions", "velocities"):
        frames = segment[name][:5]
        del segment[name]
        segment[name] = frames


def wrong_species(segment: h5py.Group) -> None:
    segment["species"][1] = 2


def no_pairs(segment: h5py.Group) -> None:
    del segment["pairs"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (set_to_nan, "step 39: velocities hold a number that is not finite"),
        (shift_a_step, "step 45: 9 steps after the state it is paired with, but other pairs are 6"),
        (lose_an_atom, "an atom was lost"),
        (flatten_the_cell, "its cell has no volume"),
        (cut_frames, "pairs refer to frames that the 5 stored ones do not hold"),
        (wrong_species, "species must be 0 … 1"),
        (no_pairs, "lacks pairs"),
    ],
)
def test_faults_name_file_and_step(
    shards: list[Path], spoil: Callable[[h5py.Group], None], message: str
) -> None:
    check_dataset(shards)
    with h5py.File(shards[1], "a") as file:
        spoil(file["segments/000001"])
    with pytest.raises(DatasetError) as error:
        check_dataset(shards)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{shards[1]}, /segments/000001")


def test_segments_larger_than_a_block_are_checked(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lammps_trajcast.data.check.BLOCK", 2 * 5 * 3 * 8)
    with h5py.File(shards[0], "a") as file:
        set_to_nan(file["segments/000000"])
    with pytest.raises(DatasetError, match="step 39: velocities"):
        check_dataset(shards[0])


def test_full_disk_leaves_no_half_made_file(tmp_path: Path, record_property) -> None:
    """A limit on the size of files stands for a full disk."""
    path = tmp_path / "large.h5"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(DatasetError, match=f"cannot write {path}"), new_file(path) as file:
            file["positions"] = np.zeros(100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    result = "one line, no half-made file under the name of a data set"
    fault(record_property, "disk full while a data set is written", result)
    with new_file(path) as file:
        file["positions"] = np.ones(3)
    with h5py.File(path) as file:
        assert file["positions"][:].tolist() == [1, 1, 1]
    with pytest.raises(DatasetError, match="not a data set"):
        open_dataset(path)
