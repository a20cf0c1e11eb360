"""What the reference says of a frame besides its motion: energy, virial, forces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.units import KCAL_PER_EV

# Rows and columns of a tensor in the order of LAMMPS: xx, yy, zz, xy, xz, yz.
VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


class Labels(NamedTuple):
    """Of one frame of N atoms; None what is not known.

    Attributes:
        energy: potential energy, kcal/mol.
        virial: (6,) kcal/mol; xx, yy, zz, xy, xz, yz of minus the derivative of the energy by the
            strain: its trace is three times volume times the pressure without the kinetic part.
            Of systems that are periodic in all directions.
        forces: (N, 3) kcal/mol/Angstrom.
    """

    energy: float | None = None
    virial: NDArray[np.float64] | None = None
    forces: NDArray[np.float64] | None = None


def labels_from_ev(
    energy: float | None, virial: NDArray[np.float64] | None, forces: NDArray[np.float64] | None
) -> Labels:
    """Return the labels of a frame whose energy and virial are in eV, forces in eV/Angstrom."""
    return Labels(
        None if energy is None else energy * KCAL_PER_EV,
        None if virial is None else virial * KCAL_PER_EV,
        None if forces is None else forces * KCAL_PER_EV,
    )


def arrays_of(labels: Sequence[Labels]) -> dict[str, NDArray[np.float64] | NDArray[np.float32]]:
    """Join the labels of the frames of a segment.

    Args:
        labels: of its frames.

    Returns:
        By name what all of them have: energy (F,), virial (F, 6), forces (F, N, 3) of single
        precision.
    """
    found: dict[str, NDArray[np.float64] | NDArray[np.float32]] = {}
    for name in Labels._fields:
        values = [value for label in labels if (value := getattr(label, name)) is not None]
        if values and len(values) == len(labels):
            found[name] = np.stack([np.asarray(value, dtype=np.float64) for value in values])
    if "forces" in found:
        found["forces"] = found["forces"].astype(np.float32)
    return found
