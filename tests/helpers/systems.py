"""Systems that tests run: parity cases as data files, input scripts and model files."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import Prism
from locations import PARITY
from numpy.typing import NDArray

TIMESTEP = 30.0  # fs; the parity cases were published without one

TIME_UNIT = {"real": 1.0, "metal": 1000.0}  # fs


def lammps_timestep(units: str = "real") -> float:
    return TIMESTEP / TIME_UNIT[units]


@dataclass
class System:
    """Atoms in LAMMPS's orientation. Velocities in Angstrom/fs, positions in the box's frame."""

    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    cell: NDArray[np.float64]  # rows, lower triangular
    types: NDArray[np.int64]  # from 1
    masses: list[float]  # of the types
    elements: list[str]  # of the types
    cutoff: float
    pbc: tuple[bool, bool, bool] = (True, True, True)
    rotation: NDArray[np.float64] = field(
        default_factory=lambda: np.eye(3)
    )  # v_here = v @ rotation

    @property
    def atom_masses(self) -> NDArray[np.float64]:
        return np.array(self.masses)[self.types - 1]

    def as_atoms(self) -> Atoms:
        return Atoms(
            [self.elements[t - 1] for t in self.types],
            positions=self.positions,
            cell=self.cell,
            pbc=self.pbc,
        )

    def write_data(self, path: Path, units: str = "real") -> None:
        """A LAMMPS data file that holds every digit."""
        cell, number = self.cell, "{:.17g}".format
        lines = ["test system", "", f"{len(self.types)} atoms", f"{len(self.masses)} atom types"]
        for k, axis in enumerate("xyz"):
            lines.append(f"0.0 {number(cell[k, k])} {axis}lo {axis}hi")
        tilts = [cell[1, 0], cell[2, 0], cell[2, 1]]
        if any(abs(tilt) > 1e-12 for tilt in tilts):
            lines.append(" ".join(map(number, tilts)) + " xy xz yz")
        lines += ["", "Masses", ""]
        lines += [f"{t} {number(mass)}" for t, mass in enumerate(self.masses, 1)]
        lines += ["", "Atoms # atomic", ""]
        for i, (t, x) in enumerate(zip(self.types, self.positions, strict=True), 1):
            lines.append(f"{i} {t} " + " ".join(map(number, x)))
        lines += ["", "Velocities", ""]
        for i, v in enumerate(self.velocities * TIME_UNIT[units], 1):
            lines.append(f"{i} " + " ".join(map(number, v)))
        path.write_text("\n".join(lines) + "\n")

    def script(
        self,
        model: Path,
        steps: int = 1,
        *,
        units: str = "real",
        before_box: str = "",
        pair: str | None = None,
        fix: str | None = None,
        options: str = "",
        extra: str = "",
        timestep: float | None = None,
    ) -> str:
        """An input script that runs the fix on `system.data` and dumps `final.dump`."""
        boundary = " ".join("p" if periodic else "m" for periodic in self.pbc)
        pair = pair if pair is not None else f"pair_style zero {self.cutoff} full\npair_coeff * *"
        default_fix = f"fix 1 all python/trajcast {model} {' '.join(self.elements)} {options}"
        return f"""
units {units}
boundary {boundary}
{before_box}
read_data system.data
{pair}
timestep {timestep if timestep is not None else lammps_timestep(units)}
{fix if fix is not None else default_fix}
{extra}
thermo 1
run {steps}
write_dump all custom final.dump id xu yu zu vx vy vz modify sort id format float %.17g
"""


def load_case(name: str) -> System:
    """A parity case, turned into the orientation that LAMMPS needs."""
    inputs = np.load(PARITY / name / "expected.npz")
    config = model_config(name)
    prism = Prism(inputs["cell"])
    rotation = prism.rot_mat
    species = sorted(
        {(int(t), int(z)) for t, z in zip(inputs["types"], inputs["numbers"], strict=True)}
    )
    symbols = Atoms(numbers=[z for _, z in species]).get_chemical_symbols()
    masses = [float(inputs["masses"][inputs["types"] == t][0]) for t, _ in species]
    return System(
        positions=inputs["positions"] @ rotation,
        velocities=inputs["velocities"] @ rotation,
        cell=np.tril(inputs["cell"] @ rotation),
        types=inputs["types"] + 1,
        masses=masses,
        elements=symbols,
        cutoff=float(config["edge_cutoff"]),
        rotation=rotation,
    )


def model_config(name: str) -> dict:
    import yaml

    config = yaml.safe_load((PARITY / name / "config.yaml").read_text())
    return config.get("model", config)


def quoted(text: str) -> str:
    """A script as a Python literal."""
    return json.dumps(text)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory):
    """Function: the model file of a parity case, velocities in Angstrom/fs."""
    from lammps_trajcast.model.checkpoint import convert_checkpoint

    directory = tmp_path_factory.mktemp("models")

    def convert(name: str) -> Path:
        path = directory / f"{name}.safetensors"
        if not path.exists():
            system = load_case(name)
            convert_checkpoint(
                PARITY / name / "config.yaml",
                PARITY / name / "state_dict.pt",
                species=system.elements,
                masses=system.masses,
                timestep=TIMESTEP,
                units="real",
            ).save(path)
        return path

    return convert
