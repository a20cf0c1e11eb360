"""The network for prediction on a CUDA device, its radial networks tabulated."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedInteraction, FusedTrajCast
from lammps_trajcast.kernels.tables import (
    ORDER,
    TOLERANCE,
    message_function,
    message_range,
    tabulate,
)
from lammps_trajcast.kernels.triton import convolution  # noqa: F401  defines an operation
from lammps_trajcast.kernels.triton.gate import TritonGate
from lammps_trajcast.kernels.triton.tf32 import in_tf32
from lammps_trajcast.model.embedding import (
    BesselBasis,
    EdgeEmbedding,
    NodeEmbedding,
    SphericalHarmonics,
)
from lammps_trajcast.model.interaction import Interaction
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import exported, scripted


class EdgeGeometry(torch.nn.Module):
    """What a table wants to know of an edge, in place of the radial basis: its length."""

    def __init__(self, harmonics: SphericalHarmonics) -> None:
        super().__init__()
        self.harmonics = harmonics

    def forward(self, edge_vectors: Tensor) -> EdgeEmbedding:
        """Map edge vectors (E, 3) in Angstrom to lengths (E,) and spherical harmonics."""
        length = torch.linalg.vector_norm(edge_vectors, dim=1)
        return EdgeEmbedding(length=length, direction=self.harmonics(edge_vectors))


def _array(weight: Tensor) -> NDArray[np.float64]:
    return weight.detach().double().cpu().numpy()


class TabulatedInteraction(FusedInteraction):
    """A :class:`FusedInteraction` whose radial network is a table; it has no gradients."""

    radial_table: Tensor

    def __init__(self, plain: Interaction, radial_basis: BesselBasis, tf32: bool = False) -> None:
        super().__init__(plain)
        weight = plain.linear_contraction.weight
        channels: int = plain.irreps_out[0].mul
        precision = "double" if weight.dtype == torch.float64 else "single"
        function = message_function(
            _array(radial_basis.bessel_roots),
            radial_basis.cutoff,
            radial_basis.exponent,
            [_array(layer.weight) for layer in plain.edge_mlp],
        )
        table = tabulate(
            [function],
            *message_range(radial_basis.cutoff),
            ORDER[precision],
            TOLERANCE[precision],
        )
        values = torch.from_numpy(table.values[0]).unflatten(2, (-1, channels)).to(weight)
        self.register_buffer("radial_table", values, persistent=False)
        self.first, self.spacing = table.first, table.spacing
        self.gate = TritonGate(  # type: ignore[assignment]
            self.gate, len(self.updates.irreps), len(self.residual.irreps)
        )
        if tf32:
            in_tf32(self)

    def forward(
        self,
        features: Tensor,
        nodes: NodeEmbedding,
        edges: EdgeEmbedding,
        first_edge: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return new features, as :meth:`FusedInteraction.forward` does.

        ``edges`` is that of :class:`EdgeGeometry`.
        """
        return self.between(features, nodes, edges, first_edge[:-1], first_edge[1:], senders)

    @exported
    def between(
        self,
        features: Tensor,
        nodes: NodeEmbedding,
        edges: EdgeEmbedding,
        begins: Tensor,
        ends: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return new features, as :meth:`forward` does, where not all edges are used.

        Args:
            features: as there.
            nodes: as there.
            edges: as there.
            begins: (num_receivers,) int64, where the edges of each receiver begin.
            ends: (num_receivers,) int64, where they end.
            senders: as there.
        """
        last = self.radial_table.size(0) - 1
        pooled = torch.ops.lammps_trajcast.tabulated_edge_convolution(
            features,
            edges.direction,
            self.radial_table,
            ((edges.length - self.first) / self.spacing).clamp(0, last),
            begins,
            ends,
            senders,
            self.own(features, begins.size(0)),
            self.edge_table,
        )
        return self.update(features, nodes, pooled)


@scripted
class TabulatedTrajCast(FusedTrajCast):
    """A trained :class:`TrajCast` network for prediction on a CUDA device.

    The same interface as :class:`FusedTrajCast`. The tables are made here: later changes of the
    parameters of ``plain`` do not reach them.
    """

    def __init__(self, plain: TrajCast, tf32: bool = False) -> None:
        """Take a network, in single precision if the maps of its layers are to be in TF32."""
        super().__init__(plain)
        self.edge_embedding = EdgeGeometry(plain.edge_embedding.harmonics)  # type: ignore[assignment]
        self.interactions = torch.nn.ModuleList(
            [
                TabulatedInteraction(layer, plain.edge_embedding.radial_basis, tf32)  # type: ignore[arg-type]
                for layer in plain.interactions
            ]
        )
