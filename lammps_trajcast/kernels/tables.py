"""Tables of the functions of one variable that give a network's path weights.

The weights of a message depend on the distance alone, those of the velocity product on species and
speed alone. For prediction they are interpolated between equidistant nodes by Hermite polynomials:
cubic from value and first derivative, or quintic from the second derivative as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from e3nn import nn
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.model.embedding import BesselBasis, NodeEmbeddingLayer

Function = Callable[[Tensor], Tensor]
"""Maps abscissas (K,) to values (K, F), in double precision and differentiably."""

TOLERANCE = {torch.float32: 5e-7, torch.float64: 1e-10}
"""Largest error of a table of each precision, relative to its largest value."""

ORDER = {torch.float32: 2, torch.float64: 3}
"""Value and so many less one derivatives at a node, as compiled into the kernels."""

SHORTEST = 0.1
"""Distances below this, in Angstrom, count as this: the basis has a pole just below zero."""

_FEWEST, _MOST = 32, 1 << 16  # intervals


class TableError(ValueError):
    """A function is too rough for a table of bearable size."""


@dataclass(frozen=True)
class HermiteTable:
    """Functions of x by their values and derivatives at equidistant nodes.

    Attributes:
        first: the first node.
        spacing: between nodes.
        values: (sets, nodes, order, F): the k-th derivative times spacing^k.
    """

    first: float
    spacing: float
    values: NDArray[np.float64]

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return self.values.shape[1]

    def evaluate(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate at abscissas (K,): (sets, K, F); constant beyond the ends."""
        t = np.clip((x - self.first) / self.spacing, 0.0, self.num_nodes - 1)
        node = np.minimum(t.astype(np.int64), self.num_nodes - 2)
        basis = hermite_basis(t - node, self.values.shape[2])
        below, above = self.values[:, node], self.values[:, node + 1]
        corners = np.concatenate([below, above], axis=2)
        return np.asarray(np.einsum("kb,skbf->skf", basis, corners))


def hermite_basis(s: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Return the Hermite polynomials (K, 2 * order) at fractions s (K,) of an interval.

    The first ``order`` belong to value and derivatives at s = 0, the others to those at s = 1.
    """
    # Coefficients from the conditions themselves: p^(k)(0) and p^(k)(1) are 0 or 1.
    size = 2 * order
    conditions = np.zeros((size, size))
    for k in range(order):
        conditions[k, k] = math.factorial(k)
        for power in range(k, size):
            conditions[order + k, power] = math.perm(power, k)
    powers = s[:, None] ** np.arange(size)
    return np.asarray(powers @ np.linalg.inv(conditions))


def _derivatives(function: Function, x: Tensor, order: int) -> Tensor:
    """Return value and derivatives (K, order, F) of a function at x (K,)."""

    def derivative(f: Function) -> Function:
        return lambda y: torch.func.jvp(f, (y,), (torch.ones_like(y),))[1]

    found = [function]
    for _ in range(order - 1):
        found.append(derivative(found[-1]))
    return torch.stack([f(x) for f in found], dim=1)


@torch.no_grad()
def tabulate(
    functions: list[Function],
    first: float,
    last: float,
    order: int,
    tolerance: float,
    intervals: int | None = None,
) -> HermiteTable:
    """Return a table of functions on [first, last], one set for each.

    Args:
        functions: all with the same number F of values.
        first, last: the range.
        order: 2 (cubic) or 3 (quintic).
        tolerance: largest error between nodes, relative to the largest value of all; sets the
            number of intervals.
        intervals: take so many instead, whatever the error.

    Raises:
        TableError: too many intervals would be needed.
    """
    number = intervals or _FEWEST
    while True:
        nodes = torch.linspace(first, last, number + 1, dtype=torch.float64)
        spacing = (last - first) / number
        scale = spacing ** torch.arange(order, dtype=torch.float64)
        values = torch.stack([_derivatives(f, nodes, order) for f in functions])
        values = values * scale[:, None]
        table = HermiteTable(first, spacing, values.numpy())
        error = 0.0 if intervals is not None else table_error(table, functions)
        if error <= tolerance:
            return table
        # The error falls with the 2 * order-th power of the spacing, once that is small enough.
        growth = min(1.05 * (error / tolerance) ** (0.5 / order), 8.0)
        number = math.ceil(number * max(growth, 1.05))
        if number > _MOST:
            raise TableError(
                f"the path weights vary too fast for a table with {_MOST} intervals: "
                "write 'kernels plain'"
            )


@torch.no_grad()
def table_error(table: HermiteTable, functions: list[Function]) -> float:
    """Return the largest error between nodes, relative to the largest value of all sets."""
    starts = table.first + table.spacing * np.arange(table.num_nodes - 1)
    error = 0.0
    for fraction in (0.27, 0.5, 0.73):
        x = starts + fraction * table.spacing
        exact = np.stack([f(torch.from_numpy(x)).numpy() for f in functions])
        error = max(error, float(np.abs(table.evaluate(x) - exact).max(initial=0.0)))
    largest = float(np.abs(table.values[:, :, 0]).max(initial=0.0))
    return error / largest if largest > 0.0 else error


def _perceptron(net: nn.FullyConnectedNet) -> Function:
    """Return e3nn's perceptron as a plain function, which derivatives pass through."""
    steps: list[tuple[Tensor, float]] = []
    for layer in net:
        weight = layer.weight.detach().double()
        if layer.act is None:
            weight = weight / math.sqrt(layer.h_in * layer.var_in / layer.var_out)
            steps.append((weight, 0.0))
        else:
            one = torch.ones(1, dtype=torch.float64)
            gain = float(layer.act(one) / torch.nn.functional.silu(one))
            steps.append((weight / math.sqrt(layer.h_in * layer.var_in), gain * layer.var_out**0.5))

    def run(x: Tensor) -> Tensor:
        for weight, gain in steps:
            x = x @ weight
            if gain:
                x = x * torch.sigmoid(x) * gain
        return x

    return run


def message_function(basis: BesselBasis, net: nn.FullyConnectedNet) -> Function:
    """Return the path weights as a function of the distance in Angstrom.

    The envelope is not cut off: at the cutoff it and its derivatives are its own limits.
    """
    roots = basis.bessel_roots.detach().double()
    cutoff, p = basis.cutoff, basis.exponent
    perceptron = _perceptron(net)

    def run(r: Tensor) -> Tensor:
        x = r / cutoff
        envelope = (
            1.0
            - (p + 1.0) * (p + 2.0) / 2.0 * x**p
            + p * (p + 2.0) * x ** (p + 1.0)
            - p * (p + 1.0) / 2.0 * x ** (p + 2.0)
        )
        waves = torch.sin(x.unsqueeze(-1) * roots) / (r.unsqueeze(-1) + 1e-5)
        return perceptron(waves * (2.0 / cutoff) * envelope.unsqueeze(-1))

    return run


def fastest(embedding: NodeEmbeddingLayer) -> float:
    """Return the speed beyond which the embedding of the speed is zero for good."""
    # e^-36 times a few: nothing in double precision.
    return float(embedding.centres[-1]) + 6.0 * embedding.spacing


def _speed_embedding(embedding: NodeEmbeddingLayer, species: int) -> Function:
    centres = embedding.centres.double()
    size = centres.numel()
    weight = embedding.element_tp.weight.detach().double().view(size, embedding.num_species, size)
    # e3nn's normalisation: one over the root of the number of terms summed.
    mixing = weight[:, species] / math.sqrt(size * embedding.num_species)

    def run(speed: Tensor) -> Tensor:
        offset = (speed.unsqueeze(-1) - centres) / embedding.spacing
        return (torch.exp(-offset * offset) * embedding.speed_scale) @ mixing

    return run


def velocity_function(
    embedding: NodeEmbeddingLayer, net: nn.FullyConnectedNet, species: int
) -> Function:
    """Return the path weights of the velocity product as a function of the speed."""
    speed, perceptron = _speed_embedding(embedding, species), _perceptron(net)
    return lambda x: perceptron(speed(x))


def scalar_function(embedding: NodeEmbeddingLayer, species: int) -> Function:
    """Return the first scalar features (K, channels) as a function of the speed."""
    speed = _speed_embedding(embedding, species)
    channels = embedding.irreps_out[0].mul
    inputs = embedding.linear.irreps_in[0].mul
    weight = embedding.linear.weight.detach().double()[: inputs * channels]
    weight = weight.view(inputs, channels) / math.sqrt(inputs)
    own, rest = weight[species], weight[embedding.num_species :]
    return lambda x: speed(x) @ rest + own
