"""The edge convolution on a CUDA device: launching the generated Triton kernels."""

from __future__ import annotations

import functools
import hashlib
import inspect
import linecache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lammps_trajcast.kernels.path_table import PathTable, check_graph, path_table
from lammps_trajcast.kernels.triton import source

INTERPRETED = not isinstance(tl.zeros, triton.JITFunction)
"""True if kernels run in Triton's interpreter, on CPU tensors (TRITON_INTERPRET=1)."""

# Lanes of a program at least and channels of a node in one program at most. A warp has 32 lanes.
MIN_LANES = 32
MAX_WIDTH = 128


def block_shape(channels: int) -> tuple[int, int]:
    """Return how many channels of a node, and how many lanes, a program has."""
    width = min(triton.next_power_of_2(channels), MAX_WIDTH)
    return width, max(width, MIN_LANES)


@functools.cache
def compile_kernel(text: str) -> Any:
    """Return the Triton function that a generated source defines; the same text, the same function.

    It is compiled when it is first launched, for the dtype and the channels of that launch.
    """
    # Triton reads a function's source again, through linecache.
    name = f"<lammps_trajcast {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(text, name, "exec"), namespace)
    function = next(f for f in namespace.values() if inspect.isfunction(f))
    variable = [p for p in inspect.signature(function).parameters if not p.isupper()]
    # A number of atoms that happens to be a multiple of 16 must not start another compilation.
    return triton.jit(function, do_not_specialize=variable, do_not_specialize_on_alignment=variable)


def launch(text: str, nodes: int, channels: int, *arguments: Any) -> None:
    """Run the kernel that a source defines.

    Args:
        text: the source.
        nodes: number of atoms that the programs are dealt out over; nothing happens if it is 0.
        channels: of each.
        arguments: those before ``num_nodes``; the first is a tensor on the device.

    Raises:
        ValueError: the tensors are not on a CUDA device.
    """
    if not (arguments[0].is_cuda or INTERPRETED):
        raise ValueError(f"Triton kernels run on a CUDA device, not on {arguments[0].device}")
    if nodes == 0:
        return
    width, lanes = block_shape(channels)
    grid = (triton.cdiv(nodes, lanes // width), triton.cdiv(channels, width))
    with torch.cuda.device_of(arguments[0]):
        compile_kernel(text)[grid](
            *arguments,
            nodes,
            CHANNELS=channels,
            WIDTH=width,
            LANES=lanes,
            num_warps=lanes // 32,
        )


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


class ConvolutionKernels:
    """The kernels of one tensor product."""

    def __init__(self, table: PathTable) -> None:
        self.sizes = source.Sizes(
            table.num_inputs, table.num_outputs, table.num_paths, table.num_harmonics
        )
        self._families = source.families(table.entries())
        self._sources: dict[tuple[str, torch.dtype, int, bool], list[str]] = {}

    def sources(
        self, kind: str, dtype: torch.dtype, order: int = 0, own: bool = False
    ) -> list[str]:
        """Return the sources of the kernels that together do one operation.

        Args:
            kind: name of the function of :mod:`source` that writes them.
            dtype: float32 or float64.
            order: of the table for "tabulated", 2 (cubic) or 3 (quintic).
            own: for "tabulated", whether receivers add to the features of their senders.
        """
        key = (kind, dtype, order, own)
        if key not in self._sources:
            if kind == "feature_gradient":
                parts = source.split_by_order(self._families)
            else:
                parts = source.split(self._families, source.ROWS_PER_KERNEL[dtype.itemsize])
            write = getattr(source, kind)
            if kind == "tabulated":
                write = functools.partial(write, order=order, own=own)
            self._sources[key] = [write(part, self.sizes) for part in parts]
        return self._sources[key]

    def _launch(self, kind: str, like: Tensor, first_edge: Tensor, *arguments: Any) -> None:
        nodes, channels = first_edge.numel() - 1, like.size(2)
        for text in self.sources(kind, like.dtype):
            launch(text, nodes, channels, *arguments, first_edge)

    def _result(self, features: Tensor, nodes: int) -> Tensor:
        return features.new_empty((nodes, self.sizes.outputs, features.size(2)))

    def forward(
        self,
        features: Tensor,
        harmonics: Tensor,
        weights: Tensor,
        first_edge: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return the summed messages; arguments as for ``edge_convolution``."""
        features, harmonics, weights = _contiguous(features, harmonics, weights)
        first_edge, senders = _contiguous(first_edge, senders)
        out = self._result(features, first_edge.numel() - 1)
        self._launch("forward", features, first_edge, features, harmonics, weights, senders, out)
        return out

    def tabulated(
        self,
        features: Tensor,
        harmonics: Tensor,
        table: Tensor,
        positions: Tensor,
        begins: Tensor,
        ends: Tensor,
        senders: Tensor,
        own: Tensor | None,
    ) -> Tensor:
        """Return the summed messages, their weights interpolated in a table.

        Args:
            features: as for ``edge_convolution``.
            harmonics: as for ``edge_convolution``.
            table: (intervals + 1, order, paths, channels), at each node the value and order - 1
                derivatives times powers of the spacing; order 2 (cubic) or 3 (quintic).
            positions: (E,) 0 to intervals, where in the table an edge is.
            begins: (num_receivers,) int64, where the edges of each receiver begin.
            ends: (num_receivers,) int64, where they end.
            senders: as for ``edge_convolution``.
            own: as for ``edge_convolution``.
        """
        features, harmonics, table = _contiguous(features, harmonics, table)
        positions, begins, ends, senders = _contiguous(positions, begins, ends, senders)
        nodes, channels = begins.numel(), features.size(2)
        out = self._result(features, nodes)
        arguments = [features, harmonics, table, positions, table.size(0) - 1, senders]
        if own is not None:
            arguments.append(own.contiguous())
        for text in self.sources("tabulated", features.dtype, table.size(1), own is not None):
            launch(text, nodes, channels, *arguments, out, begins, ends)
        return out

    def backward(
        self,
        grad_out: Tensor,
        features: Tensor,
        harmonics: Tensor,
        weights: Tensor,
        first_edge: Tensor,
        senders: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients to features and weights."""
        grad_out, features, harmonics = _contiguous(grad_out, features, harmonics)
        weights, first_edge, senders = _contiguous(weights, first_edge, senders)
        grad_weights = torch.empty_like(weights)
        self._launch(
            "weight_gradient",
            features,
            first_edge,
            grad_out,
            features,
            harmonics,
            senders,
            grad_weights,
        )
        # Two receivers can have one sender: sum over the edges of each sender, in a fixed order.
        nodes = torch.arange(first_edge.numel() - 1, device=senders.device)
        receivers = torch.repeat_interleave(nodes, first_edge.diff(), output_size=senders.numel())
        sent, edges = torch.sort(senders, stable=True)
        senders_in_order = torch.arange(features.size(0) + 1, device=senders.device)
        first_sent = torch.searchsorted(sent, senders_in_order)
        grad_features = torch.zeros_like(features)
        self._launch(
            "feature_gradient",
            features,
            first_sent,
            grad_out,
            harmonics,
            weights,
            edges,
            receivers,
            grad_features,
        )
        return grad_features, grad_weights


@functools.cache
def kernels_of(table: PathTable) -> ConvolutionKernels:
    """Return the kernels of a table, made at the first call."""
    return ConvolutionKernels(table)


@torch.library.custom_op("lammps_trajcast::tabulated_edge_convolution", mutates_args=())
def tabulated_edge_convolution(
    features: Tensor,
    harmonics: Tensor,
    radial_table: Tensor,
    positions: Tensor,
    begins: Tensor,
    ends: Tensor,
    senders: Tensor,
    own: Tensor | None,
    table: int,
) -> Tensor:
    """Return the summed messages (num_receivers, num_outputs, channels); no gradients.

    Nothing that grows with edges x paths is stored. On CPU tensors it runs in Triton's interpreter
    alone.

    Args:
        features: as for ``edge_convolution``.
        harmonics: as for ``edge_convolution``.
        radial_table: (intervals + 1, order, paths, channels), at each node the value and order - 1
            derivatives times powers of the spacing; order 2 (cubic) or 3 (quintic).
        positions: (E,) where in the table an edge is, 0 to intervals.
        begins: (num_receivers,) int64, where the edges of each receiver begin.
        ends: (num_receivers,) int64, where they end; edges between two receivers' are not used.
        senders: as for ``edge_convolution``.
        own: (num_receivers, num_inputs, channels), what each receiver adds to the features of its
            senders; None: nothing.
        table: number of the path table, as for ``edge_convolution``.

    Raises:
        ValueError: a shape does not fit.
    """
    paths = path_table(table)
    check_graph(features, harmonics, senders, paths)
    node = (paths.num_paths, paths.channels)
    if radial_table.size(1) not in (2, 3) or tuple(radial_table.shape[2:]) != node:
        raise ValueError(
            f"edge convolution: the radial table has shape {tuple(radial_table.shape)}, expected "
            f"(nodes, 2 or 3, {paths.num_paths}, {paths.channels})"
        )
    if positions.shape != senders.shape:
        raise ValueError(
            f"edge convolution: positions have shape {tuple(positions.shape)}, expected "
            f"{tuple(senders.shape)}"
        )
    if own is not None and own.shape != (begins.size(0), *features.shape[1:]):
        raise ValueError(
            f"edge convolution: what receivers add has shape {tuple(own.shape)}, expected "
            f"{(begins.size(0), *features.shape[1:])}"
        )
    return kernels_of(paths).tabulated(
        features, harmonics, radial_table, positions, begins, ends, senders, own
    )
