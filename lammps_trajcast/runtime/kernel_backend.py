"""The network on the prediction kernels, which the fix runs on a CPU unless told otherwise."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lammps_trajcast.kernels.network import NetworkKernels
from lammps_trajcast.kernels.operators import PredictionNetwork
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.torchscript import compile_network
from lammps_trajcast.runtime.backend import Backend


class KernelBackend(Backend):
    """The network on the CPU kernels for prediction, path weights from tables."""

    def __init__(self, kernels: NetworkKernels) -> None:
        self._kernels = kernels  # the compiled module knows it by number only
        self._network = compile_network(PredictionNetwork(kernels))
        self.widths = tuple(kernels.widths)
        self.dtype = torch.float64 if kernels.dtype == np.float64 else torch.float32
        self.device = torch.device("cpu")

    @override
    def prepare(self, graph: StepGraph) -> None:
        self._graph = graph._replace(velocities=graph.velocities.to(self.dtype))
        self._edges = self._network.edges(graph.edge_vectors)

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


# Of a model and a precision; nothing of them changes, so all predictors of a process can use them.
_kernels: weakref.WeakValueDictionary[tuple[str, str, float | None], NetworkKernels] = (
    weakref.WeakValueDictionary()
)
_last: NetworkKernels | None = None


def kernels_of(model: ModelFile, precision: str, tolerance: float | None) -> NetworkKernels:
    """Return those of an open predictor, or those made last, in case it is closed; or make them.

    So `clear` and the same fix again, or a loop in Python, find what the run before left.
    """
    global _last
    key = model.fingerprint(), precision, tolerance
    found = _kernels.get(key)
    if found is None:
        _last = None  # may free its memory before there is more
        found = NetworkKernels(model.metadata.architecture, model.weights, precision, tolerance)
        _kernels[key] = found
    _last = found
    return found
