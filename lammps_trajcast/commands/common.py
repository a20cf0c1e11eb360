"""What several commands need: options with lists of words, errors in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from lammps_trajcast.data.layout import Split
    from lammps_trajcast.data.statistics import Statistics


def _looks_like_element(word: str) -> bool:
    return re.fullmatch(r"[A-Za-z]{1,3}", word) is not None


def _looks_like_number(word: str) -> bool:
    return re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?", word, re.IGNORECASE) is not None


# Options that take as many words as there are, as LAMMPS commands do: --elements Si O.
LIST_OPTIONS: dict[str, Callable[[str], bool]] = {
    "--elements": _looks_like_element,
    "--species": _looks_like_element,
    "--masses": _looks_like_number,
    "--temperatures": _looks_like_number,
}


def spread_lists(words: list[str]) -> list[str]:
    """Repeat the name of a list option before each of its words, as click wants it."""
    spread: list[str] = []
    option: str | None = None
    for place, word in enumerate(words):
        if option is not None and LIST_OPTIONS[option](word):
            if words[place - 1] != option:
                spread.append(option)
        else:
            option = word if word in LIST_OPTIONS else None
        spread.append(word)
    return spread


class CommandWithLists(TyperCommand):
    """A command whose list options take as many words as there are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line, the lists among them spread for click."""
        return super().parse_args(ctx, spread_lists(args))


@contextmanager
def one_line_for(*errors: type[Exception]) -> Iterator[None]:
    """Errors that the user can do something about end the program with their message alone."""
    try:
        yield
    except errors as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from None
    except Exception as error:
        # A value that no check foresaw: what is wrong with it is known, though not which key it is
        # from. By name, as --help has to do without pydantic.
        if type(error).__name__ != "ValidationError":
            raise
        from lammps_trajcast.model.file import explain

        typer.echo(f"ERROR: {explain(error)}", err=True)  # type: ignore[arg-type]
        raise typer.Exit(1) from None


def warn_of_unseen(path: Path, statistics: Statistics, elements: list[str]) -> None:
    """Warn of elements of which the training split holds no atom."""
    from lammps_trajcast.data.statistics import unseen_elements

    for element in unseen_elements(statistics, elements):
        typer.echo(
            f"WARNING: {path}: the split 'train' holds no atom of {element}: a model trained on it "
            "will refuse this element",
            err=True,
        )


def describe_statistics(statistics: Statistics, split: Split) -> str:
    """Return two lines on how hot and how fast a split is."""
    return (
        f"  of split {split}: temperature {statistics.temperature:.1f} K, "
        f"rms displacement {statistics.rms_displacement:.4f} A, "
        f"rms velocity {statistics.rms_velocity:.6f} A/fs,\n"
        f"  largest displacement {statistics.max_displacement:.3f} A, "
        f"largest speed {statistics.max_speed:.5f} A/fs, "
        f"smallest distance {statistics.min_distance:.3f} A"
    )
