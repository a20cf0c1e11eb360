"""Warnings stay warnings, whatever PYTHONWARNINGS and -W say.

With an `error` filter the deprecation of a function somewhere in a library ends a run of days. Such
filters are for whoever tests a program; a run and a command show the warning and go on. The filters
of the process that a fix runs in are its owner's: they are changed for the time of a call only, and
only if one of them is an `error` filter.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def not_fatal() -> Iterator[None]:
    """Meanwhile warnings are shown where they would be errors."""
    if not any(entry[0] == "error" for entry in warnings.filters):
        yield
        return
    with warnings.catch_warnings():
        before = list(warnings.filters)
        warnings.resetwarnings()
        for entry in before:
            action, message, category, module, line = entry
            shown: Any = "default" if action == "error" else action
            kind: Any = category
            warnings.filterwarnings(
                shown, _pattern(message), kind, _pattern(module), line, append=True
            )
        yield


@contextmanager
def not_fatal_in_children() -> Iterator[None]:
    """As :func:`not_fatal`, and for Python programs that this one starts meanwhile."""
    options, variable = list(sys.warnoptions), os.environ.get("PYTHONWARNINGS")
    sys.warnoptions[:] = map(_shown, options)
    if variable is not None:
        os.environ["PYTHONWARNINGS"] = ",".join(map(_shown, variable.split(",")))
    try:
        with not_fatal():
            yield
    finally:
        sys.warnoptions[:] = options
        if variable is not None:
            os.environ["PYTHONWARNINGS"] = variable


def _pattern(matcher: Any) -> str:
    """What filterwarnings takes for a message or a module of an entry of warnings.filters."""
    if matcher is None:
        return ""
    # Those that Python itself begins with are names instead of patterns.
    return rf"{re.escape(matcher)}\Z" if isinstance(matcher, str) else str(matcher.pattern)


def _shown(option: str) -> str:
    """An option of -W; actions may be abbreviated."""
    action, colon, rest = option.partition(":")
    is_error = action.strip() and "error".startswith(action.strip().lower())
    return f"default{colon}{rest}" if is_error else option
