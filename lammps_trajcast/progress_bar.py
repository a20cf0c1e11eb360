"""A progress bar that is one line on a terminal, and a few lines in a file."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm
from typing_extensions import override

# Seconds between lines in a file.
LINE_EVERY = 30.0


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """As tqdm, without carriage returns where the stream is no terminal."""

    def __init__(self, **options: Any) -> None:
        """Take tqdm's options; they cannot be given by place."""
        stream = options.get("file") or sys.stderr
        self._in_lines = not stream.isatty()
        self._last_line = -LINE_EVERY
        super().__init__(**options)

    @override
    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self._in_lines:
            super().display(msg, pos)
            return
        now = time.monotonic()
        complete = self.total is not None and self.n >= self.total
        if now - self._last_line < LINE_EVERY and not complete:
            return
        # The last line once: tqdm shows it again when it is closed.
        self._last_line = float("inf") if complete else now
        if not complete or not getattr(self, "_said_all", False):
            self._said_all = complete
            self.fp.write(f"{self if msg is None else msg}\n")
            self.fp.flush()

    @override
    def close(self) -> None:
        # tqdm would write an empty line.
        if self._in_lines:
            self.leave = None
            if not self.disable:
                self.display()
            self.disable = True
            return
        super().close()
