"""Every block of code in the tutorial, and the notebook, runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from locations import ENVIRONMENT, EXAMPLES, ROOT
from runs import lammps_environment

BLOCK = re.compile(r"^```(bash|lammps|python)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_get_started(tmp_path: Path) -> None:
    """All of its blocks in their order, with fewer steps."""
    (tmp_path / "quartz").symlink_to(EXAMPLES / "quartz")
    blocks = BLOCK.findall((ROOT / "docs" / "get_started.md").read_text())
    assert [kind for kind, _, _ in blocks] == [
        *("bash", "lammps", "bash", "python", "lammps", "bash")
    ]
    path = f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}"
    said = []
    for kind, name, text in blocks:
        if kind == "lammps":
            (tmp_path / name).write_text(re.sub(r"(?m)^(run +)(\d+)$", r"\g<1>300", text))
            continue
        words = ["bash", "-ec", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=lammps_environment(PATH=path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        said.append(done.stdout)
    page = (ROOT / "docs" / "get_started.md").read_text()
    quoted = re.findall(r"(?m)^ {4}(timestep .*\n(?: {4}.*\n)+)", page)[0]
    lines = [line.strip() for line in quoted.splitlines()]
    assert len(lines) == 5 and all(line in said[0] for line in lines)
    assert "four for each of 54 Si" in said[2]


def test_the_error_of_the_tutorial_is_that_of_the_program(lmp: Any) -> None:
    page = (ROOT / "docs" / "get_started.md").read_text()
    script = next(text for kind, name, text in BLOCK.findall(page) if name == "in.first")
    script = script.replace("0.030", "0.020").replace("quartz/", f"{EXAMPLES}/quartz/")
    (line,) = re.findall(r"^    (ERROR: .*)$", page, re.MULTILINE)
    assert line in lmp(script).output


def test_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in one process, with a short training."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            # So many steps, however fast the machine is.
            source = source.replace("max_hours: {minutes / 60}", "steps: 250")
            source = source.replace("--segments 20", "--segments 10")
            exec(compile(source, "quickstart.ipynb", "exec"), names)
    # The network has moved the atoms: those of the last block are its own.
    assert names["name"] == "network" and len(names["frames"]) == 31
    assert abs(names["kelvin"][len(names["kelvin"]) // 2 :].mean() - 300.0) < 60.0
