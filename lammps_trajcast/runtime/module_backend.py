"""The backends of networks that are modules of torch: on e3nn's operations, or fused.

Importing this imports e3nn, which takes seconds, so :func:`make_backend` does it only where the
prediction kernels do not serve.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.model.embedding import EdgeEmbedding, NodeEmbedding
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import compile_network
from lammps_trajcast.runtime.backend import Backend, StepArrays
from lammps_trajcast.runtime.tensor_memory import TensorMemory


class _Subset(NamedTuple):
    """The graph as some of the own atoms see it; as the layers want it, they are nodes 0, 1, ..."""

    atoms: Tensor | None  # (R,) int64 own atoms; None: all
    size: int  # R
    nodes: NodeEmbedding  # of at least the R atoms
    edges: EdgeEmbedding  # of their edges
    receivers: Tensor  # (edges,) int64, smaller than R
    first_edge: Tensor  # (R + 1,) int64
    senders: Tensor  # (edges,) int64, rows of _ModuleBackend._nodes_first()


class _ModuleBackend(Backend):
    """Either network, compiled by TorchScript."""

    _nodes: NodeEmbedding
    _edges: EdgeEmbedding
    _first_edge: Tensor
    _senders: Tensor

    def __init__(self, network: TrajCast | FusedTrajCast, plain: TrajCast) -> None:
        irreps = [plain.embedding.irreps_out, *(layer.irreps_out for layer in plain.interactions)]
        self.widths = tuple(each.dim for each in irreps)
        weight = plain.embedding.linear.weight
        self._dtype, self._device = weight.dtype, weight.device
        self.memory = TensorMemory(self._dtype, self._device)
        self._network = compile_network(network)
        self._subsets: dict[int, _Subset] = {}

    @override
    def prepare(self, graph: StepArrays) -> None:
        velocities = graph.velocities.to(self._dtype)
        self._nodes = NodeEmbedding(*self._network.embedding(graph.species, velocities))
        self._edges = EdgeEmbedding(
            *self._network.edge_embedding(graph.edge_vectors.to(self._dtype))
        )
        self._first_edge, self._senders = graph.first_edge, graph.senders
        self._subsets.clear()

    def _subset(self, atoms: Tensor | None) -> _Subset:
        # A subset keeps its tensor, so that the id stays its.
        key = 0 if atoms is None else id(atoms)
        if key not in self._subsets:
            self._subsets[key] = self._whole() if atoms is None else self._cut(atoms)
        return self._subsets[key]

    def _whole(self) -> _Subset:
        count = self._first_edge.size(0) - 1
        degrees = self._first_edge.diff()
        receivers = torch.arange(count, device=self._device).repeat_interleave(degrees)
        return _Subset(
            None, count, self._nodes, self._edges, receivers, self._first_edge, self._senders
        )

    def _cut(self, atoms: Tensor) -> _Subset:
        count = atoms.size(0)
        first = self._first_edge[atoms]
        degrees = self._first_edge[atoms + 1] - first
        first_edge = torch.nn.functional.pad(degrees.cumsum(0), (1, 0))
        receivers = torch.arange(count, device=self._device).repeat_interleave(degrees)
        edges = torch.arange(receivers.size(0), device=self._device)
        edges = edges + (first - first_edge[:-1])[receivers]
        return _Subset(
            atoms,
            count,
            NodeEmbedding(*(rows[atoms] for rows in self._nodes)),
            EdgeEmbedding(self._edges.length[edges], self._edges.direction[edges]),
            receivers,
            first_edge,
            self._senders[edges] + count,
        )

    @staticmethod
    def _nodes_first(features: Tensor, subset: _Subset) -> Tensor:
        """Features with the subset's atoms in the first rows."""
        return features if subset.atoms is None else torch.cat([features[subset.atoms], features])

    @override
    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        subset = self._subset(receivers)
        if subset.size == 0:
            return
        result = self._apply(k, self._nodes_first(features, subset), subset)
        if subset.atoms is None:
            out[: subset.size] = result
        else:
            out[subset.atoms] = result

    @abstractmethod
    def _apply(self, k: int, features: Tensor, subset: _Subset) -> Tensor:
        """Return the rows (subset.size, widths[k + 1])."""


class PlainBackend(_ModuleBackend):
    """The network on e3nn's operations, on any device."""

    def __init__(self, network: TrajCast) -> None:
        super().__init__(network, network)

    @override
    def initial_features(self) -> Tensor:
        return self._nodes.features

    def _apply(self, k: int, features: Tensor, subset: _Subset) -> Tensor:
        return self._network.interactions[k](
            features, subset.nodes, subset.edges, subset.receivers, subset.senders, subset.size
        )

    @override
    def read_out(self, features: Tensor) -> Tensor:
        return self._network.read_out(features[: self._first_edge.size(0) - 1])


class FusedBackend(_ModuleBackend):
    """The network on the convolutions of training or of a GPU, for any rotation order.

    A row of features is (components, channels).
    """

    def __init__(self, network: FusedTrajCast, plain: TrajCast) -> None:
        super().__init__(network, plain)
        self._channels = plain.embedding.irreps_out[0].mul

    def _components(self, features: Tensor) -> Tensor:
        return features.view(features.size(0), -1, self._channels)

    @override
    def initial_features(self) -> Tensor:
        return self._network.to_components(self._nodes.features).flatten(1)

    def _apply(self, k: int, features: Tensor, subset: _Subset) -> Tensor:
        layer: Any = self._network.interactions[k]
        rows = self._components(features)
        return layer(rows, subset.nodes, subset.edges, subset.first_edge, subset.senders).flatten(1)

    @override
    def read_out(self, features: Tensor) -> Tensor:
        own = features[: self._first_edge.size(0) - 1]
        return self._network.read_out(self._components(own))
