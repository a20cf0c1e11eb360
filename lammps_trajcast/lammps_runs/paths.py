"""File names that LAMMPS commands can hold."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from lammps_trajcast.lammps_runs.errors import LaunchError

# Names that a LAMMPS command takes as they are: no blanks, quotes, variables, comments, no
# wildcards of dump files, and no letters beyond ASCII, for which it puts others.
PLAIN = re.compile(r"[A-Za-z0-9_./+=@:,-]+")


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

        Raises:
            LaunchError: the directory for temporary files has no plain path either.
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
