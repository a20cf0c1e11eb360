"""The network a layer at a time, so that ranks can exchange features between the layers.

Nodes are numbered as on one MPI rank: its own atoms first, then the remote nodes, atoms of other
ranks that some edge refers to. Edges lead to own atoms only. Features of all nodes lie in one
matrix, a row for each; the rows of own atoms are computed here, those of remote nodes are what
their owner computed. The first features are made from species and velocity, which every rank has
for all its nodes, and need no exchange.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from lammps_trajcast.runtime.memory import Matrix, Memory


class StepArrays(NamedTuple):
    """The fields of :class:`~lammps_trajcast.kernels.step_graph.StepGraph` in a backend's memory.

    That one is of tensors, and TorchScript knows it.
    """

    species: Matrix
    velocities: Matrix
    edge_vectors: Matrix
    first_edge: Matrix
    senders: Matrix


class Backend(ABC):
    """One network, advanced a layer at a time.

    In the order of the calls: :meth:`prepare`, :meth:`initial_features`, :meth:`layer` for every
    layer in turn, :meth:`read_out`.

    Attributes:
        widths: (num_layers + 1,) length of a node's row of features: of the initial ones, and after
            each layer.
        memory: where features and all arguments lie.
        takes_room: whether senders and edge vectors may have rows beyond the last edge, which are
            not looked at.
    """

    widths: tuple[int, ...]
    memory: Memory
    takes_room = False

    @property
    def num_layers(self) -> int:
        """Number of message-passing layers."""
        return len(self.widths) - 1

    @abstractmethod
    def prepare(self, graph: StepArrays) -> None:
        """Take the state of a new step; its arrays may be overwritten only after the step."""

    @abstractmethod
    def initial_features(self) -> Matrix:
        """Return the features (N_all, widths[0]) of all nodes before the first layer."""

    @abstractmethod
    def layer(self, k: int, features: Matrix, out: Matrix, receivers: Matrix | None = None) -> None:
        """Write the features after layer k into the receivers' rows of ``out``, and into no others.

        Args:
            k: number of the layer, from 0.
            features: (N_all, widths[k]) contiguous; the receivers' own rows and those of the
                senders of their edges are read.
            out: (N_all, widths[k + 1]) contiguous.
            receivers: (any,) int64 own atoms, each once; None: all own atoms.
        """

    @abstractmethod
    def read_out(self, features: Matrix) -> Matrix:
        """Return targets (N_own, 6) from the features (N_all, widths[-1]) after the last layer."""
