"""The network in training as CUDA graphs: thousands of small kernels started by one call.

A training step on a GPU takes less time than Python needs to start its kernels. Captured once, they
are replayed as one, forwards and backwards. A graph holds for one number of atoms and of edges:
edges are filled up to a capacity with such that are as long as the cutoff, which contribute
nothing, and where there are more a larger graph is captured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedTrajCast

# Room for edges: that of the batch at hand times this, in steps of so many.
ROOM, GRANULE = 1.06, 1024
# Numbers of atoms for which graphs are captured; frames of many sizes are not worth it.
MOST_SIZES = 4
# Calls before a capture: until then TorchScript and Triton compile.
FIRST_CALLS = 3
WARMUPS = 5


class _Predict(torch.nn.Module):
    def __init__(self, network: FusedTrajCast) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        target: Tensor = self.network.predict(*inputs)
        return target


class CudaGraphNetwork:
    """Calls :meth:`FusedTrajCast.predict` of a network on a CUDA device.

    Args:
        network: on the device, in training.
        cutoff: Angstrom.
    """

    def __init__(self, network: FusedTrajCast, cutoff: float) -> None:
        self._network = network
        self._cutoff = cutoff
        self._calls = 0
        self._failed = False
        # By what a call is for and the number of atoms: room for edges, and the graph.
        self._graphs: dict[tuple[str, int], tuple[int, Callable[..., Tensor]]] = {}

    def predict(self, use: str, *inputs: Tensor) -> Tensor:
        """Return raw targets (N, 6), differentiable by the parameters.

        Args:
            use: a graph's results last until it is called again. Calls whose results are needed at
                once go by different names.
            inputs: those of FusedTrajCast.predict, species first and senders last.
        """
        species, senders = inputs[0], inputs[-1]
        key, edges = (use, len(species)), len(senders)
        self._calls += 1
        sizes = {size for _, size in self._graphs}
        too_many = len(species) not in sizes and len(sizes) >= MOST_SIZES
        if self._failed or too_many or self._calls <= FIRST_CALLS:
            return self._plain(inputs)
        if key not in self._graphs or edges > self._graphs[key][0]:
            room = -(-int(ROOM * edges) // GRANULE) * GRANULE
            try:
                replay: Any = torch.cuda.make_graphed_callables(
                    _Predict(self._network).train(),
                    pad_edges(inputs, room, self._cutoff),
                    num_warmup_iters=WARMUPS,
                    allow_unused_input=True,
                )
            except RuntimeError as error:
                logging.getLogger(__name__).warning(
                    "training goes on without CUDA graphs: %s", str(error).splitlines()[0]
                )
                self._failed = True
                return self._plain(inputs)
            self._graphs[key] = (room, replay)
        room, graph = self._graphs[key]
        return graph(*pad_edges(inputs, room, self._cutoff))

    def _plain(self, inputs: tuple[Tensor, ...]) -> Tensor:
        result: Tensor = self._network.predict(*inputs)
        return result


def pad_edges(inputs: tuple[Tensor, ...], room: int, cutoff: float) -> tuple[Tensor, ...]:
    """Return the inputs of a prediction with more edges, which contribute nothing.

    They are as long as the cutoff, lead from atoms to themselves, and are dealt out evenly: a
    kernel goes through the edges of an atom one after the other.

    Args:
        inputs: species (N,), velocities (N, 3), edge vectors (E, 3), receivers and senders (E,).
        room: number of edges wanted, at least E.
        cutoff: Angstrom.
    """
    species, velocities, vectors, receivers, senders = inputs
    missing = room - len(senders)
    atoms = torch.arange(missing, device=senders.device) * len(species) // max(missing, 1)
    direction = torch.tensor([cutoff, 0.0, 0.0]).to(vectors)
    order = torch.argsort(torch.cat([receivers, atoms]), stable=True)
    return (
        species,
        velocities,
        torch.cat([vectors, direction.expand(missing, 3)])[order],
        torch.cat([receivers, atoms])[order],
        torch.cat([senders, atoms])[order],
    )
