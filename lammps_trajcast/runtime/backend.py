"""The network a layer at a time, so that ranks can exchange features between the layers.

Nodes are numbered as on one MPI rank: its own atoms first, then the remote nodes, atoms of other
ranks that some edge refers to. Edges lead to own atoms only. Features of all nodes lie in one
matrix, a row for each; the rows of own atoms are computed here, those of remote nodes are what
their owner computed. The first features are made from species and velocity, which every rank has
for all its nodes, and need no exchange.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lammps_trajcast.kernels.step_graph import StepGraph

DTYPES = {"single": torch.float32, "double": torch.float64}


class Backend(ABC):
    """One network, advanced a layer at a time.

    In the order of the calls: :meth:`prepare`, :meth:`initial_features`, :meth:`layer` for every
    layer in turn, :meth:`read_out`.

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
