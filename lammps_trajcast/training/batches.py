"""Mini-batches of graphs, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lammps_trajcast.data.dataset import Pair, TrajectoryPairs
from lammps_trajcast.runtime.graph import Graph, build_graph


class Batch(NamedTuple):
    """Several frames as one graph without edges between frames; N atoms, E edges in all."""

    species: Tensor  # (N,) int64
    positions: Tensor  # (N, 3) Angstrom
    velocities: Tensor  # (N, 3) Angstrom/fs
    masses: Tensor  # (N,) g/mol
    displacement: Tensor  # (N, 3) Angstrom
    velocity_after: Tensor  # (N, 3) Angstrom/fs
    receivers: Tensor  # (E,) int64
    senders: Tensor  # (E,) int64
    edge_vectors: Tensor  # (E, 3) Angstrom
    system: Tensor  # (N,) int64, frame of each atom
    num_systems: int

    def to_dtype(self, dtype: torch.dtype) -> Batch:
        """Return the batch with every real number in ``dtype``."""
        changed: dict[str, Any] = {
            name: value.to(dtype)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return self._replace(**changed)


class GraphPairs(Dataset[tuple[Pair, Graph]]):
    """Pairs of states with the graph of the first; some of a split if ``indices`` are given."""

    def __init__(self, pairs: TrajectoryPairs, cutoff: float, indices: list[int] | None = None):
        self.pairs = pairs
        self.cutoff = cutoff
        self.indices = indices if indices is not None else list(range(len(pairs)))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Pair, Graph]:
        pair = self.pairs[self.indices[index]]
        return pair, build_graph(pair.positions, pair.cell, pair.pbc, self.cutoff)


def collate(items: list[tuple[Pair, Graph]]) -> Batch:
    """Join frames, of any sizes, into one graph."""
    sizes = torch.tensor([len(pair.species) for pair, _ in items])
    offsets = torch.cumsum(sizes, 0) - sizes
    shifts = list(zip(items, offsets.tolist(), strict=True))
    return Batch(
        species=torch.cat([pair.species for pair, _ in items]),
        positions=torch.cat([pair.positions for pair, _ in items]),
        velocities=torch.cat([pair.velocities for pair, _ in items]),
        masses=torch.cat([pair.masses for pair, _ in items]),
        displacement=torch.cat([pair.displacement for pair, _ in items]),
        velocity_after=torch.cat([pair.velocity_after for pair, _ in items]),
        receivers=torch.cat([graph.receivers + shift for (_, graph), shift in shifts]),
        senders=torch.cat([graph.senders + shift for (_, graph), shift in shifts]),
        edge_vectors=torch.cat([graph.edge_vectors for _, graph in items]),
        system=torch.repeat_interleave(torch.arange(len(items)), sizes),
        num_systems=len(items),
    )


class EpochSampler(Sampler[int]):
    """A fixed number of samples per epoch, cut from an endless sequence of shuffled passes.

    Which samples an epoch sees depends on the seed and on how many came before it only, so a run
    that is resumed sees what the uninterrupted run would have seen.

    Args:
        size: number of samples to choose from.
        samples: number of samples of an epoch.
        seed: of the shuffling.
        position: returns the number of samples that earlier epochs have used. Asked when an epoch
            begins; the training library's own count of epochs is not the same after a resume.
    """

    def __init__(self, size: int, samples: int, seed: int, position: Callable[[], int]) -> None:
        self.size = size
        self.samples = samples
        self.seed = seed
        self.position = position

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[int]:
        begin = self.position()
        order: list[int] = []
        for position in range(begin, begin + self.samples):
            shuffled, offset = divmod(position, self.size)
            if offset == 0 or not order:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + shuffled)
                order = torch.randperm(self.size, generator=generator).tolist()
            yield order[offset]
