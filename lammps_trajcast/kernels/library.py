"""Load the compiled kernels (fix_src/kernels) through cffi; they link neither Python nor torch."""

from __future__ import annotations

import functools
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import cffi
import torch
from torch import Tensor

LIBRARY_NAME = "libtrajcast_kernels.so"
# Environment variable with the path of another build, such as that of `make sanitize`.
LIBRARY_VARIABLE = "LAMMPS_TRAJCAST_KERNELS"
_HEADERS = ("edge_convolution.h", "network.h")
_BEGIN, _END = "/* -- cffi reads from here -- */", "/* -- to here -- */"

ffi = cffi.FFI()


def _installed(name: str) -> Path:
    beside = Path(__file__).with_name(name)
    if beside.is_file():
        return beside
    # In an editable install the Python files stay in the source tree, what was built does not.
    for entry in metadata.files("lammps-trajcast") or []:
        if entry.name == name:
            return Path(str(entry.locate()))
    raise ImportError(
        f"lammps-trajcast: {name} is missing, so the package was not built: run 'pip install .'"
    )


@functools.cache
def load_library() -> Any:
    """Return the cffi library handle of the kernels.

    Raises:
        ImportError: they are not built, or cannot be loaded.
    """
    for name in _HEADERS:
        header = _installed(name).read_text()
        ffi.cdef(header[header.index(_BEGIN) + len(_BEGIN) : header.index(_END)])
    path = os.environ.get(LIBRARY_VARIABLE) or str(_installed(LIBRARY_NAME))
    try:
        # Of OpenMP this takes the library that torch, imported above, has loaded.
        return ffi.dlopen(path)
    except OSError as error:
        raise ImportError(
            f"lammps-trajcast: the kernels cannot be loaded ({error}): install what is missing; "
            "libgomp.so.1 comes with torch from PyPI, or with Debian's and Ubuntu's libgomp1"
        ) from None


def pointer(tensor: Tensor) -> Any:
    """Return the C pointer to a tensor's values; the tensor must outlive its use."""
    kind = {torch.float32: "float *", torch.float64: "double *", torch.int64: "int64_t *"}
    return ffi.cast(kind[tensor.dtype], tensor.data_ptr())
