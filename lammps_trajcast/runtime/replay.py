"""A step's work on a GPU, started as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")
Work = Callable[[], Result]

# Calls before a recording: until then TorchScript and Triton compile.
FIRST_CALLS = 3
# Works that are kept apart; another one takes the place of the oldest.
MOST_KEYS = 4


class Replay(Generic[Result]):
    """Does a work that is always the same; from its fourth time on as a recording.

    A step starts hundreds of small kernels; a recording of them, a CUDA graph, is started as one.
    The work reads and writes memory that stays in its place, and waits for nothing.
    """

    def __init__(self, record: Callable[[Work[Result]], Work[Result]] | None) -> None:
        """Use a function that records a work, such as :func:`cuda_graph`; None: never record."""
        self._record = record
        self._places: Hashable = None
        self._calls: dict[Hashable, int] = {}
        self._recorded: dict[Hashable, Work[Result]] = {}

    def __call__(self, places: Hashable, key: Hashable, work: Work[Result]) -> Result:
        """Do the work, and return its result, which the next call for this key may overwrite.

        Args:
            places: of the memory that works use; what was recorded for others is of no use again.
            key: all else that a recording depends on, but for what its memory holds.
            work: to be done, and perhaps recorded.
        """
        if places != self._places:
            self._places = places
            self._forget()
        if key not in self._calls and len(self._calls) == MOST_KEYS:
            oldest = next(iter(self._calls))
            del self._calls[oldest]
            self._recorded.pop(oldest, None)
        self._calls[key] = self._calls.get(key, 0) + 1
        if key not in self._recorded and self._record and self._calls[key] > FIRST_CALLS:
            try:
                self._recorded[key] = self._record(work)
            except RuntimeError as error:
                logging.getLogger(__name__).warning(
                    "WARNING: steps go on without CUDA graphs: %s", str(error).splitlines()[0]
                )
                self._record = None
            if self._record is None:  # the memory of recordings may be what was missing
                self._forget()
        return self._recorded.get(key, work)()

    def _forget(self) -> None:
        self._calls.clear()
        self._recorded.clear()


def cuda_graph(device: torch.device, work: Work[Result]) -> Work[Result]:
    """Record a work on a CUDA device; the function that is returned does it again."""
    with torch.cuda.device(device):
        before = torch.cuda.current_stream()
        side = torch.cuda.Stream()
        side.wait_stream(before)
        with torch.cuda.stream(side):
            work()
        before.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                result = work()
        except Exception:
            # torch leaves the stream of a recording that failed in place.
            torch.cuda.set_stream(before)
            raise

    def again() -> Result:
        with torch.cuda.device(device):
            graph.replay()
        return result

    return again
