"""The layers of a network one after the other, and the exchange between ranks that goes with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from lammps_trajcast.runtime.backend import Backend
from lammps_trajcast.runtime.errors import PredictorError
from lammps_trajcast.runtime.halo import Halo
from lammps_trajcast.runtime.memory import Matrix

# Two matrices of features take turns.
_LAYERS = ("even layers", "odd layers")


class Attempt:
    """Runs what may fail.

    After a failure it runs nothing more, so that this rank keeps step with the others in the
    exchange until all know of it.

    Attributes:
        error: what failed; None if nothing has.
    """

    def __init__(self) -> None:
        """Begin without a failure."""
        self.error: Exception | None = None

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return what ``work`` returns; None after a failure."""
        if self.error is None:
            try:
                return work(*arguments)
            except Exception as error:
                self.error = error
        return None

    def reason(self, atoms: int, remote: int, edges: int) -> str:
        """What went wrong on a rank of this size, in one line; empty if nothing."""
        error = self.error
        if error is None or isinstance(error, PredictorError):
            return str(error or "")
        text = " ".join(str(error).split())
        kinds: tuple[type[BaseException], ...] = (MemoryError,)
        if (torch := sys.modules.get("torch")) is not None:
            kinds += (torch.OutOfMemoryError,)
        no_memory = isinstance(error, kinds)
        if no_memory or "allocate memory" in text:
            return (
                f"out of memory with {atoms} atoms, {remote} atoms of other ranks and {edges} "
                "edges on one MPI rank: use more ranks on more machines"
            )
        return f"unexpected {type(error).__name__}: {text}"


class Nodes(NamedTuple):
    """The nodes of a step: own atoms, then those of other ranks."""

    own: int
    all: int
    interior: Matrix | None  # own atoms without remote senders; None: there are no remote nodes
    boundary: Matrix | None  # the other own atoms


class Layers:
    """A network and the exchange of its features."""

    def __init__(self, backend: Backend, halo: Halo) -> None:
        """Use a backend, and a halo for the backend's memory."""
        self._backend, self._halo = backend, halo

    def run(self, nodes: Nodes, first_features: Callable[[], Matrix], attempt: Attempt) -> Matrix:
        """Return targets (own, 6), layer by layer.

        While the halo sends features, a layer is computed for atoms without remote senders
        (interior); then for the others (boundary).

        Args:
            nodes: of the step, which the backend is to be prepared for.
            first_features: prepares the backend, and returns its initial features.
            attempt: in which all of this happens, but for the exchange.
        """
        backend, memory = self._backend, self._backend.memory
        features: Any = attempt(first_features) if nodes.own else None
        for k, width in enumerate(backend.widths[1:]):
            after = memory.matrix(_LAYERS[k % 2], nodes.all, width)
            if k > 0:
                self._halo.start(features, nodes.own)
            attempt(self._layer, nodes, k, features, after, nodes.interior if k > 0 else None)
            if k > 0:
                self._halo.finish()
                if nodes.boundary is not None:
                    attempt(self._layer, nodes, k, features, after, nodes.boundary)
            features = after
        if nodes.own:
            return attempt(backend.read_out, features)
        return memory.matrix("nothing", 0, 6)

    def _layer(
        self, nodes: Nodes, k: int, features: Matrix, after: Matrix, receivers: Matrix | None
    ) -> None:
        if nodes.own:
            self._backend.layer(k, features, after, receivers)

    def with_remote(self, nodes: Nodes, target: Matrix | None, attempt: Attempt) -> Matrix:
        """Return targets (all, 6): those of remote nodes come from the ranks that predict them."""
        # Not the matrix of the last features: targets may be a part of it.
        name = _LAYERS[self._backend.num_layers % 2]
        targets = self._backend.memory.matrix(name, nodes.all, 6)

        def enter() -> None:
            targets[: nodes.own] = target

        attempt(enter)
        self._halo.start(targets, nodes.own)
        self._halo.finish()
        return targets
