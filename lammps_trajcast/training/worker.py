"""What the fork server of the worker processes imports before it is copied; nobody else does.

The server outlives a training that is killed, and its workers look after the server alone: it is
told to end with the training.
"""

import os

from lammps_trajcast.launch import end_with_parent

PARENT_VARIABLE = "LAMMPS_TRAJCAST_TRAINING"
"""Environment variable with the process ID of the training."""

# First of all: the imports below take seconds, in which the training may be killed.
if PARENT_VARIABLE in os.environ:
    end_with_parent(int(os.environ[PARENT_VARIABLE]))

import lammps_trajcast.training.train  # noqa: E402, F401
