"""A system to validate a model on, and how commands are called, for several tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
import yaml
from locations import EXAMPLES
from typer.testing import CliRunner

from lammps_trajcast.cli import app
from lammps_trajcast.data.dataset import Pair
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.training.batches import Batch, Sample, collate

EXAMPLE = EXAMPLES / "quartz"

SYSTEM = """\
units           metal
atom_style      atomic
read_data       quartz.data
replicate       2 2 2
pair_style      vashishta
pair_coeff      * * SiO.1990.vashishta Si O
"""

CONFIG = {
    "name": "72 atoms of quartz",
    "model": "quartz.safetensors",
    "system": "system.lmp",
    "elements": ["Si", "O"],
    "temperature": 300,
    "reference": {"timestep": 1, "initial_temperature": 600},
    "lengths": {
        "short": {
            "equilibration": 0.6,
            "production": 1.2,
            "blocks": 4,
            "spectrum": 0.15,
            "nve": 0.3,
            "one_step": 5,
            "reference_runs": 2,
            "speed": 1,
        }
    },
    # What 0.15 ps of frames of 30 fs resolve.
    "spectrum": {"resolution": 5.6},
    "bonds": {"Si-O": 2.2},
    "dihedrals": {"first": [1, 4, 2, 5]},
}


def invoke(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def write_system(directory: Path, model: Path = EXAMPLE / "quartz.safetensors") -> Path:
    """Fill a directory with a system, a model and the YAML file."""
    shutil.copy(EXAMPLE / "quartz.data", directory)
    shutil.copy(model, directory / "quartz.safetensors")
    (directory / "system.lmp").write_text(SYSTEM)
    (directory / "validate.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return directory


CUTOFF = 4.0


def frame(seed: int, periodic: bool = True, count: int = 14) -> Batch:
    """Random atoms of two elements with random velocities."""
    random = np.random.default_rng(seed)
    cell = np.diag([7.0, 8.0, 9.0])
    species = torch.arange(count) % 2
    positions = torch.from_numpy(random.uniform(0.0, 7.0, (count, 3)))
    velocities = torch.from_numpy(random.normal(size=(count, 3)) * 0.01)
    pbc = torch.full((3,), periodic)
    pair = Pair(
        species=species,
        masses=torch.tensor([28.0, 16.0], dtype=torch.float64)[species],
        positions=positions,
        velocities=velocities,
        displacement=5.0 * velocities,
        velocity_after=velocities.flip(0),
        cell=torch.from_numpy(cell),
        pbc=pbc,
    )
    return collate([Sample(pair, build_graph(positions, cell, pbc, CUTOFF), [])])
