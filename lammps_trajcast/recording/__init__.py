"""Data sets straight from LAMMPS: the user's own input script, then NVE segments."""
