"""The network a layer at a time, so that ranks can exchange features between the layers.

Nodes are numbered as on one MPI rank: its own atoms first, then the remote nodes, atoms of other
ranks that some edge refers to. Edges lead to own atoms only. Features of all nodes lie in one
matrix, a row for each; the rows of own atoms are computed here, those of remote nodes are what
their owner computed. The first features are made from species and velocity, which every rank has
for all its nodes, and need no exchange.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from lammps_trajcast.kernels.network import MAX_ORDER, NetworkKernels
from lammps_trajcast.kernels.operators import PredictionNetwork
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.torchscript import compile_network

DTYPES = {"single": torch.float32, "double": torch.float64}


class Backend(ABC):
    """One network; call :meth:`prepare`, :meth:`initial_features`, :meth:`layer` for every layer
    in turn, :meth:`read_out`.

    Attributes:
        widths: (num_layers + 1,) length of a node's row of features: of the initial ones, and after
            each layer.
        dtype: of the features.
        device: of all tensors.
    """

    widths: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def num_layers(self) -> int:
        """Number of message-passing layers."""
        return len(self.widths) - 1

    @abstractmethod
    def prepare(self, graph: StepGraph) -> None:
        """Take the state of a new step; its tensors may be overwritten only after the step."""

    @abstractmethod
    def initial_features(self) -> Tensor:
        """Return the features (N_all, widths[0]) of all nodes before the first layer."""

    @abstractmethod
    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        """Write the features after layer k into the receivers' rows of ``out``, and into no others.

        Args:
            k: number of the layer, from 0.
            features: (N_all, widths[k]) contiguous; the receivers' own rows and those of the
                senders of their edges are read.
            out: (N_all, widths[k + 1]) contiguous.
            receivers: (any,) int64 own atoms, each once; None: all own atoms.
        """

    @abstractmethod
    def read_out(self, features: Tensor) -> Tensor:
        """Return targets (N_own, 6) from the features (N_all, widths[-1]) after the last layer."""


class KernelBackend(Backend):
    """The network on the CPU kernels for prediction, path weights from tables."""

    def __init__(self, kernels: NetworkKernels) -> None:
        self._kernels = kernels  # the compiled module knows it by number only
        self._network = compile_network(PredictionNetwork(kernels))
        self.widths = tuple(kernels.widths)
        self.dtype = torch.float64 if kernels.dtype == np.float64 else torch.float32
        self.device = torch.device("cpu")

    def prepare(self, graph: StepGraph) -> None:
        self._graph = graph._replace(velocities=graph.velocities.to(self.dtype))
        self._edges = self._network.edges(graph.edge_vectors)

    def initial_features(self) -> Tensor:
        features: Tensor = self._network.first(self._graph.species, self._graph.velocities)
        return features

    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        self._network.layer(k, features, self._graph, self._edges, receivers, out)

    def read_out(self, features: Tensor) -> Tensor:
        targets: Tensor = self._network.read_out(features, self._graph.first_edge.size(0) - 1)
        return targets


def make_backend(
    model: ModelFile,
    precision: str,
    device: torch.device,
    kernels: str,
    tolerance: float | None = None,
) -> Backend:
    """Return what runs the network of a model.

    Args:
        model: it is not changed.
        precision: of the backend, "single" or "double".
        device: where it runs.
        kernels: "fused" for the compiled kernels on a CPU and the Triton kernels on a CUDA device,
            "plain" for e3nn's operations throughout.
        tolerance: largest error of the tabulated path weights of "fused", relative to the largest
            weight, on a CPU; None: what suits the precision.

    Raises:
        TableError: the path weights vary too fast for "fused".
        MemoryError: there is no room for the tables of "fused".
        ImportError: the Triton kernels are wanted and Triton is not installed.
    """
    on_cpu = kernels == "fused" and device.type == "cpu"
    if on_cpu and model.metadata.architecture.max_rotation_order <= MAX_ORDER:
        return KernelBackend(_kernels_of(model, precision, tolerance))
    # They import e3nn, which takes seconds and which the prediction kernels do without.
    from lammps_trajcast.model.codegen import without_optimized_einsums
    from lammps_trajcast.runtime.module_backend import FusedBackend, FusedTrajCast, PlainBackend

    with without_optimized_einsums() if on_cpu else nullcontext():
        network = model.build()
    network = network.to(device=device, dtype=DTYPES[precision])
    if kernels == "plain":
        return PlainBackend(network)
    if on_cpu:
        return FusedBackend(FusedTrajCast(network), network)
    # Triton comes with CUDA builds of torch; it need not be there on a machine without a GPU.
    from lammps_trajcast.kernels.triton.network import TabulatedTrajCast

    return FusedBackend(TabulatedTrajCast(network), network)


# Of a model and a precision; nothing of them changes, so all predictors of a process can use them.
_kernels: weakref.WeakValueDictionary[tuple[str, str, float | None], NetworkKernels] = (
    weakref.WeakValueDictionary()
)
_last: NetworkKernels | None = None


def _kernels_of(model: ModelFile, precision: str, tolerance: float | None) -> NetworkKernels:
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
