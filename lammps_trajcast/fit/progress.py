"""One display for all stages: the stage and the time left, below what has been found."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

# Seconds between refreshes on a terminal, and between lines in a file.
REFRESH, LINE_EVERY = 0.5, 30.0


class Progress:
    """Writes to one stream, on a terminal into one line, elsewhere a line every half a minute.

    Attributes:
        stages: number of stages as far as it is known.
        later: seconds that the stages after the present one will take, None if not known.
    """

    def __init__(
        self, limit: float, used: Callable[[], float], stream: TextIO | None = None
    ) -> None:
        """limit: seconds of the budget. used: gives the seconds used so far."""
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._limit, self._used = limit, used
        self._lock = threading.Lock()
        self._last_line = 0.0
        self._number, self._what, self._part = 0, "", ""
        self._begun, self._expected = 0.0, None  # type: float, float | None
        self._fraction: Callable[[], tuple[float, str]] | None = None
        self.stages = 0
        self.later: float | None = None

    @contextmanager
    def stage(
        self,
        what: str,
        expected: float | None = None,
        fraction: Callable[[], tuple[float, str]] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> Iterator[None]:
        """Show a stage while it goes on.

        Args:
            what: its name.
            expected: seconds that it will take, as far as is known.
            fraction: gives how much of it is done, and that in words.
            tick: called every now and then, in the thread of the display.
        """
        self._number += 1
        self._what, self._begun, self._expected = what, time.monotonic(), expected
        self._fraction = fraction
        self._last_line = 0.0
        done = threading.Event()

        def show() -> None:
            while not done.wait(REFRESH):
                if tick is not None:
                    tick()
                self._show()

        self._show()
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._wipe()

    def skip(self, what: str) -> None:
        """Count a stage that is finished already."""
        self._number += 1
        self.tell(f"{what}: finished before")

    def tell(self, text: str) -> None:
        """Write a line that stays: what was found."""
        with self._lock:
            self._wipe_line()
            self._stream.write(f"  {text}\n")
            self._stream.flush()

    def _show(self) -> None:
        now = time.monotonic()
        if not self._terminal and now - self._last_line < LINE_EVERY:
            return
        line = self.line(now)
        with self._lock:
            self._last_line = now
            if self._terminal:
                self._wipe_line()
                self._stream.write(line[:160])
            else:
                self._stream.write(line + "\n")
            self._stream.flush()

    def line(self, now: float) -> str:
        """The line at a time."""
        passed = now - self._begun
        words = [f"[{self._number}/{max(self.stages, self._number)}] {self._what}"]
        left = None if self._expected is None else max(self._expected - passed, 0.0)
        if self._fraction is not None:
            share, text = self._fraction()
            if text:
                words.append(text)
            if share > 0.02:
                left = passed * (1.0 - share) / share
        whole = max(self._limit - self._used(), 0.0)
        if left is not None and self.later is not None:
            words.append(f"{in_words(min(left + self.later, whole))} left")
        else:
            words.append(f"at most {in_words(whole)} left")
        return " | ".join(words)

    def _wipe(self) -> None:
        with self._lock:
            self._wipe_line()

    def _wipe_line(self) -> None:
        if self._terminal:
            self._stream.write("\r\x1b[K")


def in_words(seconds: float) -> str:
    """A duration: 45 s, 12 min, 1.5 h."""
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    if seconds < 5400.0:
        return f"{seconds / 60.0:.0f} min"
    return f"{seconds / 3600.0:.1f} h"
