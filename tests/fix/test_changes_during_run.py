"""What a script changes while it runs: atoms, their types and bonds, groups, the box."""

import numpy as np
import pytest
from models import tiny_model
from reference import Reference, assert_close
from reliability import workflow, wrong_input
from runs import read_dump
from systems import System, load_case

ZERO = "pair_style zero 3.5 full\npair_coeff * *"
FIX = "fix 1 {} python/trajcast tiny.safetensors Si O precision double guard off"
STATE = "id xu yu zu vx vy vz modify sort id format float %.17g"


@pytest.fixture
def quartz() -> System:
    return load_case("quartz_l2")


@pytest.fixture
def run(lmp, quartz, tmp_path):
    """Function: run commands after the crystal of quartz has been read."""
    tiny_model().save(tmp_path / "tiny.safetensors")

    def start(commands: str, *, style: str = "atomic", ranks: int = 0, pair: str = ZERO):
        script = f"units metal\natom_style {style}\nread_data system.data\n{pair}\n"
        return lmp(f"{script}timestep 0.030\n{commands}\n", quartz, units="metal", ranks=ranks)

    return start


def warnings(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("WARNING: Fix ")]


def refused(run, *words: str) -> None:
    assert run.returncode != 0, run.output
    for word in words:
        assert word in run.error()


LOWER = "variable low atom z<6\ngroup lower dynamic all var low every 1\n"


@pytest.mark.parametrize("ranks", [0, 2])
def test_second_integrator_on_a_dynamic_group(run, ranks, record_property) -> None:
    """LAMMPS finds the members of the group only after the fix has been initialized."""
    found = run(f"{LOWER}{FIX.format('lower')}\nfix 2 all nve\nrun 3", ranks=ranks)
    refused(found, "fix 2 (style nve) integrates the same atoms", "unfix 2")
    wrong_input(
        record_property, "second integrator on a dynamic group", "integrates the same atoms"
    )


def test_integrators_of_dynamic_groups_without_common_atoms(run, tmp_path) -> None:
    """The other group is dynamic, too: no false error, and no false warning of unmoved atoms."""
    upper = "variable up atom z>=6\ngroup upper dynamic all var up every 1\n"
    found = run(f"{LOWER}{upper}{FIX.format('lower')}\nfix 2 upper nve\nthermo 1\nrun 2")
    assert found.returncode == 0, found.output
    assert not warnings(found.output)


def test_atoms_that_join_a_second_integrator_during_the_run(run, record_property) -> None:
    """The groups have no common atoms until step 3."""
    late = "variable late atom step>=3\ngroup late dynamic all var late every 1\n"
    found = run(f"{late}{FIX.format('all')}\nfix 2 late nve\nthermo 1\nrun 6")
    refused(found, "fix 2 (style nve) integrates the same atoms")
    assert "\n         2 " in found.output and "\n         5 " not in found.output
    wrong_input(
        record_property,
        "atoms that join the group of another integrator during the run",
        "integrates the same atoms",
    )


def test_group_that_becomes_dynamic_after_the_fix(run, record_property) -> None:
    found = run(f"group lower type 1\n{FIX.format('lower')}\n{LOWER}run 2")
    refused(found, "lower has become a dynamic one after this fix", "before it")
    wrong_input(record_property, "group that becomes dynamic after the fix", "a dynamic one after")


def test_dynamic_group_moves_its_members(run, quartz, tmp_path) -> None:
    """Two steps of the members of each step, without momentum conserved, as the network says."""
    found = run(
        f"{LOWER}{FIX.format('lower')}\n"
        f"run 1\nwrite_dump all custom one.dump {STATE}\n"
        f"run 1\nwrite_dump all custom two.dump {STATE}"
    )
    assert found.returncode == 0, found.output
    reference = Reference(tmp_path / "tiny.safetensors")
    (x1, v1), (x2, v2) = read_dump(tmp_path / "one.dump"), read_dump(tmp_path / "two.dump")
    for x, v, x_next, v_next in (
        (quartz.positions, quartz.velocities * 1000.0, x1, v1),
        (x1, v1, x2, v2),
    ):
        wrapped = x[:, 2] % quartz.cell[2, 2]
        members = wrapped < 6
        state = System(**{**vars(quartz), "positions": x, "velocities": v / 1000.0})
        displacement, velocity = reference.step(state, conserve=False)
        assert 0 < members.sum() < len(members)
        assert_close((x_next - x)[members], displacement[members], 1e-9)
        assert_close(v_next[members] / 1000.0, velocity[members], 1e-9)
        assert np.abs((x_next - x)[~members]).max() < 1e-12


DEPOSIT = """
change_box all z final -2 24 units box
group mobile type 1 2
region top block 2 4 2 4 18 20 units box
group new empty
{fix}
fix d {into} deposit 1 2 3 12345 region top vz 0 0 vx 0 0 vy 0 0 near 1.0
velocity mobile set 0.5 0.1 0.2 sum yes
thermo 1
{runs}
write_dump all custom final.dump {state}
"""


@pytest.mark.parametrize("into, conserved", [("new", False), ("mobile", True)])
def test_deposited_atom_ends_the_conservation_of_momentum(
    run, into, conserved, record_property
) -> None:
    """Whether runs are split must not matter; the group is a smaller one from step 3 on."""
    ends, momenta = [], []
    for runs in ("run 8", "run 3\nrun 5", "run 4\nrun 4"):
        commands = {"fix": FIX.format("mobile"), "into": into, "runs": runs, "state": STATE}
        found = run(DEPOSIT.format(**commands))
        assert found.returncode == 0, found.output
        ends.append(found.final())
        first = load_case("quartz_l2")
        masses = first.atom_masses
        momenta.append(masses @ ends[-1][1][: len(masses)] / masses.sum())
    for other in ends[1:]:
        assert len(other[0]) == 73
        for one, two in zip(ends[0], other, strict=True):
            assert_close(two, one, 1e-9)
    if not conserved:
        workflow(
            record_property,
            "fix deposit of an atom outside the group",
            "`run 8` and `run 4`, `run 4` agree to 1e-9; no momentum is imposed from then on",
        )


def test_momentum_is_kept_until_an_atom_is_outside(run, quartz, tmp_path) -> None:
    """Velocity of the center of mass: prescribed, then that of the network alone."""
    commands = {"fix": FIX.format("mobile"), "into": "new", "state": STATE}
    center = "variable p equal vcm(mobile,x)\nthermo_style custom step atoms v_p\n"
    found = run(center + DEPOSIT.format(runs="run 8", **commands))
    rows = [line.split() for line in found.output.splitlines() if line.strip()[:1].isdigit()]
    values = {int(r[0]): (int(r[1]), float(r[2])) for r in rows if len(r) == 3}
    assert [atoms for atoms, _ in values.values()] == [72] + [73] * 8
    # Step 1 was predicted before the atom came; this model prescribes a momentum of zero.
    momenta = [momentum for _, momentum in values.values()]
    assert abs(momenta[1]) < 1e-9 * abs(momenta[0])
    assert min(np.abs(np.diff(momenta[1:]))) > 1e-4 * abs(momenta[0])


def test_type_whose_mass_is_wrong_appears(run, record_property) -> None:
    """No atom has the type at the start; fix deposit inserts one."""
    box = "change_box all z final -2 24 units box\nregion top block 2 4 2 4 18 20 units box\n"
    # Type 2 first becomes type 1, so that the wrong mass is nobody's.
    alone = "set type 2 type 1\nmass 2 16.5\n"
    found = run(
        f"{box}{alone}{FIX.format('all')}\nfix d all deposit 1 2 3 12345 region top near 1.0\nrun 8"
    )
    refused(found, "atoms of type 2 (O) have the mass 16.5", "mass 2 15.999")
    wrong_input(record_property, "atom of a type with another mass, inserted", "have the mass 16.5")


def test_bonds_made_during_the_run_hide_neighbors(lmp, quartz, tmp_path, record_property) -> None:
    tiny_model().save(tmp_path / "tiny.safetensors")
    script = f"""
units metal
atom_style bond
region box block 0 12 0 12 0 12
create_box 2 box bond/types 1 extra/bond/per/atom 4 extra/special/per/atom 20
mass 1 28.085
mass 2 15.999
create_atoms 1 single 3.0 3.0 3.0
create_atoms 2 single 4.6 3.0 3.0
create_atoms 2 single 9.0 9.0 9.0
{ZERO}
bond_style zero
bond_coeff *
special_bonds lj/coul 0 1e-50 1e-50
timestep 0.030
{FIX.format("all")}
fix b all bond/create 2 1 2 3.0 1
thermo 1
run 6
"""
    found = lmp(script)
    refused(found, "bonded atoms are left out of the neighbor list", "special_bonds")
    wrong_input(
        record_property, "bonds that a fix makes during the run", "left out of the neighbor list"
    )


ORDERS = ("{gcmc}\n{fix}", "{fix}\n{gcmc}")


@pytest.mark.parametrize("order", ORDERS, ids=["gcmc first", "gcmc last"])
def test_exclusions_of_gcmc(run, order, record_property) -> None:
    """GCMC makes its own exclusion, of a group without atoms: both orders, both runs pass."""
    pair = """
pair_style hybrid/overlay zero 3.5 full lj/cut 3.5
pair_coeff * * zero
pair_coeff * * lj/cut 0.05 1.6
"""
    gcmc = "fix g oxygen gcmc 1 2 2 2 29494 300 -5.0 0.01 full_energy"
    fix = FIX.format("all") + " energy lj/cut"
    commands = "group oxygen type 2\n" + order.format(gcmc=gcmc, fix=fix)
    found = run(f"{commands}\nthermo 1\nrun 3\nrun 3", pair=pair)
    assert found.returncode == 0, found.output
    workflow(
        record_property, "fix gcmc full_energy, before and after the fix", "accepted, in each run"
    )


def test_exclusion_of_groups_with_atoms(run, record_property) -> None:
    groups = "group one type 1\ngroup two type 2\nneigh_modify exclude group one two\n"
    found = run(f"{groups}{FIX.format('all')}\nrun 1")
    refused(found, "'neigh_modify exclude group one two' hides neighbors")
    # A group without atoms that gets some during the run.
    exclude = "group new empty\nneigh_modify exclude group new all\n"
    fix, runs = FIX.format("all"), "thermo 1\nrun 8"
    deposit = DEPOSIT.replace("group new empty\n", exclude)
    found = run(deposit.format(fix=fix, into="new", runs=runs, state=STATE))
    refused(found, "'neigh_modify exclude group new all' hides neighbors")
    assert "\n         1 " in found.output and "\n         2 " not in found.output
    says = "hides neighbors"
    wrong_input(record_property, "`neigh_modify exclude` of a group that gets atoms later", says)


def test_exclusion_of_two_groups_of_which_one_gets_atoms(run) -> None:
    """No pair is hidden as long as the other one is empty: the run goes on."""
    groups = "group new empty\ngroup other empty\nneigh_modify exclude group {}\n"
    finals = []
    for pair in ("new other", "other new", ""):
        exclude = groups.format(pair) if pair else "group new empty\n"
        deposit = DEPOSIT.replace("group new empty\n", exclude)
        found = run(deposit.format(fix=FIX.format("all"), into="new", runs="run 8", state=STATE))
        assert found.returncode == 0, found.output
        finals.append(found.final())
    for other in finals[:2]:
        for one, two in zip(finals[2], other, strict=True):
            assert_close(two, one, 1e-9)


HELD = {
    "setforce": "0 0 0",
    "planeforce": "0 0 1",
    "lineforce": "1 0 0",
    "aveforce": "0 0 0",
}


@pytest.mark.parametrize("style", HELD)
def test_fixes_that_hold_by_forces_are_warned_of(run, style) -> None:
    found = run(
        f"region left block EDGE EDGE EDGE EDGE EDGE 3\ngroup held region left\n"
        f"{FIX.format('all')}\nfix 2 held {style} {HELD[style]}\nrun 1"
    )
    (warning,) = warnings(found.output)
    assert f"Fix 2 (style {style}) does not hold atoms" in warning
    assert "group mobile subtract all held" in warning


def test_fixes_that_scale_forces_are_warned_of(run) -> None:
    found = run(f"{FIX.format('all')}\nfix 2 all flow/gauss 1 1 1\nrun 1")
    (warning,) = warnings(found.output)
    assert "Fix 2 (style flow/gauss) changes the forces of a potential" in warning


def test_streaming_velocities_are_refused(run, record_property) -> None:
    found = run(f"{FIX.format('all')}\nfix 2 all deform 1 xy erate 0.4 remap v\nrun 1")
    refused(found, "fix 2 (style deform) with 'remap v'", "'remap x'")
    wrong_input(record_property, "fix deform with `remap v`", "adds the velocities of a flow")
    # nvt/sllod needs it and integrates the same atoms.
    found = run(
        "fix 2 all deform 1 xy erate 0.4 remap v\n"
        f"{FIX.format('all')}\nfix 3 all nvt/sllod temp 300 300 0.1\nrun 1"
    )
    refused(found, "Fix 1 python/trajcast")
    found = run(f"{FIX.format('all')}\nfix 2 all deform 1 xy erate 0.4 remap x\nrun 1")
    assert found.returncode == 0, found.output


def test_path_of_a_model_with_letters_beyond_ascii(run, tmp_path, record_property) -> None:
    tiny_model().save(tmp_path / "m ü.safetensors")
    found = run('fix 1 all python/trajcast "m ü.safetensors" Si O\nrun 1')
    refused(found, "letters beyond ASCII", "symbolic link")
    wrong_input(record_property, "path of a model with letters beyond ASCII", "beyond ASCII")
    found = run("fix 1 all python/trajcast tiny.safetensors Si Ö\nrun 1")
    refused(found, "the model does not know the element")
