"""The linear equations of the coefficients: what an energy, a virial and forces are made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.data.labeled import LabeledFrame
from lammps_trajcast.data.labels import VOIGT
from lammps_trajcast.energy.model import EnergyBasis
from lammps_trajcast.runtime.graph import build_graph

# What is added to the squares of functions that may depend on each other, over their mean.
LOADING = 1e-13
# Distances that the data may have missed: from so much of the shortest to the cutoff, evenly, one
# for so many of the data.
CLOSEST, DATA_FOR_ONE = 0.85, 20


class Rows(NamedTuple):
    """Of a frame of N atoms, for F coefficients, float64.

    The order of coefficients is that of :func:`lammps_trajcast.energy.regression.arrays_of`.

    Attributes:
        energy: (F,).
        virial: (6, F).
        forces: (N, 3, F).
    """

    energy: Tensor
    virial: Tensor
    forces: Tensor


class Features:
    """What coefficients multiply: sums over neighbors and pairs of neighbors.

    Radial functions are mixed until they are orthonormal over the distances of the data: otherwise
    they are so alike that their coefficients are lost in rounding errors. Some distances that are
    not in the data count too: functions that are orthonormal over those of the data alone grow
    without bounds below the shortest, where every longer run gets.

    Attributes:
        basis: the functions.
        pair_mixing: (P, P) function k of the terms of two bodies is the sum over n of element n, k
            times Chebyshev function n.
        radial_mixing: (R, R) the same of three bodies.
        to_powers: (L + 1, L + 1) Legendre polynomial of row l in powers of the cosine.
    """

    def __init__(self, basis: EnergyBasis, distances: NDArray[np.float64]) -> None:
        """Make them.

        Args:
            basis: the functions.
            distances: (any,) Angstrom, between neighbors as they occur in the data.
        """
        self.basis = basis
        number = max(len(distances) // DATA_FOR_ONE, 10 * basis.num_pair)
        between = np.linspace(CLOSEST * distances.min(initial=basis.cutoff), basis.cutoff, number)
        distances = np.concatenate([distances, between])
        values, _ = chebyshev(torch.from_numpy(distances), basis, basis.num_pair)
        self.pair_mixing = _orthonormal(values)
        self.radial_mixing = _orthonormal(values[:, : basis.num_radial])
        order = basis.max_order
        self.to_powers = np.zeros((order + 1, order + 1))
        for l in range(order + 1):  # noqa: E741 - as the field calls it
            powers = np.polynomial.legendre.leg2poly([0.0] * l + [1.0])
            self.to_powers[l, : len(powers)] = powers
        self._upper = torch.triu_indices(basis.width, basis.width)

    def rows(self, frame: LabeledFrame) -> Rows:
        """Return what the coefficients multiply in one frame."""
        basis = self.basis
        species, radial_count = basis.num_species, basis.num_radial
        graph = build_graph(frame.positions, frame.cell, frame.pbc, basis.cutoff)
        vectors, receivers, senders = graph.edge_vectors, graph.receivers, graph.senders
        own = torch.from_numpy(frame.species)
        count, edges = len(own), len(vectors)
        near = own[senders]
        sums = _Sums(count, species, receivers, senders, own[receivers] * species + near, vectors)

        distances = vectors.norm(dim=1)
        unit = vectors / distances[:, None]
        values, slopes = chebyshev(distances, basis, basis.num_pair)
        pair, pair_slope = values @ self.pair_mixing, slopes @ self.pair_mixing
        radial = values[:, :radial_count] @ self.radial_mixing
        radial_slope = slopes[:, :radial_count] @ self.radial_mixing

        density = _per_atom(count, species, receivers, near, pair)
        found = [torch.ones(count, 1, dtype=torch.float64), density.reshape(count, -1)]
        virial, forces = sums.of(pair_slope[:, None, :] * unit[:, :, None])
        virials = [torch.zeros(6, species, 1, dtype=torch.float64), virial.flatten(2)]
        all_forces = [torch.zeros(count, 3, species, 1, dtype=torch.float64), forces.flatten(3)]

        by_power: list[tuple[Tensor, Tensor, Tensor]] = []
        for degree in range(basis.max_order + 1):
            angular, angular_slope = monomials(unit, distances, degree)
            terms = angular.size(1)
            moments = _per_atom(
                count, species, receivers, near, radial[:, :, None] * angular[:, None, :]
            ).reshape(count, basis.width, terms)
            # (E, 3, R, terms): derivatives of what an edge adds to the moments of its atom.
            change = (
                radial_slope[:, None, :, None] * unit[:, :, None, None] * angular[:, None, None, :]
                + radial[:, None, :, None] * angular_slope[:, :, None, :]
            )
            there = moments[receivers].transpose(1, 2)
            product = change.reshape(edges, 3 * radial_count, terms) @ there
            virial, forces = sums.of(product.reshape(edges, 3, radial_count * basis.width))
            squares = moments @ moments.transpose(1, 2)
            by_power.append(
                (
                    squares[:, self._upper[0], self._upper[1]],
                    self._both_ways(virial),
                    self._both_ways(forces),
                )
            )
        for row in self.to_powers:
            parts = [
                sum(float(weight) * power[k] for weight, power in zip(row, by_power, strict=True))
                for k in range(3)
            ]
            found.append(parts[0])  # type: ignore[arg-type]
            virials.append(parts[1])  # type: ignore[arg-type]
            all_forces.append(parts[2])  # type: ignore[arg-type]

        each = torch.cat(found, 1)
        energy = torch.zeros(species, each.size(1), dtype=torch.float64).index_add_(0, own, each)
        return Rows(
            energy.flatten(), torch.cat(virials, 2).flatten(1), torch.cat(all_forces, 3).flatten(2)
        )

    def _both_ways(self, sums: Tensor) -> Tensor:
        """Map (…, S, S, R * width) to (…, S, pairs): the derivative of a product, of each pair."""
        width = self.basis.width
        square = sums.reshape(*sums.shape[:-2], width, width)
        square = square + square.transpose(-1, -2)
        return square[..., self._upper[0], self._upper[1]]


class _Sums:
    """Sums over edges of derivatives by their vectors."""

    def __init__(
        self,
        count: int,
        species: int,
        receivers: Tensor,
        senders: Tensor,
        kind: Tensor,
        vectors: Tensor,
    ) -> None:
        self._count, self._species = count, species
        self._kind, self._vectors = kind, vectors
        self._receivers = receivers * species**2 + kind
        self._senders = senders * species**2 + kind

    def of(self, derivatives: Tensor) -> tuple[Tensor, Tensor]:
        """Return virials (6, S, S, X) and forces (N, 3, S, S, X) of derivatives (E, 3, X)."""
        s, n, x = self._species, self._count, derivatives.size(2)
        flat = derivatives.flatten(1)
        forces = torch.zeros(n * s * s, 3 * x, dtype=torch.float64)
        forces.index_add_(0, self._receivers, flat).index_add_(0, self._senders, flat, alpha=-1.0)
        virial = torch.stack(
            [
                torch.zeros(s * s, x, dtype=torch.float64).index_add_(
                    0, self._kind, derivatives[:, a] * self._vectors[:, b : b + 1], alpha=-1.0
                )
                for a, b in VOIGT
            ]
        )
        return virial.reshape(6, s, s, x), forces.reshape(n, s, s, 3, x).permute(0, 3, 1, 2, 4)


def _per_atom(count: int, species: int, receivers: Tensor, near: Tensor, values: Tensor) -> Tensor:
    """Sums (N, S, …) of the edges' values (E, …) by receiver and species of the sender."""
    total = torch.zeros(count * species, values[0].numel(), dtype=torch.float64)
    total.index_add_(0, receivers * species + near, values.flatten(1))
    return total.reshape(count, species, *values.shape[1:])


def chebyshev(distances: Tensor, basis: EnergyBasis, number: int) -> tuple[Tensor, Tensor]:
    """Return the radial functions (E, number) and their slopes, see `fix_src/kernels/energy.h`.

    Args:
        distances: (E,) Angstrom.
        basis: cutoff and skew.
        number: of functions.
    """
    s = distances / basis.cutoff
    below = 1.0 / (1.0 + basis.skew * s)
    x = 2.0 * (1.0 - s) * below - 1.0
    dx = -2.0 * (1.0 + basis.skew) * below**2 / basis.cutoff
    rest = (1.0 - s**2).clamp(min=0.0)
    cut, dcut = rest**3, -6.0 * s * rest**2 / basis.cutoff
    angle = torch.arccos(x.clamp(-1.0, 1.0))
    n = torch.arange(number, dtype=torch.float64)
    values = torch.cos(n * angle[:, None])
    # n times the polynomials of the second kind, which are sin(n a) / sin(a).
    sine = torch.sin(angle)[:, None]
    ends = x[:, None].sign() ** (n - 1.0) * n
    slopes = n * torch.where(
        sine.abs() > 1e-6, torch.sin(n * angle[:, None]) / sine.clamp(min=1e-300), ends
    )
    return values * cut[:, None], slopes * (dx * cut)[:, None] + values * dcut[:, None]


def monomials(unit: Tensor, distances: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Return the monomials of a degree (E, M) and their derivatives by the vector (E, 3, M).

    Args:
        unit: (E, 3) direction of the vector.
        distances: (E,) its length, Angstrom.
        degree: 0, 1, …
    """
    values, by_unit = [], []
    for a in range(degree + 1):
        for b in range(degree + 1 - a):
            power = (a, b, degree - a - b)
            factor = math.sqrt(math.factorial(degree) / math.prod(math.factorial(p) for p in power))
            values.append(factor * math.prod(unit[:, k] ** p for k, p in enumerate(power)))
            slopes = []
            for k, p in enumerate(power):
                others = math.prod(unit[:, j] ** q for j, q in enumerate(power) if j != k)
                slopes.append(factor * p * unit[:, k] ** max(p - 1, 0) * others)
            by_unit.append(torch.stack(slopes, 1))
    found, slope = torch.stack(values, 1), torch.stack(by_unit, 2)  # type: ignore[arg-type]
    # A monomial does not change along the vector, on which its direction does not depend.
    slope = slope - unit[:, :, None] * (unit[:, :, None] * slope).sum(1, keepdim=True)
    return found, slope / distances[:, None, None]


def _orthonormal(values: Tensor) -> Tensor:
    """Matrix that makes functions orthonormal over samples, given their values (samples, R).

    Distances of a crystal leave gaps, and over what is left the functions depend on each other up
    to rounding. So some of each function is added as a sample of its own, and the factor comes from
    the samples themselves: products of functions, summed over a million samples, are not positive.
    """
    size = values.size(1)
    identity = torch.eye(size, dtype=torch.float64)
    mean_square = float(values.square().mean())
    samples = torch.cat([values / len(values) ** 0.5, (LOADING * mean_square) ** 0.5 * identity])
    factor = torch.linalg.qr(samples, mode="r").R
    # The signs of a Cholesky factor, whose diagonal is positive.
    factor = factor * factor.diagonal().sign()[:, None]
    return torch.linalg.solve_triangular(factor, identity, upper=True)
