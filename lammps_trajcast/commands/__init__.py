"""The commands of the command line, one module a group; :mod:`lammps_trajcast.cli` names them."""
