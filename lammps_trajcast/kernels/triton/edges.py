"""Edges of a step, found and judged on a CUDA device.

One program goes through the neighbors of one receiver, ``BLOCK`` at a time, in their order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Neighbors that a program looks at together, two a lane.
BLOCK, WARPS = 64, 1
# What counts edges and what writes them have to round distances alike.
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}


@triton.jit  # type: ignore[untyped-decorator]
def _receiver(first, rows, receiver):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Where the neighbors of a receiver begin and end, and its row (3,)."""
    begin = tl.load(first + receiver)
    end = tl.load(first + receiver + 1)
    row = rows + 3 * receiver
    return begin, end, tl.load(row), tl.load(row + 1), tl.load(row + 2)


@triton.jit  # type: ignore[untyped-decorator]
def _edge(  # type: ignore[no-untyped-def]
    pairs, candidate, live, positions, images, x0, y0, z0, limit
):  # pragma: no cover
    """The sender and the vector of candidates, and 1 for those that are edges, else 0."""
    sender = tl.load(pairs + 2 * candidate, live, 0).to(tl.int64)
    shift = tl.load(pairs + 2 * candidate + 1, live, 0).to(tl.int64)
    x = tl.load(positions + 3 * sender) + tl.load(images + 3 * shift) - x0
    y = tl.load(positions + 3 * sender + 1) + tl.load(images + 3 * shift + 1) - y0
    z = tl.load(positions + 3 * sender + 2) + tl.load(images + 3 * shift + 2) - z0
    # A distance that is not a number keeps its edge, so that the prediction shows the fault.
    far = x * x + y * y + z * z >= limit
    return sender, x, y, z, tl.where(far, 0, live.to(tl.int32))


@triton.jit  # type: ignore[untyped-decorator]
def _count(  # type: ignore[no-untyped-def]
    first, pairs, positions, images, cutoff_squared, counts, size: tl.constexpr
):  # pragma: no cover
    receiver = tl.program_id(0).to(tl.int64)
    begin, end, x0, y0, z0 = _receiver(first, positions, receiver)
    # Not a plain number, which would reach the kernel in single precision.
    limit = tl.load(cutoff_squared)
    count = tl.zeros([size], tl.int64)
    for k in range(tl.cdiv(end - begin, size)):
        candidate = begin + k * size + tl.arange(0, size)
        _, _, _, _, kept = _edge(
            pairs, candidate, candidate < end, positions, images, x0, y0, z0, limit
        )
        count += kept
    tl.store(counts + receiver, tl.sum(count, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _write(  # type: ignore[no-untyped-def]
    first,
    pairs,
    positions,
    images,
    cutoff_squared,
    first_edge,
    room,
    senders,
    vectors,
    size: tl.constexpr,
):  # pragma: no cover
    receiver = tl.program_id(0).to(tl.int64)
    begin, end, x0, y0, z0 = _receiver(first, positions, receiver)
    limit = tl.load(cutoff_squared)
    place = tl.load(first_edge + receiver)
    for k in range(tl.cdiv(end - begin, size)):
        candidate = begin + k * size + tl.arange(0, size)
        sender, x, y, z, kept = _edge(
            pairs, candidate, candidate < end, positions, images, x0, y0, z0, limit
        )
        edge = place + tl.cumsum(kept, 0) - kept
        write = (kept > 0) & (edge < room)
        tl.store(senders + edge, sender, write)
        tl.store(vectors + 3 * edge, x, write)
        tl.store(vectors + 3 * edge + 1, y, write)
        tl.store(vectors + 3 * edge + 2, z, write)
        place += tl.sum(kept, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _judge(  # type: ignore[no-untyped-def]
    first_edge,
    senders,
    vectors,
    displacements,
    moved,
    kinds,
    distances,
    nearest,
    cutoff,
    num_kinds,
    counts,
    size: tl.constexpr,
):  # pragma: no cover
    receiver = tl.program_id(0).to(tl.int64)
    begin, end, x0, y0, z0 = _receiver(first_edge, displacements, receiver)
    mine = tl.load(moved + receiver) != 0
    kind = tl.load(kinds + receiver)
    reach = tl.load(cutoff)
    reach = reach * reach
    count = tl.zeros([size], tl.int64)
    least_before = tl.zeros([size], tl.float64) + reach
    least_after = tl.zeros([size], tl.float64) + reach
    for k in range(tl.cdiv(end - begin, size)):
        edge = begin + k * size + tl.arange(0, size)
        live = edge < end
        sender = tl.load(senders + edge, live, 0)
        theirs = tl.load(moved + sender) != 0
        x = tl.load(vectors + 3 * edge, live, 0.0).to(tl.float64)
        y = tl.load(vectors + 3 * edge + 1, live, 0.0).to(tl.float64)
        z = tl.load(vectors + 3 * edge + 2, live, 0.0).to(tl.float64)
        before = x * x + y * y + z * z
        # Displacements of atoms that are not moved are zero.
        x += tl.load(displacements + 3 * sender) - x0
        y += tl.load(displacements + 3 * sender + 1) - y0
        z += tl.load(displacements + 3 * sender + 2) - z0
        after = x * x + y * y + z * z
        limit = tl.load(distances + kind * num_kinds + tl.load(kinds + sender))
        limit = limit * limit
        # Own atoms see each other the other way round too, and their images stay where they are.
        judged = live & (sender > receiver) & (mine | theirs)
        count += (judged & (before < limit)).to(tl.int64)
        count += (judged & (after < limit)).to(tl.int64)
        least_before = tl.minimum(least_before, tl.where(live, before, reach))
        least_after = tl.minimum(least_after, tl.where(live, after, reach))
    most = tl.load(nearest + kind)
    judged = mine & (most * most < reach)
    lost = (tl.min(least_before, 0) > most * most).to(tl.int64)
    lost += (tl.min(least_after, 0) > most * most).to(tl.int64)
    tl.store(counts + receiver, tl.sum(count, 0) + tl.where(judged, lost, 0))


KERNELS: dict[str, Any] = {"count": _count, "write": _write, "judge": _judge}
"""Of this module, by name."""


def _launch(kernel: Any, receivers: int, *arguments: Any) -> None:
    if receivers > 0:
        with torch.cuda.device_of(arguments[0]):
            kernel[(receivers,)](*arguments, size=BLOCK, **OPTIONS)


def count_edges(
    first: Tensor, pairs: Tensor, positions: Tensor, images: Tensor, cutoff_squared: Tensor
) -> Tensor:
    """Return how many candidates of each receiver are closer than the cutoff, (N,) int64.

    Args:
        first: (N + 1,) int64, where the candidates of each receiver begin.
        pairs: (C, 2) int32, of each candidate the node and the image.
        positions: (nodes, 3) float64, Angstrom; receivers come first.
        images: (S, 3) float64, vector to each image, Angstrom.
        cutoff_squared: (1,) float64, Angstrom^2.
    """
    counts = torch.empty_like(first[1:])
    _launch(_count, len(counts), first, pairs, positions, images, cutoff_squared, counts)
    return counts


def write_edges(
    first: Tensor,
    pairs: Tensor,
    positions: Tensor,
    images: Tensor,
    cutoff_squared: Tensor,
    first_edge: Tensor,
    senders: Tensor,
    vectors: Tensor,
) -> None:
    """Write the edges that :func:`count_edges` has counted, those for which there is room.

    Args:
        first: as there.
        pairs: as there.
        positions: as there.
        images: as there.
        cutoff_squared: as there.
        first_edge: (N + 1,) int64, where the edges of each receiver begin.
        senders: (room,) int64, to be filled.
        vectors: (room, 3), to be filled: receiver to sender's image, Angstrom.
    """
    graph = (first, pairs, positions, images, cutoff_squared, first_edge)
    _launch(_write, len(first) - 1, *graph, len(senders), senders, vectors)


def judge_edges(
    first_edge: Tensor,
    senders: Tensor,
    vectors: Tensor,
    displacements: Tensor,
    moved: Tensor,
    kinds: Tensor,
    distances: Tensor,
    nearest: Tensor,
    cutoff: Tensor,
) -> Tensor:
    """Return how many limits the neighbors of each receiver break, (N,) int64.

    Args:
        first_edge: (N + 1,) int64.
        senders: (E,) int64.
        vectors: (E, 3) Angstrom.
        displacements: (nodes, 3) float64 Angstrom, zero for atoms that are not moved.
        moved: (nodes,) uint8, 1 for atoms that are.
        kinds: (nodes,) int64 atom types from 0.
        distances: (T, T) float64, closest two atoms may come, Angstrom.
        nearest: (T,) float64, farthest the nearest neighbor may be, Angstrom.
        cutoff: (1,) float64, Angstrom.
    """
    counts = torch.empty_like(first_edge[1:])
    _launch(
        _judge,
        len(counts),
        *(first_edge, senders, vectors, displacements, moved, kinds, distances, nearest, cutoff),
        len(nearest),
        counts,
    )
    return counts
