"""A model beside its reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lammps_trajcast.commands.common import one_line_for


def validate(
    config: Annotated[Path, typer.Argument(help="The system and what to compare on it (YAML).")],
    length: Annotated[
        Literal["short", "full"], typer.Option(help="Which of the lengths of the YAML file.")
    ] = "short",
    model: Annotated[
        Path | None, typer.Option(help="Model file instead of the one in the YAML file.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Directory of report and runs; default: validation, beside YAML.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="equilibrium (the default), one of the YAML file, or all; repeatable."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Directory to write the plots to, as PNG files.")
    ] = None,
    lmp: Annotated[
        str | None, typer.Option(help='Command that starts LAMMPS, as "mpirun -np 4 lmp".')
    ] = None,
) -> None:
    """Run a model and its reference in LAMMPS and compare them: an HTML report, and JSON.

    Each protocol has a report of its own. Runs that are finished are not repeated. The exit status
    is 0 if all checks pass, 2 if some fail, 3 if none fails but some are undecided: by chance, or
    as the reference itself does not pass them.
    """
    from lammps_trajcast.lammps_runs.errors import LaunchError
    from lammps_trajcast.lammps_runs.program import lammps_command
    from lammps_trajcast.validation.config import SetupError, ValidationConfig
    from lammps_trajcast.validation.outcome import validate_model
    from lammps_trajcast.validation.validate import with_model

    with one_line_for(SetupError, LaunchError, OSError):
        settings = with_model(ValidationConfig.load(config), model)
        directory = output or config.resolve().parent / "validation"
        names = protocol or ["equilibrium"]
        if "all" in names:
            names = ["equilibrium", *settings.protocols]
        outcome = validate_model(
            settings,
            directory,
            length=length,
            protocols=names,
            command=lammps_command(lmp),
            images=images,
        )
    typer.echo(outcome.table())
    for page in outcome.pages:
        typer.echo(f"{page}")
    if outcome.status:
        raise typer.Exit(outcome.status)


def validation_table(
    reports: Annotated[list[Path], typer.Argument(help="JSON files that validate wrote.")],
) -> None:
    """Put several reports side by side, ordered by time step: a Markdown table."""
    from lammps_trajcast.validation.report import table_of_reports

    with one_line_for(ValueError):
        typer.echo(table_of_reports(reports))
