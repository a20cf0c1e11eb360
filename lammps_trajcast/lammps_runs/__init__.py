"""LAMMPS as a program that this package starts; used by record, fit, validate and equipartition.

program:     the command that starts LAMMPS, its environment, potential files and start.
paths:       file names that LAMMPS commands can hold.
script:      lines of input scripts that more than one command writes.
runner:      runs an input once, in a directory named after its content.
session:     a running LAMMPS that is told what to do line by line.
state:       what a running LAMMPS says about its system, fixes and dumps.
log:         thermodynamic output, loop times and errors in what LAMMPS prints.
trajectory:  the dumps of a run as arrays.
cpu_time:    CPU time of a process with all its descendants.
errors:      LAMMPS that cannot be started, or that has stopped.

How child processes are ended is in :mod:`lammps_trajcast.child_processes`, which training uses as
well; dumps are parsed in :mod:`lammps_trajcast.data.lammps_dump`.
"""
