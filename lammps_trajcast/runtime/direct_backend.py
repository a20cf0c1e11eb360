"""The network on the prediction kernels alone: neither torch nor its memory, nor its start."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from lammps_trajcast.kernels.network import KernelGraph, NetworkKernels
from lammps_trajcast.runtime.backend import Backend, StepArrays
from lammps_trajcast.runtime.memory import HostMemory, Matrix


class DirectBackend(Backend):
    """The kernels of :class:`~lammps_trajcast.runtime.kernel_backend.KernelBackend`, called."""

    def __init__(self, kernels: NetworkKernels, num_threads: int | None) -> None:
        """Run the kernels on so many threads; None: as many as this process has cores."""
        self._kernels = kernels
        self.widths = tuple(kernels.widths)
        self.memory = HostMemory(kernels.dtype, num_threads)
        self._threads = self.memory.num_threads()

    @override
    def prepare(self, graph: StepArrays) -> None:
        self._graph = KernelGraph(
            graph.species,
            np.ascontiguousarray(graph.velocities, self._kernels.dtype),
            self._kernels.edges(graph.edge_vectors, self._threads),
            graph.first_edge,
            graph.senders,
        )

    @override
    def initial_features(self) -> Matrix:
        graph = self._graph
        return self._kernels.embed(graph.species, graph.velocities, self._threads)

    @override
    def layer(self, k: int, features: Matrix, out: Matrix, receivers: Matrix | None = None) -> None:
        self._kernels.layer(k, features, self._graph, receivers, out, self._threads)

    @override
    def read_out(self, features: Matrix) -> Matrix:
        count = len(self._graph.first_edge) - 1
        return self._kernels.read_out(features, count, self._threads)
