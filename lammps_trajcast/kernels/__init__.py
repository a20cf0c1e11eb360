"""Fused kernels: the compiled twin of the network's plain path."""

import lammps_trajcast.quick_start  # noqa: F401
