"""Energies of random coefficients, and what defines them, written down directly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.energy.model import EnergyBasis, EnergyModel


def random_energy(
    cutoff: float, num_species: int = 2, num_radial: int = 3, max_order: int = 3, scale: float = 0.1
) -> EnergyModel:
    """An energy of random coefficients, kcal/mol."""
    basis = EnergyBasis(
        num_species=num_species,
        cutoff=cutoff,
        num_pair=5,
        num_radial=num_radial,
        max_order=max_order,
        skew=3.0,
    )
    generator = np.random.default_rng(7)
    arrays = {name: scale * generator.normal(size=shape) for name, shape in basis.shapes().items()}
    arrays["radial"] = np.eye(num_radial) + arrays["radial"]
    arrays["products"] = arrays["products"] + arrays["products"].transpose(0, 1, 3, 2)
    return EnergyModel(basis, arrays)


def energy_by_definition(
    model: EnergyModel, species: NDArray[np.int64], edges: list[list[tuple[int, NDArray]]]
) -> NDArray[np.float64]:
    """Energies of atoms, each term of three bodies by a sum over pairs of edges.

    Args:
        model: of the energy.
        species: of all atoms.
        edges: of each atom, sender and vector in Angstrom.
    """
    basis, arrays = model.basis, model.arrays

    def functions(distance: float, number: int) -> NDArray[np.float64]:
        s = distance / basis.cutoff
        if s >= 1.0:
            return np.zeros(number)
        x = 2.0 * (1.0 - s) / (1.0 + basis.skew * s) - 1.0
        chebyshev = [np.polynomial.Chebyshev.basis(n)(x) for n in range(number)]
        return np.array(chebyshev) * (1.0 - s**2) ** 3

    energies = []
    for atom, near in enumerate(edges):
        own = species[atom]
        energy = arrays["constants"][own]
        expanded = []
        for sender, vector in near:
            distance = float(np.linalg.norm(vector))
            kind = species[sender]
            energy += arrays["pairs"][own, kind] @ functions(distance, basis.num_pair)
            radial = np.zeros((basis.num_species, basis.num_radial))
            radial[kind] = functions(distance, basis.num_radial) @ arrays["radial"]
            expanded.append((vector / distance, radial.reshape(-1)))
        for direction, radial in expanded:
            for other, other_radial in expanded:
                cosine = float(direction @ other)
                for degree in range(basis.max_order + 1):
                    product = radial @ arrays["products"][own, degree] @ other_radial
                    energy += product * cosine**degree
        energies.append(energy)
    return np.array(energies)
