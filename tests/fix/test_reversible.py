"""Reversible steps: a prediction there, back and there again (keyword `reversible`)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from locations import EXAMPLES
from models import LIGHT_QUARTZ
from reference import Reference, assert_close
from reliability import wrong_input
from runs import read_dump
from systems import System, load_case

QUARTZ = EXAMPLES / "quartz"
STATE = "id xu yu zu vx vy vz modify sort id format float %.17g"


@pytest.fixture
def quartz() -> System:
    return load_case("quartz_l2")


def advance(reference: Reference, system: System) -> System:
    """One step of the network."""
    displacement, velocity = reference.step(system)
    return replace(system, positions=system.positions + displacement, velocities=velocity)


def reverse(system: System) -> System:
    return replace(system, velocities=-system.velocities)


def reversible(reference: Reference, system: System) -> System:
    """The step as it is defined: (3 z1 - z2) / 2 with z1 = F(z), z2 = F(R F(R z1))."""
    one = advance(reference, system)
    two = advance(reference, reverse(advance(reference, reverse(one))))
    return replace(
        system,
        positions=(3.0 * one.positions - two.positions) / 2.0,
        velocities=(3.0 * one.velocities - two.velocities) / 2.0,
    )


@pytest.mark.parametrize("ranks", [0, pytest.param(3, marks=pytest.mark.long), 2])
def test_step_is_that_of_its_definition(lmp, quartz, model_file, ranks) -> None:
    model = model_file("quartz_l2")
    script = quartz.script(model, 3, options="precision double reversible yes guard off")
    run = lmp(script, quartz, ranks=ranks)
    assert run.returncode == 0, run.output
    reference, expected = Reference(model), quartz
    for _ in range(3):
        expected = reversible(reference, expected)
    positions, velocities = run.final()
    plain = reference.run(quartz, 3)
    assert np.abs(plain.velocities - expected.velocities).max() > 1e-4 * np.abs(velocities).max()
    displacement = expected.positions - quartz.positions
    assert_close(positions - quartz.positions, displacement, 1e-9)
    assert_close(velocities, expected.velocities, 1e-9)


def test_part_of_the_atoms(lmp, quartz, model_file) -> None:
    """Frozen atoms stay exactly where they are, and with velocities that are given."""
    options = "precision double reversible yes guard off"
    model = model_file("quartz_l2")
    fix = (
        "group frozen id <= 20\ngroup mobile subtract all frozen\nvelocity frozen set 0 0 0\n"
        f"fix 1 mobile python/trajcast {model} Si O {options}"
    )
    run = lmp(quartz.script(model, 2, fix=fix), quartz)
    assert run.returncode == 0, run.output
    positions, velocities = run.final()
    assert np.abs(positions - quartz.positions)[:20].max() < 1e-12
    assert np.abs(velocities[:20]).max() == 0.0
    assert np.abs(positions - quartz.positions)[20:].min(axis=1).max() > 1e-3


ROUND_TRIP = """
units metal
read_data {data}
replicate 2 2 2
pair_style zero 6.0 full
pair_coeff * *
neighbor {skin} bin
velocity all create 600 4928 mom yes dist gaussian
timestep 0.030
fix 1 all python/trajcast {model} Si O precision double reversible {reversible}
run 5
write_dump all custom start.dump {state}
thermo_style custom step f_1[14] f_1[15]
thermo 1
run 5
print "DEFECT $(f_1[14]) $(f_1[15])"
variable a atom -vx
variable b atom -vy
variable c atom -vz
velocity all set v_a v_b v_c
run 5
write_dump all custom final.dump {state}
"""


def round_trip(
    lmp,
    directory: Path,
    reversible: str,
    skin: float = 2.0,
    model: Path = QUARTZ / "quartz.safetensors",
) -> tuple[float, str]:
    """By how much velocities miss those of five steps before, over their rms; the output."""
    data = QUARTZ / "quartz.data"
    run = lmp(
        ROUND_TRIP.format(data=data, skin=skin, model=model, reversible=reversible, state=STATE)
    )
    assert run.returncode == 0, run.output
    (_, v), (_, back) = read_dump(directory / "start.dump"), read_dump(directory / "final.dump")
    return float(np.sqrt(((v + back) ** 2).mean() / (v**2).mean())), run.output


def test_way_back_leads_to_the_start(lmp, tmp_path, record_property) -> None:
    """Five steps, velocities reversed, five steps, with the model of quartz that is shipped."""
    plain, _ = round_trip(lmp, tmp_path, "no")
    corrected, output = round_trip(lmp, tmp_path, "yes")
    assert corrected < 0.2 * plain
    (line,) = [line for line in output.splitlines() if line.startswith("DEFECT")]
    defect, plain_steps = map(float, line.split()[1:])
    # Of a single step, which five steps there and back add up to something like five times.
    assert 0.1 * plain < defect < plain
    assert plain_steps == 0


def test_small_skin(lmp, tmp_path) -> None:
    """The list is built in time, or the step is a plain one with a warning."""
    wide, output = round_trip(lmp, tmp_path, "yes", 4.0, LIGHT_QUARTZ)
    end = read_dump(tmp_path / "final.dump")
    assert "is not a reversible one" not in output
    narrow, output = round_trip(lmp, tmp_path, "yes", 1.2, LIGHT_QUARTZ)
    assert "is not a reversible one" not in output
    for one, other in zip(end, read_dump(tmp_path / "final.dump"), strict=True):
        assert_close(other, one, 1e-8)
    _, output = round_trip(lmp, tmp_path, "yes", 0.1, LIGHT_QUARTZ)
    assert "is not a reversible one" in output and "'neighbor" in output


REFUSED = {
    "reversible maybe": ("reversible maybe", "", "'reversible yes' or 'reversible no'"),
    "reversible with a late list": (
        "reversible yes",
        "neigh_modify every 5 delay 0 check yes",
        "'neigh_modify every 1 delay 0 check yes once no'",
    ),
    "reversible without check of the distance": (
        "reversible yes",
        "neigh_modify every 1 delay 0 check no",
        "'neigh_modify every 1 delay 0 check yes once no'",
    ),
    "reversible beside another integrator": (
        "reversible yes",
        "group others id 1\nfix 2 others nve",
        "moves others: write 'unfix 2' or 'reversible no'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, lmp, quartz, model_file, record_property) -> None:
    options, extra, says = REFUSED[case]
    model = model_file("quartz_l2")
    run = lmp(quartz.script(model, 1, options=options, extra=extra), quartz)
    assert run.returncode != 0
    assert says in run.error()
    wrong_input(record_property, case, says)


def angular_momentum(masses: np.ndarray, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """About the center of mass; masses (N,)."""
    m = masses[:, None]
    return np.cross(x - (m * x).sum(0) / masses.sum(), m * v).sum(0)


@pytest.mark.parametrize("ranks", [0, 2, pytest.param(3, marks=pytest.mark.long)])
def test_model_that_conserves_the_angular_momentum(lmp, model_file, ranks) -> None:
    """The step of its definition, turned about the center of mass until the momentum is right."""
    molecule = load_case("benzene_angular")
    model = model_file("benzene_angular")
    script = molecule.script(model, 1, options="precision double reversible yes guard off")
    run = lmp(script, molecule, ranks=ranks)
    assert run.returncode == 0, run.output
    positions, velocities = run.final()

    reference = Reference(model)
    expected = reversible(reference, molecule)
    masses = expected.atom_masses
    one = advance(reference, molecule)
    kept = angular_momentum(masses, one.positions, one.velocities)
    assert_close(positions, expected.positions, 1e-9)
    scale = np.abs(masses[:, None] * velocities).sum()
    assert_close(angular_momentum(masses, positions, velocities), kept, 1e-12, scale=scale)
    missed = angular_momentum(masses, expected.positions, expected.velocities) - kept
    assert np.abs(missed).max() > 1e-9 * scale, "nothing to restore"
    # A rotation about the center of mass is all that was added.
    arms = positions - (masses[:, None] * positions).sum(0) / masses.sum()
    pairs = zip(masses, arms, strict=True)
    inertia = sum(m * (a @ a * np.eye(3) - np.outer(a, a)) for m, a in pairs)
    spin = np.cross(np.linalg.solve(inertia, -missed), arms)
    assert_close(velocities, expected.velocities + spin, 1e-9)
