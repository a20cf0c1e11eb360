"""TrajCast networks in LAMMPS.

Importing this package is cheap on purpose: every start of `lmp` does it, to find the plugin.
"""

__version__ = "0.1.0"
