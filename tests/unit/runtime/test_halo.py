"""The exchange between ranks alone, with plans as odd as they come."""

import subprocess
import sys
from pathlib import Path

import pytest
from locations import ENVIRONMENT
from runs import lammps_environment

# Every rank has its own number of atoms, and atom i of rank r has the features 1000 r + i + k/10 in
# column k: what has to arrive is known without asking anybody.
RANKS = """
import sys
import numpy as np
import torch
from mpi4py import MPI
from lammps_trajcast.runtime.halo import MpiHalo
from lammps_trajcast.runtime.memory import HostMemory
from lammps_trajcast.runtime.tensor_memory import TensorMemory

comm = MPI.COMM_WORLD
me, size = comm.rank, comm.size
on_host = sys.argv[1] == "arrays"
memory = HostMemory(np.float32) if on_host else TensorMemory(torch.float32, torch.device("cpu"))
halo = MpiHalo(comm, memory)
halo._staged = sys.argv[1] == "staged"
generator = np.random.default_rng(me)
common = np.random.default_rng(99)

def rows(ranks, indices, width, dtype):
    column = torch.arange(width, dtype=dtype) / 10
    return torch.from_numpy(1000.0 * ranks + indices).to(dtype)[:, None] + column

for _ in range(5):
    counts = common.integers(0, 40, size)
    counts[common.integers(size)] = 0  # a rank without atoms
    pairs = [(r, i) for r in range(size) if r != me for i in range(counts[r])]
    wanted = [pair for pair in pairs if generator.random() < 0.5 and counts[me]]
    if me == 0:
        wanted = []  # it asks nobody, and others ask it
    ranks = np.array([r for r, _ in wanted], np.int32)
    indices = np.array([i for _, i in wanted], np.int64)
    halo.plan(ranks, indices)
    for _ in range(3):
        remote = np.flatnonzero(generator.random(len(ranks)) < 0.7)
        halo.select(remote)
        for width, dtype in ((3, torch.float64), (7, torch.float32)):
            own = int(counts[me])
            features = torch.full((own + len(remote), width), torch.nan, dtype=dtype)
            features[:own] = rows(np.full(own, me), np.arange(own), width, dtype)
            halo.start(features.numpy() if on_host else features, own)
            halo.finish()
            expected = rows(ranks[remote], indices[remote], width, dtype)
            assert torch.equal(features[own:], expected)
            assert torch.equal(features[:own], rows(np.full(own, me), np.arange(own), width, dtype))
        halo.end()
        assert comm.allreduce(halo.traffic.rows_sent) == comm.allreduce(len(remote))
        received = halo.traffic.bytes_received
        assert received >= len(remote) * (3 * 8 + 7 * 4)
print("done", flush=True)
"""


@pytest.mark.parametrize("way", ["arrays", "tensors", "staged"])
def test_rows_arrive(way, tmp_path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    finished = subprocess.run(
        [ENVIRONMENT / "bin/mpirun", "-np", "4", sys.executable, "ranks.py", way],
        cwd=tmp_path,
        env=lammps_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    assert finished.returncode == 0, finished.stdout
    assert finished.stdout.count("done") == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "): run 'pip install mpi4py'"),
        (
            "raise RuntimeError('cannot load MPI library')",
            "(cannot load MPI library): set the environment variable MPI4PY_LIBMPI",
        ),
    ],
)
def test_mpi4py_that_is_missing_and_one_that_finds_no_library(
    content: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lammps_trajcast.runtime.halo import HaloError, adopt_communicator

    for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    if content is None:
        monkeypatch.setitem(sys.modules, "mpi4py", None)
    else:
        (tmp_path / "mpi4py").mkdir()
        (tmp_path / "mpi4py/__init__.py").write_text("class rc: pass\n")
        (tmp_path / "mpi4py/MPI.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(HaloError) as error:
            adopt_communicator(0, 0, "MPICH Version: 4.3")
    finally:
        # The other tests of this process import the real one.
        for name in [name for name in sys.modules if name.split(".")[0] == "mpi4py"]:
            del sys.modules[name]
    assert words in str(error.value)
    assert ("MPICH Version: 4.3" in str(error.value)) == (content is not None)
