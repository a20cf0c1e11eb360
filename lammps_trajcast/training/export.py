"""Write a trained network as a model file, with where it comes from."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import e3nn
import torch
from pydantic import ValidationError

import lammps_trajcast
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.layout import UNITS
from lammps_trajcast.data.statistics import Statistics
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelMetadata, explain, weights_of
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.training.config import TrainingConfig, TrainingError


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def model_metadata(
    config: TrainingConfig,
    architecture: Architecture,
    rms: tuple[float, float],
    pairs: TrajectoryPairs,
    statistics: Statistics,
) -> ModelMetadata:
    """Return what the model file will say, without where its weights come from.

    Args:
        config: the run's configuration.
        architecture: hyperparameters of the network.
        rms: units of its read-out, Angstrom and Angstrom/fs.
        pairs: the training split.
        statistics: of the training split.

    Raises:
        TrainingError: no model file can be made of these.
    """
    try:
        return ModelMetadata(
            architecture=architecture,
            species=tuple(pairs.elements),
            masses=tuple(pairs.masses),
            timestep=pairs.horizon,
            units=UNITS,
            rms_displacement=rms[0],
            rms_velocity=rms[1],
            precision=config.precision,
            statistics=statistics.as_dict(),
            limits=statistics.limits,
        )
    except ValidationError as error:
        raise TrainingError(f"dataset: no model can be made of it: {explain(error)}") from None


def export_model(
    config: TrainingConfig,
    metadata: ModelMetadata,
    network: TrajCast,
    pairs: TrajectoryPairs,
    errors: dict[str, float],
    checkpoint: dict[str, Any],
    outcome: str,
) -> None:
    """Write ``config.output``.

    Args:
        config: the run's configuration, which goes into the provenance without its paths.
        metadata: of :func:`model_metadata`.
        network: the trained network.
        pairs: the training split.
        errors: RMSE over rms on the test split.
        checkpoint: the training checkpoint the weights are from.
        outcome: whether the error had stopped falling, in words.

    Raises:
        ModelFileError: the file cannot be written.
    """
    provenance = {
        "command": "lammps-trajcast train",
        "configuration": config.model_dump(
            mode="json", exclude={"dataset", "output", "directory", "start_from"}
        ),
        "dataset": " ".join(file.name for file in pairs.files),
        "dataset_sha256": " ".join(map(_digest, pairs.files)),
        "step": int(checkpoint["global_step"]),
        "outcome": outcome,
        "test_error_displacement": errors["displacement"],
        "test_error_velocity": errors["velocity"],
        "test_pairs": errors["pairs"],
        "lammps_trajcast": lammps_trajcast.__version__,
        "torch": torch.__version__,
        "e3nn": e3nn.__version__,
        "python": platform.python_version(),
    }
    metadata = metadata.model_copy(update={"provenance": provenance})
    ModelFile(metadata, weights_of(network)).save(config.output)
