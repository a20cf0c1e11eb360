"""LAMMPS that cannot be started, or that has stopped."""


class LaunchError(Exception):
    """LAMMPS cannot be started; the message says what to write instead."""


class FailedRunError(Exception):
    """LAMMPS ended with an error, or cannot go on; the message has LAMMPS's own words."""
