"""Training of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lammps_trajcast.commands.common import one_line_for


def train(
    config: Annotated[Path, typer.Argument(help="What to train, on what, for how long (YAML).")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew instead of resuming from a checkpoint.")
    ] = False,
) -> None:
    """Train a network and write its model file; the same command resumes after an interruption."""
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.model.file import ModelFileError
    from lammps_trajcast.training.config import TrainingConfig, TrainingError
    from lammps_trajcast.training.train import train as run_training

    with one_line_for(TrainingError, DatasetError, ModelFileError):
        settings = TrainingConfig.load(config)
        errors = run_training(settings, fresh=fresh)
    if errors is None:
        return
    typer.echo(
        f"{settings.output}: on unseen segments, RMSE over rms of displacement "
        f"{errors['displacement']:.4f}, of velocity {errors['velocity']:.4f}"
    )
