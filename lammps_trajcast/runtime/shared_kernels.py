"""The prediction kernels of the models of a process, made once for each."""

from __future__ import annotations

import weakref

from lammps_trajcast.kernels.network import NetworkKernels
from lammps_trajcast.model.file import ModelFile

# Of a model and a precision; nothing of them changes, so all predictors of a process can use them.
_kernels: weakref.WeakValueDictionary[tuple[str, str, float | None], NetworkKernels] = (
    weakref.WeakValueDictionary()
)
_last: NetworkKernels | None = None


def kernels_of(model: ModelFile, precision: str, tolerance: float | None) -> NetworkKernels:
    """Return those of an open predictor, or those made last, in case it is closed; or make them.

    So `clear` and the same fix again, or a loop in Python, find what the run before left.
    """
    global _last
    key = model.fingerprint(), precision, tolerance
    found = _kernels.get(key)
    if found is None:
        _last = None  # may free its memory before there is more
        found = NetworkKernels(model.metadata.architecture, model.weights, precision, tolerance)
        _kernels[key] = found
    _last = found
    return found
