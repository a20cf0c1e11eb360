"""What a running LAMMPS says about itself."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lammps_trajcast.lammps_runs.errors import FailedRunError
from lammps_trajcast.lammps_runs.log import number_of_types
from lammps_trajcast.lammps_runs.session import LammpsSession


@dataclass(frozen=True)
class Fix:
    """A fix that an input script has left on.

    Attributes:
        commands: the fix command, words after substitution, and fix_modify commands after it.
    """

    name: str
    style: str
    group: str
    commands: list[str]


@dataclass(frozen=True)
class State:
    """What LAMMPS says about itself at the end of an input script.

    Attributes:
        units: its unit style.
        step: current MD step.
        timestep: in its units.
        types: number of atom types.
        fixes: in their order.
        dumps: names.
    """

    units: str
    step: int
    timestep: float
    types: int
    fixes: list[Fix]
    dumps: list[str]


def read_state(session: LammpsSession, echoed: list[str]) -> State:
    """Ask LAMMPS for its state.

    Args:
        session: LAMMPS at the end of the input script.
        echoed: what it printed while it read the script.

    Raises:
        FailedRunError: there is no simulation box.
    """
    text = "\n".join(session.run(["info system fixes dumps"]))
    types = number_of_types(text)
    units = re.search(r"^Units\s+= (\S+)", text, re.MULTILINE)
    step = re.search(r"^Current timestep number = (\d+)", text, re.MULTILINE)
    size = re.search(r"^Current timestep size = (\S+)", text, re.MULTILINE)
    if not (types and units and step and size):
        raise FailedRunError(
            "LAMMPS has no simulation box at the end of the script; make one in it with read_data, "
            "read_restart or create_box"
        )
    fixes = [
        Fix(name, style, group, _commands_of(name, echoed)) for name, style, group in fixes_in(text)
    ]
    return State(
        units=units[1],
        step=int(step[1]),
        timestep=float(size[1]),
        types=types,
        fixes=fixes,
        dumps=re.findall(r"^Dump\[\s*\d+\]:\s*(\S+),\s+file = ", text, re.MULTILINE),
    )


def fixes_in(text: str) -> list[tuple[str, str, str]]:
    """Return name, style and group of each fix in what `info fixes` prints."""
    return re.findall(
        r"^Fix\[\s*\d+\]:\s*(\S+),\s+style = (\S+),\s+group = (\S+)", text, re.MULTILINE
    )


def _commands_of(name: str, echoed: list[str]) -> list[str]:
    """The last command that made a fix, and what modified it afterward.

    LAMMPS echoes a line as it stands and again after each substitution of a variable.
    """
    commands: list[str] = []
    for line in echoed:
        words = line.split("#")[0].split()
        if len(words) < 3 or words[1] != name or any("$" in word for word in words):
            continue
        if words[0] == "fix":
            commands = [" ".join(words)]
        elif words[0] == "fix_modify" and commands:
            commands.append(" ".join(words))
    return commands
