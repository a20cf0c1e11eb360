"""What a training tells while it runs: to a terminal, to a log file, or to a program."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TextIO, TypeVar

Item = TypeVar("Item")

# Seconds between updates of the line on a terminal, and between signs of life in a log file.
ON_TERMINAL, IN_FILE = 0.5, 5.0
# Signs of life in a log file become rarer: so much of the time that has passed, but never more.
SHARE_OF_TIME, RAREST = 0.1, 60.0


@dataclass(frozen=True)
class Status:
    """Where a training stands.

    Attributes:
        stage: what is done right now, as in "reading the data set".
        done, total: how much of the stage is done, in parts of any kind; 0 where not known.
        step: optimizer steps done.
        last_step: how many there will be, None while that is not known.
        last_step_is: whether that is "exact", or "at most", or "at least" so many.
        learning_rate_falls: whether the last part of the training, with a falling rate, has begun.
        seconds: wall time of the training, all starts together.
        seconds_per_step: None before it was measured.
        seconds_left: until `last_step`, None where that or the time per step is not known.
        errors: newest validation errors, RMSE over rms: "displacement", "velocity".
        baseline: errors of the best map without a network: "displacement", "velocity".
        message: a line that is to be kept, in most calls None.
        outcome: at the end, whether the error had stopped falling.
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    step: int = 0
    last_step: int | None = None
    last_step_is: Literal["exact", "at most", "at least"] = "exact"
    learning_rate_falls: bool = False
    seconds: float = 0.0
    seconds_per_step: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    message: str | None = None
    outcome: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, s."""
        if self.last_step is None or self.seconds_per_step is None:
            return None
        return max(0, self.last_step - self.step) * self.seconds_per_step


Observer = Callable[[Status], None]


class ProgressReporter:
    """Keeps the status of a training and tells it to observers, each time anything changes."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)
        self.status = Status()

    def tell(self, **changes: object) -> None:
        """Change fields of the status and tell it."""
        self.status = replace(self.status, message=None, **changes)  # type: ignore[arg-type]
        for observer in self._observers:
            observer(self.status)

    def stage(self, name: str) -> None:
        """Say what is done from now on."""
        self.tell(stage=name, done=0, total=0)

    def line(self, text: str) -> None:
        """Say something that is to be kept."""
        status = replace(self.status, message=text)
        for observer in self._observers:
            observer(status)

    def part(self, done: int, total: int) -> None:
        """Say how much of the stage is done."""
        self.tell(done=done, total=total)

    def counted(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Yield items, and say of each that it is done."""
        for number, item in enumerate(items):
            yield item
            self.part(number + 1, total)


class Counted:
    """An iterable of known length that tells its progress each time it is gone through."""

    def __init__(self, items: Any, reporter: ProgressReporter) -> None:
        self._items = items
        self._teller = reporter

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return self._teller.counted(self._items, len(self._items))


def duration(seconds: float) -> str:
    """Return a time as people say it: 48 s, 12 min, 3 h 20 min."""
    if seconds < 90.0:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


def describe(status: Status) -> str:
    """Return one line about a status."""
    if status.total and status.stage != "training":
        return f"{status.stage}: {status.done} of {status.total}"
    if status.stage != "training":
        return status.stage
    about = {"exact": "", "at most": "at most ", "at least": "at least "}[status.last_step_is]
    of = "" if status.last_step is None else f" of {about}{status.last_step:,}"
    words = [f"step {status.step:,}{of}"]
    if status.seconds_per_step is not None:
        words.append(f"{status.seconds_per_step:.2g} s per step")
    if status.seconds_left is not None:
        words.append(f"{about}{duration(status.seconds_left)} left")
    if status.learning_rate_falls:
        words.append("learning rate going down")
    if status.errors:
        words.append("errors " + describe_errors(status.errors))
    return ", ".join(words)


def describe_errors(errors: dict[str, float]) -> str:
    """Return errors as in "displacement 0.0123, velocity 0.0234"."""
    names = ("displacement", "velocity")
    return ", ".join(f"{name} {errors[name]:.4f}" for name in names if name in errors)


class Console:
    """An observer that writes to a terminal, in one line that changes, or to a log file, in lines.

    Args:
        stream: where to; default: standard error.
        terminal: whether that is one; default: as the stream says.
        clock: returns seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty() if terminal is None else terminal
        self._clock = clock
        self._lock = threading.Lock()
        self._status = Status()
        self._began = self._told = self._stage_began = clock()
        self._width = 0  # of the line that is on the terminal

    def __call__(self, status: Status) -> None:
        """Write a message or a new stage at once, anything else from time to time."""
        with self._lock:
            new_stage = status.stage != self._status.stage
            self._status = status
            if new_stage:
                self._stage_began = self._clock()
            if status.message is not None:
                self._write(status.message, keep=True)
            elif new_stage and status.stage not in ("training", "validating"):
                self._write(describe(status))
            elif self._clock() - self._told >= self._interval():
                self._write(describe(status))

    def tick(self) -> None:
        """Give a sign of life if there was none for long."""
        with self._lock:
            now = self._clock()
            if self._status.stage and now - self._told >= self._interval():
                passed = duration(now - self._stage_began)
                training = self._status.stage == "training"
                self._write(
                    describe(self._status) + ("" if training else f" ({passed})"),
                )

    def _interval(self) -> float:
        if self._terminal:
            return ON_TERMINAL
        return max(IN_FILE, min(RAREST, SHARE_OF_TIME * (self._clock() - self._began)))

    def _write(self, text: str, keep: bool = False) -> None:
        self._told = self._clock()
        if self._terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = 0 if keep else len(text)
        else:
            self._stream.write(text)
        if keep or not self._terminal:
            self._stream.write("\n")
        self._stream.flush()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Meanwhile :meth:`tick` is called every second, by a thread."""
        end = threading.Event()

        def beat() -> None:
            while not end.wait(1.0):
                self.tick()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            with self._lock:
                if self._terminal and self._width:
                    # The next line that anyone writes begins where this one did.
                    self._stream.write("\r" + " " * self._width + "\r")
                    self._stream.flush()
                    self._width = 0
