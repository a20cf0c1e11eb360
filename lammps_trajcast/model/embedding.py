"""Embeddings of atoms (species, velocity) and of edges (length, direction)."""

import math
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.radial import (
    SHIFT,
    bessel_factor,
    envelope_terms,
    gaussian_factor,
    gaussian_spacing,
)

# So many edges as a row of a table of lengths make the table worth its price.
ROWS_PAY = 2


class NodeEmbedding(NamedTuple):
    """What is known of an atom before it has talked to its neighbors; N atoms."""

    one_hot: Tensor  # (N, num_chem_elements)
    speed: Tensor  # (N, num_vel_rbf)
    direction: Tensor  # (N, (lmax+1)^2) spherical (or solid) harmonics of the velocity
    features: Tensor  # (N, irreps_features.dim) initial features


class EdgeEmbedding(NamedTuple):
    """What is known of an edge; E edges.

    With ``node``, ``length`` is of the nodes of a table instead: what is a function of the length
    alone is evaluated there, and an edge takes what lies between ``node`` and ``node + 1``.
    """

    length: Tensor  # (E, num_edge_rbf), zero at the cutoff
    direction: Tensor  # (E, (lmax+1)^2) spherical harmonics of the edge vector
    node: Tensor | None = None  # (E,) int64
    fraction: Tensor | None = None  # (E,) float64, of the way to the next node


class SphericalHarmonics(torch.nn.Module):
    """Real spherical harmonics, orders 0..lmax, of a vector's direction; component-normalized.

    With ``scale`` those of order l are multiplied by (length / scale)^l: solid harmonics.
    """

    def __init__(self, lmax: int, scale: float | None = None) -> None:
        super().__init__()
        self.lmax = lmax
        self.scale = 1.0 if scale is None else scale
        self.harmonics = o3.SphericalHarmonics(
            list(range(lmax + 1)), normalize=scale is None, normalization="component"
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (N, 3) to (N, (lmax+1)^2)."""
        return self.harmonics(vectors / self.scale)


class BesselBasis(torch.nn.Module):
    """Trainable Bessel functions of the edge length times a smooth polynomial cutoff.

    b_n(r) = (2/rc) sin(w_n r/rc) / (r + 1e-5) times the polynomial envelope; its coefficients are
    in :mod:`lammps_trajcast.model.radial`.
    """

    def __init__(self, cutoff: float, size: int, exponent: int) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.exponent = float(exponent)
        self.factors = [factor for _, factor in envelope_terms(self.exponent)]
        self.scale = bessel_factor(cutoff)
        self.shift = SHIFT
        self.bessel_roots = torch.nn.Parameter(torch.arange(1, size + 1) * math.pi)

    def forward(self, length: Tensor) -> Tensor:
        """Map lengths (E,) in Angstrom to (E, size)."""
        x = length / self.cutoff
        p = self.exponent
        envelope = (
            1.0
            + self.factors[0] * x**p
            + self.factors[1] * x ** (p + 1.0)
            + self.factors[2] * x ** (p + 2.0)
        )
        envelope = envelope * (x < 1.0)
        basis = torch.sin(x.unsqueeze(-1) * self.bessel_roots) / (length.unsqueeze(-1) + self.shift)
        return basis * self.scale * envelope.unsqueeze(-1)


class EdgeEmbeddingLayer(torch.nn.Module):
    """Embedding of edge vectors: radial basis and spherical harmonics."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.radial_basis = BesselBasis(
            arch.edge_cutoff, arch.num_edge_rbf, arch.num_edge_poly_cutoff
        )
        self.harmonics = SphericalHarmonics(arch.max_rotation_order)

    def forward(self, edge_vectors: Tensor) -> EdgeEmbedding:
        """Embed edge vectors (E, 3), receiver to sender, in Angstrom."""
        length = torch.linalg.vector_norm(edge_vectors, dim=1)
        return EdgeEmbedding(
            length=self.radial_basis(length), direction=self.harmonics(edge_vectors)
        )

    def tabulated(self, edge_vectors: Tensor, spacing: float) -> EdgeEmbedding:
        """Embed edge vectors with a table of lengths, where that has fewer rows than edges.

        What is interpolated linearly between nodes is off by at most ``spacing^2 / 8`` times its
        second derivative. Nothing is differentiated by the edge vectors here.

        Args:
            edge_vectors: (E, 3), receiver to sender, Angstrom; not longer than the cutoff.
            spacing: of the nodes, Angstrom.
        """
        length = torch.linalg.vector_norm(edge_vectors.double(), dim=1)
        first = math.floor(float(length.min()) / spacing) if len(length) else 0
        last = math.ceil(self.radial_basis.cutoff / spacing)
        rows = last - first + 1
        if ROWS_PAY * rows > len(length):
            return self(edge_vectors)
        nodes = spacing * torch.arange(first, last + 1, dtype=torch.float64, device=length.device)
        position = length / spacing - first
        node = position.long().clamp(max=rows - 2)
        return EdgeEmbedding(
            length=self.radial_basis(nodes.to(edge_vectors.dtype)),
            direction=self.harmonics(edge_vectors),
            node=node,
            fraction=position - node,
        )


def limited(speed: Tensor, limit: float) -> Tensor:
    """Return speeds that follow ``speed`` up to about ``limit`` and never exceed it."""
    # From a hundred times the limit on nothing changes, and powers would overflow.
    ratio = torch.clamp(speed / limit, max=100.0)
    return limit * ratio / (1.0 + ratio**8) ** 0.125


class NodeEmbeddingLayer(torch.nn.Module):
    """Embedding of species and velocity, and the initial features made of them."""

    centers: Tensor
    factors: Tensor

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.num_species = arch.num_chem_elements
        lmax, size = arch.max_rotation_order, arch.num_vel_rbf
        # As in soft_one_hot_linspace with cutoff=True: the end points carry no basis function.
        centers = torch.linspace(0.0, arch.vel_max, size + 2)[1:-1]
        self.register_buffer("centers", centers, persistent=False)
        self.spacing = gaussian_spacing(arch.vel_max, size)
        self.speed_scale = gaussian_factor(size)
        self.speed_limit = arch.speed_limit or 0.0
        self.has_factors = arch.speed_factors is not None
        factors = torch.tensor(arch.speed_factors or (), dtype=centers.dtype)
        self.register_buffer("factors", factors, persistent=False)
        scalars = o3.Irreps([(size, (0, 1))])
        species = o3.Irreps([(self.num_species, (0, 1))])
        self.element_tp = o3.FullyConnectedTensorProduct(scalars, species, scalars)
        self.harmonics = SphericalHarmonics(lmax, arch.velocity_scale)
        direction = o3.Irreps.spherical_harmonics(lmax)
        irreps_in = (species + scalars + direction[1:]).simplify()
        self.irreps_out = o3.Irreps([(arch.num_hidden_channels, ir) for _, ir in direction])
        self.linear = o3.Linear(irreps_in, self.irreps_out)

    def forward(self, species: Tensor, velocities: Tensor) -> NodeEmbedding:
        """Embed species indices (N,) int64 and velocities (N, 3) in the model's unit."""
        one_hot = torch.nn.functional.one_hot(species, self.num_species).to(velocities.dtype)
        norm = torch.linalg.vector_norm(velocities, dim=1)
        if self.has_factors:
            norm = norm * self.factors[species]
        if self.speed_limit > 0.0:
            norm = limited(norm, self.speed_limit)
        offset = (norm.unsqueeze(-1) - self.centers) / self.spacing
        speed = self.element_tp(torch.exp(-offset * offset) * self.speed_scale, one_hot)
        direction = self.harmonics(velocities)
        features = self.linear(torch.cat([one_hot, speed, direction[:, 1:]], dim=1))
        return NodeEmbedding(one_hot, speed, direction, features)
