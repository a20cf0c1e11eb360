"""Model files: made of published checkpoints, described, and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lammps_trajcast.commands.common import one_line_for
from lammps_trajcast.units import Units


def convert(
    config: Annotated[Path, typer.Option(help="Configuration of the network (YAML).")],
    weights: Annotated[Path, typer.Option(help="Its weights: a state dict saved by torch.")],
    species: Annotated[
        list[str], typer.Option(help="Elements in the order of the model: --species Si O")
    ],
    timestep: Annotated[float, typer.Option(help="Time step of the model, fs.")],
    units: Annotated[
        Units, typer.Option(help="Velocities it was trained with: Å/fs (real) or Å/ps (metal).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    masses: Annotated[
        list[float] | None,
        typer.Option(help="g/mol of each species; default: standard atomic weights."),
    ] = None,
) -> None:
    """Turn a checkpoint published by the TrajCast authors into a model file."""
    from lammps_trajcast.model.checkpoint import convert_checkpoint
    from lammps_trajcast.model.file import ModelFileError

    with one_line_for(ModelFileError):
        model = convert_checkpoint(
            config, weights, species=species, masses=masses, timestep=timestep, units=units
        )
        model.save(output)
    typer.echo(f"{output}: TrajCast model of {' '.join(species)}, {timestep:g} fs")


def info(model: Annotated[Path, typer.Argument(help="Model file.")]) -> None:
    """Print what a model was made for, and the lines that a LAMMPS input needs."""
    from lammps_trajcast.describe import describe_model
    from lammps_trajcast.model.file import ModelFile, ModelFileError

    with one_line_for(ModelFileError):
        typer.echo(describe_model(model, ModelFile.load(model)))


def add_bounds(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    dataset: Annotated[
        list[Path], typer.Argument(help="Files of the data set that it was trained on (HDF5).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
) -> None:
    """Store in a model file how far its training data went, which the guards of the fix need."""
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.data.limits import with_limits
    from lammps_trajcast.describe import describe_limits
    from lammps_trajcast.model.file import ModelFile, ModelFileError

    with one_line_for(ModelFileError, DatasetError):
        limited = with_limits(ModelFile.load(model), dataset)
        limited.save(output)
    typer.echo(f"{output}\n{describe_limits(limited)}")


def add_energy(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    dataset: Annotated[
        list[Path],
        typer.Argument(help="Data set whose frames have energies and forces: files or directory."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    cutoff: Annotated[
        float | None,
        typer.Option(
            help="Å; default: that of the network, or a longer one if that is not enough.",
            min=0.1,
            max=20.0,
        ),
    ] = None,
) -> None:
    """Add a potential energy to a model, from which LAMMPS gets energies, pressures and virials."""
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.describe import describe_energy
    from lammps_trajcast.energy.add import with_energy
    from lammps_trajcast.model.file import ModelFile, ModelFileError
    from lammps_trajcast.training.progress import Console, ProgressReporter

    with one_line_for(ModelFileError, DatasetError):
        console = Console()
        with console.alive():
            changed = with_energy(
                ModelFile.load(model), dataset, ProgressReporter([console]), cutoff
            )
        changed.save(output)
    assert changed.energy is not None
    typer.echo(f"{output}\n{describe_energy(changed.energy)}")


def clamp_speed(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    factor: Annotated[
        float,
        typer.Option(help="The limit, in rms speeds of the training data.", min=1.0, max=100.0),
    ] = 2.0,
) -> None:
    """Limit the speeds that a network sees: of faster atoms training has had too few."""
    from lammps_trajcast.model.file import ModelFile, ModelFileError
    from lammps_trajcast.model.speed_limit import with_speed_limit

    with one_line_for(ModelFileError):
        limited = with_speed_limit(ModelFile.load(model), factor)
        limited.save(output)
    unit = "Angstrom/fs" if limited.metadata.units == "real" else "Angstrom/ps"
    typer.echo(f"{output}: speed limit {limited.metadata.architecture.speed_limit:g} {unit}")
