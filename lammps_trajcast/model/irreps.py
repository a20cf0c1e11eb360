"""Irreducible representations of the features, and the paths of the depthwise tensor products.

Everything here follows the published TrajCast network, in which the order of paths, and so of the
weights in a checkpoint, is fixed by :func:`depthwise_paths`. It needs no e3nn, so that a model file
is checked, and its kernels are made, without it; e3nn takes these irreps as its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lammps_trajcast.model.architecture import Architecture


class Irrep(NamedTuple):
    """An irreducible representation of O(3); equal to e3nn's of the same order and parity."""

    l: int  # noqa: E741  the order
    p: int  # the parity, 1 (even) or -1 (odd)

    @property
    def dim(self) -> int:
        """The number of components, 2 l + 1."""
        return 2 * self.l + 1

    @property
    def is_natural(self) -> bool:
        """Whether the parity is that of the spherical harmonics, (-1)^l."""
        return self.p == (-1) ** self.l


class MulIrrep(NamedTuple):
    """So many copies of an irrep."""

    mul: int
    ir: Irrep


Irreps = list[MulIrrep]


class Path(NamedTuple):
    """A path of a depthwise tensor product, by the places of its irreps."""

    node: int  # of the block of features
    direction: int  # of the spherical harmonics
    out: int  # of the block of the result


def as_irreps(irreps: Iterable[tuple[int, tuple[int, int]]]) -> Irreps:
    """Return irreps of this module from pairs of a multiplicity and (order, parity)."""
    return [MulIrrep(mul, Irrep(ir[0], ir[1])) for mul, ir in irreps]


def spherical_harmonics(lmax: int, channels: int = 1) -> Irreps:
    """Return ``channels`` copies of each order 0..lmax, of natural parity."""
    return [MulIrrep(channels, Irrep(order, (-1) ** order)) for order in range(lmax + 1)]


def full_feature_irreps(channels: int, lmax: int, natural: bool = False) -> Irreps:
    """Return ``channels`` copies of all orders 0..lmax, in e3nn's sorted order.

    Of both parities, or of the natural one alone.
    """
    irreps = [Irrep(order, parity) for order in range(lmax + 1) for parity in (-1, 1)]
    return [MulIrrep(channels, ir) for ir in irreps if ir.is_natural or not natural]


def occurring(wanted: Irreps, present: Irreps) -> Irreps:
    """Return the entries of ``wanted`` whose irrep occurs in ``present``."""
    kinds = {ir for _, ir in present}
    return [entry for entry in wanted if entry.ir in kinds]


def num_copies(irreps: Irreps) -> int:
    """Return the number of irreps, copies included."""
    return sum(mul for mul, _ in irreps)


def depthwise_paths(
    irreps_node: Iterable[tuple[int, tuple[int, int]]],
    irreps_direction: Iterable[tuple[int, tuple[int, int]]],
    lmax: int,
    natural: bool = False,
) -> tuple[Irreps, list[Path]]:
    """Return output irreps and paths of a depthwise ("uvu") tensor product.

    Each path couples one block of ``irreps_node`` with one order of ``irreps_direction`` (spherical
    harmonics, multiplicity 1) to one product irrep of order at most ``lmax``, and with ``natural``
    of natural parity. The output lists one block per path, sorted; the paths are ordered by output
    block.
    """
    directions = as_irreps(irreps_direction)
    found = [
        (Irrep(order, a.p * b.p), i, j, mul)
        for i, (mul, a) in enumerate(as_irreps(irreps_node))
        for j, (_, b) in enumerate(directions)
        for order in range(abs(a.l - b.l), min(a.l + b.l, lmax) + 1)
    ]
    found = sorted(
        (entry for entry in found if entry[0].is_natural or not natural),
        key=lambda entry: entry[0],  # a stable sort: equal irreps stay in order of their blocks
    )
    irreps_out = [MulIrrep(mul, ir) for ir, _, _, mul in found]
    return irreps_out, [Path(i, j, k) for k, (_, i, j, _) in enumerate(found)]


class LayerIrreps(NamedTuple):
    """The irreps of one message-passing layer, in the order in which it goes through them."""

    inputs: Irreps  # of the features that the layer starts from
    messages: Irreps  # of their products with the edges' harmonics, a block for each path
    message_paths: list[Path]
    contracted: Irreps  # after the first linear map
    conditioned: Irreps  # of the products with the velocity's harmonics, a block for each path
    velocity_paths: list[Path]
    updates: Irreps  # after the second linear map: the outputs and, even scalars, their gates
    outputs: Irreps  # of the features that the layer returns


def layers(arch: Architecture) -> list[LayerIrreps]:
    """Return the irreps of each layer of a network."""
    lmax, channels = arch.max_rotation_order, arch.num_hidden_channels
    natural = arch.feature_parity == "natural"
    direction = spherical_harmonics(lmax)
    full = full_feature_irreps(channels, lmax, natural)
    irreps = spherical_harmonics(lmax, channels)
    found = []
    for _ in range(arch.num_mp_layers):
        messages, message_paths = depthwise_paths(irreps, direction, lmax, natural)
        contracted = occurring(full, messages)
        conditioned, velocity_paths = depthwise_paths(contracted, direction, lmax, natural)
        outputs = occurring(full, conditioned)
        gates = sum(mul for mul, ir in outputs if ir.l > 0)
        # One gate for each channel of order above 0, behind the even scalars themselves.
        updates = [MulIrrep(mul + gates if ir == Irrep(0, 1) else mul, ir) for mul, ir in outputs]
        found.append(
            LayerIrreps(
                irreps,
                messages,
                message_paths,
                contracted,
                conditioned,
                velocity_paths,
                updates,
                outputs,
            )
        )
        irreps = outputs
    return found
