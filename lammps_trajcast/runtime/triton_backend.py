"""The network on the Triton kernels, for a step that waits for nothing on a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lammps_trajcast.kernels.triton.network import TabulatedTrajCast
from lammps_trajcast.model.embedding import EdgeEmbedding, NodeEmbedding
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import compile_network
from lammps_trajcast.runtime.backend import Backend, StepArrays
from lammps_trajcast.runtime.tensor_memory import TensorMemory


class _Receivers(NamedTuple):
    """Some of the own atoms; as the layers want them, they are nodes 0, 1, ..."""

    atoms: Tensor  # (R,) int64
    nodes: NodeEmbedding
    begins: Tensor  # (R,) int64, where the edges of each begin
    ends: Tensor  # (R,) int64
    senders: Tensor  # (E,) int64, counted from the first row after the receivers


class TritonBackend(Backend):
    """The network on kernels for a CUDA device, for any rotation order.

    Edges beyond the last of ``first_edge`` are not looked at, so that there may be more room than
    edges, and nobody has to know how many there are. A row of features is (components, channels).
    """

    takes_room = True

    _nodes: NodeEmbedding
    _edges: EdgeEmbedding
    _first_edge: Tensor
    _senders: Tensor

    def __init__(self, plain: TrajCast) -> None:
        """Take a network on a CUDA device, or a CPU in Triton's interpreter."""
        irreps = [plain.embedding.irreps_out, *(layer.irreps_out for layer in plain.interactions)]
        self.widths = tuple(each.dim for each in irreps)
        weight = plain.embedding.linear.weight
        self._dtype = weight.dtype
        self._channels = irreps[0][0].mul
        self.memory = TensorMemory(self._dtype, weight.device)
        self._network = compile_network(TabulatedTrajCast(plain))
        # A tensor stays as long as what is kept for it, so that the id stays its.
        self._parts: dict[int, _Receivers] = {}

    @override
    def prepare(self, graph: StepArrays) -> None:
        velocities = graph.velocities.to(self._dtype)
        self._nodes = NodeEmbedding(*self._network.embedding(graph.species, velocities))
        self._edges = EdgeEmbedding(
            *self._network.edge_embedding(graph.edge_vectors.to(self._dtype))
        )
        self._first_edge, self._senders = graph.first_edge, graph.senders
        self._parts.clear()

    def _part(self, atoms: Tensor) -> _Receivers:
        if id(atoms) not in self._parts:
            self._parts[id(atoms)] = _Receivers(
                atoms,
                NodeEmbedding(*(rows[atoms] for rows in self._nodes)),
                self._first_edge[atoms],
                self._first_edge[atoms + 1],
                self._senders + atoms.size(0),
            )
        return self._parts[id(atoms)]

    def _components(self, features: Tensor) -> Tensor:
        return features.view(features.size(0), -1, self._channels)

    @override
    def initial_features(self) -> Tensor:
        return self._network.to_components(self._nodes.features).flatten(1)

    @override
    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        layer: Any = self._network.interactions[k]
        rows, first = self._components(features), self._first_edge
        if receivers is None:
            result = layer(rows, self._nodes, self._edges, first, self._senders)
            out[: first.size(0) - 1] = result.flatten(1)
        elif receivers.size(0) > 0:
            part = self._part(receivers)
            rows = torch.cat([rows[receivers], rows])
            result = layer.between(
                rows, part.nodes, self._edges, part.begins, part.ends, part.senders
            )
            out[receivers] = result.flatten(1)

    @override
    def read_out(self, features: Tensor) -> Tensor:
        own = features[: self._first_edge.size(0) - 1]
        return self._network.read_out(self._components(own))
