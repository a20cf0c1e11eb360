"""Where the LAMMPS plugin lies."""

from pathlib import Path


def plugin_directory() -> str:
    """Directory that holds `trajcastplugin.so`, for the entry-point group `lammps.plugins`.

    Returns:
        An absolute path. LAMMPS loads every file `*plugin.so` in it at start.
    """
    return str(Path(__file__).resolve().parent)
