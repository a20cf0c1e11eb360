"""What all bodies of C functions share: pointers as NumPy views, texts, messages."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

OK = 0
FAILED = 1
ABORT = 2


class FfiBridge:
    """Access to the structures of `fix_src/trajcast_bridge.h`."""

    def __init__(self, ffi: Any) -> None:
        """Use the `ffi` object of the compiled bridge, or any that knows its structures."""
        self._ffi = ffi

    def _text(self, pointer: Any) -> str:
        # LAMMPS cuts letters beyond ASCII into pieces: an error names what is left of them.
        return self._ffi.string(pointer).decode(errors="replace")

    def _view(self, pointer: Any, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        """An array on the caller's memory; no copy."""
        size = int(np.prod(shape))
        if size == 0:
            return np.empty(shape, dtype)
        buffer = self._ffi.buffer(pointer, size * np.dtype(dtype).itemsize)
        return np.frombuffer(buffer, dtype).reshape(shape)

    def _write(self, text: str, message: Any) -> None:
        capacity = message.capacity - 1
        encoded = text.encode(errors="replace")[:capacity] + b"\0"
        self._ffi.memmove(message.text, encoded, len(encoded))
