"""The bodies of the functions in `fix_src/trajcast_bridge.h`.

Nothing is decided here: pointers become NumPy views, exceptions become messages.
"""

import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.model.file import ModelFileError
from lammps_trajcast.runtime.predictor import Frame, Predictor, PredictorError

OK = 0
FAILED = 1


class Bridge:
    """The models that the fixes of this process have open."""

    def __init__(self, ffi: Any) -> None:
        """Use the `ffi` object of the compiled bridge, or any that knows its structures."""
        self._ffi = ffi
        self._models: dict[int, Predictor] = {}
        self._next_handle = 1

    def open(self, config: Any, handle: Any, info: Any, message: Any) -> int:
        """Body of `trajcast_functions.open`."""

        def load() -> None:
            text = [self._text(config.elements[k]) for k in range(config.num_types)]
            predictor = Predictor.from_file(
                self._text(config.model_path),
                text,
                units=self._text(config.units),
                device=self._text(config.device),
                precision=self._text(config.precision),
                num_threads=config.num_threads,
                kernels=self._text(config.kernels),
            )
            info.timestep = predictor.timestep
            info.cutoff = predictor.cutoff
            info.conserves_angular_momentum = predictor.conserves_angular_momentum
            self._view(info.masses, (config.num_types,), np.float64)[:] = predictor.masses
            handle[0] = self._next_handle
            self._models[self._next_handle] = predictor
            self._next_handle += 1

        return self._guarded(load, message)

    def step(self, handle: int, frame: Any, prediction: Any, message: Any) -> int:
        """Body of `trajcast_functions.step`."""

        def predict() -> None:
            n, e = frame.num_atoms, frame.num_edges
            after = self._models[handle].step(
                Frame(
                    types=self._view(frame.types, (n,), np.int32),
                    positions=self._view(frame.positions, (n, 3), np.float64),
                    velocities=self._view(frame.velocities, (n, 3), np.float64),
                    masses=self._view(frame.masses, (n,), np.float64),
                    receivers=self._view(frame.receivers, (e,), np.int64),
                    senders=self._view(frame.senders, (e,), np.int64),
                    edge_vectors=self._view(frame.edge_vectors, (e, 3), np.float64),
                ),
                conserve=bool(frame.conserve),
            )
            self._view(prediction.displacements, (n, 3), np.float64)[:] = after.displacements
            self._view(prediction.velocities, (n, 3), np.float64)[:] = after.velocities

        return self._guarded(predict, message)

    def close(self, handle: int, message: Any) -> int:
        """Body of `trajcast_functions.close`."""
        self._models.pop(handle, None)
        return OK

    def _text(self, pointer: Any) -> str:
        return self._ffi.string(pointer).decode()

    def _view(self, pointer: Any, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        """An array on the caller's memory; no copy."""
        size = int(np.prod(shape))
        if size == 0:
            return np.empty(shape, dtype)
        buffer = self._ffi.buffer(pointer, size * np.dtype(dtype).itemsize)
        return np.frombuffer(buffer, dtype).reshape(shape)

    def _guarded(self, work: Callable[[], None], message: Any) -> int:
        try:
            work()
        except (ModelFileError, PredictorError) as error:
            return self._fail(str(error), message)
        except BaseException as error:  # nothing may pass into C++
            traceback.print_exc(file=sys.stderr)
            return self._fail(f"unexpected {type(error).__name__}: {error}", message)
        return OK

    def _fail(self, text: str, message: Any) -> int:
        capacity = message.capacity - 1
        encoded = text.encode()[:capacity] + b"\0"
        self._ffi.memmove(message.text, encoded, len(encoded))
        return FAILED


_bridge: Bridge | None = None


def register(address: int) -> None:
    """Fill the `trajcast_functions` at this address; called by the library that starts Python."""
    from lammps_trajcast._trajcast_bridge import ffi, lib

    global _bridge
    if _bridge is None:
        _bridge = Bridge(ffi)
        ffi.def_extern(name="trajcast_open", error=FAILED)(_bridge.open)
        ffi.def_extern(name="trajcast_step", error=FAILED)(_bridge.step)
        ffi.def_extern(name="trajcast_close", error=FAILED)(_bridge.close)
    functions = ffi.cast("trajcast_functions *", address)
    functions.open = lib.trajcast_open
    functions.step = lib.trajcast_step
    functions.close = lib.trajcast_close
