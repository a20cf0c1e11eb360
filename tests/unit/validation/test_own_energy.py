"""The check of a model's own potential energy: on energies whose error is known."""

from __future__ import annotations

import numpy as np
import pytest
from energies import random_energy

from lammps_trajcast.energy.model import EnergyErrors, EnergyModel
from lammps_trajcast.kernels.energy import EnergyKernel
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.validation.comparison import Production
from lammps_trajcast.validation.config import Tolerances
from lammps_trajcast.validation.own_energy import energy_of_frame, own_energy_part

CUTOFF, FRAMES = 4.0, 200
ERRORS = EnergyErrors(
    energy=0.02,
    pressure=0.15,
    stress=0.1,
    forces=0.03,
    energy_per_atom=0.01,
    frames=7,
    temperatures=(290.0, 310.0),
)


def production(energy: EnergyModel, noise: float) -> Production:
    """A run of eight atoms in two blocks, its energies those of the model but for noise."""
    generator = np.random.default_rng(4)
    places = generator.uniform(0.0, 6.0, (8, 3))
    positions = places + generator.normal(scale=0.3, size=(FRAMES, 8, 3))
    blocks = [
        Trajectory(
            steps=np.arange(len(part)),
            times=np.arange(len(part)) * 1.0,
            positions=part,
            velocities=np.zeros_like(part),
            # Elements in another order than the model has them.
            species=np.array([0, 1] * 4),
            elements=["O", "Si"],
            masses=np.ones(8),
            cell=6.0 * np.eye(3),
            pbc=np.array([True] * 3),
        )
        for part in np.split(positions, 2)
    ]
    kernel = EnergyKernel(energy)
    values = np.array(
        [
            energy_of_frame(kernel, CUTOFF, ("Si", "O"), block, k)
            for block in blocks
            for k in range(len(block))
        ]
    )
    # eV, as a run in units metal has it.
    values = values / 23.060547830619026
    values += generator.normal(scale=noise * values.std(), size=FRAMES)
    return Production(blocks, blocks, np.full(FRAMES, 300.0), values, [])


@pytest.mark.parametrize(
    ("noise", "verdict"), [(0.03, "passed"), (0.5, "failed"), (0.1, "undecided")]
)
def test_error_is_judged(noise: float, verdict: str) -> None:
    energy = random_energy(CUTOFF)._replace(errors=ERRORS)
    section = own_energy_part(
        energy, ("Si", "O"), [production(energy, noise)], "metal", Tolerances()
    )
    own, pressure = section.checks
    assert own.value == pytest.approx(noise / np.sqrt(1.0 + noise**2), rel=0.15)
    assert own.verdict == verdict
    assert own.error == pytest.approx(own.value / np.sqrt(2.0 * FRAMES), rel=1.0)
    # Only reported, unless the YAML file has a limit for it.
    assert (pressure.value, pressure.passed) == (0.15, None)
    limited = own_energy_part(
        energy, ("Si", "O"), [production(energy, noise)], "metal", Tolerances(own_pressure=0.1)
    )
    assert limited.checks[1].passed is False


def test_pressure_that_is_not_known_is_left_out() -> None:
    energy = random_energy(CUTOFF)
    section = own_energy_part(
        energy, ("Si", "O"), [production(energy, 0.03)], "metal", Tolerances()
    )
    assert len(section.checks) == 1
