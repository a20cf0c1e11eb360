"""What the fork server of the worker processes imports before it is copied; nobody else does.

The server outlives a training that is killed, and its workers look after the server alone: it is
told to end with the training.
"""

import lammps_trajcast.training.train  # noqa: F401
from lammps_trajcast.launch import end_with_parent

end_with_parent()
