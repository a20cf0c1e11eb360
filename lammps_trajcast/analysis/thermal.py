"""Temperatures, of all atoms and of each element, and their canonical fluctuations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.units import BOLTZMANN_PER_MASS

Floats = NDArray[np.float64]


def degrees_of_freedom(masses: Floats, positions: Floats | None = None) -> Floats:
    """Share of each atom in the degrees of freedom of a system with fixed total momentum.

    In the canonical distribution of momenta with zero total momentum, m <v^2> = 3 kT (1 - m / M)
    for an atom of mass m in a system of mass M; a fixed angular momentum takes away
    m |e x r|^2 / I for each principal axis e, with moment of inertia I.

    Args:
        masses: (N,) g/mol.
        positions: (N, 3) Angstrom; given if the angular momentum is fixed too.

    Returns:
        (N,) degrees of freedom of each atom.
    """
    shares = 3.0 * (1.0 - masses / masses.sum())
    if positions is None:
        return shares
    from_center = positions - masses @ positions / masses.sum()
    gyration = np.einsum("n,ni,nj->ij", masses, from_center, from_center)
    moments, axes = np.linalg.eigh(np.trace(gyration) * np.eye(3) - gyration)
    for moment, axis in zip(moments, axes.T, strict=True):
        # A linear molecule has no rotation about its axis.
        if moment > 1e-8 * moments.max():
            arms = np.sum(np.cross(axis, from_center) ** 2, axis=1)
            shares = shares - masses * arms / moment
    return shares


def kinetic_temperatures(velocities: Floats, masses: Floats, shares: Floats) -> Floats:
    """Temperature of a group of atoms in each frame, K.

    Args:
        velocities: (F, N, 3) Angstrom/fs.
        masses: (N,) g/mol.
        shares: (N,) degrees of freedom, see :func:`degrees_of_freedom`.

    Returns:
        (F,) K.
    """
    twice_kinetic = np.einsum("n,fnc,fnc->f", masses, velocities, velocities)
    return twice_kinetic / (BOLTZMANN_PER_MASS * float(shares.sum()))


def canonical_fluctuation(temperature: float, shares: Floats) -> float:
    """Standard deviation of the kinetic temperature in the canonical ensemble, K."""
    return temperature * float(np.sqrt(2.0 / shares.sum()))
