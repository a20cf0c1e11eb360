"""Forces of fixes defined after this one: each is the impulse that its formula gives."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import Reference, assert_close
from reliability import workflow
from runs import Run, lammps_runner, read_dump
from systems import TIMESTEP, System, load_case

FTM2V = 1.0 / 48.88821291**2  # kcal/mol/Angstrom per g/mol to Angstrom/fs^2
VOLT_TO_FORCE = 23.060549  # e V/Angstrom to kcal/mol/Angstrom, LAMMPS's units real
STEPS = 3

SPRING, ANCHOR, REST = 5.0, np.array([9.0, 5.0, 3.0]), 1.5
FIELD, CHARGES = np.array([0.02, -0.01, 0.03]), np.array([0.7, -0.7])
STIFFNESS, TIP, RADIUS = 4.0, np.array([8.9, 5.1, 3.4]), 3.0
WALL, DEPTH, REACH = 0.5, 3.0, 2.0
UMBRELLA, LENGTH, PULLED = 20.0, 3.2, (2, 10)

Forces = NDArray[np.float64]


def nearest_image(vectors: Forces, system: System) -> Forces:
    shifts = np.array(list(np.ndindex(5, 5, 5))) - 2
    images = vectors[:, None] + shifts @ system.cell
    return images[np.arange(len(vectors)), (images**2).sum(axis=-1).argmin(axis=1)]


def spring_to_a_point(state: System, start: System) -> Forces:
    """The center of mass of atoms 13 to 15 at a distance from the anchor, by their masses."""
    forces, some = np.zeros_like(state.positions), slice(12, 15)
    weights = state.atom_masses[some] / state.atom_masses[some].sum()
    arm = weights @ state.positions[some] - ANCHOR
    distance = np.linalg.norm(arm)
    forces[some] = -SPRING * (distance - REST) * arm / distance * weights[:, None]
    return forces


def spring_to_itself(state: System, start: System) -> Forces:
    return -SPRING * (state.positions - start.positions)


def electric_field(state: System, start: System) -> Forces:
    return VOLT_TO_FORCE * CHARGES[state.types - 1][:, None] * FIELD


def indenter(state: System, start: System) -> Forces:
    arms = nearest_image(state.positions - TIP, state)
    distance = np.linalg.norm(arms, axis=1, keepdims=True)
    return np.where(distance < RADIUS, STIFFNESS * (RADIUS - distance) ** 2 * arms / distance, 0)


def wall(state: System, start: System) -> Forces:
    forces, some = np.zeros_like(state.positions), np.array([1, 9, 13])
    height = state.positions[some, 2] - WALL
    assert (height < REACH).all()
    forces[some, 2] = 2 * DEPTH * (REACH - height)
    return forces


def umbrella(state: System, start: System) -> Forces:
    forces, (one, other) = np.zeros_like(state.positions), (index - 1 for index in PULLED)
    arm = nearest_image((state.positions[other] - state.positions[one])[None], state)[0]
    distance = np.linalg.norm(arm)
    forces[other] = -UMBRELLA * (distance - LENGTH) * arm / distance
    forces[one] = -forces[other]
    return forces


def words(values) -> str:
    return " ".join(map(str, values))


UMBRELLA_INPUT = f"""
colvar {{
  name d
  distance {{
    group1 {{ atomNumbers {PULLED[0]} }}
    group2 {{ atomNumbers {PULLED[1]} }}
  }}
}}
harmonic {{
  colvars d
  forceConstant {UMBRELLA}
  centers {LENGTH}
}}
"""
CASES: dict[str, tuple[str, Callable[[System, System], Forces]]] = {
    "spring": (
        f"group some id 13:15\nfix 2 some spring tether {SPRING} {words(ANCHOR)} {REST}",
        spring_to_a_point,
    ),
    "spring/self": (f"fix 2 all spring/self {SPRING}", spring_to_itself),
    "efield": (
        "fix charges all property/atom q\n"
        f"set type 1 charge {CHARGES[0]}\nset type 2 charge {CHARGES[1]}\n"
        f"fix 2 all efield {words(FIELD)}",
        electric_field,
    ),
    "indent": (f"fix 2 all indent {STIFFNESS} sphere {words(TIP)} {RADIUS}", indenter),
    "wall": (
        f"group some id 2 10 14\n"
        f"fix 2 some wall/harmonic zlo {WALL} {DEPTH} 1.0 {REACH} units box pbc yes",
        wall,
    ),
    "colvars": ("fix 2 all colvars umbrella.colvars output umbrella", umbrella),
}


@pytest.fixture(scope="module")
def pushed(model_file, tmp_path_factory, fork_server) -> Run:
    """Three steps with each of the fixes, and one in the wrong order, one after the other."""
    system, directory = load_case("moving_com"), tmp_path_factory.mktemp("forces")
    (directory / "umbrella.colvars").write_text(UMBRELLA_INPUT)
    parts = []
    for name, (commands, _) in CASES.items():
        script = system.script(
            model_file("moving_com"),
            STEPS,
            options="precision double",
            before_box="atom_modify map array",  # for Colvars
            extra=commands,
        )
        parts.append(script.replace("final.dump", f"{name.replace('/', '_')}.dump"))
    pair = f"pair_style zero {system.cutoff} full\npair_coeff * *\nfix 2 all addforce 1.0 0.0 0.0"
    too_early = system.script(
        model_file("moving_com"), STEPS, options="precision double", pair=pair
    )
    parts.append(too_early.replace("final.dump", "too_early.dump"))
    run = lammps_runner(directory, fork_server)("\nclear\n".join(parts), system)
    assert run.returncode == 0, run.output
    return run


@pytest.mark.parametrize("name", CASES)
def test_forces_are_impulses(name, pushed, model_file, record_property) -> None:
    start, model, force_on = (
        load_case("moving_com"),
        Reference(model_file("moving_com")),
        CASES[name][1],
    )

    def kicked(state: System) -> System:
        impulse = 0.5 * TIMESTEP * FTM2V * force_on(state, start) / start.atom_masses[:, None]
        return replace(state, velocities=state.velocities + impulse)

    state = start
    for _ in range(STEPS):
        state = kicked(state)
        displacement, velocity = model.step(state)
        state = kicked(
            replace(state, positions=state.positions + displacement, velocities=velocity)
        )
    positions, velocities = read_dump(pushed.directory / f"{name.replace('/', '_')}.dump")
    assert_close(positions, state.positions, 1e-8, scale=1.0)
    assert_close(velocities, state.velocities, 1e-7)
    alone = model.run(start, STEPS)
    assert np.abs(velocities - alone.velocities).max() > 1e-3 * np.abs(alone.velocities).max()
    deviation = np.abs(velocities - state.velocities).max() / np.abs(state.velocities).max()
    result = f"velocities differ from the impulses of its formula by {deviation:.1g} relative"
    workflow(record_property, f"forces of {name}", result)


def test_a_force_defined_too_early(pushed, model_file) -> None:
    """A warning says that it does nothing, and it does nothing."""
    warnings = [line for line in pushed.output.splitlines() if "do not act" in line]
    assert len(warnings) == 1
    assert "fix 2 (style addforce)" in warnings[0] and "define fix 2 after fix 1" in warnings[0]
    alone = Reference(model_file("moving_com")).run(load_case("moving_com"), STEPS)
    positions, velocities = read_dump(pushed.directory / "too_early.dump")
    assert_close(positions, alone.positions, 1e-11, scale=1.0)
    assert_close(velocities, alone.velocities, 1e-11)
