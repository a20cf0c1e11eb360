"""What the fork server of the worker processes imports before it is copied.

The server outlives a training that is killed while it imports: it is told to end with the training.
The workers see to their own end.
"""

import os
import signal

from lammps_trajcast.child_processes import PARENT_VARIABLE, end_with_parent

# First of all: the imports below take seconds, in which the training may be killed.
if PARENT_VARIABLE in os.environ:
    end_with_parent(int(os.environ[PARENT_VARIABLE]), signal.SIGKILL)

import lammps_trajcast.training.loaders  # noqa: E402, F401
