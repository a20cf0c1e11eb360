"""Data sets and trajectories, damaged: refused with one line, or read as finite numbers."""

import os
import random
import resource
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import fuzz, mutations
from reliability import fault

from lammps_trajcast.data.build import DatasetOptions, build_dataset
from lammps_trajcast.data.check import check_dataset
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.frames import Species, TrajectoryError
from lammps_trajcast.data.layout import SPLITS, DatasetError
from lammps_trajcast.data.statistics import dataset_statistics

PLACES = 200
OPTIONS = DatasetOptions(
    horizon=30.0, units="real", timestep=1.0, segment_length=0.1, split=(0.6, 0.2, 0.2)
)
SPECIES = Species.from_types(["H", "O"])


def write_dump(path: Path) -> None:
    """Three atoms flying freely, a frame each 10 fs."""
    dice = np.random.default_rng(1)
    start, velocities = dice.uniform(0, 9, (3, 3)), dice.normal(scale=0.003, size=(3, 3))
    lines = []
    for frame in range(60):
        lines += ["ITEM: TIMESTEP", str(10 * frame), "ITEM: NUMBER OF ATOMS", "3"]
        lines += ["ITEM: BOX BOUNDS pp pp pp", "0 10", "0 10", "0 10"]
        lines += ["ITEM: ATOMS id type xu yu zu vx vy vz"]
        for k, kind in enumerate((1, 1, 2)):
            numbers = (*(start[k] + 10 * frame * velocities[k]), *velocities[k])
            lines.append(f"{k + 1} {kind} " + " ".join(f"{x:.8g}" for x in numbers))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "gas.dump"
    write_dump(path)
    return path


@pytest.fixture(scope="module")
def whole(dump) -> bytes:
    output = dump.with_name("gas.h5")
    build_dataset([dump], output, SPECIES, OPTIONS, progress=False)
    return output.read_bytes()


def one_line(error: Exception) -> None:
    assert "\n" not in str(error) and len(str(error)) < 2000, str(error)


def read_all(path: Path) -> bool:
    """Everything that training reads; False if it is refused."""
    try:
        check_dataset(path)
        statistics = dataset_statistics(path)
        for split in SPLITS:
            pairs = TrajectoryPairs(path, split)
            for k in range(0, len(pairs), 5):
                for values in (*pairs[k], *(x for s in pairs.later_states(k, 2) for x in s)):
                    assert torch.isfinite(values.double()).all()
    except DatasetError as error:
        one_line(error)
        return False
    assert np.isfinite(statistics.rms_displacement)
    return True


def in_child(work: Callable[[], bool]) -> bool:
    """Do it in a process of its own, which has little memory: HDF5 is C, it may do anything."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 2
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            status = 0 if work() else 1
        except BaseException:
            os.write(write, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    assert os.WIFEXITED(status), f"killed by signal {os.WTERMSIG(status)}"
    assert os.WEXITSTATUS(status) < 2, said
    return os.WEXITSTATUS(status) == 0


def test_damaged_at_random_places(whole, tmp_path, record_property) -> None:
    """Half of the places in the first part of the file, where HDF5 keeps what it knows of it."""
    dice, path = random.Random(3), tmp_path / "damaged.h5"
    path.write_bytes(whole)
    assert in_child(lambda: read_all(path))
    refused = 0

    def try_all() -> bool:
        nonlocal refused
        for k in range(PLACES):
            damaged = bytearray(whole)
            if k % 4 == 3:
                del damaged[dice.randrange(len(whole)) :]
            else:
                damaged[dice.randrange(len(whole) // (1 + k % 2))] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            refused += not read_all(path)
        return refused > PLACES // 4

    assert in_child(try_all)
    name = f"data set cut off or with a bit flipped at {PLACES} random places"
    result = "refused with one line that names the file, or read as finite numbers"
    fault(record_property, name, result)


def fuzz_dataset(whole: bytes, path: Path, seconds: float) -> int:
    def check(damaged: bytes) -> None:
        path.write_bytes(damaged)
        in_child(lambda: read_all(path))

    return fuzz(check, mutations(whole), seconds=seconds)


def fuzz_trajectory(content: bytes, path: Path, seconds: float) -> int:
    def check(damaged: bytes) -> None:
        path.write_bytes(damaged)
        output = path.with_suffix(".h5")
        try:
            build_dataset([path], output, SPECIES, OPTIONS, progress=False)
        except (DatasetError, TrajectoryError) as error:
            one_line(error)
            return
        assert read_all(output)

    return fuzz(check, mutations(content), seconds=seconds)


def test_fuzzed(whole, dump, tmp_path) -> None:
    assert fuzz_dataset(whole, tmp_path / "x.h5", 0.0)
    assert fuzz_trajectory(dump.read_bytes(), tmp_path / "x.dump", 0.0)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["data set", "trajectory"])
def test_fuzzed_long(kind, whole, dump, tmp_path, fuzz_seconds, record_property) -> None:
    seconds = fuzz_seconds / 2
    if kind == "data set":
        tried = fuzz_dataset(whole, tmp_path / "x.h5", seconds)
    else:
        tried = fuzz_trajectory(dump.read_bytes(), tmp_path / "x.dump", seconds)
    result = f"{tried} files in {seconds:.0f} s: each refused with one line, or finite numbers"
    fault(record_property, f"{kind}, fuzzed", result)
