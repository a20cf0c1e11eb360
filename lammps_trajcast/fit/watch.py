"""How far the LAMMPS runs below a directory have come, from their files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path


def watch_runs(runs: Path) -> Callable[[], tuple[float, str]]:
    """A function that gives the name and the step of the newest run, for a progress display.

    Runs that are older than this call are those of earlier stages.
    """
    begun = time.time()

    def look() -> tuple[float, str]:
        try:
            changed = {path: path.stat().st_mtime for path in runs.glob("*/log.lammps")}
            log = max((path for path in changed if changed[path] >= begun), key=changed.__getitem__)
            text = log.read_text(errors="replace")
            script = (log.parent / "in.lmp").read_text()
        except (ValueError, OSError):
            return 0.0, ""
        wanted = sum(int(steps) for steps in re.findall(r"^run\s+(\d+)", script, re.MULTILINE))
        loops = re.findall(r"^Loop time of \S+ on \d+ procs for (\d+) steps", text, re.MULTILINE)
        done = sum(int(steps) for steps in loops)
        name = re.sub(r"-[0-9a-f]{10}$", "", log.parent.name)
        # How much of the stage that is, is not known from here.
        return 0.0, f"{name}: {min(100.0 * done / wanted, 100.0):.0f} %" if wanted > 100 else name

    return look


def watch_shards(directory: Path, wanted: int) -> Callable[[], tuple[float, str]]:
    """The same for a recording of so many shards."""

    def look() -> tuple[float, str]:
        done = len(list(directory.glob("*.h5")))
        return done / max(wanted, 1), f"{done} of {wanted} files"

    return look
