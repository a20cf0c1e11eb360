"""Temperatures: of all atoms, of each element, of long waves; their canonical fluctuations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.units import BOLTZMANN_PER_MASS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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


def wave_vectors(cell: Floats, shortest: float) -> tuple[Ints, Floats]:
    """Wave vectors of a periodic cell whose waves are longer than `shortest`.

    Args:
        cell: (3, 3) Angstrom, one vector in each row.
        shortest: Angstrom.

    Returns:
        (K, 3) multiples of the reciprocal vectors, one of each pair k and -k, the longest wave
        first; (K,) wavelengths, Angstrom.
    """
    reciprocal = np.linalg.inv(cell).T
    # |k| < 1 / shortest, and |k . a| <= |k| |a| bounds the multiples.
    reach = np.floor(np.linalg.norm(cell, axis=1) / shortest).astype(int)
    grids = np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij")
    multiples = np.stack(grids, axis=-1).reshape(-1, 3)
    # Of the two halves of this list, one is minus the other, with zero between them.
    multiples = multiples[len(multiples) // 2 + 1 :]
    lengths = 1.0 / np.linalg.norm(multiples @ reciprocal, axis=1)
    multiples, lengths = (each[lengths > shortest] for each in (multiples, lengths))
    order = np.argsort(-lengths, kind="stable")
    return multiples[order], lengths[order]


def long_waves(cell: Floats, share: float) -> tuple[Ints, Floats]:
    """Wave vectors as :func:`wave_vectors`, of waves longer than a share (0 to 1) of the longest.

    Of those along the reciprocal vectors none need be the longest: others are tried, too.
    """
    along = 1.0 / np.linalg.norm(np.linalg.inv(cell).T, axis=1)
    multiples, lengths = wave_vectors(cell, share * along.max())
    kept = lengths > share * lengths[0]
    return multiples[kept], lengths[kept]


def wave_temperatures(
    positions: Floats, velocities: Floats, masses: Floats, cell: Floats, multiples: Ints
) -> tuple[Floats, Floats]:
    """Kinetic energy of waves, and what equipartition makes of it.

    In the canonical distribution of momenta with zero total momentum the momenta p of the atoms
    are independent of their positions r, so that P(k) = sum p exp(i k r) has for every k, in a
    system of mass M, ``<|P|^2> = 3 kT (M - |sum m exp(i k r)|^2 / M)``.

    Args:
        positions: (F, N, 3) Angstrom.
        velocities: (F, N, 3) Angstrom/fs.
        masses: (N,) g/mol.
        cell: (3, 3) Angstrom.
        multiples: (K, 3) from :func:`long_waves`.

    Returns:
        (F, K) the square of P over the Boltzmann constant, K g/mol, and (F, K) its part in 3 M,
        g/mol: the ratio of their sums over waves and frames is the temperature of these waves in K.
    """
    total = masses.sum()
    inverse = np.linalg.inv(cell)
    energies = np.empty((len(positions), len(multiples)))
    shares = np.empty_like(energies)
    for frame, (x, v) in enumerate(zip(positions, velocities, strict=True)):
        phases = np.exp(2j * np.pi * (multiples @ (x @ inverse).T)) * masses
        energies[frame] = np.sum(np.abs(phases @ v) ** 2, axis=1) / BOLTZMANN_PER_MASS
        shares[frame] = 3.0 * (total - np.abs(phases.sum(axis=1)) ** 2 / total)
    return energies, shares
