"""Which stages are finished, with what they found: OUT/state.json."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lammps_trajcast.fit.config import FitError, write_whole

# Seconds between two notes of the time used, which a kill may lose.
NOTE_EVERY = 10.0


class State:
    """Results of finished stages, each under a digest of what it depends on, and the time used.

    Attributes:
        used: seconds of earlier calls.
    """

    def __init__(self, path: Path) -> None:
        """Read the file if it is there.

        Raises:
            FitError: the file is damaged.
        """
        self.path = path
        self._stages: dict[str, dict[str, Any]] = {}
        self.used = 0.0
        if path.is_file():
            try:
                content = json.loads(path.read_text())
                self._stages = dict(content["stages"])
                self.used = float(content["seconds"])
            except (ValueError, KeyError, TypeError, OSError):
                raise FitError(
                    f"{path}: damaged; delete it, and finished runs are found again by themselves"
                ) from None
        self._begun = time.monotonic()
        self._noted = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of all calls together."""
        return self.used + time.monotonic() - self._begun

    @property
    def finished(self) -> list[str]:
        """Names of the finished stages."""
        return list(self._stages)

    def result(self, stage: str, depends: Any) -> dict[str, Any] | None:
        """What a stage found, if it is finished and depended on the same."""
        known = self._stages.get(stage)
        if known is None or known["digest"] != digest(depends):
            return None
        found: dict[str, Any] = known["result"]
        return found

    def finish(self, stage: str, depends: Any, result: Mapping[str, Any]) -> None:
        """Note that a stage is finished; raises OSError."""
        self._stages[stage] = {"digest": digest(depends), "result": dict(result)}
        self.save()

    def save(self) -> None:
        """Write the file."""
        content = {"seconds": round(self.elapsed, 1), "stages": self._stages}
        write_whole(self.path, json.dumps(content, indent=1) + "\n")
        self._noted = self.elapsed

    def note_time(self) -> None:
        """Write the time used, every now and then."""
        if self.elapsed - self._noted > NOTE_EVERY:
            self.save()


def digest(content: Any) -> str:
    """A digest of what JSON can hold."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
