"""A launcher of another MPI starts copies that know nothing of each other."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from launches import LMP, write_run
from runs import lammps_environment


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_run(tmp_path, "in.copy")
    # The copy that is first holds the log file until the other one has come.
    write_run(tmp_path, "in.first", "shell touch ready\nshell sleep 60\n")
    return tmp_path


def start(directory: Path, script: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [LMP, "-in", script],
        cwd=directory,
        env=lammps_environment(**variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


TOLD = "Fix python/trajcast: 3 processes were started"


@pytest.mark.parametrize(
    ("size", "rank"),
    [
        pytest.param("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", marks=pytest.mark.long),
        pytest.param("PMI_SIZE", "PMI_RANK", marks=pytest.mark.long),
        ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ],
)
def test_copies_are_told(directory: Path, size: str, rank: str) -> None:
    output, _ = start(directory, "in.copy", **{size: "3", rank: "0"}).communicate()
    assert f"WARNING: {TOLD} ({size}), but each is alone in its MPI world" in output
    assert "start it with the mpirun of that library" in output


@pytest.mark.parametrize(("size", "rank"), [("3", "1"), ("1", "0")])
def test_one_copy_is_told_and_a_single_process_is_not(
    directory: Path, size: str, rank: str
) -> None:
    variables = {"OMPI_COMM_WORLD_SIZE": size, "OMPI_COMM_WORLD_RANK": rank}
    run = start(directory, "in.copy", **variables)
    assert "processes were started" not in run.communicate()[0]
    assert run.returncode == 0


@pytest.mark.long
def test_two_writers_of_a_log_file_are_one_too_many(directory: Path) -> None:
    def variables(rank: int) -> dict[str, str]:
        return {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)}

    first = start(directory, "in.first", **variables(0))
    try:
        while not (directory / "ready").exists() and first.poll() is None:
            time.sleep(0.05)
        second = start(directory, "in.copy", **variables(1))
        output, _ = second.communicate()
        assert second.returncode != 0
        (line,) = [line for line in output.splitlines() if line.startswith("ERROR")]
        assert "another process writes the same log file" in line
    finally:
        first.kill()
        first.communicate()
    other = start(directory, "in.copy", **variables(1))
    assert "ERROR" not in other.communicate()[0]
