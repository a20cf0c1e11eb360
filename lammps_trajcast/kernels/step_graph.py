"""What a network sees in a step: one structure that goes from the fix's arrays to the kernels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class StepGraph(NamedTuple):
    """The state of N_own own atoms and of the N_all - N_own atoms of other ranks that they see.

    Attributes:
        species: (N_all,) int64 index of each node's element, own atoms first.
        velocities: (N_all, 3) in the velocity unit of the model.
        edge_vectors: (E, 3) float64 Angstrom, receiver to sender's image.
        first_edge: (N_own + 1,) int64, edges of own atom i are first_edge[i] to
            first_edge[i + 1] - 1.
        senders: (E,) int64, smaller than N_all.
    """

    species: Tensor
    velocities: Tensor
    edge_vectors: Tensor
    first_edge: Tensor
    senders: Tensor
