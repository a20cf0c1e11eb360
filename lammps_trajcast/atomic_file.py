"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write beside ``path``, whose place it takes at the end.

    After an error, a full disk or a kill, ``path`` is what it was. Two processes that write the
    same file have files of their own; the last one stays.

    Raises:
        OSError: the directory or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_overs(path)
    partial = path.with_name(f"{path.name}.{_machine()}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_left_overs(path: Path) -> None:
    """Remove what processes of this machine that were killed have left beside the file."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.{_machine()}.*.part"):
        writer = partial.suffixes[-2][1:]
        if writer.isdecimal() and not Path("/proc", writer).exists():
            partial.unlink(missing_ok=True)


def _machine() -> str:
    """The name of this machine, without dots; several may share a directory."""
    return os.uname().nodename.partition(".")[0]
