"""Mini-batches of graphs, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from lammps_trajcast.data.dataset import Pair, State, TrajectoryPairs
from lammps_trajcast.runtime.graph import Graph, build_graph
from lammps_trajcast.training.bruteforce_neighbors import bruteforce_edges


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
        after, later = self.later[0], self.later[1:]
        return self._between(State(positions, velocities), after, cutoff)._replace(later=later)

    def turned_back(self, positions: Tensor, velocities: Tensor, cutoff: float) -> Batch:
        """Return the batch at a predicted state, run backwards: what follows is where it began.

        Args:
            positions: (N, 3) predicted, Angstrom.
            velocities: (N, 3) predicted, before they are reversed, Angstrom/fs.
            cutoff: Angstrom.
        """
        began = State(self.positions, -self.velocities)
        return self._between(State(positions, -velocities), began, cutoff)._replace(later=[])

    def _between(self, now: State, after: State, cutoff: float) -> Batch:
        """Return the batch in the state ``now``, with what it takes to get to ``after``."""
        return self._replace(
            positions=now.positions,
            velocities=now.velocities,
            displacement=after.positions - now.positions,
            velocity_after=after.velocities,
            **self._edges(now.positions, cutoff),
        )

    def _edges(self, positions: Tensor, cutoff: float) -> dict[str, Any]:
        """Return the fields that describe the edges for other positions."""
        if positions.device.type != "cpu":
            edges = bruteforce_edges(positions, self.system, self.cells, self.pbc, cutoff)
            if edges is not None:
                return edges
        counts = torch.bincount(self.system, minlength=self.num_systems).tolist()
        frames = zip(positions.cpu().split(counts), self.cells.cpu(), self.pbc.cpu(), strict=True)
        edges = _join([build_graph(x, cell, pbc, cutoff) for x, cell, pbc in frames], counts)
        return {name: value.to(positions.device) for name, value in edges.items()}


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


class Draw(NamedTuple):
    """One pair of a mini-batch."""

    pair: int
    number: int  # how many pairs the run has drawn before, which decides the random changes to it


@dataclass(frozen=True)
class Augmentation:
    """Random changes to pairs that training draws.

    Attributes:
        seed: together with the number of the draw it decides the changes.
        time_reversal: run every second pair, at random, backwards.
        position_noise: standard deviation of the noise on positions, Angstrom.
        velocity_noise: standard deviation of the noise on velocities, Angstrom/fs.
    """

    seed: int
    time_reversal: bool = False
    position_noise: float = 0.0
    velocity_noise: float = 0.0


def reversed_in_time(pair: Pair) -> Pair:
    """Return the pair run backwards: from (x', -v') to (x, -v)."""
    return pair._replace(
        positions=pair.positions + pair.displacement,
        velocities=-pair.velocity_after,
        displacement=-pair.displacement,
        velocity_after=-pair.velocities,
    )


def with_noise(
    pair: Pair, position_noise: float, velocity_noise: float, random: np.random.Generator
) -> Pair:
    """Return the pair with Gaussian noise on its first state; where it leads to stays the same.

    The noise moves neither the center of mass nor the total momentum.

    Args:
        pair: of N atoms.
        position_noise: standard deviation, Angstrom.
        velocity_noise: standard deviation, Angstrom/fs.
        random: where the noise is drawn from.
    """
    share = pair.masses / pair.masses.sum()
    noise = torch.from_numpy(random.normal(size=(2, *pair.positions.shape)))
    noise = noise - torch.einsum("n,knc->kc", share, noise)[:, None, :]
    moved = position_noise * noise[0]
    return pair._replace(
        positions=pair.positions + moved,
        velocities=pair.velocities + velocity_noise * noise[1],
        displacement=pair.displacement - moved,
    )


class GraphPairs(Dataset[Sample]):
    """Pairs of states with the graph of the first.

    Args:
        pairs: one split of a data set.
        cutoff: Angstrom.
        indices: which pairs; default all.
        num_later: how many states after a pair to read as well.
        augmentation: random changes to pairs that are asked for by a :class:`Draw`; those asked
            for by their index are left as they are.
    """

    def __init__(
        self,
        pairs: TrajectoryPairs,
        cutoff: float,
        indices: list[int] | None = None,
        num_later: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.pairs = pairs
        self.cutoff = cutoff
        self.indices = indices if indices is not None else list(range(len(pairs)))
        self.num_later = num_later
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int | Draw) -> Sample:
        if isinstance(item, Draw):
            pair, later = self._drawn(item)
        else:
            number = self.indices[item]
            pair, later = self.pairs[number], self.pairs.later_states(number, self.num_later)
        graph = build_graph(pair.positions, pair.cell, pair.pbc, self.cutoff)
        return Sample(pair, graph, later)

    def _drawn(self, draw: Draw) -> tuple[Pair, list[State]]:
        number = self.indices[draw.pair]
        pair, change = self.pairs[number], self.augmentation
        if change is None:
            return pair, self.pairs.later_states(number, self.num_later)
        random = np.random.default_rng([change.seed, draw.number])
        if change.time_reversal and random.random() < 0.5:
            pair = reversed_in_time(pair)
            before = self.pairs.earlier_states(number, self.num_later)
            later = [State(state.positions, -state.velocities) for state in before]
        else:
            later = self.pairs.later_states(number, self.num_later)
        if change.position_noise or change.velocity_noise:
            pair = with_noise(pair, change.position_noise, change.velocity_noise, random)
        return pair, later


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


def per_frame(values: Tensor, batch: Batch) -> Tensor:
    """Return the sums of values (N, ...) over the atoms of each frame."""
    return values.new_zeros(batch.num_systems, *values.shape[1:]).index_add(0, batch.system, values)


def without_drift(vectors: Tensor, batch: Batch) -> Tensor:
    """Return vectors (N, 3) or (N, 3, K) less their mass-weighted mean in each frame."""
    mass = batch.masses.to(vectors.dtype)
    weighted = vectors * mass.view(-1, *[1] * (vectors.dim() - 1))
    total = per_frame(mass, batch).view(-1, *[1] * (vectors.dim() - 1))
    return vectors - (per_frame(weighted, batch) / total)[batch.system]


@dataclass(frozen=True)
class ProcessShard:
    """Which part of every mini-batch this process takes: part `rank` of `size`."""

    rank: int = 0
    size: int = 1


class EpochSampler(Sampler[Draw]):
    """The pairs of one epoch, cut from an endless sequence of shuffled passes over all pairs.

    Which pairs an epoch sees depends on the seed and on how many steps came before it only, so a
    run that is resumed sees what the uninterrupted run would have seen; and several processes see
    together what a single one would.

    Args:
        size: number of pairs to choose from.
        batch_size: pairs in a mini-batch, of all processes together.
        seed: of the shuffling.
        epoch: returns the first step of the epoch that begins now, and the step after its last.
            Asked anew each time: the training library's own count is not the same after a resume.
        share: returns the part of this process.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        epoch: Callable[[], tuple[int, int]],
        share: Callable[[], ProcessShard] = ProcessShard,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.share = share

    def __len__(self) -> int:
        first, end = self.epoch()
        return (end - first) * (self.batch_size // self.share().size)

    def __iter__(self) -> Iterator[Draw]:
        first, end = self.epoch()
        share = self.share()
        part = self.batch_size // share.size
        order: list[int] = []
        shuffled_pass = -1
        for step in range(first, end):
            begin = step * self.batch_size + share.rank * part
            for number in range(begin, begin + part):
                passes, offset = divmod(number, self.size)
                if passes != shuffled_pass:
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + passes)
                    order = torch.randperm(self.size, generator=generator).tolist()
                    shuffled_pass = passes
                yield Draw(order[offset], number)


class ShardedSampler(Sampler[int]):
    """The items 0 … size - 1 in order, dealt out to the processes one by one."""

    def __init__(self, size: int, share: Callable[[], ProcessShard] = ProcessShard) -> None:
        self.size = size
        self.share = share

    def __len__(self) -> int:
        share = self.share()
        return len(range(share.rank, self.size, share.size))

    def __iter__(self) -> Iterator[int]:
        share = self.share()
        return iter(range(share.rank, self.size, share.size))
