"""How many multiply-adds the mathematics of a network needs, for one atom and step.

Counted is what is left once functions of one variable are tabulated: path weights are functions of
an edge's length, or of a species and a speed. Activations and the embeddings are left out: they
are a few operations for each channel, and a machine has no measured peak for them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from e3nn import o3

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.irreps import depthwise_instructions, full_feature_irreps, occurring


class Operations(NamedTuple):
    """Multiply-adds for one atom in one step, all layers together.

    The first seven are the count behind the share of the peak; a multiply-add is two operations.
    """

    convolution: float  # features times couplings, summed over the edges
    path_weights: float  # one multiplication of each coupled feature by its path's weight
    contraction: float
    velocity_product: float
    update: float
    residual: float
    read_out: float
    couplings: float  # Clebsch-Gordan coefficients times harmonics: for each edge, no channels
    table: float  # cubic polynomials of the distance: for each edge, path and channel

    @property
    def counted(self) -> float:
        """Multiply-adds of the mathematics, table and couplings left out."""
        return sum(self[:7])


class Couplings(NamedTuple):
    """Sizes of a depthwise tensor product, for one channel."""

    paths: int
    inputs: int  # pairs (path, component of the features)
    entries: int  # triples (path, component of the features, component of the result)
    coefficients: int  # non-zero Clebsch-Gordan coefficients behind them


def count_couplings(irreps: o3.Irreps, lmax: int) -> Couplings:
    """Count what couples features with spherical harmonics up to ``lmax``."""
    direction = o3.Irreps.spherical_harmonics(lmax)
    irreps_out, paths = depthwise_instructions(irreps, direction, lmax)
    inputs = entries = coefficients = 0
    for node, harmonic, out, *_ in paths:
        orders = (irreps[node].ir.l, direction[harmonic].ir.l, irreps_out[out].ir.l)
        present = o3.wigner_3j(*orders, dtype=torch.float64).abs() > 1e-12
        inputs += int(present.any(dim=(1, 2)).sum())
        entries += int(present.any(dim=1).sum())
        coefficients += int(present.sum())
    return Couplings(len(paths), inputs, entries, coefficients)


def _linear(irreps_in: o3.Irreps, irreps_out: o3.Irreps) -> int:
    return sum(
        ir.dim * mul * sum(mul_in for mul_in, ir_in in irreps_in if ir_in == ir)
        for mul, ir in irreps_out
    )


def count_operations(arch: Architecture, neighbours: float) -> Operations:
    """Count the multiply-adds of one atom that has so many neighbours on average."""
    channels, lmax = arch.num_hidden_channels, arch.max_rotation_order
    direction = o3.Irreps.spherical_harmonics(lmax)
    full = full_feature_irreps(channels, lmax)
    irreps = o3.Irreps([(channels, ir) for _, ir in direction])
    total = torch.zeros(9, dtype=torch.float64)
    for _ in range(arch.num_mp_layers):
        edge = count_couplings(irreps, lmax)
        messages, _ = depthwise_instructions(irreps, direction, lmax)
        contracted = occurring(full, messages)
        velocity = count_couplings(contracted, lmax)
        conditioned, _ = depthwise_instructions(contracted, direction, lmax)
        out = occurring(full, conditioned)
        gates = o3.Irreps([(sum(mul for mul, ir in out if ir.l > 0), (0, 1))])
        total += torch.tensor(
            [
                neighbours * edge.entries * channels,
                neighbours * edge.inputs * channels,
                _linear(messages, contracted),
                (velocity.entries + velocity.inputs) * channels,
                _linear(conditioned, out) + _linear(conditioned, gates),
                # The species is known: one of the species' matrices.
                _linear(irreps, o3.Irreps([(mul, ir) for mul, ir in out if ir in irreps])),
                0.0,
                neighbours * edge.coefficients + velocity.coefficients,
                3 * (neighbours * edge.paths + velocity.paths) * channels,
            ],
            dtype=torch.float64,
        )
        irreps = out
    hidden = channels // 4
    total[6] = 3 * (channels * hidden + 2 * hidden)
    return Operations(*total.tolist())


def count_operations_of(model: str, neighbours: float) -> dict[str, float]:
    """Count for a model of :func:`load_model`, by name of the part; "counted" is the sum."""
    from benchmarks.systems import load_model

    operations = count_operations(load_model(model).metadata.architecture, neighbours)
    return {**operations._asdict(), "counted": operations.counted}
