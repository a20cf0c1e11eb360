"""Graphs for training and tests: the edges within a cutoff, periodic images included."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import vesin
from numpy.typing import ArrayLike
from torch import Tensor


class Graph(NamedTuple):
    """Edges sorted by receiver."""

    receivers: Tensor  # (E,) int64
    senders: Tensor  # (E,) int64
    edge_vectors: Tensor  # (E, 3) float64, Angstrom, r_sender - r_receiver + lattice shift


def build_graph(positions: ArrayLike, cell: ArrayLike, pbc: ArrayLike, cutoff: float) -> Graph:
    """Return all pairs closer than the cutoff, every periodic image as an edge of its own.

    Args:
        positions: (N, 3) Angstrom, wrapped or not.
        cell: (3, 3) Angstrom, rows are the lattice vectors.
        pbc: (3,) bool, which directions are periodic.
        cutoff: Angstrom; may exceed half the cell.
    """
    neighbors = vesin.NeighborList(cutoff=float(cutoff), full_list=True)
    receivers, senders, vectors = neighbors.compute(
        points=np.asarray(positions, dtype=np.float64),
        box=np.asarray(cell, dtype=np.float64),
        periodic=np.asarray(pbc, dtype=bool),
        quantities="ijD",
    )
    order = np.argsort(receivers, kind="stable")
    return Graph(
        torch.from_numpy(receivers[order].astype(np.int64)),
        torch.from_numpy(senders[order].astype(np.int64)),
        torch.from_numpy(vectors[order]),
    )
