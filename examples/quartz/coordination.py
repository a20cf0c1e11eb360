"""Coordination numbers: is the network of bonds still what it was?"""

from __future__ import annotations

import numpy as np
import vesin
from numpy.typing import NDArray


def coordination_numbers(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    species: NDArray[np.int64],
    cutoff: float,
) -> NDArray[np.int64]:
    """How many atoms of another species each atom has within a cutoff.

    positions (N, 3) and cell (3, 3) in Angstrom, wrapped or not; pbc (3,); species (N,); cutoff in
    Angstrom. Returns (N,).
    """
    neighbors = vesin.NeighborList(cutoff=cutoff, full_list=True)
    first, second = neighbors.compute(positions, cell, periodic=pbc, quantities="ij")
    unlike = species[first] != species[second]
    return np.bincount(first[unlike], minlength=len(positions)).astype(np.int64)
