"""Several MPI ranks against one: the same numbers, however the atoms are divided among them."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from forks import ForkServer
from locations import ENVIRONMENT, EXAMPLES
from reference import Reference
from runs import lammps_environment, lammps_runner, read_dump
from systems import System, load_case, quoted

from lammps_trajcast.runtime.graph import build_graph

TOLERANCE = 1e-9  # Angstrom, Angstrom/fs


def quartz() -> System:
    """Atoms on the faces of the box, so that some cross them."""
    system = load_case("quartz_l2")
    return replace(system, positions=system.positions - system.positions[36])


def slab() -> System:
    """Quartz with 30 Angstrom of vacuum below and above, where some ranks have no atoms."""
    system = load_case("quartz_l2")
    cell = system.cell + np.diag([0.0, 0.0, 60.0])
    positions = system.positions + np.array([0.0, 0.0, 30.0])
    return replace(system, positions=positions, cell=cell, pbc=(True, True, False))


def two_types_of_oxygen() -> System:
    system = load_case("quartz_l2")
    types = system.types.copy()
    types[np.flatnonzero(types == 2)[::2]] = 3
    return replace(
        system, types=types, masses=[*system.masses, system.masses[1]], elements=["Si", "O", "O"]
    )


def droplet() -> System:
    return replace(load_case("water_l1"), pbc=(False, False, False))


def layer_of_water() -> System:
    return replace(load_case("water_l1"), pbc=(True, False, True))


@dataclass
class Case:
    """A run that has to give the same numbers on any number of ranks."""

    model: str
    system: Callable[[], System]
    before_box: str = ""
    extra: str = ""
    options: str = ""
    group: str = "all"


# A skin so thin that the neighbor list is built anew in most steps, when atoms change their rank.
REBUILD = "neighbor 0.002 bin"

CASES = {
    "plain kernels": Case("moving_com", lambda: load_case("moving_com"), options="kernels plain"),
    "no torch": Case(
        "moving_com", lambda: load_case("moving_com"), extra=REBUILD, options="kernels direct"
    ),
    "thick skin": Case("quartz_l2", quartz, extra="neighbor 2.0 bin"),
    "slices in x": Case("quartz_l2", quartz, "processors RANKS 1 1", REBUILD),
    "slices in y": Case("quartz_l2", quartz, "processors 1 RANKS 1", REBUILD),
    "slices in z": Case("quartz_l2", quartz, "processors 1 1 RANKS", REBUILD),
    "tiled": Case(
        "quartz_l2", quartz, "comm_style tiled", f"{REBUILD}\nfix 2 all balance 5 1.0 rcb"
    ),
    "triclinic": Case("moving_com", lambda: load_case("moving_com"), extra=REBUILD),
    "open": Case("water_l1", droplet, extra=REBUILD),
    "mixed": Case("water_l1", layer_of_water, extra=REBUILD),
    "slab": Case("quartz_l2", slab, "processors 1 1 RANKS", REBUILD),
    "short cell": Case("tiny_cell", lambda: load_case("tiny_cell"), extra=REBUILD),
    "newton off": Case("moving_com", lambda: load_case("moving_com"), "newton off", REBUILD),
    "sorted": Case("quartz_l2", quartz, "atom_modify sort 1 2.0", REBUILD),
    "two types": Case("quartz_l2", two_types_of_oxygen, extra=REBUILD),
    "molecule": Case("benzene_angular", lambda: load_case("benzene_angular"), extra=REBUILD),
    "hot": Case(
        "quartz_l2", quartz, extra=f"{REBUILD}\nfix 2 all temp/rescale 1 3000 3000 1.0 1.0"
    ),
    "group": Case("quartz_l2", quartz, extra=REBUILD, group="id 1:40"),
    "deforming": Case(
        "moving_com",
        lambda: load_case("moving_com"),
        extra="neighbor 2.0 bin\nfix 2 all deform 1 x scale 1.01 y scale 0.995 xy delta 0.05 "
        "remap x",
    ),
}


def run_cases(
    names: tuple[str, ...],
    ranks: int,
    steps: int,
    directory: Path,
    model_file,
    fork_server: ForkServer,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Positions and velocities at the end of the cases, run one after the other by one LAMMPS."""
    directory.mkdir()
    run = lammps_runner(directory, fork_server)
    scripts = []
    for name in names:
        case, file = CASES[name], name.replace(" ", "_")
        system = case.system()
        system.write_data(directory / f"{file}.data")
        model = model_file(case.model)
        elements = " ".join(system.elements)
        fix = f"fix 1 moved python/trajcast {model} {elements} precision double {case.options}"
        select = "union all" if case.group == "all" else case.group
        script = system.script(
            model,
            steps,
            before_box=case.before_box.replace("RANKS", str(ranks)),
            fix=f"group moved {select}\n{fix}",
            extra=f"{case.extra}\nrun 0\nwrite_dump all custom {file}.begin id proc modify sort id",
        )
        script = script.replace("system.data", f"{file}.data").replace("final.dump", f"{file}.dump")
        script += f"write_dump all custom {file}.end id proc modify sort id\n"
        scripts.append(script.replace("thermo 1\n", f"thermo {steps}\n"))
    finished = run("\nclear\n".join(scripts), ranks=ranks if ranks > 1 else 0, timeout=3600.0)
    assert finished.returncode == 0, finished.output
    return {name: read_dump(directory / f"{name.replace(' ', '_')}.dump") for name in names}


def changed_rank(directory: Path, name: str) -> bool:
    """Whether an atom ends on another rank than where it began."""
    begin, end = (
        np.loadtxt(directory / f"{name}.{when}", skiprows=9)[:, 1] for when in ("begin", "end")
    )
    return bool((begin != end).any())


@pytest.mark.parametrize(
    ("ranks", "steps", "names"),
    [
        (2, 20, ("slices in y", "newton off", "sorted", "two types", "molecule")),
        (3, 20, ("tiled", "open", "deforming")),
        (4, 20, ("hot",)),
        *(pytest.param(n, 50, tuple(CASES), marks=pytest.mark.long) for n in (2, 3, 4, 8)),
    ],
)
def test_ranks_agree(ranks, steps, names, model_file, tmp_path, fork_server) -> None:
    one = run_cases(names, 1, steps, tmp_path / "one", model_file, fork_server)
    many = run_cases(names, ranks, steps, tmp_path / "many", model_file, fork_server)
    deviations = {
        name: max(np.abs(many[name][k] - one[name][k]).max() for k in (0, 1)) for name in names
    }
    assert max(deviations.values()) < TOLERANCE, deviations
    # Where atoms hardly moved, agreement would mean little.
    for name, (positions, _) in one.items():
        assert np.abs(positions - CASES[name].system().positions).max() > 0.005, name
    if "hot" in names:
        assert changed_rank(tmp_path / "many", "hot")
    if "tiled" in names:
        # Independent of this fix on one rank, too: the network in Python.
        after = Reference(model_file(CASES["tiled"].model)).run(CASES["tiled"].system(), steps)
        positions, velocities = many["tiled"]
        assert np.abs(positions - after.positions).max() < TOLERANCE
        assert np.abs(velocities - after.velocities).max() < TOLERANCE


def test_lammps_as_a_python_module_on_two_ranks(model_file, tmp_path) -> None:
    """In Python, whose mpi4py may have been imported before LAMMPS."""
    system, model = load_case("moving_com"), model_file("moving_com")
    system.write_data(tmp_path / "system.data")
    script = system.script(model, 5, options="precision double")
    code = f"""
from mpi4py import MPI
from lammps import lammps
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=MPI.COMM_WORLD)
lmp.commands_string({quoted(script)})
lmp.close()
"""
    finished = subprocess.run(
        [ENVIRONMENT / "bin/mpirun", "-np", "2", sys.executable, "-c", code],
        cwd=tmp_path,
        env=lammps_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    assert finished.returncode == 0, finished.stdout
    after = Reference(model).run(system, 5)
    positions, velocities = read_dump(tmp_path / "final.dump")
    assert np.abs(positions - after.positions).max() < TOLERANCE
    assert np.abs(velocities - after.velocities).max() < TOLERANCE


VECTOR = "thermo_style custom step f_1 " + " ".join(f"f_1[{k}]" for k in range(1, 11))


def vector_at(output: str, step: int) -> list[float]:
    """Scalar and vector of the fix in a step."""
    line = re.search(rf"^ +{step}((?: +\S+){{11}}) *$", output, re.MULTILINE)
    assert line is not None, output
    return [float(word) for word in line.group(1).split()]


@pytest.mark.parametrize("ranks", [1, 4])
def test_only_the_rows_that_are_needed(ranks, lmp, model_file, tmp_path) -> None:
    """Each remote atom within the cutoff, once per rank that sees it; ghosts reach no further."""
    system, model = load_case("water_l1"), model_file("water_l1")
    dump = "\ndump 1 all custom 1 state.dump id proc x y z\n"
    dump += "dump_modify 1 sort id format float %.17g\n"
    extra = f"{VECTOR}\nneighbor 1.5 bin{dump}"
    script = system.script(model, 2, options="precision double", extra=extra)
    run = lmp(script, system, ranks=ranks if ranks > 1 else 0)
    assert run.returncode == 0, run.output
    assert re.search(r"ghost atom cutoff = 5\.5\b", run.output), run.output

    count = len(system.types)
    lines = (tmp_path / "state.dump").read_text().splitlines()
    state = np.array([line.split() for line in lines[count + 9 + 9 : 2 * (count + 9)]], float)
    owner, positions = state[:, 1].astype(int), state[:, 2:]
    graph = build_graph(positions, system.cell, system.pbc, system.cutoff)
    receivers, senders = graph.receivers.numpy(), graph.senders.numpy()
    remote = [
        len(set(senders[(owner[receivers] == rank) & (owner[senders] != rank)].tolist()))
        for rank in range(ranks)
    ]

    edges, graph_s, network_s, exchange_s, sums_s, received, rows, nodes, own, most, memory = (
        vector_at(run.output, 2)
    )
    assert edges == len(receivers)
    assert (rows, nodes, most) == (sum(remote), sum(remote), max(remote))
    assert own == np.bincount(owner).max()
    assert 0.0 < graph_s < 60.0 and 0.0 < network_s < 60.0 and memory > 1e7
    if ranks == 1:
        assert exchange_s == sums_s == received == 0.0
    else:
        assert exchange_s > 0.0 and sums_s > 0.0
        # Rows of l = 0 and 1, both parities, 16 channels, doubles, before three of four layers.
        assert received > sum(remote) * 3 * 8 * 16 * 8


@pytest.mark.parametrize("steps", [100, pytest.param(10_000, marks=pytest.mark.long)])
def test_momentum_across_ranks(steps, lmp, model_file) -> None:
    system = load_case("moving_com")
    wanted = (system.atom_masses[:, None] * system.velocities).sum(axis=0)
    script = system.script(model_file("moving_com"), steps).replace("thermo 1\n", "thermo 100\n")
    run = lmp(script, system, ranks=2, timeout=3600.0)
    assert run.returncode == 0, run.output
    terms = system.atom_masses[:, None] * run.final()[1]
    assert np.abs(terms.sum(axis=0) - wanted).max() < 1e-12 * np.abs(terms).sum()
    assert np.abs(wanted).max() > 1e-3 * np.abs(terms).sum()


@pytest.mark.long
def test_partitions_of_two_ranks(lmp, model_file, tmp_path) -> None:
    """Two worlds of two ranks each, each with its own model."""
    alone = {}
    for world, name in (("1", "quartz_l2"), ("2", "moving_com")):
        system = load_case(name)
        system.write_data(tmp_path / f"{world}.data")
        script = system.script(model_file(name), 10, options="precision double", extra=REBUILD)
        script = script.replace("system.data", f"{world}.data")
        alone[world] = lmp(script).final()
        (tmp_path / f"in.{world}").write_text(script.replace("final.dump", f"final.{world}.dump"))
    run = lmp(
        "variable world world 1 2\ninclude in.${world}\n",
        ranks=4,
        options=["-partition", "2x2", "-plog", "none", "-pscreen", "none"],
    )
    assert run.returncode == 0, run.output
    for world, expected in alone.items():
        for one, other in zip(read_dump(tmp_path / f"final.{world}.dump"), expected, strict=True):
            assert np.abs(one - other).max() < TOLERANCE


@pytest.mark.long
def test_example_of_a_large_solid(lmp, tmp_path) -> None:
    """The script as it is, with fewer atoms and steps."""
    examples = EXAMPLES
    script = (examples / "lammps_inputs/in.quartz_large").read_text()
    script = script.replace("../quartz/", f"{examples}/quartz/")
    small = ["-var", "across", "3", "-var", "up", "4", "-var", "steps", "10"]
    run = lmp(script, ranks=3, options=small)
    assert run.returncode == 0, run.output
    balance = re.search(r"initial/final imbalance factor\s+= (\S+) (\S+)", run.output)
    assert balance is not None and float(balance.group(2)) <= 1.02 < float(balance.group(1))
