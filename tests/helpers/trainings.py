"""A data set without simulation and trainings on it, for several tests."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.train import train

HORIZON = 10.0  # fs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Free flight of a dilute gas: x' = x + v t, v' = v, known without any simulation."""
    path = tmp_path_factory.mktemp("data") / "gas.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="lammps-trajcast dataset", format_version=1, horizon=HORIZON, units="real"
        )
        file.attrs["elements"] = ["Ne", "Ar"]
        file.attrs["masses"] = [20.18, 39.95]
        for k, split in enumerate(["train"] * 4 + ["validation", "test"]):
            segment = file.create_group(f"segments/{k:06d}")
            segment.attrs.update(split=split, source="gas", first_step=0)
            species = np.array([0, 1] * (3 + k % 2))
            mass = np.array([20.18, 39.95])[species][:, None]
            velocity = generator.normal(size=(len(species), 3)) * 0.005
            velocity -= (mass * velocity).sum(0) / mass.sum()
            times = HORIZON * np.arange(9)[:, None, None]
            segment["species"] = species
            segment["cell"] = np.eye(3) * 7.0
            segment["pbc"] = np.ones(3, dtype=bool)
            segment["positions"] = generator.uniform(0, 7, (len(species), 3)) + velocity * times
            segment["velocities"] = np.repeat(velocity[None], 9, axis=0)
            segment["pairs"] = np.column_stack([np.arange(8), np.arange(1, 9)])
    return path


def write_config(directory: Path, dataset: Path, **optimization) -> Path:
    config = {
        "dataset": str(dataset),
        "output": "model.safetensors",
        "directory": "run",
        "seed": 3,
        "precision": "double",
        "network": {
            "preset": "published",
            "edge_cutoff": 3.0,
            "max_rotation_order": 1,
            "num_hidden_channels": 8,
            "num_mp_layers": 2,
        },
        "optimization": {
            "schedule": "cosine",
            "steps": 40,
            "epoch_steps": 10,
            "batch_size": 3,
            "learning_rate": 0.01,
            "warmup_steps": 5,
            "validation_pairs": 4,
            "ema_decay": 0.9,
            **optimization,
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset: Path) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    train(TrainingConfig.load(write_config(directory, dataset)), progress=False)
    return directory


def same_weights(a: Path, b: Path, tolerance: float) -> None:
    first, second = (ModelFile.load(d / "model.safetensors").state_dict for d in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance)


def validation_errors(directory: Path) -> list[float]:
    with (directory / "run" / "metrics.csv").open() as file:
        column = [row["validation_velocity_error"] for row in csv.DictReader(file)]
    return [float(value) for value in column if value]
