"""The edge convolution as one differentiable operation, for any depthwise tensor product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lammps_trajcast.kernels.library import INSTRUCTIONS, ffi, load_library
from lammps_trajcast.kernels.path_table import (
    PathTable,
    check_graph,
    path_table,
    pointer,
)

# Which of the sets that the kernels are compiled for to use: "best" that the processor has, "avx2"
# at most, or "portable".
instructions = "best"


def _graph(
    first_edge: Tensor,
    senders: Tensor,
    features: Tensor,
    weights: Tensor,
    node: Tensor | None,
    fraction: Tensor | None,
) -> Any:
    return ffi.new(
        "trajcast_edges *",
        {
            "num_receivers": first_edge.numel() - 1,
            "num_senders": features.size(0),
            "num_edges": senders.numel(),
            "channels": features.size(2),
            "first_edge": pointer(first_edge),
            "sender": pointer(senders),
            "num_nodes": 0 if node is None else weights.size(0),
            "node": _pointer_or_null(node),
            "fraction": _pointer_or_null(fraction),
            "instructions": INSTRUCTIONS[instructions],
        },
    )


def _function(name: str, dtype: torch.dtype) -> Any:
    suffix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
    return getattr(load_library(), f"trajcast_{name}_{suffix}")


def _check(
    features: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    senders: Tensor,
    table: PathTable,
    node: Tensor | None = None,
    fraction: Tensor | None = None,
) -> None:
    check_graph(features, harmonics, senders, table)
    num_edges, channels = senders.numel(), features.size(2)
    rows = num_edges if node is None else weights.size(0)
    if tuple(weights.shape) != (rows, table.num_paths * channels):
        raise ValueError(
            f"edge convolution: weights have shape {tuple(weights.shape)}, expected "
            f"{(rows, table.num_paths * channels)}"
        )
    if node is None:
        return
    if node.shape != senders.shape or fraction is None or fraction.shape != senders.shape:
        raise ValueError(
            f"edge convolution: node and fraction need one number for each of {num_edges} edges"
        )
    # The kernels take them as they lie in memory.
    if (node.dtype, fraction.dtype) != (torch.int64, torch.float64):
        raise ValueError(
            f"edge convolution: node is {node.dtype} and fraction {fraction.dtype}, expected "
            "torch.int64 and torch.float64"
        )
    if not (node.is_contiguous() and fraction.is_contiguous()):
        raise ValueError("edge convolution: node and fraction have to be contiguous")
    if num_edges and not (0 <= int(node.min()) and int(node.max()) < rows - 1):
        raise ValueError(f"edge convolution: a node is not one of 0 to {rows - 2}")


def _check_own(features: Tensor, first_edge: Tensor, own: Tensor | None) -> Tensor | None:
    """Return what the receivers add to the features, contiguous."""
    if own is None:
        return None
    wanted = (first_edge.numel() - 1, *features.shape[1:])
    if tuple(own.shape) != wanted or own.dtype != features.dtype:
        raise ValueError(
            f"edge convolution: own features are {own.dtype} {tuple(own.shape)}, expected "
            f"{features.dtype} {wanted}"
        )
    return own.contiguous()


def _pointer_or_null(tensor: Tensor | None) -> Any:
    return ffi.NULL if tensor is None else pointer(tensor)


@torch.library.custom_op("lammps_trajcast::edge_convolution", mutates_args=(), device_types="cpu")
def edge_convolution(
    features: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    first_edge: Tensor,
    senders: Tensor,
    table: int,
    own: Tensor | None = None,
    node: Tensor | None = None,
    fraction: Tensor | None = None,
) -> Tensor:
    """Return the summed messages (num_receivers, num_outputs, channels).

    Differentiable once, to features, own and weights; there is no gradient to the harmonics, which
    training does not need. Also callable from TorchScript, as
    ``torch.ops.lammps_trajcast.edge_convolution``.

    Args:
        features: (N, num_inputs, channels), CPU, float32 or float64.
        harmonics: (E, num_harmonics), same dtype.
        weights: (E, num_paths * channels), same dtype, in the order of the instructions; with
            ``node`` a table of such rows, (nodes, num_paths * channels).
        first_edge: (num_receivers + 1,) int64, edges of receiver i are first_edge[i] to
            first_edge[i + 1] - 1.
        senders: (E,) int64, smaller than N.
        table: number of the tensor product's :class:`PathTable`.
        own: (num_receivers, num_inputs, channels), added to the features of all senders of a
            receiver; None: nothing.
        node: (E,) int64, the weights of an edge lie between the rows ``node`` and ``node + 1``;
            not on CUDA devices.
        fraction: (E,) float64, how far on the way to the upper row, 0 to 1.

    Raises:
        ValueError: a shape does not fit, or a node is beyond the table.
    """
    paths = path_table(table)
    _check(features, harmonics, weights, senders, paths, node, fraction)
    own = _check_own(features, first_edge, own)
    features, harmonics, weights = (
        features.contiguous(),
        harmonics.contiguous(),
        weights.contiguous(),
    )
    first_edge, senders = first_edge.contiguous(), senders.contiguous()
    out = features.new_empty((first_edge.numel() - 1, paths.num_outputs, features.size(2)))
    failed = _function("convolution", features.dtype)(
        paths.struct,
        _graph(first_edge, senders, features, weights, node, fraction),
        pointer(features),
        _pointer_or_null(own),
        pointer(harmonics),
        pointer(weights),
        pointer(out),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("edge convolution: no memory for its tiles")
    return out


@torch.library.custom_op(
    "lammps_trajcast::edge_convolution_backward", mutates_args=(), device_types="cpu"
)
def _edge_convolution_backward(
    grad_out: Tensor,
    features: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    first_edge: Tensor,
    senders: Tensor,
    table: int,
    own: Tensor | None = None,
    node: Tensor | None = None,
    fraction: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    own = _check_own(features, first_edge, own)
    features, harmonics, weights = (
        features.contiguous(),
        harmonics.contiguous(),
        weights.contiguous(),
    )
    first_edge, senders, grad_out = (
        first_edge.contiguous(),
        senders.contiguous(),
        grad_out.contiguous(),
    )
    grad_features, grad_weights = torch.empty_like(features), torch.empty_like(weights)
    grad_own = features.new_empty(0) if own is None else torch.empty_like(own)
    failed = _function("convolution_backward", features.dtype)(
        path_table(table).struct,
        _graph(first_edge, senders, features, weights, node, fraction),
        pointer(features),
        _pointer_or_null(own),
        pointer(harmonics),
        pointer(weights),
        pointer(grad_out),
        pointer(grad_features),
        pointer(grad_own),
        pointer(grad_weights),
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("edge convolution: no memory for the partial gradients")
    return grad_features, grad_weights, grad_own


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.table, own, node, fraction = inputs
    ctx.save_for_backward(*tensors, own, node, fraction)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, own, node, fraction = ctx.saved_tensors
    grad_features, grad_weights, grad_own = _edge_convolution_backward(
        grad_out, *tensors, ctx.table, own, node, fraction
    )
    own_gradient = None if own is None else grad_own
    return grad_features, None, grad_weights, None, None, None, own_gradient, None, None


edge_convolution.register_autograd(_backward, setup_context=_save_for_backward)


def _receivers(first_edge: Tensor, num_edges: int) -> Tensor:
    degrees = first_edge.diff()
    atoms = torch.arange(degrees.numel(), device=degrees.device)
    # Without the number of edges the CPU would wait for the GPU to say it.
    return atoms.repeat_interleave(degrees, output_size=num_edges)


# On CUDA devices the operations are Triton kernels; Triton comes with CUDA builds of torch alone.
# They are linear in the features, so what the receivers add is a convolution of its own, in which
# each atom sends to itself.
@edge_convolution.register_kernel("cuda")
def _edge_convolution_cuda(
    features: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    first_edge: Tensor,
    senders: Tensor,
    table: int,
    own: Tensor | None = None,
    node: Tensor | None = None,
    fraction: Tensor | None = None,
) -> Tensor:
    from lammps_trajcast.kernels.triton.convolution import kernels_of

    if node is not None:
        raise ValueError("edge convolution: no tables of weights on CUDA devices")

    paths = path_table(table)
    _check(features, harmonics, weights, senders, paths)
    own = _check_own(features, first_edge, own)
    run = kernels_of(paths).forward
    out = run(features, harmonics, weights, first_edge, senders)
    if own is not None:
        out = out + run(own, harmonics, weights, first_edge, _receivers(first_edge, len(senders)))
    return out


@_edge_convolution_backward.register_kernel("cuda")
def _edge_convolution_backward_cuda(
    grad_out: Tensor,
    features: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    first_edge: Tensor,
    senders: Tensor,
    table: int,
    own: Tensor | None = None,
    node: Tensor | None = None,
    fraction: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    from lammps_trajcast.kernels.triton.convolution import kernels_of

    run = kernels_of(path_table(table)).backward
    grad_features, grad_weights = run(grad_out, features, harmonics, weights, first_edge, senders)
    if own is None:
        return grad_features, grad_weights, features.new_empty(0)
    receivers = _receivers(first_edge, len(senders))
    grad_own, more = run(grad_out, own, harmonics, weights, first_edge, receivers)
    return grad_features, grad_weights + more, grad_own
