"""Running LAMMPS inputs once: what was finished with the same content is not run again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lammps_trajcast.child_processes import end, interruptible
from lammps_trajcast.lammps_runs.cpu_time import cpu_time
from lammps_trajcast.lammps_runs.errors import FailedRunError
from lammps_trajcast.lammps_runs.log import Loop, first_error, read_loops, step_of
from lammps_trajcast.lammps_runs.paths import PlainPaths
from lammps_trajcast.lammps_runs.program import lammps_command, start
from lammps_trajcast.lock import waiting_for

DONE = "done.json"
# Is told of a stage, of what is known of it in words, and of the seconds left of it, if known.
Observer = Callable[[str, str, float | None], None]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        key: of its content; whoever builds on this run takes it into his own.
        error: LAMMPS's message if the run failed, else empty.
        cpu: what CPU time LAMMPS and all that it started had taken at each line of thermodynamic
            output, s; empty if that was not asked for.
    """

    directory: Path
    key: str
    error: str = ""
    cpu: tuple[float, ...] = ()

    def loops(self) -> list[Loop]:
        """The runs in its log that came to their end."""
        return read_loops(self.directory / "log.lammps")


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
        """Find the program that runs LAMMPS.

        Args:
            directory: of all runs.
            home: where LAMMPS runs.
            command: starts LAMMPS; by default the `lmp` beside this Python.
            common: files given as variables to every input that has them.
            observe: is told of progress.

        Raises:
            LaunchError: there is no such program.
        """
        self.directory = directory
        self.home = home
        self.common = dict(common or {})
        self.observe = observe
        self.command = lammps_command(command)

    def run(
        self,
        name: str,
        text: str,
        variables: Mapping[str, Path] | None = None,
        after: Sequence[str] = (),
        may_fail: bool = False,
        clock: bool = False,
    ) -> FinishedRun:
        """Run an input unless it has been run before; a failed run is run again.

        Args:
            name: begins the name of its directory and labels the progress bar.
            text: the input.
            variables: files given to LAMMPS as variables, besides `out`.
            after: keys of what it depends on: files, earlier runs.
            may_fail: an error of LAMMPS is a result like others, and not run again.
            clock: whether CPU times are taken.

        Returns:
            The run, with `error` if LAMMPS failed.

        Raises:
            LaunchError: a file has a name that LAMMPS cannot be given.
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
    def _finished(name: str, place: Path, key: str) -> FinishedRun | None:
        record = place / DONE
        if not record.is_file():
            return None
        done = json.loads(record.read_text())
        if done.get("key") != key:
            return None
        tqdm.write(f"{name}: finished before, taken from {place.name}", file=sys.stderr)
        return FinishedRun(place, key, done.get("error", ""), tuple(done.get("cpu", ())))

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
    ) -> FinishedRun:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "in.lmp").write_text(text)
        common = {key: path for key, path in self.common.items() if f"${{{key}}}" in text}
        files = {"out": place, **common, **variables}
        error, cpu = "", list[float]()
        try:
            with PlainPaths() as paths, interruptible():
                words = [
                    word for key, path in files.items() for word in ("-var", key, paths.of(path))
                ]
                self._execute(name, place, words, _steps_of(text), lock, *([cpu] if clock else []))
        except FailedRunError as failure:
            error = str(failure)
        # A process that was killed says nothing of the input.
        if not error or (may_fail and error.startswith("ERROR")):
            (place / DONE).write_text(json.dumps({"key": key, "error": error, "cpu": cpu}))
        return FinishedRun(place, key, error, tuple(cpu))

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
        process = start(
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
        message: str | None = None
        last_line = ""
        with tqdm(total=steps, desc=name, unit="step", disable=None) as bar:
            step = done = 0
            try:
                for line in process.stdout:
                    now = step_of(line)
                    if now is not None:
                        if cpu is not None:
                            cpu.append(cpu_time(process.pid))
                        # A command may set the step back.
                        more, step = max(now - step, 0), now
                        bar.update(more)
                        done += more
                        if self.observe is not None and more and steps:
                            left = max(steps - done, 0) * (time.monotonic() - begin) / done
                            self.observe(name, f"step {done} of {steps}", left)
                    else:
                        message = message or first_error([line])
                    last_line = line.strip() or last_line
            except BaseException:
                end(process)
                raise
        status = process.wait()
        if status != 0 or message:
            raise FailedRunError(
                message or f"LAMMPS ended with status {status}, last line: '{last_line}'"
            )


def file_key(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steps_of(text: str) -> int:
    return sum(int(steps) for steps in re.findall(r"^run\s+(\d+)", text, re.MULTILINE))
