"""How many multiply-adds the mathematics of a network needs, for one atom and step.

Counted is what is left once functions of one variable are tabulated, path weights are functions of
an edge's length, or of a species and a speed, and once everything is left out that the output does
not depend on: the read-out reads vectors alone. Activations and embeddings are left out too: they
are a few operations for each channel, and a machine has no measured peak for them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from e3nn import o3

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.irreps import depthwise_paths


class Operations(NamedTuple):
    """Multiply-adds for one atom in one step, all layers together; path weights: multiplications.

    The first seven are behind the share of the peak.
    """

    convolution: float  # couplings times features, summed over the edges
    contraction: float
    velocity_product: float
    update: float
    residual: float
    read_out: float
    path_weights: float  # multiplications of coupled features by the weights of their paths
    couplings: float  # Clebsch-Gordan coefficients times harmonics: for each edge, no channels
    table: float  # cubic polynomials of the distance: for each edge, path and channel

    @property
    def counted(self) -> float:
        """Operations of the mathematics, a multiply-add being two; no couplings, no table."""
        return 2.0 * sum(self[:6]) + self.path_weights


class Couplings(NamedTuple):
    """Sizes of a depthwise tensor product, for one channel."""

    paths: int
    inputs: int  # pairs (path, component of the features)
    entries: int  # triples (path, component of the features, component of the result)
    coefficients: int  # non-zero Clebsch-Gordan coefficients behind them


class _Product:
    """A depthwise tensor product of features with spherical harmonics; all irreps by order."""

    def __init__(self, irreps: Collection[o3.Irrep], lmax: int) -> None:
        features = o3.Irreps([(1, ir) for ir in irreps])
        direction = o3.Irreps.spherical_harmonics(lmax)
        out, paths = depthwise_paths(features, direction, lmax)
        # Irreps of features, harmonics and result of each path.
        self.paths = [(features[i].ir, direction[j].ir, out[k].ir) for i, j, k in paths]

    def outputs(self) -> set[o3.Irrep]:
        return {out for *_, out in self.paths}

    def inputs(self, wanted: Collection[o3.Irrep]) -> set[o3.Irrep]:
        """Irreps of the features that the wanted irreps of the result depend on."""
        return {node for node, _, out in self.paths if out in wanted}

    def couplings(self, wanted: Collection[o3.Irrep]) -> Couplings:
        """Sizes of the paths to the wanted irreps of the result."""
        total = Couplings(0, 0, 0, 0)
        for node, harmonic, out in self.paths:
            if out not in wanted:
                continue
            orders = (node.l, harmonic.l, out.l)
            present = o3.wigner_3j(*orders, dtype=torch.float64).abs() > 1e-12
            one = (
                1,
                int(present.any(dim=(1, 2)).sum()),
                int(present.any(dim=1).sum()),
                int(present.sum()),
            )
            total = Couplings(*(a + b for a, b in zip(total, one, strict=True)))
        return total

    def weights(self, out: o3.Irrep) -> int:
        """Weights of a linear map from the result to one irrep, for one channel of either.

        Times the components of the irrep, as each takes a multiply-add.
        """
        return out.dim * sum(each == out for *_, each in self.paths)


def count_couplings(irreps: o3.Irreps, lmax: int) -> Couplings:
    """Count what couples features with spherical harmonics up to ``lmax``."""
    product = _Product([ir for _, ir in irreps], lmax)
    return product.couplings(product.outputs())


def count_operations(arch: Architecture, neighbors: float) -> Operations:
    """Count the multiply-adds of one atom that has so many neighbors on average."""
    channels, lmax = arch.num_hidden_channels, arch.max_rotation_order
    irreps = {ir for _, ir in o3.Irreps.spherical_harmonics(lmax)}
    layers = []
    for _ in range(arch.num_mp_layers):
        edge = _Product(sorted(irreps), lmax)
        velocity = _Product(sorted(edge.outputs()), lmax)
        layers.append((edge, velocity, irreps))
        irreps = velocity.outputs()

    hidden = channels // 4
    total = Operations(0, 0, 0, 0, 0, 3 * (channels * hidden + 2 * hidden), 0, 0, 0)
    wanted = {o3.Irrep(1, -1)}
    # From the output back: what a layer need not make, the one before it need not either.
    for edge, velocity, inputs in reversed(layers):
        gated = [ir for ir in wanted if ir.l > 0]
        updated = wanted | ({o3.Irrep(0, 1)} if gated else set())
        contracted = velocity.inputs(updated)
        shortcut = wanted & inputs
        edges, atoms = edge.couplings(contracted), velocity.couplings(updated)
        maps = sum(edge.weights(ir) for ir in contracted)
        updates = sum(velocity.weights(ir) for ir in wanted)
        updates += len(gated) * velocity.weights(o3.Irrep(0, 1))
        layer = Operations(
            convolution=neighbors * edges.entries * channels,
            contraction=maps * channels**2,
            velocity_product=atoms.entries * channels,
            update=updates * channels**2,
            # The species is known: one of the species' matrices.
            residual=sum(ir.dim for ir in shortcut) * channels**2,
            read_out=0,
            path_weights=(neighbors * edges.inputs + atoms.inputs) * channels,
            couplings=neighbors * edges.coefficients + atoms.coefficients,
            table=3 * (neighbors * edges.paths + atoms.paths) * channels,
        )
        total = Operations(*(a + b for a, b in zip(total, layer, strict=True)))
        wanted = edge.inputs(contracted) | shortcut
    return total


def count_operations_of(model: str, neighbors: float) -> dict[str, float]:
    """Count for a model of :func:`load_model`, by name of the part; "counted" are operations."""
    from benchmarks.systems import load_model

    operations = count_operations(load_model(model).metadata.architecture, neighbors)
    return {**operations._asdict(), "counted": operations.counted}
