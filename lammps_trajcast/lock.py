"""One process at a time in a directory, or with a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm


class InUseError(Exception):
    """Another process is at work there; the message says which and what to do."""


@contextlib.contextmanager
def waiting_for(place: Path) -> Iterator[int]:
    """Wait until no other process is at work in a directory, which need not exist.

    Yields the descriptor of the lock, which a child process that inherits it holds as well. The
    system frees it when the last of them ends, however it ends. The lock lies beside the directory,
    which may be removed meanwhile.
    """
    with _lock(place.with_name(f"{place.name}.lock"), place.name, wait=True) as descriptor:
        yield descriptor


@contextlib.contextmanager
def alone_in(directory: Path, remedy: str) -> Iterator[int]:
    """Be the only process at work in a directory, which exists.

    Args:
        directory: the lock lies in it.
        remedy: what else the user can do than wait.

    Yields as :func:`waiting_for`. Raises InUseError if another process is at work there, OSError if
    the lock cannot be written.
    """
    with _lock(directory / ".lock", str(directory), wait=False, remedy=remedy) as descriptor:
        yield descriptor


@contextlib.contextmanager
def alone_with(file: Path, remedy: str) -> Iterator[int]:
    """Be the only process that writes a file; as :func:`alone_in`."""
    lock = file.with_name(f"{file.name}.lock")
    with _lock(lock, str(file), wait=False, remedy=remedy) as descriptor:
        yield descriptor


@contextlib.contextmanager
def _lock(path: Path, what: str, *, wait: bool, remedy: str = "") -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        # Not emptied by being opened: it says who holds it.
        with path.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise InUseError(
                        f"{what}: is in use by another process{_holder(lock)}; wait for its end, "
                        f"or {remedy}"
                    ) from None
                tqdm.write(f"{what}: another process runs it; waiting", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                # A file system without locks: as well as can be.
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                    raise
            if not _is_there(path, lock):
                # Whoever had it has removed it: a third process would not see this one.
                continue
            lock.truncate(0)
            lock.write(f"{os.getpid()} on {platform.node()}")
            lock.flush()
            try:
                yield lock.fileno()
            finally:
                path.unlink(missing_ok=True)
            return


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    text = lock.read(200).strip()
    return f" ({text})" if text else ""


def _is_there(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
