"""The TrajCast network: architecture, layers, model files and the import of checkpoints."""

import lammps_trajcast.quick_start  # noqa: F401
