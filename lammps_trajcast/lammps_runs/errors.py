"""LAMMPS that cannot be started, or that has stopped."""


class LaunchError(Exception):
    """LAMMPS cannot be started; the message says what to write instead."""


class FailedRunError(Exception):
    """LAMMPS ended with an error, or cannot go on; the message has LAMMPS's own words."""


REMEDIES = {
    "Lost atoms": "look for atoms that overlap and too long a time step; where no boundary is "
    "periodic, write 'boundary s s s'",
    "Atom IDs must be consecutive": "write 'reset_atoms id' at the end of the system",
}
"""What to do about errors of LAMMPS that do not say it."""


def with_remedy(error: str) -> str:
    """Return an error of LAMMPS, and what to do about it if that is known."""
    return "; ".join([error, *(words for found, words in REMEDIES.items() if found in error)])
