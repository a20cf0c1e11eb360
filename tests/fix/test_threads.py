"""How many threads the fix takes, by what it may use; what it says of that."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from locations import ENVIRONMENT
from models import tiny_model
from runs import lammps_environment

SCRIPT = """\
units real
lattice fcc 5.3
region box block 0 2 0 2 0 2
create_box 1 box
create_atoms 1 box
mass 1 28.085
pair_style zero 3.5 full
pair_coeff * *
timestep 10.0
velocity all create 1 1
fix 1 all python/trajcast model.safetensors Si
run 0
"""
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("threads")
    tiny_model(metadata={"timestep": 10.0}).save(made / "model.safetensors")
    (made / "in.lmp").write_text(SCRIPT)
    return made


def found(directory: Path, ranks: int = 1, first_core: bool = False, **variables: str) -> str:
    environment = lammps_environment(**variables)
    if "OMP_NUM_THREADS" not in variables:
        del environment["OMP_NUM_THREADS"]
    core = min(os.sched_getaffinity(0))
    program = [str(ENVIRONMENT / "bin" / "lmp"), "-in", "in.lmp", "-log", "none"]
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
    assert output.count("more threads than cores, by 1 on one machine") == 1
