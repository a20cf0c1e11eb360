"""A run of the fix as short as runs are, for tests of how LAMMPS is started."""

from __future__ import annotations

from pathlib import Path

from locations import ENVIRONMENT
from models import tiny_model

LMP = str(ENVIRONMENT / "bin" / "lmp")
SCRIPT = """\
units real
lattice fcc 5.3
region box block 0 2 0 2 0 2
create_box 1 box
create_atoms 1 box
mass 1 28.085
pair_style zero 3.5 full
pair_coeff * *
timestep 10.0
velocity all create 1 1
fix 1 all python/trajcast model.safetensors Si
"""


def write_run(directory: Path, name: str, more: str = "") -> None:
    """Write the input of this name, with more lines at its end, and its model."""
    tiny_model(metadata={"timestep": 10.0}).save(directory / "model.safetensors")
    (directory / name).write_text(SCRIPT + more)
