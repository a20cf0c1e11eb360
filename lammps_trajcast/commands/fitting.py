"""From a reference potential to a proven model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lammps_trajcast.commands.common import one_line_for


def fit(
    source: Annotated[
        Path,
        typer.Argument(
            help="LAMMPS input that defines units, atoms and the reference potential, or fit.yaml."
        ),
    ],
    elements: Annotated[
        list[str] | None, typer.Option(help="Element of LAMMPS type 1, 2, …: --elements Si O")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="K, at which the model is to be used and is validated.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory for all files; its name is the model's."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall time of everything together: 90m, 2h (the default).")
    ] = None,
    horizon: Annotated[
        float | None,
        typer.Option(help="Time step of the model, fs; default: the longest that is proven."),
    ] = None,
    temperatures: Annotated[
        list[float] | None,
        typer.Option(
            help="K, at which data are recorded; default: 25 % less, the same, 25 and 60 % more."
        ),
    ] = None,
    trajectories: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="Data set (.h5), dump or .traj to begin with; may be repeated."
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(help="Time between frames, fs, of trajectories that do not tell it."),
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Model file whose weights the training begins with.")
    ] = None,
    timestep: Annotated[
        float | None, typer.Option(help="fs, of the reference; default: the system's, or measured.")
    ] = None,
    masses: Annotated[list[float] | None, typer.Option(help="g/mol of each type.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    lmp: Annotated[
        str | None, typer.Option(help='Command that starts LAMMPS, as "mpirun -np 4 lmp".')
    ] = None,
) -> None:
    """From a reference to a proven model; the same command goes on after an interruption.

    Measures the reference, chooses time steps, cutoff and network, records, trains, validates, and
    ends with a verdict in three lines. The exit status is 0 if the model is proven, 2 if a check
    fails, 3 if one is undecided, 1 after an error.
    """
    from lammps_trajcast.fit.config import FitError
    from lammps_trajcast.fit.fit import fit as run_fit
    from lammps_trajcast.fit.request import make_request

    given = {
        "elements": elements,
        "temperature": temperature,
        "budget": budget,
        "horizon": horizon,
        "temperatures": temperatures,
        "trajectories": trajectories,
        "interval": interval,
        "start_from": start_from,
        "timestep": timestep,
        "masses": masses,
        "seed": seed,
        "lmp": lmp,
    }
    with one_line_for(FitError, OSError):
        settings, directory = make_request(source, output, given)
        verdict = run_fit(settings, directory)
    typer.echo(f"{verdict}\n{directory / 'report.html'}")
    if verdict.status:
        raise typer.Exit(verdict.status)
