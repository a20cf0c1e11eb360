"""Imports of a start that spare the file system: on a cluster every rank makes them at once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def few_look_ups() -> Iterator[None]:
    """Within this context importing torch asks for half as many files.

    torch reads the source code of some of its functions while it is imported, and `inspect` looks
    up the real path of every module there is to find out which one a function is of: ten thousand
    look-ups. A function knows it by name.
    """
    if "torch" in sys.modules:
        yield
        return
    before = inspect.getmodule
    inspect.getmodule = _module_by_name
    try:
        yield
    finally:
        inspect.getmodule = before


def _module_by_name(object: Any, _filename: str | None = None) -> ModuleType | None:  # noqa: A002
    if inspect.ismodule(object):
        return object
    # Frames and code objects do not know; the lines of their file are found without it.
    return sys.modules.get(getattr(object, "__module__", None) or "")
