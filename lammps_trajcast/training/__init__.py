"""Training of a TrajCast network on pairs of states."""

import lammps_trajcast.quick_start  # noqa: F401
