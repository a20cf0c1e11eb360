"""The network on fused kernels: same parameters, same numbers as the plain path, several times faster.

Features are kept component by component, (N, components, channels), so that every linear map is
one matrix product per irrep and the edge convolution runs over channels with vector instructions.
Used for training; differentiable.
"""

from __future__ import annotations

import math

import torch
from e3nn import o3
from e3nn.math import normalize2mom
from torch import Tensor

from lammps_trajcast.kernels.edge_convolution import PathTable, edge_convolution
from lammps_trajcast.model.conservation import Prediction
from lammps_trajcast.model.embedding import EdgeEmbedding, NodeEmbedding
from lammps_trajcast.model.interaction import Interaction
from lammps_trajcast.model.network import TrajCast


def to_components(features: Tensor, irreps: o3.Irreps) -> Tensor:
    """Turn e3nn's layout (N, irreps.dim) into (N, components, channels)."""
    blocks = [
        features[:, s].reshape(-1, mul, ir.dim).transpose(1, 2)
        for s, (mul, ir) in zip(irreps.slices(), irreps, strict=True)
    ]
    return torch.cat(blocks, dim=1)


class _GroupedLinear:
    """``o3.Linear`` from the rows of a :class:`PathTable` to one block per irrep."""

    def __init__(self, linear: o3.Linear, table: PathTable) -> None:
        self.linear = linear
        self.rows: list[tuple[o3.Irrep, int, int, int]] = []  # irrep, first row, paths, outputs
        multiplicity = {ir: mul for mul, ir in linear.irreps_out}
        row = 0
        self.channels = table.channels
        for ir, count in table.groups:
            if ir in multiplicity:
                self.rows.append((ir, row, count, multiplicity[ir]))
            row += ir.dim * count

    def __call__(self, pooled: Tensor) -> dict[o3.Irrep, Tensor]:
        """Map (N, rows, channels) to {irrep: (N, 2l+1, outputs)}."""
        out: dict[o3.Irrep, Tensor] = {}
        first = 0
        for ir, row, count, outputs in self.rows:
            fan_in = count * self.channels
            weight = self.linear.weight[first : first + fan_in * outputs].view(fan_in, outputs)
            first += fan_in * outputs
            block = pooled[:, row : row + ir.dim * count].reshape(-1, ir.dim, fan_in)
            out[ir] = block @ (weight / math.sqrt(fan_in))
        return out


class _FusedInteraction:
    """The fused twin of one :class:`Interaction`; owns nothing, reads its parameters."""

    def __init__(self, plain: Interaction) -> None:
        self.plain = plain
        self.edge_paths = PathTable(plain.dtp_edge.tp)
        self.vel_paths = PathTable(plain.dtp_vel.tp)
        self.contract = _GroupedLinear(plain.linear_contraction, self.edge_paths)
        self.linear_updates = _GroupedLinear(plain.linear_updates, self.vel_paths)
        self.irreps_in: o3.Irreps = plain.tp_resnet.irreps_in1
        self.num_species: int = plain.tp_resnet.irreps_in2.dim
        self.scalar_acts = {
            ir: act
            for (_, ir), act in zip(
                plain.gate.irreps_scalars, plain.gate.act_scalars.acts, strict=True
            )
        }
        self.gate_act: normalize2mom = plain.gate.act_gates.acts[0]

    def __call__(
        self,
        features: Tensor,
        nodes: NodeEmbedding,
        edges: EdgeEmbedding,
        first_edge: Tensor,
        senders: Tensor,
    ) -> Tensor:
        plain = self.plain
        count = first_edge.numel() - 1
        pooled = edge_convolution(
            features,
            edges.direction,
            plain.edge_mlp(edges.length),
            first_edge,
            senders,
            self.edge_paths,
        )
        contracted = self.contract(pooled / plain.avg_num_neighbors)
        own = torch.arange(count + 1)
        conditioned = edge_convolution(
            torch.cat([contracted[ir] for _, ir in plain.linear_contraction.irreps_out], dim=1),
            nodes.direction[:count],
            plain.vel_mlp(nodes.speed[:count]),
            own,
            own[:-1],
            self.vel_paths,
        )
        update = self.linear_updates(conditioned)
        channels = self.edge_paths.channels
        residual = self._residual(features[:count], nodes.one_hot[:count])
        even = update[o3.Irrep(0, 1)]
        gates = self.gate_act(even[..., channels:])
        out, gate = [], 0
        for _, ir in plain.irreps_out:
            if ir.l == 0:
                block = self.scalar_acts[ir](even[..., :channels] if ir.p == 1 else update[ir])
            else:
                block = update[ir] * gates[..., gate : gate + channels]
                gate += channels
            out.append(block + residual[ir] if ir in residual else block)
        return torch.cat(out, dim=1) / math.sqrt(2.0)

    def _residual(self, features: Tensor, one_hot: Tensor) -> dict[o3.Irrep, Tensor]:
        channels, species = self.edge_paths.channels, self.num_species
        out: dict[o3.Irrep, Tensor] = {}
        row = first = 0
        wanted = [ir for _, ir in self.plain.irreps_out]
        for _, ir in self.irreps_in:
            if ir in wanted:
                size = channels * species * channels
                weight = self.plain.tp_resnet.weight[first : first + size]
                first += size
                weight = weight.view(channels, species * channels) / math.sqrt(channels * species)
                block = features[:, row : row + ir.dim] @ weight
                block = block.view(-1, ir.dim, species, channels)
                out[ir] = (block * one_hot[:, None, :, None]).sum(dim=2)
            row += ir.dim
        return out


class FusedTrajCast:
    """Evaluate a :class:`TrajCast` network on the fused CPU kernels.

    It shares the parameters of ``plain``: train one and the other has changed too.
    """

    def __init__(self, plain: TrajCast) -> None:
        self.plain = plain
        self.interactions = [_FusedInteraction(layer) for layer in plain.interactions]  # type: ignore[arg-type]

    def predict(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return raw targets (N, 6), as :meth:`TrajCast.predict` does.

        The edges must be sorted by receiver, else ValueError.
        """
        if receivers.numel() > 1 and bool((receivers[1:] < receivers[:-1]).any()):
            raise ValueError("the fused kernels need edges sorted by receiver")
        first_edge = torch.zeros(species.numel() + 1, dtype=torch.int64)
        first_edge[1:] = torch.cumsum(torch.bincount(receivers, minlength=species.numel()), 0)
        nodes = self.plain.embedding(species, velocities)
        edges = self.plain.edge_embedding(edge_vectors)
        features = to_components(nodes.features, self.plain.embedding.irreps_out)
        for layer in self.interactions:
            features = layer(features, nodes, edges, first_edge, senders.contiguous())
        return self._read_out(features)

    def _read_out(self, features: Tensor) -> Tensor:
        read_out = self.plain.read_out
        irreps: o3.Irreps = read_out.compression.irreps_in
        vector = o3.Irrep(1, -1)
        row, channels = 0, irreps[0].mul
        for _, ir in irreps:
            if ir == vector:
                break
            row += ir.dim
        hidden = read_out.compression.irreps_out.num_irreps
        block = features[:, row : row + 3]
        block = block @ (read_out.compression.weight.view(channels, hidden) / math.sqrt(channels))
        block = block @ (read_out.read_out.weight.view(hidden, 2) / math.sqrt(hidden))
        return block.transpose(1, 2).reshape(-1, 6)

    def __call__(
        self,
        species: Tensor,
        positions: Tensor,
        velocities: Tensor,
        masses: Tensor,
        edge_vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
        system: Tensor | None = None,
        num_systems: int = 1,
    ) -> Prediction:
        """Return displacement and velocity, as :meth:`TrajCast.forward` does."""
        target = self.predict(species, velocities, edge_vectors, receivers, senders)
        if system is None:
            system = torch.zeros_like(species)
        return self.plain.conservation(
            target, positions, velocities, masses, system, num_systems
        )
