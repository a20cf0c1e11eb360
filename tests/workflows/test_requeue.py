"""The input of the job that requeues itself: interrupted, it continues to the same trajectory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from locations import ENVIRONMENT, EXAMPLES
from models import LIGHT_QUARTZ
from runs import lammps_environment

HPC = EXAMPLES / "hpc"


def run(directory: Path) -> None:
    variables = {
        "total": "40",
        "precision": "double",
        "model": str(LIGHT_QUARTZ),
        "data": str(EXAMPLES / "quartz" / "quartz.data"),
    }
    words = [word for item in variables.items() for word in ("-var", *item)]
    subprocess.run(
        [str(ENVIRONMENT / "bin" / "lmp"), "-in", "in.requeue", *words],
        cwd=directory,
        env=lammps_environment(),
        check=True,
        capture_output=True,
    )


def made(directory: Path) -> Path:
    directory.mkdir()
    text = (EXAMPLES / "hpc" / "in.requeue").read_text()
    text = text.replace("replicate 4 4 4", "replicate 2 2 2").replace("custom 1000", "custom 10")
    (directory / "in.requeue").write_text(text)
    return directory


def frames(path: Path) -> list[str]:
    """In their order; the one at which a run ended and the next began is there twice."""
    return list(dict.fromkeys(path.read_text().split("ITEM: TIMESTEP\n")))


def test_an_interrupted_run_continues_to_the_same_trajectory(tmp_path: Path) -> None:
    whole, parts = made(tmp_path / "whole"), made(tmp_path / "parts")
    run(whole)
    assert (whole / "finished").exists()
    (parts / "STOP").touch()
    run(parts)
    assert not (parts / "finished").exists() and (parts / "quartz.restart").exists()
    assert len(frames(parts / "quartz.dump")) < len(frames(whole / "quartz.dump"))
    (parts / "STOP").unlink()
    run(parts)
    assert (parts / "finished").exists()
    assert frames(parts / "quartz.dump") == frames(whole / "quartz.dump")


@pytest.mark.parametrize("script", [*HPC.glob("*.slurm"), *HPC.glob("*.pbs")], ids=lambda p: p.name)
def test_job_scripts_are_shell_scripts(script: Path) -> None:
    subprocess.run([shutil.which("bash") or "bash", "-n", str(script)], check=True)


def test_every_file_is_in_the_table() -> None:
    text = (HPC / "README.md").read_text()
    assert [path.name for path in HPC.iterdir() if f"`{path.name}`" not in text] == ["README.md"]


def test_replicas_differ_and_are_numbered(tmp_path: Path) -> None:
    """Two partitions of the second job of an array: replicas 2 and 3."""
    words = ["-var", "model", str(LIGHT_QUARTZ), "-var", "steps", "5", "-var", "replicas", "2"]
    words += ["-var", "data", str(EXAMPLES / "quartz" / "quartz.data"), "-var", "first", "2"]
    subprocess.run(
        [
            *(str(ENVIRONMENT / "bin" / "mpirun"), "-np", "2", str(ENVIRONMENT / "bin" / "lmp")),
            *("-partition", "2x1", "-in", str(HPC / "in.replicas"), "-plog", "none", *words),
        ],
        cwd=tmp_path,
        env=lammps_environment(),
        check=True,
        capture_output=True,
    )
    states = [(tmp_path / f"replica.{number}.dump").read_text() for number in (2, 3)]
    assert states[0] != states[1]


def test_a_command_of_an_array_is_told_to_stop_before_it_is_queued_again(tmp_path: Path) -> None:
    """Slurm's signal reaches the shell: the program has to end, and then the task requeues."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "lammps-trajcast").write_text(
        "#!/bin/bash\ntrap 'echo stopped >> said; exit 143' TERM\n"
        'printf "%s|" "$@" > words\nwhile true; do sleep 0.05; done\n'
    )
    (programs / "scontrol").write_text('#!/bin/bash\necho "$@" >> said\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    (tmp_path / "commands.txt").write_text("train other.yaml\nfit 'a b.lmp' --elements Si O\n")
    job = subprocess.Popen(
        ["bash", str(HPC / "array.slurm"), "commands.txt"],
        cwd=tmp_path,
        env={
            **lammps_environment(SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_JOB_ID="7"),
            "PATH": f"{programs}:/usr/bin:/bin",
        },
    )
    while not (tmp_path / "words").exists() or not (tmp_path / "words").read_text():
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=600) == 0
    assert (tmp_path / "words").read_text() == "fit|a b.lmp|--elements|Si|O|"
    assert (tmp_path / "said").read_text().splitlines() == ["stopped", "requeue 7_1"]
