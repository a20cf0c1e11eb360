"""The fix with steps that stay on the device of the network, here with tensors of the CPU.

TRAJCAST_RESIDENT makes a CPU do as a GPU does; the other tests of the fix have the usual steps.
"""

import subprocess
import sys

import numpy as np
import pytest
from locations import ENVIRONMENT, TESTS
from models import LIGHT_QUARTZ
from reference import Reference, assert_close
from reliability import wrong_input
from runs import lammps_environment
from systems import load_case

RESIDENT = {"TRAJCAST_RESIDENT": "1"}
# What these tests say is of the usual steps: two kernels with one and the same momenta, and rows of
# the atoms that an edge refers to.
OTHERWISE = ("test_kernels_of_one_process_after_each_other", "test_only_the_rows_that_are_needed")


@pytest.mark.parametrize("name,ranks", [("quartz_l2", 1), ("quartz_l2", 3), ("benzene_angular", 2)])
def test_states_are_those_of_the_network(lmp, model_file, name, ranks) -> None:
    """Lists are built anew after each second step, which moves atoms to other ranks."""
    system, model = load_case(name), model_file(name)
    rebuild = "neigh_modify every 2 delay 0 check no"
    script = system.script(model, 5, options="precision double guard off", extra=rebuild)
    run = lmp(script, system, ranks=ranks, environment=RESIDENT)
    assert run.returncode == 0, run.output
    expected = Reference(model).run(system, 5)
    positions, velocities = run.final()
    moved = expected.positions - system.positions
    assert_close(positions - system.positions, moved, 1e-9)
    assert_close(velocities, expected.velocities, 1e-9)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "limit", ["displacement 0.01", "speed 1.0", "distance 2.5 displacement none", "nearest 1.62"]
)
def test_a_guard_says_the_same(lmp, quartz_crystal, limit, ranks) -> None:
    """Counted on the device, and named by the rank that has the worst atom."""
    answers = []
    for environment in (RESIDENT, {}):
        fix = f"fix 1 all python/trajcast {LIGHT_QUARTZ} Si O guard error limit {limit}"
        run = lmp(f"{quartz_crystal}\n{fix}\nrun 3", ranks=ranks, environment=environment)
        assert run.returncode != 0
        answers.append(run.error())
    assert answers[0] == answers[1] and "the limit is" in answers[0]


@pytest.fixture
def quartz_crystal() -> str:
    from locations import EXAMPLES

    return f"""
units metal
read_data {EXAMPLES}/quartz/quartz.data
replicate 2 2 2
pair_style zero 4.0 full
pair_coeff * *
timestep 0.030
velocity all create 300 4928 mom yes dist gaussian
"""


def test_part_of_the_atoms_on_two_ranks(lmp, quartz_crystal) -> None:
    """Rows are fetched where momentum is not restored, and are those of the usual step."""
    dumps = []
    for environment in (RESIDENT, {}):
        fix = "group some id <= 50\ngroup frozen subtract all some\nvelocity frozen set 0 0 0\n"
        fix += f"fix 1 some python/trajcast {LIGHT_QUARTZ} Si O precision double reversible yes"
        final = "write_dump all custom final.dump id xu yu zu vx vy vz modify sort id"
        script = f"{quartz_crystal}\n{fix}\nrun 3\n{final} format float %.17g"
        run = lmp(script, ranks=2, environment=environment)
        assert run.returncode == 0, run.output
        dumps.append(np.hstack(run.final()))
    assert_close(*dumps, 1e-11)


def test_ranks_on_a_gpu_and_on_a_cpu(lmp, quartz_crystal, record_property) -> None:
    """They would wait for each other in different places."""
    some = '[ "$PMI_RANK" = 1 ] && export TRAJCAST_RESIDENT=1; exec "$0" "$@"'
    command = ["sh", "-c", some, str(ENVIRONMENT / "bin/lmp")]
    fix = f"fix 1 all python/trajcast {LIGHT_QUARTZ} Si O"
    run = lmp(f"{quartz_crystal}\n{fix}\nrun 1", ranks=2, command=command, timeout=120.0)
    assert "on a GPU and others on a CPU" in run.error() and "write 'device cpu'" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "a GPU for some of the ranks", "on a GPU and others on a CPU")


@pytest.mark.long
def test_all_that_the_fix_is_asked_to_do() -> None:
    """The other tests of the fix, with these steps."""
    words = ["-q", "-n", "2", "-p", "no:cacheprovider", str(TESTS / "fix"), str(TESTS / "mpi")]
    words += ["-k", " and ".join(f"not {name}" for name in OTHERWISE)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, f"--ignore={__file__}"],
        cwd=TESTS.parent,
        env=lammps_environment(**RESIDENT),
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stdout[-3000:]
