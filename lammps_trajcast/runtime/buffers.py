"""Memory on a device that stays where it is, and only grows."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Buffers:
    """Tensors on one device, by name.

    Attributes:
        moves: how often one of them has got another place.
    """

    def __init__(self, device: torch.device) -> None:
        """Keep tensors on a device."""
        self._device = device
        self._flat: dict[str, Tensor] = {}
        self._copied: dict[str, tuple[NDArray[np.generic], Tensor]] = {}
        self.moves = 0

    def room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor with any values, in the place of the one that had its name before."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            flat = torch.empty(size + size // 10, dtype=dtype, device=self._device)
            self._flat[name] = flat
            self.moves += 1
        return flat[:size].view(shape)

    def put(self, name: str, values: NDArray[np.generic]) -> Tensor:
        """Copy an array of the host."""
        host = torch.from_numpy(values)
        return self.room(name, values.shape, host.dtype).copy_(host)

    def put_if_changed(self, name: str, values: NDArray[np.generic]) -> Tensor:
        """Copy an array of the host, unless it was that array the last time."""
        before = self._copied.get(name)
        if before is not None and np.array_equal(before[0], values):
            return before[1]
        tensor = self.put(name, values)
        self._copied[name] = (values.copy(), tensor)
        return tensor

    def constant(self, values: NDArray[np.generic]) -> Tensor:
        """Return a copy of an array of the host that never changes."""
        return torch.from_numpy(values).to(self._device, copy=True)
