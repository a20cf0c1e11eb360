"""The prediction kernels as operations of torch, and the module around them for TorchScript."""

from __future__ import annotations

import itertools
import weakref

import torch
from torch import Tensor

from lammps_trajcast.kernels.network import KernelGraph, NetworkKernels
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.torchscript import exported

# An operation takes numbers and tensors alone, so it is told of the kernels by a number.
_kernels: weakref.WeakValueDictionary[int, NetworkKernels] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)

_library = torch.library.Library("lammps_trajcast", "FRAGMENT")
_library.define("network_edges(int network, Tensor edge_vectors) -> Tensor")
_library.define("network_embed(int network, Tensor species, Tensor velocities) -> Tensor")
_library.define(
    "network_layer(int network, int layer, Tensor features, Tensor species, Tensor velocities, "
    "Tensor edges, Tensor first_edge, Tensor senders, Tensor? receivers, Tensor(a!) out) -> ()"
)
_library.define("network_read_out(int network, Tensor features, int count) -> Tensor")


def _edges(network: int, edge_vectors: Tensor) -> Tensor:
    kernels = _kernels[network]
    return torch.from_numpy(kernels.edges(edge_vectors.numpy(), torch.get_num_threads()))


def _embed(network: int, species: Tensor, velocities: Tensor) -> Tensor:
    kernels = _kernels[network]
    features = kernels.embed(species.numpy(), velocities.numpy(), torch.get_num_threads())
    return torch.from_numpy(features)


def _layer(
    network: int,
    layer: int,
    features: Tensor,
    species: Tensor,
    velocities: Tensor,
    edges: Tensor,
    first_edge: Tensor,
    senders: Tensor,
    receivers: Tensor | None,
    out: Tensor,
) -> None:
    _kernels[network].layer(
        layer,
        features.numpy(),
        KernelGraph(*(x.numpy() for x in (species, velocities, edges, first_edge, senders))),
        None if receivers is None else receivers.numpy(),
        out.numpy(),
        torch.get_num_threads(),
    )


def _read_out(network: int, features: Tensor, count: int) -> Tensor:
    targets = _kernels[network].read_out(features.numpy(), count, torch.get_num_threads())
    return torch.from_numpy(targets)


for _name, _function in (
    ("network_edges", _edges),
    ("network_embed", _embed),
    ("network_layer", _layer),
    ("network_read_out", _read_out),
):
    _library.impl(_name, _function, "CPU")


class PredictionNetwork(torch.nn.Module):
    """A network for prediction: what TorchScript compiles around the kernels.

    Its methods are those of :class:`NetworkKernels`, with tensors in place of arrays. Nothing in it
    has gradients. Keep the kernels alive as long as this module.
    """

    def __init__(self, kernels: NetworkKernels) -> None:
        super().__init__()
        # Without annotations, of which TorchScript warns here.
        self.number = next(_numbers)
        self.widths = list(kernels.widths)
        _kernels[self.number] = kernels

    @exported
    def edges(self, edge_vectors: Tensor) -> Tensor:
        """Return edge data for :meth:`layer` from edge vectors (E, 3) float64 in Angstrom."""
        return torch.ops.lammps_trajcast.network_edges(self.number, edge_vectors)

    @exported
    def embed(self, species: Tensor, velocities: Tensor) -> Tensor:
        """Return the first features (N, widths[0]) of species (N,) and velocities (N, 3)."""
        return torch.ops.lammps_trajcast.network_embed(self.number, species, velocities)

    @exported
    def layer(
        self,
        k: int,
        features: Tensor,
        graph: StepGraph,
        edges: Tensor,
        receivers: Tensor | None,
        out: Tensor,
    ) -> None:
        """Write the features after layer k into the receivers' rows of ``out``."""
        torch.ops.lammps_trajcast.network_layer(
            self.number,
            k,
            features,
            graph.species,
            graph.velocities,
            edges,
            graph.first_edge,
            graph.senders,
            receivers,
            out,
        )

    @exported
    def read_out(self, features: Tensor, count: int) -> Tensor:
        """Return raw targets (count, 6) of the first atoms from their last features."""
        return torch.ops.lammps_trajcast.network_read_out(self.number, features, count)

    def forward(self, graph: StepGraph) -> Tensor:
        """Return raw targets (N, 6), as :meth:`TrajCast.predict` does, where all atoms receive."""
        count = graph.species.size(0)
        edges = self.edges(graph.edge_vectors)
        features = self.embed(graph.species, graph.velocities)
        for k, width in enumerate(self.widths[1:]):
            out = torch.empty((count, width), dtype=features.dtype)
            self.layer(k, features, graph, edges, None, out)
            features = out
        return self.read_out(features, count)
