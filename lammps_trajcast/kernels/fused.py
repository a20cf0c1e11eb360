"""The network on fused kernels: parameters and numbers of the plain path, several times faster.

Features are kept component by component, (N, components, channels), so that every linear map is
one matrix product per irrep and the edge convolution runs over channels with vector instructions.
Differentiable, and TorchScript-compilable.
"""

import math

import torch
from e3nn import o3
from torch import Tensor

# It defines the operations of torch that are used here.
import lammps_trajcast.kernels.edge_convolution  # noqa: F401
from lammps_trajcast.kernels.path_table import PathTable, register_table
from lammps_trajcast.model.conservation import Prediction
from lammps_trajcast.model.embedding import EdgeEmbedding, NodeEmbedding
from lammps_trajcast.model.interaction import Interaction, ReceiverMix
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.readout import ReadOut
from lammps_trajcast.model.torchscript import exported, scripted


class ToComponents(torch.nn.Module):
    """Turn e3nn's layout (N, irreps.dim) into (N, components, channels)."""

    def __init__(self, irreps: o3.Irreps) -> None:
        super().__init__()
        self.channels: int = irreps[0].mul
        self.dims: list[int] = [ir.dim for _, ir in irreps]

    def forward(self, features: Tensor) -> Tensor:
        """Rearrange features (N, irreps.dim)."""
        blocks: list[Tensor] = []
        first = 0
        for dim in self.dims:
            block = features[:, first : first + dim * self.channels]
            blocks.append(block.reshape(-1, self.channels, dim).transpose(1, 2))
            first += dim * self.channels
        return torch.cat(blocks, dim=1)


class FusedReceiverMix(torch.nn.Module):
    """The receivers' share of the messages, see :class:`ReceiverMix`."""

    row: Tensor

    def __init__(self, plain: ReceiverMix, irreps: o3.Irreps) -> None:
        super().__init__()
        self.weight = plain.weight
        self.channels: int = irreps[0].mul
        dims = torch.tensor([ir.dim for _, ir in irreps])
        row = torch.arange(len(irreps)).repeat_interleave(dims)
        self.register_buffer("row", row, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, components, channels) to as many."""
        return features * self.weight.view(-1, self.channels).index_select(0, self.row)


class GroupedLinear(torch.nn.Module):
    """``o3.Linear`` from the rows of a :class:`PathTable` to one block per irrep."""

    def __init__(self, linear: o3.Linear, table: PathTable) -> None:
        super().__init__()
        self.weight = linear.weight
        multiplicity = {ir: mul for mul, ir in linear.irreps_out}
        self.irreps: list[o3.Irrep] = []
        blocks: list[tuple[int, int, int, int]] = []  # first row, components, inputs, outputs
        row = 0
        # What is cut at once is put together at once in the gradient.
        self.cuts: list[int] = []  # rows of each group
        self.taken: list[int] = []  # groups that lead somewhere
        for group, (ir, count) in enumerate(table.groups):
            if ir in multiplicity:
                self.irreps.append(ir)
                self.taken.append(group)
                blocks.append((row, ir.dim, count * table.channels, multiplicity[ir]))
            self.cuts.append(ir.dim * count)
            row += ir.dim * count
        self.blocks = blocks
        self.weight_cuts: list[int] = [inputs * outputs for _, _, inputs, outputs in blocks]
        self.channels = table.channels

    def forward(self, pooled: Tensor) -> list[Tensor]:
        """Map (N, rows, channels) to one (N, 2l+1, outputs) per irrep."""
        out: list[Tensor] = []
        rows = torch.split_with_sizes(pooled, self.cuts, 1)
        weights = torch.split_with_sizes(self.weight, self.weight_cuts)
        for k, (_, dim, inputs, outputs) in enumerate(self.blocks):
            weight = weights[k].view(inputs, outputs) / math.sqrt(inputs)
            out.append(rows[self.taken[k]].reshape(-1, dim, inputs) @ weight)
        return out


class SpeciesLinear(torch.nn.Module):
    """The residual path: a linear map of each irrep that depends on the atom's species."""

    def __init__(self, product: o3.FullyConnectedTensorProduct) -> None:
        super().__init__()
        self.weight = product.weight
        self.num_species: int = product.irreps_in2.dim
        self.channels: int = product.irreps_in1[0].mul
        wanted = [ir for _, ir in product.irreps_out]
        self.irreps: list[o3.Irrep] = []
        blocks: list[tuple[int, int]] = []  # first row, components
        row = 0
        self.cuts: list[int] = []
        self.taken: list[int] = []
        for group, (_, ir) in enumerate(product.irreps_in1):
            if ir in wanted:
                self.irreps.append(ir)
                self.taken.append(group)
                blocks.append((row, ir.dim))
            self.cuts.append(ir.dim)
            row += ir.dim
        self.blocks = blocks

    def forward(self, features: Tensor, one_hot: Tensor) -> list[Tensor]:
        """Map (N, components, channels) to one (N, 2l+1, channels) per irrep."""
        channels, species = self.channels, self.num_species
        rows = torch.split_with_sizes(features, self.cuts, 1)
        weights = self.weight.view(-1, channels, species * channels).unbind()
        out: list[Tensor] = []
        for k, (_, dim) in enumerate(self.blocks):
            weight = weights[k] / math.sqrt(channels * species)
            block = (rows[self.taken[k]] @ weight).view(-1, dim, species, channels)
            out.append((block * one_hot.unsqueeze(1).unsqueeze(3)).sum(dim=2))
        return out


class FusedGate(torch.nn.Module):
    """The gated non-linearity on a list of blocks, plus the residual."""

    def __init__(
        self, plain: Interaction, update: list[o3.Irrep], residual: list[o3.Irrep]
    ) -> None:
        super().__init__()
        self.channels: int = plain.irreps_out[0].mul
        acts = {
            ir: act
            for (_, ir), act in zip(
                plain.gate.irreps_scalars, plain.gate.act_scalars.acts, strict=True
            )
        }
        even, odd = o3.Irrep(0, 1), o3.Irrep(0, -1)
        self.even_act = acts[even]
        self.even_block = update.index(even)
        self.odd_act = acts.get(odd, torch.nn.Identity())
        self.gate_act = plain.gate.act_gates.acts[0]
        # For every output irrep: block of the update, its gate (-1: even, -2: odd scalar), block
        # of the residual (-1: none).
        sources: list[tuple[int, int, int]] = []
        gate = 0
        for _, ir in plain.irreps_out:
            kind = gate if ir.l > 0 else (-1 if ir.p == 1 else -2)
            gate += int(ir.l > 0)
            sources.append((update.index(ir), kind, residual.index(ir) if ir in residual else -1))
        self.sources = sources
        self.dims: list[int] = [ir.dim for _, ir in plain.irreps_out]

    def forward(self, update: list[Tensor], residual: list[Tensor]) -> Tensor:
        """Return features (N, components, channels)."""
        channels = self.channels
        gates = self.gate_act(update[self.even_block][:, :, channels:]).split(channels, 2)
        out: list[Tensor] = []
        for block, kind, shortcut in self.sources:
            if kind == -1:
                gated = self.even_act(update[block][:, :, :channels])
            elif kind == -2:
                gated = self.odd_act(update[block])
            else:
                gated = update[block] * gates[kind]
            out.append(gated + residual[shortcut] if shortcut >= 0 else gated)
        return torch.cat(out, dim=1) / math.sqrt(2.0)


class FusedInteraction(torch.nn.Module):
    """The fused twin of one :class:`Interaction`, sharing its parameters.

    As there, receivers come first among the nodes, followed by any that only send.
    """

    def __init__(self, plain: Interaction) -> None:
        super().__init__()
        edge_paths, vel_paths = PathTable(plain.dtp_edge.tp), PathTable(plain.dtp_vel.tp)
        self.edge_table = register_table(edge_paths)
        self.vel_table = register_table(vel_paths)
        self.avg_num_neighbors: float = plain.avg_num_neighbors
        self.own_share = (
            None
            if plain.own_share is None
            else FusedReceiverMix(plain.own_share, plain.dtp_edge.tp.irreps_in1)
        )
        self.edge_mlp, self.vel_mlp = plain.edge_mlp, plain.vel_mlp
        self.contraction = GroupedLinear(plain.linear_contraction, edge_paths)
        self.updates = GroupedLinear(plain.linear_updates, vel_paths)
        self.residual = SpeciesLinear(plain.tp_resnet)
        self.gate = FusedGate(plain, self.updates.irreps, self.residual.irreps)

    def forward(
        self,
        features: Tensor,
        nodes: NodeEmbedding,
        edges: EdgeEmbedding,
        first_edge: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return new features (num_receivers, components, channels).

        Args:
            features: (N, components, channels), receivers first.
            nodes: embeddings of at least the receivers.
            edges: embeddings of the E edges, sorted by receiver; with a table or without.
            first_edge: (num_receivers + 1,) int64, see :func:`edge_convolution`.
            senders: (E,) int64.
        """
        pooled = torch.ops.lammps_trajcast.edge_convolution(
            features,
            edges.direction,
            self.edge_mlp(edges.length),
            first_edge,
            senders,
            self.edge_table,
            self.own(features, first_edge.size(0) - 1),
            edges.node,
            edges.fraction,
        )
        return self.update(features, nodes, pooled)

    def own(self, features: Tensor, num_receivers: int) -> Tensor | None:
        """Return what the receivers add to the features of their neighbors, if anything."""
        if self.own_share is None:
            return None
        own: Tensor = self.own_share(features[:num_receivers])
        return own

    @exported
    def update(self, features: Tensor, nodes: NodeEmbedding, pooled: Tensor) -> Tensor:
        """Return new features from the summed messages (num_receivers, rows, channels)."""
        count = pooled.size(0)
        contracted = torch.cat(self.contraction(pooled / self.avg_num_neighbors), dim=1)
        # The velocity product is the same operation with one edge per atom, from it to itself.
        own = torch.arange(count + 1, device=pooled.device)
        conditioned = torch.ops.lammps_trajcast.edge_convolution(
            contracted,
            nodes.direction[:count],
            self.vel_mlp(nodes.speed[:count]),
            own,
            own[:count],
            self.vel_table,
            None,
        )
        residual = self.residual(features[:count], nodes.one_hot[:count])
        return self.gate(self.updates(conditioned), residual)


class FusedReadOut(torch.nn.Module):
    """The read-out, which reads vectors (1o) alone."""

    def __init__(self, plain: ReadOut) -> None:
        super().__init__()
        irreps = plain.compression.irreps_in
        self.compression, self.read_out = plain.compression.weight, plain.read_out.weight
        self.channels: int = irreps[0].mul
        self.hidden: int = plain.compression.irreps_out.num_irreps
        self.row = 0
        for _, ir in irreps:
            if ir == o3.Irrep(1, -1):
                break
            self.row += ir.dim

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, components, channels) to targets (N, 6)."""
        compression = self.compression.view(self.channels, self.hidden) / math.sqrt(self.channels)
        read_out = self.read_out.view(self.hidden, 2) / math.sqrt(self.hidden)
        vectors = features[:, self.row : self.row + 3] @ compression @ read_out
        return vectors.transpose(1, 2).reshape(-1, 6)


@scripted
class FusedTrajCast(torch.nn.Module):
    """A :class:`TrajCast` network evaluated on the fused CPU kernels.

    It shares the parameters of ``plain``: train one and the other has changed too. Edges must be
    sorted by receiver.
    """

    def __init__(self, plain: TrajCast) -> None:
        super().__init__()
        self.embedding = plain.embedding
        self.edge_embedding = plain.edge_embedding
        self.to_components = ToComponents(plain.embedding.irreps_out)
        self.interactions = torch.nn.ModuleList(
            [FusedInteraction(layer) for layer in plain.interactions]  # type: ignore[arg-type]
        )
        self.read_out = FusedReadOut(plain.read_out)
        self.conservation = plain.conservation

    @exported
    def predict(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return raw targets (N, 6), as :meth:`TrajCast.predict` does."""
        edges = self.edge_embedding(edge_vectors)
        return self.predict_from(species, velocities, edges, receivers, senders)

    @exported
    def predict_from(
        self,
        species: Tensor,
        velocities: Tensor,
        edges: EdgeEmbedding,
        receivers: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return raw targets (N, 6), as :meth:`predict` does, from edges with a table or without.

        Tables are for the CPU alone.
        """
        # Of sorted receivers; counting them would make the CPU wait for a GPU.
        atoms = torch.arange(species.size(0) + 1, device=receivers.device)
        first_edge = torch.searchsorted(receivers, atoms)
        nodes = self.embedding(species, velocities)
        features = self.to_components(nodes.features)
        for layer in self.interactions:
            features = layer(features, nodes, edges, first_edge, senders)
        return self.read_out(features)

    def forward(
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
        return self.conservation(target, positions, velocities, masses, system, num_systems)
