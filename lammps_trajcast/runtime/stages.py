"""The network a layer at a time, so that ranks can exchange features between the layers.

Nodes are numbered as on one MPI rank: its own atoms first, then the remote nodes, atoms of other
ranks that some edge refers to. Edges lead to own atoms only. Features of all nodes lie in one
matrix, a row for each; the rows of own atoms are computed here, those of remote nodes are what
their owner computed. The first features are made from species and velocity, which every rank has
for all its nodes, and need no exchange.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lammps_trajcast.kernels.network import MAX_ORDER, NetworkKernels
from lammps_trajcast.kernels.operators import PredictionNetwork
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import as_arrays, weights_of
from lammps_trajcast.model.torchscript import compile_network

if TYPE_CHECKING:  # it imports e3nn, which these stages do without
    from lammps_trajcast.model.network import TrajCast


class Stages(ABC):
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
    def prepare(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        first_edge: Tensor,
        senders: Tensor,
    ) -> None:
        """Take the state of a new step; tensors may be overwritten only after the step.

        Args:
            species: (N_all,) int64 index of each node's element, own atoms first.
            velocities: (N_all, 3) float64, in the velocity unit of the model.
            edge_vectors: (E, 3) float64 Angstrom, receiver to sender's image.
            first_edge: (N_own + 1,) int64, edges of own atom i are first_edge[i] to
                first_edge[i + 1] - 1.
            senders: (E,) int64, smaller than N_all.
        """

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


class KernelStages(Stages):
    """The network on the CPU kernels for prediction, path weights from tables."""

    def __init__(self, kernels: NetworkKernels) -> None:
        self._kernels = kernels  # the compiled module knows it by number only
        self._network = compile_network(PredictionNetwork(kernels))
        self.widths = tuple(kernels.widths)
        self.dtype = torch.float64 if kernels.dtype == np.float64 else torch.float32
        self.device = torch.device("cpu")

    def prepare(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        first_edge: Tensor,
        senders: Tensor,
    ) -> None:
        self._species, self._velocities = species, velocities.to(self.dtype)
        self._edges = self._network.edges(edge_vectors)
        self._first_edge, self._senders = first_edge, senders

    def initial_features(self) -> Tensor:
        features: Tensor = self._network.first(self._species, self._velocities)
        return features

    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        self._network.layer(
            k,
            features,
            self._edges,
            self._first_edge,
            self._senders,
            self._species,
            self._velocities,
            receivers,
            out,
        )

    def read_out(self, features: Tensor) -> Tensor:
        targets: Tensor = self._network.read_out(features, self._first_edge.size(0) - 1)
        return targets


def runs_on_prediction_kernels(arch: Architecture, device: torch.device, kernels: str) -> bool:
    """Return whether these stages need a network's weights alone, not its layers."""
    return kernels == "fused" and device.type == "cpu" and arch.max_rotation_order <= MAX_ORDER


def make_stages(
    network: TrajCast,
    arch: Architecture,
    dtype: torch.dtype,
    device: torch.device,
    kernels: str,
    tolerance: float | None = None,
) -> Stages:
    """Return the stages of a network.

    Args:
        network: with weights, in double precision; converted in place.
        arch: its hyperparameters.
        dtype: precision of the stages, float32 or float64.
        device: where they run.
        kernels: "fused" for the compiled kernels on a CPU and the Triton kernels on a CUDA device,
            "plain" for e3nn's operations throughout.
        tolerance: largest error of the tabulated path weights of "fused", relative to the largest
            weight, on a CPU; None: what suits the precision.

    Raises:
        TableError: the path weights vary too fast for "fused".
        MemoryError: there is no room for the tables of "fused".
        ImportError: the Triton kernels are wanted and Triton is not installed.
    """
    network = network.eval()
    if runs_on_prediction_kernels(arch, device, kernels):
        precision = "double" if dtype == torch.float64 else "single"
        return KernelStages(
            NetworkKernels(arch, as_arrays(weights_of(network)), precision, tolerance)
        )
    from lammps_trajcast.runtime.module_stages import FusedStages, FusedTrajCast, PlainStages

    network = network.to(dtype=dtype, device=device)
    if kernels == "plain":
        return PlainStages(network)
    if device.type == "cpu":
        return FusedStages(FusedTrajCast(network), network)
    # Triton comes with CUDA builds of torch; it need not be there on a machine without a GPU.
    from lammps_trajcast.kernels.triton.network import TabulatedTrajCast

    return FusedStages(TabulatedTrajCast(network), network)
