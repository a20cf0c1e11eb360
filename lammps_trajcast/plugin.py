"""Where the LAMMPS plugin lies."""

import sys
from pathlib import Path

import lammps_trajcast


def plugin_directory() -> str:
    """Directory that holds `trajcastplugin.so`, for the entry-point group `lammps.plugins`.

    Returns:
        An absolute path. LAMMPS loads every file `*plugin.so` in it at start.
    """
    # After an editable install the package has two directories, and the compiled part is not
    # beside the sources.
    directories = [Path(directory).resolve() for directory in lammps_trajcast.__path__]
    for directory in directories:
        if (directory / "trajcastplugin.so").exists():
            return str(directory)
    # No exception: every start of lmp comes here, also those that need no plugin.
    print(
        "WARNING: lammps_trajcast was installed without its LAMMPS plugin, fix python/trajcast "
        "will be unknown: pip install --force-reinstall lammps-trajcast",
        file=sys.stderr,
    )
    return str(directories[0])
