"""A running LAMMPS that is told what to do line by line, and what it says about itself."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lammps_trajcast.data.layout import DatasetError

MARK = "lammps-trajcast: done"


def lammps_command(given: str | None) -> list[str]:
    """Return the words that start LAMMPS: those given, else the `lmp` of this environment.

    Raises DatasetError if there is no such program.
    """
    beside = Path(sys.executable).parent / "lmp"
    words = shlex.split(given) if given else [str(beside) if beside.exists() else "lmp"]
    if not words or shutil.which(words[0]) is None:
        raise DatasetError(
            f"--lmp {given or 'lmp'}: no such program; write the command that starts LAMMPS, "
            'e.g. --lmp "mpirun -np 4 lmp"'
        )
    return words


class LammpsSession:
    """LAMMPS reading commands from a pipe. A context manager: leaving it ends LAMMPS.

    Args:
        command: words that start LAMMPS.
        variables: index variables, as with -var.
        log: file for everything that LAMMPS prints.
    """

    def __init__(self, command: Sequence[str], variables: dict[str, str], log: Path) -> None:
        words = [*command, "-log", "none", "-echo", "screen"]
        for name, value in variables.items():
            words += ["-var", name, value]
        self._log_path = log
        self._log = log.open("w")
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def __enter__(self) -> LammpsSession:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # unsent commands to a LAMMPS that has ended, or a full disk
                continue

    def run(self, commands: Sequence[str]) -> list[str]:
        """Carry out commands; returns the lines that LAMMPS printed meanwhile.

        Raises DatasetError with what LAMMPS says if it stops.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write("\n".join([*commands, f'print "{MARK}"']) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why it ended is in what it printed
        lines: list[str] = []
        for line in self._process.stdout:
            self._log.write(line)
            if line.rstrip() == MARK:
                self._log.flush()
                return lines
            lines.append(line.rstrip("\n"))
        self._log.flush()
        printed = [line.strip() for line in lines if line.strip()]
        errors = [line for line in printed if line.startswith("ERROR")]
        if self._process.wait() == 0:
            reason = "it ended; a script for record must not 'quit'"
        else:
            reason = errors[0] if errors else (printed or ["it printed nothing"])[-1]
        raise DatasetError(f"LAMMPS stopped: {reason} (its output: {self._log_path})")


@dataclass(frozen=True)
class Fix:
    """A fix that an input script has left on.

    commands: the fix command, words after substitution, and fix_modify commands after it.
    """

    name: str
    style: str
    group: str
    commands: list[str]


@dataclass(frozen=True)
class State:
    """What LAMMPS says about itself at the end of an input script.

    units:    its unit style.
    step:     current MD step.
    timestep: in its units.
    types:    number of atom types.
    fixes:    in their order.
    dumps:    names.
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

    Raises DatasetError if there is no simulation box.
    """
    text = "\n".join(session.run(["info system fixes dumps"]))
    box = re.search(r"^Atoms\s+=\s+\d+,\s+types =\s+(\d+)", text, re.MULTILINE)
    units = re.search(r"^Units\s+= (\S+)", text, re.MULTILINE)
    step = re.search(r"^Current timestep number = (\d+)", text, re.MULTILINE)
    size = re.search(r"^Current timestep size = (\S+)", text, re.MULTILINE)
    if not (box and units and step and size) or box[1] == "0":
        raise DatasetError("the script makes no system; LAMMPS has no simulation box at its end")
    fixes = [
        Fix(name, style, group, _commands_of(name, echoed))
        for name, style, group in re.findall(
            r"^Fix\[\s*\d+\]:\s*(\S+),\s+style = (\S+),\s+group = (\S+)", text, re.MULTILINE
        )
    ]
    return State(
        units=units[1],
        step=int(step[1]),
        timestep=float(size[1]),
        types=int(box[1]),
        fixes=fixes,
        dumps=re.findall(r"^Dump\[\s*\d+\]:\s*(\S+),\s+file = ", text, re.MULTILINE),
    )


def _commands_of(name: str, echoed: list[str]) -> list[str]:
    """The last command that made a fix, and what modified it afterwards.

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
