"""The network for prediction: `fix_src/kernels/network.h`, made of weights, NumPy in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lammps_trajcast.kernels.builder import NetworkBuilder
from lammps_trajcast.kernels.library import INSTRUCTIONS, ffi, load_library
from lammps_trajcast.kernels.tables import ORDER, TOLERANCE
from lammps_trajcast.model.architecture import Architecture

MAX_ORDER = 3
"""Largest rotation order that the kernels were compiled for."""


class KernelGraph(NamedTuple):
    """A graph for the kernels, as :class:`~lammps_trajcast.kernels.step_graph.StepGraph` has it.

    Attributes:
        species, velocities: of at least the atoms that receive, velocities in the kernels' type.
        edges: what the kernels have made of the edge vectors, see :meth:`NetworkKernels.edges`.
        first_edge, senders: as there.
    """

    species: NDArray[Any]
    velocities: NDArray[Any]
    edges: NDArray[Any]
    first_edge: NDArray[Any]
    senders: NDArray[Any]


class NetworkKernels:
    """A network compiled for prediction on the CPU.

    Rows of features are of ``dtype``; ``widths`` says how long they are. Arrays that are not
    contiguous are copied first, but for ``out`` of :meth:`layer`, which is written to.

    Attributes:
        dtype: its precision, float32 or float64.
        widths: (num_layers + 1,) values of an atom's features before each layer and after the last.
    """

    def __init__(
        self,
        arch: Architecture,
        weights: Mapping[str, NDArray[Any]],
        precision: str,
        tolerance: float | None = None,
        instructions: str = "best",
    ) -> None:
        """Take the weights of a network; later changes of them do not show.

        Args:
            arch: the hyperparameters.
            weights: by name, as in a model file, see :func:`weight_shapes`; in either precision.
            precision: of the kernels, "single" or "double".
            tolerance: largest error of the tabulated path weights, relative to the largest weight.
            instructions: "best" that the processor has, "avx2" at most, or "portable".

        Raises:
            TableError: the path weights vary too fast.
            ValueError: the rotation order is larger than ``MAX_ORDER``.
            MemoryError: there is no room for the tables.
        """
        if arch.max_rotation_order > MAX_ORDER:
            raise ValueError(f"rotation orders end at {MAX_ORDER}")
        library = load_library()
        builder = NetworkBuilder(arch, weights, ORDER[precision], tolerance or TOLERANCE[precision])
        handle = library.trajcast_network_create(
            builder.ends,
            builder.layers,
            arch.num_mp_layers,
            precision == "double",
            INSTRUCTIONS[instructions],
        )
        if handle == ffi.NULL:
            raise MemoryError("no memory for the tables of the network")
        self._library = library
        self.handle = ffi.gc(handle, library.trajcast_network_free)
        self.dtype = np.dtype(np.float64 if precision == "double" else np.float32)
        self.widths = [
            int(library.trajcast_network_width(handle, k)) for k in range(arch.num_mp_layers + 1)
        ]
        self.edge_rows = int(library.trajcast_network_edge_rows(handle))
        self.instructions: str = ffi.string(library.trajcast_network_instructions(handle)).decode()
        self.bytes = int(library.trajcast_network_bytes(handle))

    def edges(self, edge_vectors: NDArray[np.float64], num_threads: int = 1) -> NDArray[Any]:
        """Return edge data for :meth:`layer` from edge vectors (E, 3) in Angstrom.

        Raises:
            ValueError: the array does not have the type or the shape; so do the other methods.
        """
        edge_vectors = _check("edge_vectors", edge_vectors, np.float64, None, 3)
        # Kernels read whole tiles of 16 edges.
        stride = len(edge_vectors) + 16
        edges = np.empty((self.edge_rows, stride), self.dtype)
        self._library.trajcast_network_edges(
            self.handle,
            len(edge_vectors),
            ffi.from_buffer("double[]", edge_vectors),
            stride,
            ffi.from_buffer(edges),
            num_threads,
        )
        return edges

    def embed(
        self, species: NDArray[np.int64], velocities: NDArray[Any], num_threads: int = 1
    ) -> NDArray[Any]:
        """Return the first features (N, widths[0]) of species (N,) and velocities (N, 3)."""
        species = _check("species", species, np.int64, None)
        velocities = _check("velocities", velocities, self.dtype, len(species), 3)
        features = np.empty((len(species), self.widths[0]), self.dtype)
        self._library.trajcast_network_embed(
            self.handle,
            len(species),
            ffi.from_buffer("int64_t[]", species),
            ffi.from_buffer(velocities),
            ffi.from_buffer(features),
            num_threads,
        )
        return features

    def layer(
        self,
        k: int,
        features: NDArray[Any],
        graph: KernelGraph,
        receivers: NDArray[np.int64] | None,
        out: NDArray[Any],
        num_threads: int = 1,
    ) -> None:
        """Write the features after layer k into the receivers' rows of ``out``.

        Args:
            k: number of the layer.
            features: (N, widths[k]), atoms that receive first.
            graph: R atoms that receive, and E edges, sorted by receiver.
            receivers: (any,) smaller than R; None: all R.
            out: (at least R, widths[k + 1]) contiguous.
            num_threads: for this call.

        Raises:
            ValueError: an array does not have the type or the shape.
            MemoryError: there is no room for a block of atoms.
        """
        species, velocities, edges, first_edge, senders = graph
        own = len(first_edge) - 1
        features = _check("features", features, self.dtype, None, self.widths[k])
        edges = _check("edges", edges, self.dtype, self.edge_rows, len(senders) + 16)
        first_edge = _check("first_edge", first_edge, np.int64, None)
        senders = _check("senders", senders, np.int64, None)
        species = _check("species", species, np.int64, None)
        velocities = _check("velocities", velocities, self.dtype, len(species), 3)
        _check("out", out, self.dtype, None, self.widths[k + 1])
        if not out.flags.c_contiguous:
            raise ValueError("network kernels: out is not contiguous")
        if min(len(species), len(features), len(out)) < own:
            raise ValueError(f"network kernels: fewer rows than the {own} receivers")
        count, chosen = own, ffi.NULL
        if receivers is not None:
            receivers = _check("receivers", receivers, np.int64, None)
            count, chosen = len(receivers), ffi.from_buffer("int64_t[]", receivers)
        step = ffi.new(
            "trajcast_step *",
            {
                "num_receivers": count,
                "receivers": chosen,
                "first_edge": ffi.from_buffer("int64_t[]", first_edge),
                "senders": ffi.from_buffer("int64_t[]", senders),
                "species": ffi.from_buffer("int64_t[]", species),
                "velocities": ffi.from_buffer(velocities),
                "edges": ffi.from_buffer(edges),
                "stride": edges.shape[1],
                "features": ffi.from_buffer(features),
                "out": ffi.from_buffer(out),
            },
        )
        if self._library.trajcast_network_layer(self.handle, k, step, num_threads):
            raise MemoryError("network kernels: no memory for a block of atoms")

    def read_out(self, features: NDArray[Any], count: int, num_threads: int = 1) -> NDArray[Any]:
        """Return raw targets (count, 6) of the first atoms from their last features."""
        features = _check("features", features, self.dtype, None, self.widths[-1])
        if len(features) < count:
            raise ValueError(f"network kernels: fewer rows than the {count} atoms")
        targets = np.empty((count, 6), self.dtype)
        self._library.trajcast_network_read_out(
            self.handle,
            count,
            ffi.from_buffer(features),
            ffi.from_buffer(targets),
            num_threads,
        )
        return targets


def _check(name: str, array: NDArray[Any], dtype: DTypeLike, *shape: int | None) -> NDArray[Any]:
    """Return the array, contiguous; raise ValueError if it is not what a kernel will read."""
    fits = array.ndim == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        raise ValueError(
            f"network kernels: {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} "
            f"{shape}"
        )
    return np.ascontiguousarray(array)
