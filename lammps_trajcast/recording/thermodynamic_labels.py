"""Energies and virials of frames from the thermodynamic output of a LAMMPS that is told what to do.

The compute of the virial has a name that pair style python/ase knows: a calculator without a stress
is no error there, its virial is not a number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.data.labels import Labels
from lammps_trajcast.lammps_runs.log import step_of
from lammps_trajcast.units import ENERGY_IN_KCAL, PRESSURE_TIMES_VOLUME

VIRIAL = "trajcast_record_virial"
COMPUTE_VIRIAL = f"compute {VIRIAL} all pressure NULL virial"
_COLUMNS = ["step", "pe", "vol", *(f"c_{VIRIAL}[{k}]" for k in range(1, 7))]


def energies_every(steps: int) -> list[str]:
    """Commands for output of energies and virials every so many steps, after COMPUTE_VIRIAL."""
    return [
        f"thermo_style custom {' '.join(_COLUMNS)}",
        "thermo_modify norm no format float %.15g",
        f"thermo {steps}",
    ]


def labels_in(printed: list[str], units: str) -> dict[int, Labels]:
    """Return energies and virials by MD step.

    Args:
        printed: the lines that LAMMPS printed.
        units: LAMMPS units.
    """
    found: dict[int, Labels] = {}
    for line in printed:
        words = line.split()
        step = step_of(line)
        if step is None or len(words) != len(_COLUMNS):
            continue
        energy, volume, *pressure = (float(word) for word in words[1:])
        virial: NDArray[np.float64] = np.array(pressure) * volume / PRESSURE_TIMES_VOLUME[units]
        found[step] = Labels(
            energy=energy * ENERGY_IN_KCAL[units],
            virial=virial * ENERGY_IN_KCAL[units] if np.isfinite(virial).all() else None,
        )
    return found
