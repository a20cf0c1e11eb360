"""Tables of the functions of one variable that give a network's path weights.

The weights of a message depend on the distance alone, those of the velocity product on species
and speed alone. For prediction they are interpolated between equidistant nodes by Hermite
polynomials: cubic from value and first derivative, or quintic from the second derivative as well.

The derivatives are exact. A function maps its variable to a jet: an array (order, K, H) of the
values of H functions at K places and of their first ``order`` - 1 derivatives. Jets go through
sums, products and activations by the rules of calculus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.normalization import GAINS
from lammps_trajcast.model.radial import (
    SHIFT,
    bessel_factor,
    envelope_terms,
    gaussian_factor,
    gaussian_spacing,
)

Numbers = NDArray[np.float64]
Jet = NDArray[np.float64]  # (order, K, H), or (order, K) of one function

TOLERANCE = {"single": 5e-7, "double": 1e-11}
"""Largest error of a table of each precision, relative to its largest value."""

ORDER = {"single": 2, "double": 3}
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
        inner: maps abscissas (K,) and an order of at most 3 to jets (order, K, H).
        outer: (H, F).
    """

    inner: Callable[[Numbers, int], Jet]
    outer: Numbers

    def __call__(self, x: Numbers) -> Numbers:
        """Map abscissas (K,) to values (K, F)."""
        return np.asarray(self.inner(x, 1)[0] @ self.outer)


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
        first: lower end of the range.
        last: upper end of the range.
        order: 2 (cubic) or 3 (quintic).
        tolerance: largest error between nodes, relative to the largest value of all; sets the
            number of intervals.
        fewest: number of intervals to begin with.

    Raises:
        TableError: too many intervals would be needed.
    """
    number = fewest
    outer = np.stack([f.outer for f in functions])
    while True:
        nodes = np.linspace(first, last, number + 1)
        spacing = (last - first) / number
        scale = spacing ** np.arange(order, dtype=np.float64)
        inner = np.stack([f.inner(nodes, order).swapaxes(0, 1) for f in functions])
        inner = inner * scale[:, None]
        # Interpolation is linear too, so it is the few inner functions that are judged.
        error = _error(HermiteTable(first, spacing, inner), functions)
        if error <= tolerance:
            sets, count = inner.shape[:2]
            values = inner.reshape(sets, count * order, -1) @ outer
            return HermiteTable(first, spacing, values.reshape(sets, count, order, -1))
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
            exact = function.inner(x, 1)[0]
            wrong = (found - exact) @ function.outer
            error = max(error, float(np.abs(wrong).max()))
            largest = max(largest, float(np.abs(exact @ function.outer).max()))
    return error / largest if largest > 0.0 else error


# ---- jets ------------------------------------------------------------------------------------


def _product(a: Jet, b: Jet) -> Jet:
    """Return the jet of a product, by Leibniz' rule."""
    return np.stack(
        [sum(math.comb(k, i) * a[i] * b[k - i] for i in range(k + 1)) for k in range(len(a))]
    )


def _powers(x: Numbers, exponent: float, order: int) -> list[Numbers]:
    """Return x^exponent and its derivatives."""
    factors = np.cumprod([1.0, *(exponent - np.arange(order - 1))])
    return [factors[k] * x ** (exponent - k) for k in range(order)]


def _silu(x: Jet) -> Jet:
    """Return the jet of x sigmoid(x), of which the first two derivatives are known."""
    small = np.exp(-np.abs(x[0]))
    s = np.where(x[0] >= 0.0, 1.0, small) / (1.0 + small)
    first = s * (1.0 + x[0] * (1.0 - s))
    found = [x[0] * s]
    if len(x) > 1:
        found.append(first * x[1])
    if len(x) > 2:
        second = s * (1.0 - s) * (2.0 + x[0] * (1.0 - 2.0 * s))
        found.append(second * x[1] ** 2 + first * x[2])
    return np.stack(found)


# ---- the functions of a network --------------------------------------------------------------


def _perceptron(weights: Sequence[Numbers], embedding: Callable[[Numbers, int], Jet]) -> Function:
    """Return a perceptron of an embedding, normalized as e3nn's ``FullyConnectedNet``.

    Args:
        weights: (inputs, outputs) of each layer; silu follows on all but the last.
        embedding: maps abscissas (K,) and an order to jets.
    """
    *hidden, last = [np.asarray(w, dtype=np.float64) / math.sqrt(len(w)) for w in weights]

    def inner(x: Numbers, order: int) -> Jet:
        found = embedding(x, order)
        for weight in hidden:
            found = _silu(found @ weight) * GAINS["silu"]
        return found

    return Function(inner, last)


def message_function(
    roots: Numbers, cutoff: float, exponent: float, weights: Sequence[Numbers]
) -> Function:
    """Return the path weights as a function of the distance in Angstrom.

    The envelope is not cut off: at the cutoff it and its derivatives are its own limits.

    Args:
        roots: (num_edge_rbf,) of the Bessel functions.
        cutoff: Angstrom.
        exponent: of the envelope's polynomial.
        weights: of the perceptron, a matrix a layer.
    """
    roots = np.asarray(roots, dtype=np.float64)
    terms = envelope_terms(exponent)

    def embedding(r: Numbers, order: int) -> Jet:
        per_length = cutoff ** -np.arange(order, dtype=np.float64)
        x = r / cutoff
        envelope = np.zeros((order, len(r)))
        envelope[0] = 1.0
        for power, factor in terms:
            envelope += factor * np.stack(_powers(x, power, order))
        envelope *= per_length[:, None] * bessel_factor(cutoff)
        # The derivatives of a sine are sines a quarter of a period on.
        waves = np.stack(
            [
                (roots / cutoff) ** k
                * (np.cos if k % 2 else np.sin)(x[:, None] * roots)
                * (-1.0) ** (k // 2)
                for k in range(order)
            ]
        )
        inverse = np.stack(_powers(r + SHIFT, -1.0, order))
        return _product(waves, _product(inverse, envelope)[:, :, None])

    return _perceptron(weights, embedding)


def message_range(cutoff: float) -> tuple[float, float]:
    """Return the first and last distance of a table, in Angstrom."""
    return min(SHORTEST, 0.5 * cutoff), cutoff


@dataclass(frozen=True)
class SpeedEmbedding:
    """The embedding of speed and species, from which path weights and first features are made.

    Attributes:
        size: number of Gaussians.
        vel_max: between 0 and this they are, in the velocity unit of the model.
        limit: speed limit of the architecture, or 0.0.
        mixing: (size, species, size) weights.
    """

    size: int
    vel_max: float
    limit: float
    mixing: Numbers

    @classmethod
    def of(cls, arch: Architecture, weights: Mapping[str, Numbers]) -> SpeedEmbedding:
        """Return that of a network."""
        size = arch.num_vel_rbf
        mixing = weights["embedding.element_tp.weight"].astype(np.float64)
        mixing = mixing.reshape(size, arch.num_chem_elements, size)
        return cls(size, arch.vel_max, arch.speed_limit or 0.0, mixing)

    @property
    def spacing(self) -> float:
        """Between the centers of the Gaussians; their width too."""
        return gaussian_spacing(self.vel_max, self.size)

    @property
    def centers(self) -> Numbers:
        """Of the Gaussians, (size,)."""
        return np.linspace(0.0, self.vel_max, self.size + 2)[1:-1]

    @property
    def fastest(self) -> float:
        """The speed beyond which the embedding does not change any more.

        With a speed limit tables are of the limited speed, which ends there.
        """
        if self.limit > 0.0:
            return self.limit
        # e^-36 times a few: nothing in double precision.
        return float(self.centers[-1]) + 6.0 * self.spacing

    def of_species(self, species: int) -> Callable[[Numbers, int], Jet]:
        """Return the embedding of speeds (K,), those that a limit has been applied to, as jets."""
        num_species = self.mixing.shape[1]
        # e3nn's normalization: one over the root of the number of terms summed.
        mixing = self.mixing[:, species] / math.sqrt(self.size * num_species)
        scale = gaussian_factor(self.size)

        def run(speed: Numbers, order: int) -> Jet:
            offset = (speed[:, None] - self.centers) / self.spacing
            # The derivatives of a Gaussian are Hermite polynomials times itself.
            polynomials = [np.ones_like(offset), -2.0 * offset, 4.0 * offset**2 - 2.0][:order]
            gaussian = np.exp(-offset * offset) * scale
            values = [p * gaussian / self.spacing**k for k, p in enumerate(polynomials)]
            return np.stack(values) @ mixing

        return run


def velocity_function(
    embedding: SpeedEmbedding, species: int, weights: Sequence[Numbers]
) -> Function:
    """Return the path weights of the velocity product as a function of the speed.

    ``weights`` are those of the perceptron, a matrix a layer.
    """
    return _perceptron(weights, embedding.of_species(species))


def scalar_function(embedding: SpeedEmbedding, species: int, linear: Numbers) -> Function:
    """Return the first scalar features (K, channels) as a function of the speed.

    Args:
        embedding: of the speed.
        species: index of the element.
        linear: (species + size, channels) weights on the one-hot species and the embedded speed.
    """
    speed = embedding.of_species(species)
    num_species = embedding.mixing.shape[1]
    weight = np.asarray(linear, dtype=np.float64) / math.sqrt(len(linear))

    def inner(x: Numbers, order: int) -> Jet:
        constant = np.zeros((order, len(x), 1))
        constant[0] = 1.0
        return np.concatenate([constant, speed(x, order)], axis=2)

    return Function(inner, np.concatenate([weight[species : species + 1], weight[num_species:]]))
