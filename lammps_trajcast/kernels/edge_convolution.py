"""The edge convolution as one differentiable operation, for any depthwise tensor product."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from e3nn import o3
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.kernels.library import ffi, load_library


class PathTable:
    """The non-zero coefficients of a depthwise ("uvu") tensor product, for the kernels.

    The kernels keep features component by component, (N, components, channels), where a component
    is one m of one irrep. The rows of the result are grouped by irrep, sorted as
    ``tensor_product.irreps_out`` is; within an irrep of P paths, row ``m * P + k`` is component m
    of its k-th path, so that the rows of an irrep are a (2l+1, P * channels) matrix ready for a
    linear map.

    Args:
        tensor_product: the e3nn module whose instructions, coefficients and normalisation to take.
    """

    def __init__(self, tensor_product: o3.TensorProduct) -> None:
        irreps_in, irreps_sh = tensor_product.irreps_in1, tensor_product.irreps_in2
        irreps_out = tensor_product.irreps_out
        self.channels = irreps_in[0].mul
        in_row = np.cumsum([0] + [ir.dim for _, ir in irreps_in])
        sh_row = np.cumsum([0] + [ir.dim for _, ir in irreps_sh])
        self.groups: list[tuple[o3.Irrep, int]] = []  # (irrep, number of paths), in row order
        for _, ir in irreps_out:
            if self.groups and self.groups[-1][0] == ir:
                self.groups[-1] = (ir, self.groups[-1][1] + 1)
            else:
                self.groups.append((ir, 1))
        group_of = [g for g, (_, count) in enumerate(self.groups) for _ in range(count)]
        group_path = [k for _, count in self.groups for k in range(count)]
        out_row = np.cumsum([0] + [ir.dim * count for ir, count in self.groups])

        entries: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
        for p, path in enumerate(tensor_product.instructions):
            ir1, ir2 = irreps_in[path.i_in1].ir, irreps_sh[path.i_in2].ir
            ir3 = irreps_out[path.i_out].ir
            w3j = o3.wigner_3j(ir1.l, ir2.l, ir3.l, dtype=torch.float64) * path.path_weight
            group = group_of[path.i_out]
            for a, b, c in torch.nonzero(w3j.abs() > 1e-12).tolist():
                row = out_row[group] + c * self.groups[group][1] + group_path[path.i_out]
                key = (p, int(in_row[path.i_in1]) + a, int(row))
                entries.setdefault(key, []).append(
                    (int(sh_row[path.i_in2]) + b, float(w3j[a, b, c]))
                )
        keys = sorted(entries)
        terms = [entries[key] for key in keys]
        self._arrays: dict[str, NDArray[Any]] = {
            "path": np.array([k[0] for k in keys], dtype=np.int32),
            "input": np.array([k[1] for k in keys], dtype=np.int32),
            "output": np.array([k[2] for k in keys], dtype=np.int32),
            "first": np.cumsum([0] + [len(t) for t in terms]).astype(np.int32),
            "harmonic": np.array([b for t in terms for b, _ in t], dtype=np.int32),
            "value": np.array([v for t in terms for _, v in t], dtype=np.float64),
        }
        self.num_outputs = int(out_row[-1])
        self.num_paths = len(tensor_product.instructions)
        self.num_inputs = int(in_row[-1])
        self.num_harmonics = int(sh_row[-1])
        load_library()
        self.struct = ffi.new(
            "trajcast_paths *",
            {
                "num_paths": self.num_paths,
                "num_harmonics": self.num_harmonics,
                "num_inputs": self.num_inputs,
                "num_outputs": self.num_outputs,
                "num_entries": len(keys),
                **{
                    name: ffi.cast("double *" if name == "value" else "int32_t *", a.ctypes.data)
                    for name, a in self._arrays.items()
                },
            },
        )

    def entries(self) -> list[tuple[int, int, int, tuple[tuple[int, float], ...]]]:
        """Return (path, input row, output row, coupling) of each entry.

        A coupling is a sum over harmonics, given as pairs (harmonic, coefficient).
        """
        numbers = {name: array.tolist() for name, array in self._arrays.items()}
        terms = list(zip(numbers["harmonic"], numbers["value"], strict=True))
        first = numbers["first"]
        couplings = [tuple(terms[a:b]) for a, b in zip(first, first[1:], strict=False)]
        places = zip(numbers["path"], numbers["input"], numbers["output"], strict=True)
        return [(*place, terms) for place, terms in zip(places, couplings, strict=True)]


def _graph(first_edge: Tensor, senders: Tensor, features: Tensor) -> Any:
    return ffi.new(
        "trajcast_edges *",
        {
            "num_receivers": first_edge.numel() - 1,
            "num_senders": features.size(0),
            "num_edges": senders.numel(),
            "channels": features.size(2),
            "first_edge": pointer(first_edge),
            "sender": pointer(senders),
        },
    )


# The dispatcher passes tensors and numbers only, so an operation names its table by number. Tables
# are few and small (one per layer and network), and live as long as the process.
_tables: list[PathTable] = []


def register_table(table: PathTable) -> int:
    """Keep a table for :func:`edge_convolution`; return the number it goes by."""
    _tables.append(table)
    return len(_tables) - 1


def _function(name: str, dtype: torch.dtype) -> Any:
    suffix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
    return getattr(load_library(), f"trajcast_{name}_{suffix}")


def path_table(number: int) -> PathTable:
    """Return the table that goes by this number."""
    return _tables[number]


def check_graph(features: Tensor, harmonics: Tensor, senders: Tensor, table: PathTable) -> None:
    """Raise ValueError if features or harmonics do not have the shape that a table asks for."""
    num_edges, channels = senders.numel(), features.size(2)
    if features.size(1) != table.num_inputs or channels != table.channels:
        raise ValueError(
            f"edge convolution: features have shape {tuple(features.shape)}, expected "
            f"(N, {table.num_inputs}, {table.channels})"
        )
    if tuple(harmonics.shape) != (num_edges, table.num_harmonics):
        raise ValueError(
            f"edge convolution: harmonics have shape {tuple(harmonics.shape)}, expected "
            f"{(num_edges, table.num_harmonics)}"
        )


def _check(
    features: Tensor, harmonics: Tensor, weights: Tensor, senders: Tensor, table: PathTable
) -> None:
    check_graph(features, harmonics, senders, table)
    num_edges, channels = senders.numel(), features.size(2)
    if tuple(weights.shape) != (num_edges, table.num_paths * channels):
        raise ValueError(
            f"edge convolution: weights have shape {tuple(weights.shape)}, expected "
            f"{(num_edges, table.num_paths * channels)}"
        )


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


def pointer(tensor: Tensor) -> Any:
    """Return the C pointer to a tensor's values; the tensor must outlive its use."""
    kind = {torch.float32: "float *", torch.float64: "double *", torch.int64: "int64_t *"}
    return ffi.cast(kind[tensor.dtype], tensor.data_ptr())


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
) -> Tensor:
    """Return the summed messages (num_receivers, num_outputs, channels).

    Differentiable once, to features, own and weights; there is no gradient to the harmonics, which
    training does not need. Also callable from TorchScript, as
    ``torch.ops.lammps_trajcast.edge_convolution``.

    Args:
        features: (N, num_inputs, channels), CPU, float32 or float64.
        harmonics: (E, num_harmonics), same dtype.
        weights: (E, num_paths * channels), same dtype, in the order of the instructions.
        first_edge: (num_receivers + 1,) int64, edges of receiver i are first_edge[i] to
            first_edge[i + 1] - 1.
        senders: (E,) int64, smaller than N.
        table: number of the tensor product's :class:`PathTable`.
        own: (num_receivers, num_inputs, channels), added to the features of all senders of a
            receiver; None: nothing.

    Raises:
        ValueError: a shape does not fit.
    """
    paths = _tables[table]
    _check(features, harmonics, weights, senders, paths)
    own = _check_own(features, first_edge, own)
    features, harmonics, weights = (
        features.contiguous(),
        harmonics.contiguous(),
        weights.contiguous(),
    )
    first_edge, senders = first_edge.contiguous(), senders.contiguous()
    out = features.new_empty((first_edge.numel() - 1, paths.num_outputs, features.size(2)))
    _function("convolution", features.dtype)(
        paths.struct,
        _graph(first_edge, senders, features),
        pointer(features),
        _pointer_or_null(own),
        pointer(harmonics),
        pointer(weights),
        pointer(out),
        torch.get_num_threads(),
    )
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
        _tables[table].struct,
        _graph(first_edge, senders, features),
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
    *tensors, ctx.table, own = inputs
    ctx.save_for_backward(*tensors, own)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, own = ctx.saved_tensors
    grad_features, grad_weights, grad_own = _edge_convolution_backward(
        grad_out, *tensors, ctx.table, own
    )
    return grad_features, None, grad_weights, None, None, None, None if own is None else grad_own


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
) -> Tensor:
    from lammps_trajcast.kernels.triton.convolution import kernels_of

    paths = _tables[table]
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
) -> tuple[Tensor, Tensor, Tensor]:
    from lammps_trajcast.kernels.triton.convolution import kernels_of

    run = kernels_of(_tables[table]).backward
    grad_features, grad_weights = run(grad_out, features, harmonics, weights, first_edge, senders)
    if own is None:
        return grad_features, grad_weights, features.new_empty(0)
    receivers = _receivers(first_edge, len(senders))
    grad_own, more = run(grad_out, own, harmonics, weights, first_edge, receivers)
    return grad_features, grad_weights + more, grad_own
