"""A running LAMMPS that is told what to do line by line."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lammps_trajcast.child_processes import end
from lammps_trajcast.lammps_runs.errors import FailedRunError
from lammps_trajcast.lammps_runs.log import first_error
from lammps_trajcast.lammps_runs.program import start

MARK = "lammps-trajcast: done"
# Seconds of silence after which LAMMPS is asked whether it waits for commands, and after which the
# user is told.
ASK_AFTER, TELL_AFTER = 5.0, 600.0


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
        self._process = start(
            words, stdin=subprocess.PIPE, pass_fds=() if lock is None else (lock,)
        )

    def __enter__(self) -> LammpsSession:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # unsent commands to a LAMMPS that has ended, or a full disk
                continue

    def run(self, commands: Sequence[str]) -> list[str]:
        """Carry out commands.

        Args:
            commands: lines of an input script.

        Returns:
            The lines that LAMMPS printed meanwhile.

        Raises:
            FailedRunError: LAMMPS stopped or no longer reads what it is sent; the message is
                LAMMPS's own.
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
            # Answers that come late do not belong to the output.
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

    def _lost(self, command: str) -> FailedRunError:
        return FailedRunError(
            f"LAMMPS has carried out '{command}' and lost what was sent after it: something in the "
            "script reads or empties the standard input of LAMMPS (a shell command, Python code); "
            f"leave it out, or give it </dev/null (the output of LAMMPS: {self._log_path})"
        )

    def _stopped(self, lines: list[str]) -> FailedRunError:
        printed = [line.strip() for line in lines if line.strip()]
        if self._process.wait() == 0:
            reason = "it ended; the script must not 'quit': remove that command"
        else:
            reason = first_error(printed) or (printed or ["it printed nothing"])[-1]
        return FailedRunError(f"LAMMPS stopped: {reason} (its output: {self._log_path})")
