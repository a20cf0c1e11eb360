"""From a reference to a proven model: `lammps-trajcast fit`."""
