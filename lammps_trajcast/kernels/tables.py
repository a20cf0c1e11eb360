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

TOLERANCE = {torch.float32: 5e-7, torch.float64: 1e-11}
"""Largest error of a table of each precision, relative to its largest value."""

ORDER = {torch.float32: 2, torch.float64: 3}
"""Value and so many less one derivatives at a node, as compiled into the kernels."""

SHORTEST = 0.1
"""Distances below this, in Angstrom, count as this: the basis has a pole just below zero."""

FEWEST = 64
"""Intervals of the coarsest table."""

_MOST = 1 << 16


class TableError(ValueError):
    """A function is too rough for a table of bearable size."""


@dataclass(frozen=True)
class Function:
    """A network's weights as functions of one variable: few functions, linearly combined.

    Attributes:
        inner: maps abscissas (K,) to (K, H), in double precision and differentiably.
        outer: (H, F).
    """

    inner: Callable[[Tensor], Tensor]
    outer: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Map abscissas (K,) to values (K, F)."""
        return self.inner(x) @ self.outer


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
        order = self.values.shape[2]
        basis = hermite_basis(t - node, order)[:, :, None]
        corners = [
            basis[:, end * order + k] * self.values[:, node + end, k]
            for end in range(2)
            for k in range(order)
        ]
        return np.asarray(sum(corners))


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


def _derivatives(function: Callable[[Tensor], Tensor], x: Tensor, order: int) -> Tensor:
    """Return value and derivatives (K, order, H) of a function at x (K,)."""
    # torch.func.jvp would do, but it imports torch's compiler, which takes seconds.
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        found = [function(x)]
        for _ in range(order - 1):
            # Forward by going backward twice: the gradient is linear in what is put in.
            into = torch.zeros_like(found[-1], requires_grad=True)
            # Of sums, because torch imports sympy to check gradients that are handed to it.
            (gradient,) = torch.autograd.grad(
                (found[-1] * into).sum(), x, create_graph=True, materialize_grads=True
            )
            (derivative,) = torch.autograd.grad(
                gradient.sum(), into, create_graph=True, materialize_grads=True
            )
            found.append(derivative)
    return torch.stack(found, dim=1).detach()


@torch.no_grad()
def tabulate(
    functions: list[Function],
    first: float,
    last: float,
    order: int,
    tolerance: float,
    fewest: int = FEWEST,
) -> HermiteTable:
    """Return a table of functions on [first, last], one set for each.

    Args:
        functions: all with the same number F of values.
        first, last: the range.
        order: 2 (cubic) or 3 (quintic).
        tolerance: largest error between nodes, relative to the largest value of all; sets the
            number of intervals.
        fewest: number of intervals to begin with.

    Raises:
        TableError: too many intervals would be needed.
    """
    number = fewest
    outer = torch.stack([f.outer for f in functions])
    while True:
        nodes = torch.linspace(first, last, number + 1, dtype=torch.float64)
        spacing = (last - first) / number
        scale = spacing ** torch.arange(order, dtype=torch.float64)
        inner = torch.stack([_derivatives(f.inner, nodes, order) for f in functions])
        inner = inner * scale[:, None]
        # Interpolation is linear too, so it is the few inner functions that are judged.
        error = _error(HermiteTable(first, spacing, inner.numpy()), functions)
        if error <= tolerance:
            values = inner @ outer.unsqueeze(1)
            return HermiteTable(first, spacing, values.numpy())
        # The error falls with the 2 * order-th power of the spacing, once that is small enough.
        growth = min(1.1 * (error / tolerance) ** (0.5 / order), 8.0)
        number = math.ceil(number * growth)
        if number > _MOST:
            raise TableError(
                f"the path weights vary too fast for a table with {_MOST} intervals: "
                "write 'kernels plain'"
            )


def _error(inner: HermiteTable, functions: list[Function]) -> float:
    """Return the largest error between nodes, relative to the largest value of all functions."""
    starts = inner.first + inner.spacing * np.arange(inner.num_nodes - 1)
    error = largest = 0.0
    for fraction in (0.3, 0.5):
        x = np.asarray(starts + fraction * inner.spacing, dtype=np.float64)
        for function, found in zip(functions, inner.evaluate(x), strict=True):
            exact = function.inner(torch.from_numpy(x))
            wrong = (torch.from_numpy(found) - exact) @ function.outer
            error = max(error, float(wrong.abs().max()))
            largest = max(largest, float((exact @ function.outer).abs().max()))
    return error / largest if largest > 0.0 else error


def _perceptron(net: nn.FullyConnectedNet, embedding: Callable[[Tensor], Tensor]) -> Function:
    """Return e3nn's perceptron of an embedding; derivatives pass through its hidden layers."""
    *layers, last = net
    one = torch.ones(1, dtype=torch.float64)
    hidden: list[tuple[Tensor, float]] = []
    for layer in layers:
        gain = float(layer.act(one) / torch.nn.functional.silu(one)) * math.sqrt(layer.var_out)
        weight = layer.weight.detach().double() / math.sqrt(layer.h_in * layer.var_in)
        hidden.append((weight, gain))

    def inner(x: Tensor) -> Tensor:
        x = embedding(x)
        for weight, gain in hidden:
            x = x @ weight
            x = x * torch.sigmoid(x) * gain
        return x

    outer = last.weight.detach().double() / math.sqrt(last.h_in * last.var_in / last.var_out)
    return Function(inner, outer)


def message_function(basis: BesselBasis, net: nn.FullyConnectedNet) -> Function:
    """Return the path weights as a function of the distance in Angstrom.

    The envelope is not cut off: at the cutoff it and its derivatives are its own limits.
    """
    roots = basis.bessel_roots.detach().double()
    cutoff, p = basis.cutoff, basis.exponent

    def embedding(r: Tensor) -> Tensor:
        x = r / cutoff
        envelope = (
            1.0
            - (p + 1.0) * (p + 2.0) / 2.0 * x**p
            + p * (p + 2.0) * x ** (p + 1.0)
            - p * (p + 1.0) / 2.0 * x ** (p + 2.0)
        )
        waves = torch.sin(x.unsqueeze(-1) * roots) / (r.unsqueeze(-1) + 1e-5)
        return waves * (2.0 / cutoff) * envelope.unsqueeze(-1)

    return _perceptron(net, embedding)


def message_range(cutoff: float) -> tuple[float, float]:
    """Return the first and last distance of a table, in Angstrom."""
    return min(SHORTEST, 0.5 * cutoff), cutoff


def fastest(embedding: NodeEmbeddingLayer) -> float:
    """Return the speed beyond which the embedding of the speed does not change any more.

    With a speed limit tables are of the limited speed, which ends there.
    """
    if embedding.speed_limit > 0.0:
        return embedding.speed_limit
    # e^-36 times a few: nothing in double precision.
    return float(embedding.centres[-1]) + 6.0 * embedding.spacing


def _speed_embedding(embedding: NodeEmbeddingLayer, species: int) -> Callable[[Tensor], Tensor]:
    """Return the embedding of speeds (K,), those that a limit has been applied to."""
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
    return _perceptron(net, _speed_embedding(embedding, species))


def scalar_function(embedding: NodeEmbeddingLayer, species: int) -> Function:
    """Return the first scalar features (K, channels) as a function of the speed."""
    speed = _speed_embedding(embedding, species)
    channels = embedding.irreps_out[0].mul
    inputs = embedding.linear.irreps_in[0].mul
    weight = embedding.linear.weight.detach().double()[: inputs * channels]
    weight = weight.view(inputs, channels) / math.sqrt(inputs)
    own, rest = weight[species : species + 1], weight[embedding.num_species :]

    def inner(x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(x).unsqueeze(-1), speed(x)], dim=1)

    return Function(inner, torch.cat([own, rest]))
