"""Kinetic energies of kinds of motion, and what equipartition says of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lammps_trajcast.training.batches import Batch
from lammps_trajcast.units import BOLTZMANN_PER_MASS

# Distances fall into so many bins from 0 to the cutoff.
BINS = 12


class MotionEnergies(NamedTuple):
    """Sums over the atoms of each element and over pairs of each kind; K kinds.

    First the sums of |v_i|^2 over the atoms of each element. Then, for pairs of elements at
    distances in a bin, sums of the squares of v_j - v_i along the line between the two atoms; then
    the same across it.
    """

    energy: Tensor  # (K,) Angstrom^2/fs^2
    expected: Tensor  # (K,) of the same in equilibrium
    number: Tensor  # (K,) of atoms or pairs (each counted from both ends)


def motions(
    batch: Batch, velocities: Tensor, temperature: float, cutoff: float, angular: bool = False
) -> MotionEnergies:
    """Return the motions of one frame of N atoms.

    In equilibrium velocities do not depend on positions: v_j - v_i along any line has the variance
    k_B T (1/m_i + 1/m_j), whatever the forces. The fixed total momentum takes m_i / M from an
    atom, nothing from pairs; a fixed angular momentum takes the rotation as a rigid body.

    Args:
        batch: one frame.
        velocities: (N, 3) Angstrom/fs.
        temperature: K.
        cutoff: Angstrom.
        angular: whether the angular momentum is fixed.
    """
    mass = batch.masses.double()
    receivers, senders = batch.receivers, batch.senders
    kinds = MotionClasses.of(batch, cutoff)
    own = 3.0 / mass * (1.0 - mass / mass.sum())
    along = 1.0 / mass[receivers] + 1.0 / mass[senders]
    across = 2.0 * along
    if angular:
        x = batch.positions
        centered = x - (mass[:, None] * x).sum(0) / mass.sum()
        own = own - _rigid(centered, centered, mass)
        across = across - _rigid(batch.edge_vectors, centered, mass)
    energies = [kinds.elements.T @ velocities.square().sum(1)]
    expected = [kinds.elements.T @ own]
    numbers = [kinds.elements.sum(0)]
    for part, share in zip(kinds.parts(batch, velocities), (along, across), strict=True):
        energies.append(kinds.sums(part.square().sum(1)))
        expected.append(kinds.sums(share))
        numbers.append(kinds.sums(torch.ones_like(share)))
    return MotionEnergies(
        torch.cat(energies),
        BOLTZMANN_PER_MASS * temperature * torch.cat(expected),
        torch.cat(numbers),
    )


def gradients(batch: Batch, velocities: Tensor, cutoff: float) -> Tensor:
    """Return the derivatives (K, N, 3) of the energies of :func:`motions` by the velocities."""
    kinds = MotionClasses.of(batch, cutoff)
    found = [2.0 * kinds.elements.T[:, :, None] * velocities]
    found += [kinds.spread(batch, 2.0 * part) for part in kinds.parts(batch, velocities)]
    return torch.cat(found)


class MotionClasses(NamedTuple):
    """Which kinds of pairs there are, and of which each edge is."""

    elements: Tensor  # (N, elements) one-hot
    kind: Tensor  # (E,)
    number: int

    @classmethod
    def of(cls, batch: Batch, cutoff: float) -> MotionClasses:
        """Sort the E edges of a batch by pair of elements and by distance.

        Args:
            batch: N atoms, E edges.
            cutoff: Angstrom; distances up to it are divided into equal bins.
        """
        species = batch.species
        ends = species[batch.receivers], species[batch.senders]
        first, second = torch.minimum(*ends), torch.maximum(*ends)
        elements = int(species.max()) + 1
        part = (batch.edge_vectors.norm(dim=1) / cutoff * BINS).long().clamp_max(BINS - 1)
        return cls(
            torch.nn.functional.one_hot(species, elements).double(),
            (second * (second + 1) // 2 + first) * BINS + part,
            elements * (elements + 1) // 2 * BINS,
        )

    def sums(self, values: Tensor) -> Tensor:
        """Return the sums (kinds,) of values (E,) of the edges."""
        return values.new_zeros(self.number).index_add(0, self.kind, values)

    def spread(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the derivatives (kinds, N, 3) of sums over edges by vectors of the atoms.

        Args:
            batch: N atoms, E edges.
            vectors: (E, 3) derivative of each summand by the difference sender - receiver.
        """
        count = len(batch.species)
        sums = vectors.new_zeros(self.number * count, 3)
        # Each pair is there from both ends: as much again for the receiver as for the sender.
        sums.index_add_(0, self.kind * count + batch.receivers, -2.0 * vectors)
        return sums.view(self.number, count, 3)

    @staticmethod
    def parts(batch: Batch, velocities: Tensor) -> tuple[Tensor, Tensor]:
        """Return the velocities (E, 3) of pairs along and across the line between them."""
        line = batch.edge_vectors / batch.edge_vectors.norm(dim=1, keepdim=True)
        relative = velocities[batch.senders] - velocities[batch.receivers]
        along = (relative * line).sum(1, keepdim=True) * line
        return along, relative - along


def _rigid(arms: Tensor, centered: Tensor, mass: Tensor) -> Tensor:
    """Return the variance (M,) of what a rigid rotation adds over arms (M, 3), over k_B T."""
    eye = torch.eye(3, dtype=centered.dtype)
    square = (mass * centered.square().sum(1)).sum()
    inverse = torch.linalg.pinv(
        square * eye - torch.einsum("n,na,nb->ab", mass, centered, centered)
    )
    # <|w x r|^2> with <w w> = k_B T / I.
    return arms.square().sum(1) * inverse.trace() - torch.einsum("na,ab,nb->n", arms, inverse, arms)
