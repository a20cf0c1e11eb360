"""The network on the prediction kernels, which the fix runs on a CPU unless told otherwise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lammps_trajcast.kernels.network import NetworkKernels
from lammps_trajcast.kernels.operators import PredictionNetwork
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.torchscript import compile_network
from lammps_trajcast.runtime.backend import Backend, StepArrays
from lammps_trajcast.runtime.tensor_memory import TensorMemory


class KernelBackend(Backend):
    """The network on the CPU kernels for prediction, path weights from tables."""

    def __init__(self, kernels: NetworkKernels) -> None:
        self._kernels = kernels  # the compiled module knows it by number only
        self._network = compile_network(PredictionNetwork(kernels))
        self.widths = tuple(kernels.widths)
        self._dtype = torch.float64 if kernels.dtype == np.float64 else torch.float32
        self.memory = TensorMemory(self._dtype, torch.device("cpu"))

    @override
    def prepare(self, graph: StepArrays) -> None:
        tensors = StepGraph(*graph)
        self._graph = tensors._replace(velocities=tensors.velocities.to(self._dtype))
        self._edges = self._network.edges(tensors.edge_vectors)

    @override
    def initial_features(self) -> Tensor:
        features: Tensor = self._network.embed(self._graph.species, self._graph.velocities)
        return features

    @override
    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        self._network.layer(k, features, self._graph, self._edges, receivers, out)

    @override
    def read_out(self, features: Tensor) -> Tensor:
        targets: Tensor = self._network.read_out(features, self._graph.first_edge.size(0) - 1)
        return targets
