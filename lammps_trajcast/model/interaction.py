"""The interaction block: message, pooling, velocity conditioning, gated update, residual."""

import math
from collections.abc import Callable

import torch
from e3nn import nn, o3
from torch import Tensor

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.embedding import EdgeEmbedding, NodeEmbedding
from lammps_trajcast.model.irreps import (
    as_irreps,
    depthwise_paths,
    full_feature_irreps,
    occurring,
)
from lammps_trajcast.model.torchscript import exported

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


class DepthwiseTensorProduct(torch.nn.Module):
    """Tensor product of features with spherical harmonics, one weight per channel and path ("uvu").

    The weights are inputs: a network computes them from an edge length or a speed.
    """

    def __init__(
        self, irreps_node: o3.Irreps, irreps_direction: o3.Irreps, lmax: int, natural: bool = False
    ) -> None:
        super().__init__()
        irreps_out, paths = depthwise_paths(irreps_node, irreps_direction, lmax, natural)
        self.irreps_out = o3.Irreps(irreps_out)
        self.tp = o3.TensorProduct(
            irreps_node,
            irreps_direction,
            self.irreps_out,
            [(*path, "uvu", True) for path in paths],
            internal_weights=False,
            shared_weights=False,
        )
        self.weight_numel: int = self.tp.weight_numel

    def forward(self, features: Tensor, direction: Tensor, weights: Tensor) -> Tensor:
        """Multiply (M, irreps_node.dim) by (M, (lmax+1)^2), weighted by (M, weight_numel)."""
        return self.tp(features, direction, weights)


def _gate(arch: Architecture, irreps_out: o3.Irreps) -> nn.Gate:
    """Return the gate with output ``irreps_out``; an even scalar gates each channel of l > 0."""
    acts = arch.nl_gate_kwargs
    scalars = o3.Irreps([(mul, ir) for mul, ir in irreps_out if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in irreps_out if ir.l > 0])
    gates = o3.Irreps([(gated.num_irreps, (0, 1))])
    by_parity = {1: acts.activation_scalars.e, -1: acts.activation_scalars.o}
    return nn.Gate(
        scalars,
        [ACTIVATIONS[by_parity[ir.p]] for _, ir in scalars],
        gates,
        [ACTIVATIONS[acts.activation_gates.e]],
        gated,
    )


class ReceiverMix(torch.nn.Module):
    """What a receiver adds to the features of its neighbors before messages are made of them.

    Each channel of each irrep is multiplied by a weight: at first -1, so that messages are made of
    differences, but 0 for scalars, of which the sum over neighbors says more.
    """

    channel: Tensor

    def __init__(self, irreps: o3.Irreps) -> None:
        super().__init__()
        start = [torch.full((mul,), 0.0 if ir.l == 0 else -1.0) for mul, ir in irreps]
        self.weight = torch.nn.Parameter(torch.cat(start))
        firsts = [sum(mul for mul, _ in irreps[:k]) for k in range(len(irreps))]
        channel = [
            (first + torch.arange(mul)).repeat_interleave(ir.dim)
            for first, (mul, ir) in zip(firsts, irreps, strict=True)
        ]
        self.register_buffer("channel", torch.cat(channel), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, irreps.dim) to as many."""
        return features * self.weight[self.channel]


class Interaction(torch.nn.Module):
    """One message-passing layer of TrajCast.

    The nodes are the receivers, in the same order, followed by any number of nodes that only send
    (atoms owned by another MPI rank).
    """

    def __init__(self, arch: Architecture, irreps_in: o3.Irreps) -> None:
        super().__init__()
        lmax, channels = arch.max_rotation_order, arch.num_hidden_channels
        natural = arch.feature_parity == "natural"
        full = full_feature_irreps(channels, lmax, natural)
        direction = o3.Irreps.spherical_harmonics(lmax)
        species = o3.Irreps([(arch.num_chem_elements, (0, 1))])
        silu = torch.nn.functional.silu
        self.avg_num_neighbors = arch.avg_num_neighbors

        self.own_share = ReceiverMix(irreps_in) if arch.message_features == "both" else None
        self.dtp_edge = DepthwiseTensorProduct(irreps_in, direction, lmax, natural)
        self.edge_mlp = nn.FullyConnectedNet(
            [arch.num_edge_rbf, *arch.edge_mlp_kwargs.n_neurons, self.dtp_edge.weight_numel], silu
        )
        contracted = o3.Irreps(occurring(full, as_irreps(self.dtp_edge.irreps_out)))
        self.linear_contraction = o3.Linear(self.dtp_edge.irreps_out, contracted)

        self.dtp_vel = DepthwiseTensorProduct(contracted, direction, lmax, natural)
        self.vel_mlp = nn.FullyConnectedNet(
            [arch.num_vel_rbf, *arch.vel_mlp_kwargs.n_neurons, self.dtp_vel.weight_numel], silu
        )
        self.irreps_out = o3.Irreps(occurring(full, as_irreps(self.dtp_vel.irreps_out)))
        gate = _gate(arch, self.irreps_out)
        self.linear_updates = o3.Linear(self.dtp_vel.irreps_out, gate.irreps_in)
        self.gate = gate
        self.tp_resnet = o3.FullyConnectedTensorProduct(irreps_in, species, self.irreps_out)

    def forward(
        self,
        features: Tensor,
        nodes: NodeEmbedding,
        edges: EdgeEmbedding,
        receivers: Tensor,
        senders: Tensor,
        num_receivers: int,
    ) -> Tensor:
        """Return new features (num_receivers, irreps_out.dim).

        Args:
            features: (N, irreps_in.dim) of all nodes, receivers first; N >= num_receivers.
            nodes: embeddings of at least the receivers (further rows are not read).
            edges: embeddings of the E edges.
            receivers: (E,) int64, smaller than num_receivers.
            senders: (E,) int64, smaller than N.
            num_receivers: number of nodes whose features are wanted.
        """
        sent = features.index_select(0, senders)
        if self.own_share is not None:
            sent = sent + self.own_share(features[:num_receivers]).index_select(0, receivers)
        messages = self.dtp_edge(sent, edges.direction, self.edge_mlp(edges.length))
        pooled = torch.zeros(
            (num_receivers, messages.size(1)), dtype=messages.dtype, device=messages.device
        ).index_add(0, receivers, messages)
        return self.update(features, nodes, pooled, num_receivers)

    @exported
    def update(
        self, features: Tensor, nodes: NodeEmbedding, pooled: Tensor, num_receivers: int
    ) -> Tensor:
        """Return new features from the summed messages (num_receivers, dtp_edge.irreps_out.dim)."""
        contracted = self.linear_contraction(pooled / self.avg_num_neighbors)
        conditioned = self.dtp_vel(
            contracted, nodes.direction[:num_receivers], self.vel_mlp(nodes.speed[:num_receivers])
        )
        gated = self.gate(self.linear_updates(conditioned))
        residual = self.tp_resnet(features[:num_receivers], nodes.one_hot[:num_receivers])
        return (gated + residual) / math.sqrt(2.0)
