"""How many threads the fix takes, by what it may use; what it says of that."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from launches import LMP, write_run
from locations import ENVIRONMENT
from runs import lammps_environment

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("threads")
    write_run(made, "in.lmp", "run 0\n")
    return made


def found(directory: Path, ranks: int = 1, first_core: bool = False, **variables: str) -> str:
    environment = lammps_environment(**variables)
    if "OMP_NUM_THREADS" not in variables:
        del environment["OMP_NUM_THREADS"]
    core = min(os.sched_getaffinity(0))
    program = [LMP, "-in", "in.lmp", "-log", "none"]
    launcher = [str(ENVIRONMENT / "bin" / "mpirun"), "-np", str(ranks)]
    run = subprocess.run(
        [
            *(["taskset", "-c", str(core)] if first_core else []),
            *(launcher if ranks > 1 else []),
            *program,
        ],
        cwd=directory,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    return run.stdout


def said(output: str) -> tuple[int, int, bool]:
    """Threads of a rank, cores of the run, whether it warns."""
    threads, cores = re.findall(
        r"python/trajcast: (\d+) threads?.*; this machine has (\d+) cores? for the run", output
    )[0]
    return int(threads), int(cores), "more threads than cores" in output


@pytest.mark.parametrize(
    ("variables", "threads", "warns"),
    [
        pytest.param(*({}, CORES, False), marks=pytest.mark.long),
        ({"SLURM_CPUS_PER_TASK": "1"}, 1, False),
        pytest.param(*({"SLURM_CPUS_PER_TASK": "many"}, CORES, False), marks=pytest.mark.long),
        ({"OMP_NUM_THREADS": str(CORES + 3)}, CORES + 3, True),
    ],
)
def test_threads_of_a_process(
    directory: Path, variables: dict[str, str], threads: int, warns: bool
) -> None:
    assert said(found(directory, **variables)) == (threads, CORES, warns)


def test_ranks_that_are_bound_to_one_core(directory: Path) -> None:
    output = found(directory, ranks=2, first_core=True)
    assert said(output) == (1, 1, True)
    assert "1 thread on each of 2 MPI ranks" in output
    assert output.count("one machine runs more threads than cores, 1 too many") == 1
