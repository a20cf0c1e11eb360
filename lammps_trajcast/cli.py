"""The command line: `lammps-trajcast` and the names of its commands.

Nothing heavy is imported before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from lammps_trajcast.commands import adjusting, datasets, fitting, models, training, validating
from lammps_trajcast.commands.common import CommandWithLists

# Words that are not understood are an error as any other: 2 is the exit status of a check that has
# failed. BadParameter is what typer makes public of a family of errors, and below it in the family.
next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError").exit_code = 1  # type: ignore[attr-defined]

app = typer.Typer(
    name="lammps-trajcast",
    help="TrajCast models for LAMMPS: convert, describe, train and check them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_versions(asked: bool) -> None:
    if not asked:
        return
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from lammps_trajcast import __version__

    typer.echo(f"lammps-trajcast {__version__}, Python {platform.python_version()}")
    for package in ("lammps", "torch", "numpy", "mpi4py"):
        try:
            typer.echo(f"{package} {version(package)}")
        except PackageNotFoundError:
            typer.echo(f"{package} is not installed")
    raise typer.Exit


@app.callback()
def _every_command(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_tell_versions,
            is_eager=True,
            help="Tell the versions, for a report of a fault, and exit.",
        ),
    ] = False,
) -> None:
    from lammps_trajcast.warning_filters import not_fatal_in_children

    # Plots are files here. A notebook hands its own way of drawing on to the programs it starts,
    # and Matplotlib cannot be imported where that is not installed.
    os.environ["MPLBACKEND"] = "agg"
    context.with_resource(not_fatal_in_children())


# In the order of --help.
_COMMANDS: dict[str, Callable[..., None]] = {
    "fit": fitting.fit,
    "convert": models.convert,
    "info": models.info,
    "add-bounds": models.add_bounds,
    "add-energy": models.add_energy,
    "clamp-speed": models.clamp_speed,
    "dataset": datasets.dataset,
    "record": datasets.record,
    "label": datasets.label,
    "baseline": datasets.baseline,
    "train": training.train,
    "validate": validating.validate,
    "equipartition": adjusting.equipartition,
    "match-moments": adjusting.match_moments,
    "validation-table": validating.validation_table,
}
# Those with options that take a list of words.
_WITH_LISTS = ("fit", "convert", "dataset", "record")

for _name, _function in _COMMANDS.items():
    _class = CommandWithLists if _name in _WITH_LISTS else TyperCommand
    app.command(name=_name, cls=_class)(_function)

# Names of the first release, which go with the one after the next.
_OLD_NAMES: dict[str, Callable[..., None]] = {
    "limits": models.add_bounds,
    "limit-speed": models.clamp_speed,
    "equalize": adjusting.equipartition,
    "balance": adjusting.match_moments,
}


def _deprecated(old: str, function: Callable[..., None]) -> Callable[..., None]:
    new = function.__name__.replace("_", "-")

    @functools.wraps(function)
    def command(**options: Any) -> None:
        typer.echo(
            f"WARNING: '{old}' is deprecated: write 'lammps-trajcast {new}' instead", err=True
        )
        function(**options)

    return command


for _old, _function in _OLD_NAMES.items():
    app.command(name=_old, hidden=True)(_deprecated(_old, _function))


def main() -> None:
    """The program: an error that nobody foresaw ends with a line that says what to do about it."""
    try:
        app()
    except Exception as error:
        traceback.print_exc()
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        typer.echo(
            f"ERROR: {said}: this is a fault of lammps-trajcast; please report it with the lines "
            "above and what 'lammps-trajcast --version' says",
            err=True,
        )
        sys.exit(1)
