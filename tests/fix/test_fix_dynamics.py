"""What the fix does besides predicting: units, groups, forces of other fixes."""

import re
from dataclasses import replace

import numpy as np
import pytest
from reference import Reference, assert_close
from systems import TIME_UNIT, TIMESTEP, System, load_case

FTM2V_REAL = (
    1.0 / 48.88821291**2
)  # kcal/mol/Angstrom per g/mol to Angstrom/fs^2, LAMMPS's units real


@pytest.fixture
def quartz() -> System:
    return load_case("quartz_l2")


def test_metal_and_real_agree(lmp, quartz, model_file) -> None:
    model, finals = model_file("quartz_l2"), []
    for units in ("real", "metal"):
        script = quartz.script(model, 5, units=units, options="precision double")
        run = lmp(script, quartz, units=units)
        assert run.returncode == 0, run.output
        positions, velocities = run.final()
        finals.append((positions, velocities / TIME_UNIT[units]))
    for real, metal in zip(*finals, strict=True):
        assert_close(metal, real, 1e-12)


def test_only_the_group_moves(lmp, quartz, model_file) -> None:
    """Its atoms follow the network without conservation; the others are seen where they are."""
    model = model_file("quartz_l2")
    fix = f"group some id 1:20\nfix 1 some python/trajcast {model} Si O precision double"
    run = lmp(quartz.script(model, 3, fix=fix), quartz)
    assert run.returncode == 0, run.output

    reference, state = Reference(model), quartz
    for _ in range(3):
        displacement, velocity = reference.step(state, conserve=False)
        displacement[20:] = 0.0
        velocity[20:] = state.velocities[20:]
        state = replace(state, positions=state.positions + displacement, velocities=velocity)
    positions, velocities = run.final()
    assert_close(positions, state.positions, 1e-12)
    assert_close(velocities, state.velocities, 1e-12)
    assert np.abs(positions - quartz.positions)[:20].max() > 1e-4


def test_a_group_of_all_atoms_is_all(lmp, quartz, model_file) -> None:
    model, finals = model_file("quartz_l2"), []
    for group in ("all", "everything"):
        fix = f"group everything id > 0\nfix 1 {group} python/trajcast {model} Si O"
        run = lmp(quartz.script(model, 2, fix=fix), quartz)
        assert run.returncode == 0, run.output
        finals.append(run.final())
    assert_close(finals[1][1], finals[0][1], 1e-14)


@pytest.mark.parametrize("name", ["quartz_l2", "moving_com", "water_l1"])
def test_linear_momentum(name, lmp, model_file) -> None:
    """Momentum is where the model wants it: at zero, or where it was."""
    system = load_case(name)
    run = lmp(system.script(model_file(name), 10, options="precision single"), system)
    assert run.returncode == 0, run.output
    masses = system.atom_masses[:, None]
    wanted = (masses * system.velocities).sum(axis=0) if name == "moving_com" else np.zeros(3)
    scale = np.abs(masses * system.velocities).sum()
    momentum = (masses * run.final()[1]).sum(axis=0)
    assert_close(momentum, wanted, 1e-13, scale=scale)
    if name == "moving_com":
        assert np.abs(wanted).max() > 1e-3 * scale


def test_angular_momentum_of_a_molecule_across_a_face(lmp, model_file) -> None:
    """Benzene in two halves at opposite faces is one molecule, by its image flags."""
    system = load_case("benzene_angular")
    moved = replace(system, positions=system.positions - np.array([12.0, 12.5, 13.0]))
    model, finals = model_file("benzene_angular"), []
    for one in (system, moved):
        # read_data wraps atoms and sets image flags: the molecule is cut in the second run.
        run = lmp(one.script(model, 10, options="precision double"), one)
        assert run.returncode == 0, run.output
        positions, velocities = run.final()
        finals.append((positions - one.positions, velocities))
    assert_close(finals[1][0], finals[0][0], 1e-12, scale=1.0)
    assert_close(finals[1][1], finals[0][1], 1e-10)

    positions, velocities = finals[0][0] + system.positions, finals[0][1]
    masses = system.atom_masses[:, None]
    arms = positions - (masses * positions).sum(axis=0) / masses.sum()
    angular = np.cross(arms, masses * velocities).sum(axis=0)
    assert_close(angular, np.zeros(3), 1e-12, scale=np.abs(masses * velocities).sum())


def test_forces_of_later_fixes_are_impulses(lmp, model_file) -> None:
    """A constant force kicks v by half of F dt / m before and after each prediction."""
    system, model = load_case("moving_com"), model_file("moving_com")
    force = np.array([0.02, -0.01, 0.03])
    push = f"fix 2 all addforce {' '.join(map(str, force))}"
    run = lmp(system.script(model, 4, options="precision double", extra=push), system)
    assert run.returncode == 0, run.output

    half_kick = 0.5 * TIMESTEP * FTM2V_REAL * force / system.atom_masses[:, None]
    reference, state = Reference(model), system
    for _ in range(4):
        kicked = replace(state, velocities=state.velocities + half_kick)
        displacement, velocity = reference.step(kicked)
        state = replace(
            state, positions=state.positions + displacement, velocities=velocity + half_kick
        )
    positions, velocities = run.final()
    assert_close(positions, state.positions, 1e-11, scale=1.0)
    assert_close(velocities, state.velocities, 1e-11)
    without = reference.run(system, 4)
    assert np.abs(without.velocities - velocities).max() > 1e-3 * np.abs(velocities).max()


def test_forces_of_pair_styles_do_nothing(lmp, quartz, model_file) -> None:
    """Neither in the first step, where setup leaves them, nor later."""
    model, finals = model_file("quartz_l2"), []
    for pair in (None, "pair_style lj/cut 6.0\npair_coeff * * 1.0 1.5"):
        run = lmp(quartz.script(model, 3, pair=pair, options="precision double"), quartz)
        assert run.returncode == 0, run.output
        finals.append(run.final())
    for zero, lj in zip(*finals, strict=True):
        assert_close(lj, zero, 1e-12)


def test_atoms_outside_the_group_keep_their_forces(lmp, quartz, model_file) -> None:
    """Atoms of fix nve move as if the network was not there."""
    model = model_file("quartz_l2")
    pair = "pair_style lj/cut 6.0\npair_coeff * * 1.0 1.5"
    groups = "group some id 1:10\ngroup rest subtract all some"
    both = f"{groups}\nfix 1 some python/trajcast {model} Si O\nfix 2 rest nve"
    alone = f"{groups}\nfix 2 rest nve"
    finals = []
    for fix in (both, alone):
        run = lmp(quartz.script(model, 1, pair=pair, fix=fix), quartz)
        assert run.returncode == 0, run.output
        finals.append(run.final())
    assert_close(finals[0][0][10:], finals[1][0][10:], 1e-14)
    assert np.abs(finals[0][0][10:] - quartz.positions[10:]).max() > 1e-6


def test_a_box_that_changes_during_the_run(lmp, model_file) -> None:
    """Edge vectors follow the box, also between rebuilds of the neighbor list."""
    system, model = load_case("moving_com"), model_file("moving_com")
    deform = "fix 2 all deform 1 x scale 1.01 y scale 0.995 xy delta 0.05 remap x"
    extra = f"{deform}\nneighbor 2.0 bin"
    run = lmp(system.script(model, 4, options="precision double", extra=extra), system)
    assert run.returncode == 0, run.output
    builds = re.search(r"Neighbor list builds = (\d+)", run.output)
    assert builds is not None and int(builds.group(1)) == 0

    reference, state = Reference(model), system
    x0, y0, xy0 = system.cell[0, 0], system.cell[1, 1], system.cell[1, 0]
    for step in range(1, 5):
        displacement, velocity = reference.step(state)
        fraction = step / 4
        cell = state.cell.copy()
        cell[0, 0] = x0 * (1 + 0.01 * fraction)
        cell[1, 1] = y0 * (1 - 0.005 * fraction)
        cell[1, 0] = xy0 + 0.05 * fraction
        # Atoms follow the box, which grows about its center.
        old_low = 0.5 * np.array([x0, y0, 0.0]) - 0.5 * np.array(
            [state.cell[0, 0], state.cell[1, 1], 0]
        )
        new_low = 0.5 * np.array([x0, y0, 0.0]) - 0.5 * np.array([cell[0, 0], cell[1, 1], 0])
        moved = state.positions + displacement - old_low
        state = replace(
            state,
            positions=moved @ np.linalg.inv(state.cell) @ cell + new_low,
            velocities=velocity,
            cell=cell,
        )
    positions, velocities = run.final()
    assert_close(positions, state.positions, 1e-11, scale=1.0)
    assert_close(velocities, state.velocities, 1e-11)
