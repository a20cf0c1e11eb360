"""Structure of a trajectory: g(r), distributions of bond lengths, angles and dihedral angles.

Distances come from vesin, which sees every periodic image; angles from ASE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

import ase.geometry
import numpy as np
import vesin
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Histogram:
    """A curve over equal bins.

    Attributes:
        x: (B,) centers of the bins.
        y: (B,) densities, or g(r).
    """

    x: Floats
    y: Floats


def element_pairs(elements: list[str]) -> list[tuple[int, int]]:
    """Pairs of species indices in the order (0, 0), (0, 1), (1, 1) and so on."""
    return list(combinations_with_replacement(range(len(elements)), 2))


def radial_distributions(
    frames: Iterable[Floats],
    cell: Floats,
    species: NDArray[np.int64],
    elements: list[str],
    r_max: float,
    bin_width: float,
) -> dict[str, Histogram]:
    """g(r) of every pair of elements in a crystal or liquid, averaged over frames.

    Args:
        frames: positions (N, 3) in Angstrom, wrapped or not.
        cell: (3, 3) Angstrom, rows are the lattice vectors; periodic in all directions. It may be
            smaller than r_max.
        species: (N,) index of each atom into elements.
        elements: symbols.
        r_max: largest distance, Angstrom.
        bin_width: Angstrom; adjusted so that a whole number of bins reaches r_max.

    Returns:
        By pair, "O-Si": g(r), 1 for an ideal gas of the same density.
    """
    edges = np.linspace(0.0, r_max, max(int(round(r_max / bin_width)), 1) + 1)
    pairs = element_pairs(elements)
    bins = len(edges) - 1
    kind = np.zeros((len(elements), len(elements)), dtype=np.int64)
    for number, (a, b) in enumerate(pairs):
        kind[a, b] = kind[b, a] = number
    counts = np.zeros((len(pairs), bins))
    number_of_frames = 0
    for positions in frames:
        number_of_frames += 1
        i, j, distance = _neighbors(positions, cell, np.ones(3, dtype=bool), r_max)
        place = np.minimum((distance * (bins / r_max)).astype(np.int64), bins - 1)
        place += bins * kind[species[i], species[j]]
        counts += np.bincount(place, minlength=counts.size).reshape(counts.shape)
    volume = abs(float(np.linalg.det(cell)))
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    population = np.bincount(species, minlength=len(elements))
    result = {}
    for number, (a, b) in enumerate(pairs):
        # The list has every pair in both directions, and pairs of unlike atoms from either side.
        ordered = population[a] * population[b] * (1 if a == b else 2)
        # An atom is not its own neighbor, but its images are.
        expected = ordered * shells / volume * max(number_of_frames, 1)
        g = np.divide(counts[number], expected, out=np.zeros_like(shells), where=expected > 0)
        result[f"{elements[a]}-{elements[b]}"] = Histogram(_centers(edges), g)
    return result


@dataclass(frozen=True)
class Bonds:
    """The bonds of one frame: every pair of bonded atoms in both directions, sorted by `center`.

    Attributes:
        center, end: (E,) atoms.
        vector: (E, 3) Angstrom, from center to end.
    """

    center: NDArray[np.int64]
    end: NDArray[np.int64]
    vector: Floats

    @property
    def lengths(self) -> Floats:
        """Lengths (E,) of the bonds, Angstrom."""
        return np.linalg.norm(self.vector, axis=1)

    def degrees(self, atoms: int) -> NDArray[np.int64]:
        """Number of bonds (N,) of each atom.

        Args:
            atoms: number N of atoms of the frame.
        """
        return np.bincount(self.center, minlength=atoms).astype(np.int64)


def find_bonds(
    positions: Floats,
    cell: Floats,
    pbc: NDArray[np.bool_],
    species: NDArray[np.int64],
    cutoffs: Mapping[tuple[int, int], float],
) -> Bonds:
    """Pairs of atoms closer than the cutoff of their elements.

    Args:
        positions: (N, 3) Angstrom.
        cell: (3, 3) Angstrom, rows are the lattice vectors.
        pbc: (3,) whether each of them is a period.
        species: (N,) index of each atom's element.
        cutoffs: Angstrom, for pairs of species indices in ascending order.

    Returns:
        The E bonds, each from both of its ends.
    """
    neighbors = vesin.NeighborList(cutoff=max(cutoffs.values()), full_list=True)
    i, j, distance, vector = neighbors.compute(positions, cell, periodic=pbc, quantities="ijdD")
    number = int(species.max(initial=0)) + 1
    limit = np.zeros((number, number))
    for (a, b), cutoff in cutoffs.items():
        if b < number:
            limit[a, b] = limit[b, a] = cutoff
    bonded = distance < limit[species[i], species[j]]
    order = np.argsort(i[bonded], kind="stable")
    return Bonds(
        i[bonded][order].astype(np.int64), j[bonded][order].astype(np.int64), vector[bonded][order]
    )


def bond_angles(bonds: Bonds) -> tuple[NDArray[np.int64], Floats]:
    """Angles between the bonds of each atom.

    Returns:
        Atoms (A, 3), the middle one being the vertex, and angles (A,) in degrees.
    """
    first = np.searchsorted(bonds.center, bonds.center, side="left")
    # Each bond with those of the same atom that come before it.
    before = np.arange(len(bonds.center)) - first
    second_leg = np.repeat(np.arange(len(bonds.center)), before)
    offset = np.arange(len(second_leg)) - np.repeat(np.cumsum(before) - before, before)
    first_leg = np.repeat(first, before) + offset
    atoms = np.stack([bonds.end[first_leg], bonds.center[first_leg], bonds.end[second_leg]], axis=1)
    if not len(atoms):
        return atoms, np.empty(0)
    angles = ase.geometry.get_angles(bonds.vector[first_leg], bonds.vector[second_leg])
    return atoms, np.asarray(angles)


def bond_distributions(
    frames: Iterable[Bonds],
    species: NDArray[np.int64],
    elements: list[str],
    cutoffs: Mapping[tuple[int, int], float],
    length_bin: float = 0.01,
    angle_bin: float = 2.0,
) -> tuple[dict[str, Histogram], dict[str, Histogram]]:
    """Densities of bond lengths (1/Angstrom) and of angles between bonds (1/degree), by elements.

    Args:
        frames: bonds of each frame.
        species: (N,) index of each atom into elements.
        elements: symbols.
        cutoffs: Angstrom, by which the bonds were found; lengths are counted up to them.
        length_bin: Angstrom.
        angle_bin: degrees.

    Returns:
        Lengths by pair, "O-Si", and angles by triple, "O-Si-O" with the vertex in the middle; the
        element that comes first in `elements` comes first in the name.
    """
    length_edges = {
        pair: np.linspace(0.0, cutoff, max(int(round(cutoff / length_bin)), 1) + 1)
        for pair, cutoff in cutoffs.items()
    }
    angle_edges = np.linspace(0.0, 180.0, max(int(round(180.0 / angle_bin)), 1) + 1)
    lengths = {pair: np.zeros(len(edges) - 1) for pair, edges in length_edges.items()}
    angles: dict[tuple[int, int, int], Floats] = {}
    for bonds in frames:
        one_way = bonds.center <= bonds.end
        a, b = species[bonds.center[one_way]], species[bonds.end[one_way]]
        low, high, distance = np.minimum(a, b), np.maximum(a, b), bonds.lengths[one_way]
        for pair, edges in length_edges.items():
            of_pair = (low == pair[0]) & (high == pair[1])
            lengths[pair] += np.histogram(distance[of_pair], bins=edges)[0]
        atoms, degrees = bond_angles(bonds)
        kinds = species[atoms]
        kinds = np.stack(
            [kinds[:, [0, 2]].min(axis=1), kinds[:, 1], kinds[:, [0, 2]].max(axis=1)], axis=1
        )
        for kind in np.unique(kinds, axis=0):
            key = (int(kind[0]), int(kind[1]), int(kind[2]))
            of_kind = (kinds == kind).all(axis=1)
            counts = np.histogram(degrees[of_kind], bins=angle_edges)[0]
            angles[key] = angles.get(key, np.zeros(len(angle_edges) - 1)) + counts
    return (
        {
            "-".join(elements[k] for k in pair): _density(counts, length_edges[pair])
            for pair, counts in lengths.items()
        },
        {
            "-".join(elements[k] for k in kind): _density(counts, angle_edges)
            for kind, counts in sorted(angles.items())
        },
    )


def dihedral_distribution(
    frames: Floats, cell: Floats, pbc: NDArray[np.bool_], atoms: tuple[int, int, int, int]
) -> Histogram:
    """Density (1/degree) of a dihedral angle between -180 and 180 degrees, in bins of 10.

    Args:
        frames: positions (F, N, 3), Angstrom.
        cell: (3, 3) Angstrom, rows are the lattice vectors.
        pbc: (3,) whether each of them is a period.
        atoms: indices, from 0, of the four atoms in order along the chain.
    """
    first, second, third, fourth = (frames[:, atom] for atom in atoms)
    with_cell = {"cell": cell, "pbc": pbc} if pbc.any() else {}
    angles = ase.geometry.get_dihedrals(second - first, third - second, fourth - third, **with_cell)
    edges = np.linspace(-180.0, 180.0, 37)
    wrapped = (np.asarray(angles) + 180.0) % 360.0 - 180.0
    return _density(np.histogram(wrapped, bins=edges)[0].astype(float), edges)


def _neighbors(
    positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    neighbors = vesin.NeighborList(cutoff=cutoff, full_list=True)
    i, j, distance = neighbors.compute(positions, cell, periodic=pbc, quantities="ijd")
    return i.astype(np.int64), j.astype(np.int64), distance


def _centers(edges: Floats) -> Floats:
    return 0.5 * (edges[1:] + edges[:-1])


def _density(counts: Floats, edges: Floats) -> Histogram:
    total = float(np.sum(counts * np.diff(edges)))
    return Histogram(_centers(edges), counts / total if total > 0.0 else counts)
