"""The network on the Triton kernels, for a step that waits for nothing on a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from lammps_trajcast.kernels.triton.network import TabulatedTrajCast
from lammps_trajcast.model.embedding import NodeEmbedding
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.runtime.backend import StepArrays
from lammps_trajcast.runtime.module_backend import FusedBackend


class _Receivers(NamedTuple):
    """Some of the own atoms; as the layers want them, they are nodes 0, 1, ..."""

    atoms: Tensor  # (R,) int64
    nodes: NodeEmbedding
    begins: Tensor  # (R,) int64, where the edges of each begin
    ends: Tensor  # (R,) int64
    senders: Tensor  # (E,) int64, counted from the first row after the receivers


class TritonBackend(FusedBackend):
    """The network on kernels for a CUDA device, for any rotation order.

    Edges beyond the last of ``first_edge`` are not looked at, so that there may be more room than
    edges, and nobody has to know how many there are.
    """

    takes_room = True

    def __init__(self, plain: TrajCast, tf32: bool = False) -> None:
        """Take a network on a CUDA device, or a CPU in Triton's interpreter.

        Args:
            plain: in either precision; in single for TF32.
            tf32: whether the linear maps of layers are in TF32.
        """
        super().__init__(TabulatedTrajCast(plain, tf32), plain)
        # A tensor stays as long as what is kept for it, so that the id stays its.
        self._parts: dict[int, _Receivers] = {}

    @override
    def prepare(self, graph: StepArrays) -> None:
        super().prepare(graph)
        self._parts.clear()

    def _part(self, atoms: Tensor) -> _Receivers:
        if id(atoms) not in self._parts:
            self._parts[id(atoms)] = _Receivers(
                atoms,
                NodeEmbedding(*(rows[atoms] for rows in self._nodes)),
                self._first_edge[atoms],
                self._first_edge[atoms + 1],
                self._senders + atoms.size(0),
            )
        return self._parts[id(atoms)]

    @override
    def layer(self, k: int, features: Tensor, out: Tensor, receivers: Tensor | None = None) -> None:
        layer: Any = self._network.interactions[k]
        rows, first = self._components(features), self._first_edge
        if receivers is None:
            result = layer(rows, self._nodes, self._edges, first, self._senders)
            out[: first.size(0) - 1] = result.flatten(1)
        elif receivers.size(0) > 0:
            part = self._part(receivers)
            rows = torch.cat([rows[receivers], rows])
            result = layer.between(
                rows, part.nodes, self._edges, part.begins, part.ends, part.senders
            )
            out[receivers] = result.flatten(1)
