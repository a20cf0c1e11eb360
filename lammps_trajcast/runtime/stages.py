"""The network a layer at a time, so that ranks can exchange features between the layers.

Nodes are numbered as on one MPI rank: its own atoms first, then the remote nodes, atoms of other
ranks that some edge refers to. Edges lead to own atoms only. Features of all nodes lie in one
matrix, a row for each; the rows of own atoms are computed here, those of remote nodes are what
their owner computed. The first features are made from species and velocity, which every rank has
for all its nodes, and need no exchange.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.kernels.network import MAX_ORDER, NetworkKernels, PredictionNetwork
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.embedding import EdgeEmbedding, NodeEmbedding
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import compile_network


class Stages(ABC):
    """One network; call :meth:`prepare`, :meth:`initial_features`, :meth:`layer` for every layer
    in turn, :meth:`read_out`.

    Attributes:
        widths: (num_layers + 1,) length of a node's row of features: of the initial ones, and after
            each layer.
        dtype: of the features.
        device: of all tensors.
    """

    widths: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def num_layers(self) -> int:
        """Number of message-passing layers."""
        return len(self.widths) - 1

    @abstractmethod
    def prepare(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        first_edge: Tensor,
        senders: Tensor,
    ) -> None:
        """Take the state of a new step; tensors may be overwritten only after the step.

        Args:
            species: (N_all,) int64 index of each node's element, own atoms first.
            velocities: (N_all, 3) float64, in the velocity unit of the model.
            edge_vectors: (E, 3) float64 Angstrom, receiver to sender's image.
            first_edge: (N_own + 1,) int64, edges of own atom i are first_edge[i] to
                first_edge[i + 1] - 1.
            senders: (E,) int64, smaller than N_all.
        """

    @abstractmethod
    def initial_features(self) -> Tensor:
        """Return the features (N_all, widths[0]) of all nodes before the first layer."""

    @abstractmethod
    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        """Write the features after layer k into the receivers' rows of ``out``, and into no others.

        Args:
            k: number of the layer, from 0.
            features: (N_all, widths[k]) contiguous; the receivers' own rows and those of the
                senders of their edges are read.
            out: (N_all, widths[k + 1]) contiguous.
            receivers: (any,) int64 own atoms, each once; None: all own atoms.
        """

    @abstractmethod
    def read_out(self, features: Tensor) -> Tensor:
        """Return targets (N_own, 6) from the features (N_all, widths[-1]) after the last layer."""


class _Part(NamedTuple):
    """The graph as some of the own atoms see it; as the layers want it, they are nodes 0, 1, ..."""

    atoms: Tensor | None  # (R,) int64 own atoms; None: all
    size: int  # R
    nodes: NodeEmbedding  # of at least the R atoms
    edges: EdgeEmbedding  # of their edges
    receivers: Tensor  # (edges,) int64, smaller than R
    first_edge: Tensor  # (R + 1,) int64
    senders: Tensor  # (edges,) int64, rows of _ModuleStages._nodes_first()


class _ModuleStages(Stages):
    """Either network, compiled by TorchScript."""

    _nodes: NodeEmbedding
    _edges: EdgeEmbedding
    _first_edge: Tensor
    _senders: Tensor

    def __init__(self, network: TrajCast | FusedTrajCast, plain: TrajCast) -> None:
        irreps = [plain.embedding.irreps_out, *(layer.irreps_out for layer in plain.interactions)]
        self.widths = tuple(each.dim for each in irreps)
        weight = plain.embedding.linear.weight
        self.dtype, self.device = weight.dtype, weight.device
        self._network = compile_network(network)
        self._parts: dict[int, _Part] = {}

    def prepare(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        first_edge: Tensor,
        senders: Tensor,
    ) -> None:
        self._nodes = NodeEmbedding(*self._network.embedding(species, velocities.to(self.dtype)))
        self._edges = EdgeEmbedding(*self._network.edge_embedding(edge_vectors.to(self.dtype)))
        self._first_edge, self._senders = first_edge, senders
        self._parts.clear()

    def _part(self, atoms: Tensor | None) -> _Part:
        key = 0 if atoms is None else id(atoms)  # a part keeps its tensor, so that the id stays its
        if key not in self._parts:
            self._parts[key] = self._whole() if atoms is None else self._cut(atoms)
        return self._parts[key]

    def _whole(self) -> _Part:
        count = self._first_edge.size(0) - 1
        degrees = self._first_edge.diff()
        receivers = torch.arange(count, device=self.device).repeat_interleave(degrees)
        return _Part(
            None, count, self._nodes, self._edges, receivers, self._first_edge, self._senders
        )

    def _cut(self, atoms: Tensor) -> _Part:
        count = atoms.size(0)
        first = self._first_edge[atoms]
        degrees = self._first_edge[atoms + 1] - first
        first_edge = torch.nn.functional.pad(degrees.cumsum(0), (1, 0))
        receivers = torch.arange(count, device=self.device).repeat_interleave(degrees)
        edges = torch.arange(receivers.size(0), device=self.device)
        edges = edges + (first - first_edge[:-1])[receivers]
        return _Part(
            atoms,
            count,
            NodeEmbedding(*(rows[atoms] for rows in self._nodes)),
            EdgeEmbedding(*(rows[edges] for rows in self._edges)),
            receivers,
            first_edge,
            self._senders[edges] + count,
        )

    @staticmethod
    def _nodes_first(features: Tensor, part: _Part) -> Tensor:
        """Features with the part's atoms in the first rows."""
        return features if part.atoms is None else torch.cat([features[part.atoms], features])

    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        part = self._part(receivers)
        if part.size == 0:
            return
        result = self._apply(k, self._nodes_first(features, part), part)
        if part.atoms is None:
            out[: part.size] = result
        else:
            out[part.atoms] = result

    @abstractmethod
    def _apply(self, k: int, features: Tensor, part: _Part) -> Tensor:
        """Return the rows (part.size, widths[k + 1])."""


class PlainStages(_ModuleStages):
    """The network on e3nn's operations, on any device."""

    def __init__(self, network: TrajCast) -> None:
        super().__init__(network, network)

    def initial_features(self) -> Tensor:
        return self._nodes.features

    def _apply(self, k: int, features: Tensor, part: _Part) -> Tensor:
        return self._network.interactions[k](
            features, part.nodes, part.edges, part.receivers, part.senders, part.size
        )

    def read_out(self, features: Tensor) -> Tensor:
        return self._network.read_out(features[: self._first_edge.size(0) - 1])


class FusedStages(_ModuleStages):
    """The network on the convolutions of training or of a GPU, for any rotation order.

    A row of features is (components, channels).
    """

    def __init__(self, network: FusedTrajCast, plain: TrajCast) -> None:
        super().__init__(network, plain)
        self._channels = plain.embedding.irreps_out[0].mul

    def _components(self, features: Tensor) -> Tensor:
        return features.view(features.size(0), -1, self._channels)

    def initial_features(self) -> Tensor:
        return self._network.to_components(self._nodes.features).flatten(1)

    def _apply(self, k: int, features: Tensor, part: _Part) -> Tensor:
        layer: Any = self._network.interactions[k]
        rows = self._components(features)
        return layer(rows, part.nodes, part.edges, part.first_edge, part.senders).flatten(1)

    def read_out(self, features: Tensor) -> Tensor:
        own = features[: self._first_edge.size(0) - 1]
        return self._network.read_out(self._components(own))


class KernelStages(Stages):
    """The network on the CPU kernels for prediction, path weights from tables."""

    def __init__(self, kernels: NetworkKernels) -> None:
        self._kernels = kernels  # the compiled module knows it by number only
        self._network = compile_network(PredictionNetwork(kernels))
        self.widths = tuple(kernels.widths)
        self.dtype, self.device = kernels.dtype, torch.device("cpu")

    def prepare(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        first_edge: Tensor,
        senders: Tensor,
    ) -> None:
        self._species, self._velocities = species, velocities.to(self.dtype)
        self._edges = self._network.edges(edge_vectors)
        self._first_edge, self._senders = first_edge, senders

    def initial_features(self) -> Tensor:
        features: Tensor = self._network.first(self._species, self._velocities)
        return features

    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        self._network.layer(
            k,
            features,
            self._edges,
            self._first_edge,
            self._senders,
            self._species,
            self._velocities,
            receivers,
            out,
        )

    def read_out(self, features: Tensor) -> Tensor:
        targets: Tensor = self._network.read_out(features, self._first_edge.size(0) - 1)
        return targets


def runs_on_prediction_kernels(arch: Architecture, device: torch.device, kernels: str) -> bool:
    """Return whether these stages need a network's weights alone, not its layers."""
    return kernels == "fused" and device.type == "cpu" and arch.max_rotation_order <= MAX_ORDER


def make_stages(
    network: TrajCast,
    arch: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    kernels: str,
    tolerance: float | None = None,
) -> Stages:
    """Return the stages of a network.

    Args:
        network: with weights, in double precision; converted in place.
        arch: its hyperparameters.
        dtype: precision of the stages, float32 or float64.
        device: where they run.
        kernels: "fused" for the compiled kernels on a CPU and the Triton kernels on a CUDA device,
            "plain" for e3nn's operations throughout.
        tolerance: largest error of the tabulated path weights of "fused", relative to the largest
            weight, on a CPU; None: what suits the precision.

    Raises:
        TableError: the path weights vary too fast for "fused".
        MemoryError: there is no room for the tables of "fused".
        ImportError: the Triton kernels are wanted and Triton is not installed.
    """
    network = network.eval()
    if runs_on_prediction_kernels(arch, device, kernels):
        return KernelStages(NetworkKernels(network, arch, dtype, tolerance))
    network = network.to(dtype=dtype, device=device)
    if kernels == "plain":
        return PlainStages(network)
    if device.type == "cpu":
        return FusedStages(FusedTrajCast(network), network)
    # Triton comes with CUDA builds of torch; it need not be there on a machine without a GPU.
    from lammps_trajcast.kernels.triton.network import TabulatedTrajCast

    return FusedStages(TabulatedTrajCast(network), network)
