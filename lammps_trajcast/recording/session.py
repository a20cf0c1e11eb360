"""A running LAMMPS that is told what to do line by line, and what it says about itself."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lammps_trajcast import launch
from lammps_trajcast.data.layout import DatasetError

MARK = "lammps-trajcast: done"
# Seconds of silence after which LAMMPS is asked whether it waits for commands, and after which the
# user is told.
ASK_AFTER, TELL_AFTER = 5.0, 600.0


def lammps_command(given: str | None) -> list[str]:
    """Return the words that start LAMMPS: those given, else the `lmp` of this environment.

    Raises DatasetError if there is no such program.
    """
    try:
        return launch.lammps_words(given)
    except launch.LaunchError as error:
        raise DatasetError(str(error)) from None


class LammpsSession:
    """LAMMPS reading commands from a pipe. A context manager: leaving it ends LAMMPS.

    Args:
        command: words that start LAMMPS.
        variables: index variables, as with -var.
        log: file for everything that LAMMPS prints.
        lock: descriptor of a lock that LAMMPS shall hold as well.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: dict[str, str],
        log: Path,
        lock: int | None = None,
    ) -> None:
        words = [*command, "-log", "none", "-echo", "screen"]
        for name, value in variables.items():
            words += ["-var", name, value]
        self._log_path = log
        self._log = log.open("w")
        self._number = 0
        self._unread = b""
        self._process = launch.start(
            words, stdin=subprocess.PIPE, pass_fds=() if lock is None else (lock,)
        )

    def __enter__(self) -> LammpsSession:
        return self

    def __exit__(self, *_: object) -> None:
        launch.end(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # unsent commands to a LAMMPS that has ended, or a full disk
                continue

    def run(self, commands: Sequence[str]) -> list[str]:
        """Carry out commands; returns the lines that LAMMPS printed meanwhile.

        Raises DatasetError with what LAMMPS says if it stops, or if it no longer gets what it is
        sent.
        """
        return [line for command in commands for line in self._carry_out(command)]

    def _carry_out(self, command: str) -> list[str]:
        """Send one command and wait for its end.

        One at a time: LAMMPS has read a command whole before it carries it out, so that nothing
        but the mark after it can get lost when something empties the standard input of LAMMPS, as
        a shell command or Python code of the script may do. LAMMPS would then wait for commands
        and this program for the mark. A question that is answered before the mark shows it, however
        long the command takes. A question that LAMMPS had read ahead is lost with the mark: it is
        asked again, after twice the time.
        """
        self._number += 1
        mark = f"{MARK} {self._number}"
        again = f"{mark} and waiting"
        self._send(command, f'print "{mark}"')
        lines: list[str] = []
        silence, patience, asked = 0.0, ASK_AFTER, False
        while True:
            line = self._read_line()
            if line is None:
                silence += ASK_AFTER
                if self._process.poll() is not None:
                    break
                # Whatever printed the question was not LAMMPS, which answers at once.
                if asked and f'print "{again}"' in lines:
                    raise self._lost(command)
                if silence >= patience:
                    self._send(f'print "{again}"')
                    patience, asked = 2.0 * patience, True
                if silence % TELL_AFTER < ASK_AFTER:
                    tqdm.write(
                        f"LAMMPS has printed nothing for {silence / 60:.0f} min (its output: "
                        f"{self._log_path})",
                        file=sys.stderr,
                    )
                continue
            silence = 0.0
            if line == "":
                break
            line = line.rstrip()
            if line == mark:
                return lines
            if line == again:
                raise self._lost(command)
            # Late answers are no output.
            if not line.startswith(MARK):
                lines.append(line)
        raise self._stopped(lines)

    def _send(self, *commands: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n".join(commands) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why it ended is in what it printed

    def _read_line(self) -> str | None:
        """The next line, with its end; empty at the end of the output, None if LAMMPS is silent."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], ASK_AFTER)[0]:
                return None
            read = os.read(pipe, 1 << 16)
            self._unread += read
            if not read:
                break
        line, end, self._unread = self._unread.partition(b"\n")
        text = (line + end).decode(errors="replace")
        self._log.write(text)
        self._log.flush()
        return text

    def _lost(self, command: str) -> DatasetError:
        return DatasetError(
            f"LAMMPS has carried out '{command}' and lost what was sent after it: something in the "
            "script reads or empties the standard input of LAMMPS (a shell command, Python code); "
            f"leave it out, or give it </dev/null (the output of LAMMPS: {self._log_path})"
        )

    def _stopped(self, lines: list[str]) -> DatasetError:
        printed = [line.strip() for line in lines if line.strip()]
        errors = [line for line in printed if line.startswith("ERROR")]
        if self._process.wait() == 0:
            reason = "it ended; a script for record must not 'quit'"
        else:
            reason = errors[0] if errors else (printed or ["it printed nothing"])[-1]
        return DatasetError(f"LAMMPS stopped: {reason} (its output: {self._log_path})")


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
