"""CPU time of a process with all its descendants."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_time(process: int) -> float:
    """CPU time, user and system, of a process and of all its descendants, s.

    NaN where the system has no /proc.
    """
    found: dict[int, tuple[int, int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        # Of itself and of those whose end it has waited for: proc_pid_stat(5).
        found[int(stat.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    if process not in found:
        return float("nan")
    family = {process}
    while True:
        more = {pid for pid, (parent, _) in found.items() if parent in family} - family
        if not more:
            break
        family |= more
    return sum(found[pid][1] for pid in family) / os.sysconf("SC_CLK_TCK")
