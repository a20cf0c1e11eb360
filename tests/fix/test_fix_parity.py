"""Stock LAMMPS with the fix against the network in Python and the TrajCast authors' numbers."""

import re
from dataclasses import replace

import numpy as np
import pytest
from locations import PARITY, PARITY_CASES
from reference import Reference, assert_close
from systems import System, load_case, quoted

EXACT = 1e-12
PUBLISHED = 1e-10


def edges_in(output: str) -> int:
    """The number of edges, printed as the only thermo column after the step, in step 1."""
    line = re.search(r"^\s+1\s+(\d+)\s*$", output, re.MULTILINE)
    assert line is not None, output
    return int(line.group(1))


PRINT_EDGES = "thermo_style custom step f_1"


@pytest.mark.own_process
@pytest.mark.parametrize("name", PARITY_CASES)
def test_one_step(name, lmp, model_file) -> None:
    """LAMMPS, the network in Python and the published numbers agree on one step."""
    system, model = load_case(name), model_file(name)
    published = np.load(PARITY / name / "expected.npz")
    run = lmp(system.script(model, options="precision double", extra=PRINT_EDGES), system)
    assert run.returncode == 0, run.output
    assert edges_in(run.output) == published["num_edges"]

    positions, velocities = run.final()
    displacement, velocity = Reference(model).step(system)
    assert_close(positions - system.positions, displacement, EXACT, scale=1.0)
    assert_close(velocities, velocity, EXACT)
    assert_close(
        positions - system.positions, published["displacement"] @ system.rotation, PUBLISHED
    )
    assert_close(velocities, published["velocity"] @ system.rotation, PUBLISHED)


@pytest.mark.parametrize("name", ["moving_com", "tiny_cell"])
def test_lammps_as_a_python_module(name, python, model_file) -> None:
    """`from lammps import lammps` steps as the network does, too."""
    system, model = load_case(name), model_file(name)
    script = system.script(model, options="precision double")
    run = python(
        f"""
from lammps import lammps
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string({quoted(script)})
lmp.close()
""",
        system,
    )
    assert run.returncode == 0, run.output
    positions, velocities = run.final()
    displacement, velocity = Reference(model).step(system)
    assert_close(positions - system.positions, displacement, EXACT, scale=1.0)
    assert_close(velocities, velocity, EXACT)


@pytest.mark.parametrize(
    ("name", "skin"),
    [
        ("quartz_l2", 0.002),
        ("benzene_angular", 0.002),
        *(
            pytest.param(name, skin, marks=pytest.mark.long)
            for name, skin in (
                ("moving_com", 0.002),
                ("tiny_cell", 0.002),
                ("water_l1", 0.002),
                ("quartz_l2", 2.0),
            )
        ),
    ],
)
def test_many_steps(name, skin, lmp, model_file) -> None:
    """Atoms that are wrapped, sorted and listed anew on the way do not notice."""
    system, model = load_case(name), model_file(name)
    # Atoms on the faces of the box: some cross them within the run.
    system.positions = system.positions - system.positions[len(system.types) // 2]
    extra = f"neighbor {skin} bin\natom_modify sort 1 2.0"
    run = lmp(system.script(model, 20, options="precision double", extra=extra), system)
    assert run.returncode == 0, run.output
    after = Reference(model).run(system, 20)
    positions, velocities = run.final()
    assert_close(positions, after.positions, 1e-10, scale=1.0)
    assert_close(velocities, after.velocities, 1e-10)

    builds = re.search(r"Neighbor list builds = (\d+)", run.output)
    assert builds is not None and (int(builds.group(1)) > 0) == (skin < 1.0)


def test_atoms_cross_faces_in_the_run_above(model_file) -> None:
    """Some atoms do end in another periodic image than they started in."""
    system = load_case("quartz_l2")
    system.positions = system.positions - system.positions[len(system.types) // 2]
    after = Reference(model_file("quartz_l2")).run(system, 20)
    to_cell = np.linalg.inv(system.cell)
    before_image = np.floor(system.positions @ to_cell)
    assert (np.floor(after.positions @ to_cell) != before_image).any()


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False)])
def test_open_boundaries(pbc, lmp, model_file) -> None:
    system, model = replace(load_case("water_l1"), pbc=pbc), model_file("water_l1")
    script = system.script(model, 5, options="precision double", extra=PRINT_EDGES)
    run = lmp(script, system)
    assert run.returncode == 0, run.output
    reference = Reference(model)
    periodic = reference.num_edges(replace(system, pbc=(True, True, True)))
    assert edges_in(run.output) == reference.num_edges(system) < periodic
    after = reference.run(system, 5)
    positions, velocities = run.final()
    assert_close(positions, after.positions, 1e-11, scale=1.0)
    assert_close(velocities, after.velocities, 1e-11)


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(np.diag([2.6, 2.6, 2.6]), marks=pytest.mark.long),
        pytest.param(np.diag([2.4, 3.1, 12.0]), marks=pytest.mark.long),
        np.array([[2.7, 0.0, 0.0], [1.3, 2.5, 0.0], [-1.2, 0.9, 2.6]]),
    ],
    ids=["cube", "flat", "tilted"],
)
def test_cells_shorter_than_the_cutoff(cell, lmp, model_file) -> None:
    """One atom and many images of it: every edge is a self-image, with its own vector."""
    model = model_file("tiny_cell")
    template = load_case("tiny_cell")
    one = replace(
        template,
        positions=np.array([[0.3, 0.2, 0.1]]),
        velocities=np.array([[0.001, 0.004, -0.002]]),
        types=np.array([1]),
        cell=cell,
    )
    # A second atom off the lattice makes the displacements something else than zero.
    two = replace(
        one,
        positions=np.array([[0.3, 0.2, 0.1], [1.5, 1.4, 1.6]]),
        velocities=np.array([[0.001, 0.004, -0.002], [-0.003, 0.002, 0.001]]),
        types=np.array([1, 1]),
    )
    for system in (one, two):
        script = system.script(model, options="precision double", extra=PRINT_EDGES)
        run = lmp(script, system)
        assert run.returncode == 0, run.output
        reference = Reference(model)
        assert edges_in(run.output) == reference.num_edges(system)
        displacement, velocity = reference.step(system)
        positions, velocities = run.final()
        assert_close(positions - system.positions, displacement, EXACT, scale=1.0)
        assert_close(velocities, velocity, EXACT, scale=1e-3)


def test_atoms_without_neighbors(lmp, model_file) -> None:
    system = System(
        positions=np.array([[2.0, 2.0, 2.0], [22.0, 22.0, 22.0]]),
        velocities=np.array([[0.001, 0.0, 0.002], [0.0, -0.003, 0.001]]),
        cell=np.diag([40.0, 40.0, 40.0]),
        types=np.array([1, 2]),
        masses=load_case("quartz_l2").masses,
        elements=["Si", "O"],
        cutoff=5.0,
    )
    model = model_file("quartz_l2")
    run = lmp(system.script(model, options="precision double", extra=PRINT_EDGES), system)
    assert run.returncode == 0, run.output
    assert edges_in(run.output) == 0
    displacement, velocity = Reference(model).step(system)
    positions, velocities = run.final()
    assert_close(positions - system.positions, displacement, EXACT, scale=1.0)
    assert_close(velocities, velocity, EXACT)


def test_types_in_another_order_than_the_models(lmp, model_file) -> None:
    """Types are matched to the model's species by their symbols."""
    system, model = load_case("quartz_l2"), model_file("quartz_l2")
    swapped = replace(
        system, types=3 - system.types, masses=system.masses[::-1], elements=system.elements[::-1]
    )
    finals = []
    for one in (system, swapped):
        run = lmp(one.script(model, 2, options="precision double"), one)
        assert run.returncode == 0, run.output
        finals.append(run.final())
    for before, after in zip(*finals, strict=True):
        assert_close(after, before, EXACT)


def test_plain_kernels(lmp, model_file) -> None:
    """Other code, the same step; the last digits tell that it was other code."""
    system, model = load_case("quartz_l2"), model_file("quartz_l2")
    finals = []
    for kernels in ("plain", "fused"):
        run = lmp(system.script(model, 3, options=f"precision double kernels {kernels}"), system)
        assert run.returncode == 0, run.output
        finals.append(run.final())
    for plain, fused in zip(*finals, strict=True):
        assert_close(fused, plain, EXACT)
    assert (finals[0][1] != finals[1][1]).any()


def test_kernels_of_one_process_after_each_other(lmp, model_file) -> None:
    """Without TorchScript, with it, without again: the same numbers; `clear` leaves nothing."""
    system, model = load_case("quartz_l2"), model_file("quartz_l2")
    scripts = [
        system.script(model, 3, options=f"precision double kernels {kernels}").replace(
            "final.dump", f"{number}.dump"
        )
        for number, kernels in enumerate(("direct", "fused", "direct"))
    ]
    run = lmp("\nclear\n".join(scripts), system)
    assert run.returncode == 0, run.output
    first, *others = ((run.directory / f"{number}.dump").read_text() for number in range(3))
    assert "ITEM: ATOMS" in first and others == [first, first]


def test_single_precision(lmp, model_file) -> None:
    """A network in single precision is near the one in double, and not the same."""
    system, model = load_case("quartz_l2"), model_file("quartz_l2")
    _, expected = Reference(model).step(system)
    deviations = {}
    for precision in ("single", "double"):
        run = lmp(system.script(model, options=f"precision {precision}"), system)
        assert run.returncode == 0, run.output
        deviations[precision] = np.abs(run.final()[1] - expected).max() / np.abs(expected).max()
    assert deviations["double"] < EXACT < 1e-8 < deviations["single"] < 1e-4
