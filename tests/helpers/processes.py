"""Processes that a test has started, and those started by them."""

from __future__ import annotations

from pathlib import Path

PATIENCE = 3600.0  # seconds


def with_mark(mark: str) -> dict[int, str]:
    """The processes that have a mark in their environment, which children inherit."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():
                found[int(place.name)] = (place / "cmdline").read_bytes().decode()
        except OSError:
            continue
    return found
