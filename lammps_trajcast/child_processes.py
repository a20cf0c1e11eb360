"""Child processes that end with the process that has started them, and the ends of both."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

# Seconds from being asked to end to being killed.
PATIENCE = 10.0
PR_SET_PDEATHSIG = 1
# Environment variable in which a training tells the processes that it starts its process ID.
PARENT_VARIABLE = "LAMMPS_TRAJCAST_TRAINING"


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
    """End a program that leads a session of its own, and all that it has started."""
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
