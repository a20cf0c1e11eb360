"""Edges of a step out of the candidates of a neighbor list, where the network runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lammps_trajcast.runtime.buffers import Buffers


class Neighbors(NamedTuple):
    """A neighbor list, as in `fix_src/trajcast_bridge.h`: C candidates of N own atoms.

    Nodes are the own atoms, then the atoms of the halo's plan.
    """

    first: NDArray[np.int64]  # (N + 1,) candidates of atom i are first[i] to first[i + 1] - 1
    pairs: NDArray[np.int32]  # (C, 2) of each candidate the node and the shift
    shifts: NDArray[np.int32]  # (S, 3) lattice vectors of each shift
    num_remote: int


class Edges(NamedTuple):
    """Edges sorted by receiver, in the order of the candidates."""

    first_edge: Tensor  # (N + 1,) int64, not beyond the room
    senders: Tensor  # (room,) int64
    vectors: Tensor  # (room, 3) Angstrom
    found: Tensor  # () int64 how many there are, with or without room


class Neighborhood(NamedTuple):
    """What limits between neighbors are compared with, and the limits, for T atom types."""

    displacements: Tensor  # (nodes, 3) float64 Angstrom, zero for atoms that are not moved
    moved: Tensor  # (nodes,) uint8, 1 for atoms that are
    kinds: Tensor  # (nodes,) int64 atom types from 0
    distances: Tensor  # (T, T) float64 Angstrom, closest that two atoms may come
    nearest: Tensor  # (T,) float64 Angstrom, farthest that the nearest neighbor may be


class EdgeFinder(ABC):
    """The candidates of a rank, on its device, and the edges among them.

    Attributes:
        num_own: own atoms, N.
        room: for so many edges.
    """

    def __init__(self, buffers: Buffers, cutoff: float) -> None:
        """Keep candidates in buffers; edges are shorter than the cutoff in Angstrom."""
        self._buffers = buffers
        self._cutoff = buffers.constant(np.array([cutoff]))
        self._cutoff_squared = buffers.constant(np.array([cutoff * cutoff]))
        self.num_own = self.room = 0

    def take(self, neighbors: Neighbors) -> None:
        """Take the candidates of a neighbor list."""
        put = self._buffers.put
        self.num_own = len(neighbors.first) - 1
        self._first = put("first candidates", neighbors.first)
        self._pairs = put("candidates", neighbors.pairs)
        self._shifts = put("shifts", neighbors.shifts)

    @property
    def num_shifts(self) -> int:
        """How many different shifts candidates have."""
        return len(self._shifts)

    def find(self, positions: Tensor, cell: Tensor) -> Edges:
        """Return the edges of a state.

        Args:
            positions: (nodes, 3) float64, wrapped, Angstrom.
            cell: (6,) float64 xx, yy, zz, yz, xz, xy, Angstrom.
        """
        n0, n1, n2 = self._shifts.double().unbind(1)
        xx, yy, zz, yz, xz, xy = cell.unbind()
        images = torch.stack([n0 * xx + n1 * xy + n2 * xz, n1 * yy + n2 * yz, n2 * zz], dim=1)
        return self._among(positions, images)

    def make_room(self, edges: int) -> None:
        """Have room for so many edges at least."""
        self.room = max(self.room, edges)

    @abstractmethod
    def _among(self, positions: Tensor, images: Tensor) -> Edges:
        """Return the edges, with the vector of each shift."""

    @abstractmethod
    def judge(self, edges: Edges, around: Neighborhood) -> Tensor:
        """Return how many limits neighbors of each own atom break, (N,) int64.

        They are counted as the guard of the fix does (`fix_src/guard.cpp`).
        """


class ExactEdges(EdgeFinder):
    """Edges by operations of torch, as many as there are, which takes a wait for the device."""

    @override
    def take(self, neighbors: Neighbors) -> None:
        super().take(neighbors)
        self.make_room(len(neighbors.pairs))

    @override
    def _among(self, positions: Tensor, images: Tensor) -> Edges:
        senders, shifts = self._pairs.long().unbind(1)
        receivers = torch.arange(self.num_own, device=senders.device)
        receivers = receivers.repeat_interleave(self._first.diff())
        vectors = positions[senders] + images[shifts] - positions[receivers]
        kept = ~(vectors.square().sum(dim=1) >= self._cutoff_squared)
        before = torch.nn.functional.pad(kept.cumsum(0), (1, 0))
        first_edge = before[self._first]
        return Edges(first_edge, senders[kept], vectors[kept], first_edge[-1])

    @override
    def judge(self, edges: Edges, around: Neighborhood) -> Tensor:
        own = torch.arange(self.num_own, device=edges.senders.device)
        receivers = own.repeat_interleave(edges.first_edge.diff())
        senders, kinds, moved = edges.senders, around.kinds, around.moved.bool()
        change = around.displacements[senders] - around.displacements[receivers]
        limits = around.distances[kinds[receivers], kinds[senders]].square()
        most = around.nearest[kinds[: self.num_own]]
        # An atom that sees nobody has its nearest neighbor beyond the cutoff.
        lonely = self._cutoff_squared.expand(self.num_own)
        # Own atoms see each other the other way round too, and their images stay where they are.
        judged = (senders > receivers) & (moved[receivers] | moved[senders])
        watched = moved[: self.num_own] & (most < self._cutoff)
        counts = torch.zeros_like(own)
        for vectors in (edges.vectors, edges.vectors + change):
            square = vectors.square().sum(dim=1)
            counts.index_add_(0, receivers, (judged & (square < limits)).long())
            least = lonely.scatter_reduce(0, receivers, square, "amin")
            counts += (watched & (least > most.square())).long()
        return counts


class RoomyEdges(EdgeFinder):
    """Edges by kernels of Triton, in room that may be more or less than they need."""

    def __init__(self, buffers: Buffers, cutoff: float, dtype: torch.dtype) -> None:
        """As the base; vectors are of a type."""
        super().__init__(buffers, cutoff)
        self._dtype = dtype

    @override
    def take(self, neighbors: Neighbors) -> None:
        super().take(neighbors)
        # A skin of a quarter of the cutoff makes candidates twice as many as edges.
        self.make_room(len(neighbors.pairs) // 2)

    @override
    def make_room(self, edges: int) -> None:
        if edges > self.room or self.room == 0:
            self.room = edges + edges // 16 + 64

    @override
    def _among(self, positions: Tensor, images: Tensor) -> Edges:
        from lammps_trajcast.kernels.triton.edges import count_edges, write_edges

        candidates = (self._first, self._pairs, positions, images, self._cutoff_squared)
        counts = count_edges(*candidates)
        ends = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        first_edge = ends.clamp(max=self.room)
        senders = self._buffers.room("senders", (self.room,), torch.int64)
        vectors = self._buffers.room("edge vectors", (self.room, 3), self._dtype)
        write_edges(*candidates, first_edge, senders, vectors)
        return Edges(first_edge, senders, vectors, ends[-1])

    @override
    def judge(self, edges: Edges, around: Neighborhood) -> Tensor:
        from lammps_trajcast.kernels.triton.edges import judge_edges

        return judge_edges(edges.first_edge, edges.senders, edges.vectors, *around, self._cutoff)
