"""The threads of the kernels: after a fork, called from several threads, with OMP_PROC_BIND."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from models import LIGHT_QUARTZ

from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.shared_kernels import kernels_of

CORES = len(os.sched_getaffinity(0))
VECTORS = np.random.default_rng(1).normal(size=(20_000, 3))
KERNELS = f"""
import torch, os, sys, time
import numpy as np
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.shared_kernels import kernels_of
kernels = kernels_of(ModelFile.load({str(LIGHT_QUARTZ)!r}), "double", None)
vectors = np.random.default_rng(1).normal(size=(20_000, 3))
alone = kernels.edges(vectors, 1)
"""


def run(code: str, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", KERNELS + code, str(CORES)],
        env={**os.environ, **variables},
        check=True,
        text=True,
        capture_output=True,
        timeout=300,
    ).stdout


def test_calls_from_several_threads_at_once() -> None:
    """One of them has the others to help; all get what one thread alone computes."""
    kernels = kernels_of(ModelFile.load(LIGHT_QUARTZ), "double", None)
    alone = kernels.edges(VECTORS, 1)
    with ThreadPoolExecutor(4) as callers:
        for found in callers.map(lambda k: kernels.edges(VECTORS, 2 + k % 3), range(200)):
            np.testing.assert_array_equal(found, alone)


def test_more_threads_than_before() -> None:
    """Later calls may ask for more threads, and for fewer again."""
    code = """
for threads in (2, 5, 3, 1, 7):
    assert np.array_equal(kernels.edges(vectors, threads), alone)
print(len(os.listdir("/proc/self/task")))
"""
    assert int(run(code)) >= 7


def test_a_forked_process_has_threads_of_its_own() -> None:
    """Of those that slept in the parent there is none in the child."""
    code = """
assert np.array_equal(kernels.edges(vectors, 3), alone)
child = os.fork()
if child == 0:
    before = len(os.listdir("/proc/self/task"))
    same = np.array_equal(kernels.edges(vectors, 3), alone)
    print(before, len(os.listdir("/proc/self/task")), same, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(kernels.edges(vectors, 3), alone)
"""
    assert run(code, OMP_NUM_THREADS="1").split() == ["1", "3", "True"]


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_threads_are_not_where_openmp_bound_the_first() -> None:
    """An OpenMP library binds the thread that it starts in to one core, where all would stay."""
    code = """
before = set(os.listdir("/proc/self/task"))
kernels.edges(vectors, 2)
(worker,) = set(os.listdir("/proc/self/task")) - before
# It may not have got a core yet.
for _ in range(1000):
    cores = len(os.sched_getaffinity(int(worker)))
    if cores == int(sys.argv[1]):
        break
    time.sleep(0.01)
print(len(os.sched_getaffinity(0)), cores)
"""
    assert run(code, OMP_PROC_BIND="true").split() == ["1", str(CORES)]
    assert run(code).split() == [str(CORES), str(CORES)]
