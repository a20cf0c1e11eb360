"""Load the compiled kernels (fix_src/kernels) through cffi; they link neither Python nor torch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import cffi

import lammps_trajcast

LIBRARY_NAME = "libtrajcast_kernels.so"
# Environment variable with the path of another build, such as that of `make sanitize`.
LIBRARY_VARIABLE = "LAMMPS_TRAJCAST_KERNELS"
# Sets of instructions that kernels can be asked for.
INSTRUCTIONS = {"best": 0, "portable": 1, "avx2": 2}
_HEADERS = ("edge_convolution.h", "energy.h", "network.h")
_BEGIN, _END = "/* -- cffi reads from here -- */", "/* -- to here -- */"

ffi = cffi.FFI()


def _installed(name: str) -> Path:
    # In an editable install the package has two directories, and what was built is not beside the
    # sources.
    for directory in lammps_trajcast.__path__:
        path = Path(directory, "kernels", name)
        if path.is_file():
            return path
    raise ImportError(
        f"lammps-trajcast: {name} is missing, so the package was not built: run 'pip install .'"
    )


@functools.cache
def load_library() -> Any:
    """Return the cffi library handle of the kernels, on torch's OpenMP library.

    Raises:
        ImportError: they are not built, or cannot be loaded.
    """
    for name in _HEADERS:
        header = _installed(name).read_text()
        ffi.cdef(header[header.index(_BEGIN) + len(_BEGIN) : header.index(_END)])
    _load_openmp_of_torch()
    path = os.environ.get(LIBRARY_VARIABLE) or str(_installed(LIBRARY_NAME))
    try:
        return ffi.dlopen(path)
    except OSError as error:
        raise ImportError(
            f"lammps-trajcast: the kernels cannot be loaded ({error}): install what is missing; "
            "libgomp.so.1 comes with torch from PyPI, or with Debian's and Ubuntu's libgomp1"
        ) from None


def _load_openmp_of_torch() -> None:
    """Load the OpenMP library that torch brings, without torch.

    The system may have none, or an older one that torch could not use later: whatever library of
    this name comes first serves all of the process.
    """
    if "torch" in sys.modules:
        return
    found = importlib.util.find_spec("torch")
    for directory in (found and found.submodule_search_locations) or ():
        path = Path(directory, "lib", "libgomp.so.1")
        if path.is_file():
            with contextlib.suppress(OSError):  # then that of the system has to do
                ctypes.CDLL(str(path))
            return
