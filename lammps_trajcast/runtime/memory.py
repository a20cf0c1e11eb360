"""Where features lie: in arrays of NumPy, or in tensors of torch, which may be on a GPU."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from typing_extensions import override

Matrix = Any
"""An array of NumPy or a tensor of torch: both can be sliced and assigned to alike."""


class Memory(ABC):
    """Makes and moves matrices of one kind, so that the step and the exchange need not know it.

    Attributes:
        on_device: whether they lie on a GPU.
    """

    on_device = False

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    @abstractmethod
    def settings(self, num_threads: int | None) -> AbstractContextManager[Any]:
        """Return a context in which the matrices may be used.

        Args:
            num_threads: of the CPU; None leaves them as they are.
        """

    @abstractmethod
    def num_threads(self) -> int:
        """Return how many threads of the CPU are used if nobody says."""

    @abstractmethod
    def hold(self, values: NDArray[Any]) -> Matrix:
        """Return an array of the host; in the host's memory without a copy."""

    @abstractmethod
    def on_host(self, matrix: Matrix) -> NDArray[np.float64]:
        """Return a matrix as an array in double precision."""

    @abstractmethod
    def take(self, matrix: Matrix, rows: Matrix, out: Matrix) -> None:
        """Write some rows (R,) of a matrix into ``out`` (R, width)."""

    def matrix(
        self, name: str, rows: int, width: int, like: Matrix = None, pinned: bool = False
    ) -> Matrix:
        """Return a matrix (rows, width) with any values, whose memory is kept for its name.

        Args:
            name: two matrices of one name are not in use at the same time.
            rows: how many.
            width: of a row.
            like: of which type, a matrix; None: of the features'.
            pinned: in memory of the host that a GPU reads and writes directly.
        """
        size = rows * width
        flat = self._kept.get(name)
        if flat is None or len(flat) < size or (like is not None and flat.dtype != like.dtype):
            flat = self._empty(size + size // 10, like, pinned)
            self._kept[name] = flat
        return flat[:size].reshape(rows, width)

    @abstractmethod
    def _empty(self, size: int, like: Matrix, pinned: bool) -> Matrix:
        """Return ``size`` values, of the type of ``like`` or of the features."""

    @abstractmethod
    def for_mpi(self, rows: Matrix) -> Any:
        """Return what mpi4py reads or fills: these rows."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all matrices have the values that they were given."""


class HostMemory(Memory):
    """Arrays of NumPy."""

    def __init__(self, dtype: DTypeLike, num_threads: int | None = None) -> None:
        """Make features of a type; None: as many threads as this process has cores."""
        super().__init__()
        self._dtype = np.dtype(dtype)
        self._threads = num_threads or len(os.sched_getaffinity(0))

    @override
    def settings(self, num_threads: int | None) -> AbstractContextManager[Any]:
        return nullcontext()

    @override
    def num_threads(self) -> int:
        return self._threads

    @override
    def hold(self, values: NDArray[Any]) -> Matrix:
        return values

    @override
    def on_host(self, matrix: Matrix) -> NDArray[np.float64]:
        return np.asarray(matrix, np.float64)

    @override
    def take(self, matrix: Matrix, rows: Matrix, out: Matrix) -> None:
        # The rows exist; "raise" would copy them once more, to leave ``out`` alone if they did not.
        np.take(matrix, rows, axis=0, out=out, mode="clip")

    @override
    def _empty(self, size: int, like: Matrix, pinned: bool) -> Matrix:
        return np.empty(size, self._dtype if like is None else like.dtype)

    @override
    def for_mpi(self, rows: Matrix) -> Any:
        return rows

    @override
    def synchronize(self) -> None:
        pass
