"""Features as tensors of torch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from lammps_trajcast.model.torchscript import unoptimized
from lammps_trajcast.runtime.memory import Matrix, Memory
from lammps_trajcast.runtime.torch_settings import own_torch_settings


class TensorMemory(Memory):
    """Tensors on one device.

    Attributes:
        dtype: of features.
        device: where they lie.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        """Make features of a type, on a device."""
        super().__init__()
        self.dtype, self.device = dtype, device
        self.on_device = device.type == "cuda"

    @override
    def settings(self, num_threads: int | None) -> AbstractContextManager[Any]:
        return self._as_the_network_needs_them(num_threads)

    @contextmanager
    def _as_the_network_needs_them(self, num_threads: int | None) -> Iterator[None]:
        with own_torch_settings(num_threads), torch.inference_mode(), unoptimized():
            yield

    @override
    def num_threads(self) -> int:
        return torch.get_num_threads()

    @override
    def hold(self, values: NDArray[Any]) -> Matrix:
        return torch.from_numpy(values).to(self.device)

    @override
    def on_host(self, matrix: Matrix) -> NDArray[np.float64]:
        tensor: Tensor = matrix.to(dtype=torch.float64, device="cpu")
        values: NDArray[np.float64] = tensor.numpy()
        return values

    @override
    def take(self, matrix: Matrix, rows: Matrix, out: Matrix) -> None:
        torch.index_select(matrix, 0, rows, out=out)

    @override
    def _empty(self, size: int, like: Matrix, pinned: bool) -> Matrix:
        return torch.empty(
            size,
            dtype=self.dtype if like is None else like.dtype,
            device=torch.device("cpu") if pinned else self.device,
            pin_memory=pinned and torch.cuda.is_available(),
        )

    @override
    def for_mpi(self, rows: Matrix) -> Any:
        # Device memory as it is, for an MPI that knows it.
        return rows.numpy() if rows.device.type == "cpu" else rows

    @override
    def synchronize(self) -> None:
        if self.on_device:
            torch.cuda.synchronize(self.device)
