"""Kinetic energies of kinds of motion, and what equipartition says of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lammps_trajcast.training.batches import Batch

# Boltzmann's constant in g/mol (Angstrom/fs)^2 / K.
BOLTZMANN = 8.31446261815324e-7
# Distances fall into so many bins from 0 to the cutoff.
BINS = 12


class Motions(NamedTuple):
    """Sums over the atoms of each element and over pairs of each kind; K kinds.

    First the sums of |v_i|^2 over the atoms of each element. Then, for pairs of elements at
    distances in a bin, sums of the squares of v_j - v_i along the line between the two atoms; then
    the same across it.
    """

    energy: Tensor  # (K,) Angstrom^2/fs^2
    expected: Tensor  # (K,) of the same in equilibrium
    number: Tensor  # (K,) of atoms or pairs (each counted from both ends)
    gradient: Tensor  # (K, N, 3) of the energy by the velocities


def motions(
    batch: Batch, velocities: Tensor, temperature: float, cutoff: float, angular: bool = False
) -> Motions:
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
    species, mass = batch.species, batch.masses.double()
    receivers, senders = batch.receivers, batch.senders
    elements, count = int(species.max()) + 1, len(species)
    energy_unit = BOLTZMANN * temperature
    length = batch.edge_vectors.norm(dim=1)
    line = batch.edge_vectors / length[:, None]
    first = torch.minimum(species[receivers], species[senders])
    second = torch.maximum(species[receivers], species[senders])
    pair = second * (second + 1) // 2 + first
    kind = pair * BINS + (length / cutoff * BINS).long().clamp_max(BINS - 1)
    kinds = elements * (elements + 1) // 2 * BINS

    own = 3.0 / mass * (1.0 - mass / mass.sum())
    across = 2.0 * (1.0 / mass[receivers] + 1.0 / mass[senders])
    if angular:
        own = own - _rigid(batch.positions, batch)
        across = across - _rigid(None, batch)
    along = 1.0 / mass[receivers] + 1.0 / mass[senders]

    relative = velocities[senders] - velocities[receivers]
    along_part = (relative * line).sum(1, keepdim=True) * line
    one_hot = torch.nn.functional.one_hot(species, elements).double()
    energies = [one_hot.T @ velocities.square().sum(1)]
    expected = [one_hot.T @ own]
    numbers = [one_hot.sum(0)]
    gradients = [2.0 * one_hot.T[:, :, None] * velocities]
    for part, share in ((along_part, along), (relative - along_part, across)):
        zeros = velocities.new_zeros(kinds)
        energies.append(zeros.index_add(0, kind, part.square().sum(1)))
        expected.append(zeros.index_add(0, kind, share))
        numbers.append(zeros.index_add(0, kind, torch.ones_like(share)))
        # Each pair is there from both ends: as much again for the receiver as for the sender.
        gradient = velocities.new_zeros(kinds * count, 3)
        gradient.index_add_(0, kind * count + receivers, -4.0 * part)
        gradients.append(gradient.view(kinds, count, 3))
    return Motions(
        torch.cat(energies),
        energy_unit * torch.cat(expected),
        torch.cat(numbers),
        torch.cat(gradients),
    )


def _rigid(positions: Tensor | None, batch: Batch) -> Tensor:
    """Return the variance of rigid rotation over k_B T: of atoms (N,), or of pairs (E,)."""
    mass, x = batch.masses.double(), batch.positions
    centred = x - (mass[:, None] * x).sum(0) / mass.sum()
    square = centred.square().sum(1)
    eye = torch.eye(3, dtype=x.dtype)
    inertia = (mass * square).sum() * eye - torch.einsum("n,na,nb->ab", mass, centred, centred)
    inverse = torch.linalg.pinv(inertia)
    arm = centred if positions is not None else batch.edge_vectors
    # <|w x r|^2> with <w w> = k_B T / I.
    return arm.square().sum(1) * inverse.trace() - torch.einsum("na,ab,nb->n", arm, inverse, arm)
