"""Lines of input scripts that more than one command writes."""

from __future__ import annotations

import re

DUMP = "id type xu yu zu vx vy vz"
"""Columns of the dumps that are read as trajectories."""

READ = "x y z vx vy vz wrapped no"
"""What read_dump takes from such a dump."""


def dump_lines(name: str, every: int, file: str | None = None) -> str:
    """Return the commands for a text dump of a trajectory into the directory ``out``."""
    return join(
        f"dump            {name} all custom {every} ${{out}}/{file or name + '.dump'} {DUMP}",
        f"dump_modify     {name} sort id format float %.10g",
    )


def join(*parts: str) -> str:
    """Return the parts that are not empty, a line or more each, as one text."""
    return re.sub(r"\n+", "\n", "\n".join(part for part in parts if part)).strip("\n") + "\n"


def commands_in(text: str) -> list[list[str]]:
    """Return the words of each command of an input script, without comments and empty lines.

    A line that ends with & is continued. Variables and quotes stay as they are.
    """
    whole = re.sub(r"&[ \t\r]*\n", "", text)
    found = (line.split("#")[0].split() for line in whole.splitlines())
    return [words for words in found if words]
