"""Mini-batches of graphs, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lammps_trajcast.data.dataset import Pair, State, TrajectoryPairs
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
    cells: Tensor  # (num_systems, 3, 3) Angstrom
    pbc: Tensor  # (num_systems, 3) bool
    later: list[State]  # states 2, 3, ... horizons after this one, where all frames have them

    def to_dtype(self, dtype: torch.dtype) -> Batch:
        """Return the batch with every real number in ``dtype``."""
        changed: dict[str, Any] = {
            name: value.to(dtype)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return self._replace(**changed)

    def advanced(self, positions: Tensor, velocities: Tensor, cutoff: float) -> Batch:
        """Return the batch one horizon later, at a predicted state instead of the true one.

        What there is to predict is then the way from there to the true state after it.

        Args:
            positions: (N, 3) predicted, Angstrom.
            velocities: (N, 3) predicted, Angstrom/fs.
            cutoff: Angstrom.
        """
        counts = torch.bincount(self.system, minlength=self.num_systems).tolist()
        graphs = [
            build_graph(x, cell, pbc, cutoff)
            for x, cell, pbc in zip(positions.split(counts), self.cells, self.pbc, strict=True)
        ]
        return self._replace(
            positions=positions,
            velocities=velocities,
            displacement=self.later[0].positions - positions,
            velocity_after=self.later[0].velocities,
            later=self.later[1:],
            **_join(graphs, counts),
        )


def _join(graphs: list[Graph], counts: list[int]) -> dict[str, Any]:
    """Return the fields of a batch that describe its edges."""
    offsets = [sum(counts[:k]) for k in range(len(counts))]
    shifted = list(zip(graphs, offsets, strict=True))
    return {
        "receivers": torch.cat([graph.receivers + offset for graph, offset in shifted]),
        "senders": torch.cat([graph.senders + offset for graph, offset in shifted]),
        "edge_vectors": torch.cat([graph.edge_vectors for graph in graphs]),
    }


class Sample(NamedTuple):
    """One pair of states, the graph of the first, and the states that follow the pair."""

    pair: Pair
    graph: Graph
    later: list[State]


class GraphPairs(Dataset[Sample]):
    """Pairs of states with the graph of the first.

    Args:
        pairs: one split of a data set.
        cutoff: Angstrom.
        indices: which pairs; default all.
        num_later: how many states after a pair to read as well.
    """

    def __init__(
        self,
        pairs: TrajectoryPairs,
        cutoff: float,
        indices: list[int] | None = None,
        num_later: int = 0,
    ) -> None:
        self.pairs = pairs
        self.cutoff = cutoff
        self.indices = indices if indices is not None else list(range(len(pairs)))
        self.num_later = num_later

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        number = self.indices[index]
        pair = self.pairs[number]
        graph = build_graph(pair.positions, pair.cell, pair.pbc, self.cutoff)
        return Sample(pair, graph, self.pairs.later_states(number, self.num_later))


def collate(samples: list[Sample]) -> Batch:
    """Join frames, of any sizes, into one graph."""
    pairs = [sample.pair for sample in samples]
    counts = [len(pair.species) for pair in pairs]
    return Batch(
        species=torch.cat([pair.species for pair in pairs]),
        positions=torch.cat([pair.positions for pair in pairs]),
        velocities=torch.cat([pair.velocities for pair in pairs]),
        masses=torch.cat([pair.masses for pair in pairs]),
        displacement=torch.cat([pair.displacement for pair in pairs]),
        velocity_after=torch.cat([pair.velocity_after for pair in pairs]),
        system=torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor(counts)),
        num_systems=len(pairs),
        cells=torch.stack([pair.cell for pair in pairs]),
        pbc=torch.stack([pair.pbc for pair in pairs]),
        later=[
            State(
                torch.cat([state.positions for state in states]),
                torch.cat([state.velocities for state in states]),
            )
            for states in zip(*(sample.later for sample in samples), strict=False)
        ],
        **_join([sample.graph for sample in samples], counts),
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
