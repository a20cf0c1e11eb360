"""Import e3nn so that LAMMPS starts in half the time.

One decorator in e3nn, ``torch.compiler.disable`` on a function that nobody compiles here, imports
torch's whole compiler; and every activation of a network is integrated over a million random
numbers, always the same ones.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch


def _leave_alone(function: Any = None, *_: Any, **__: Any) -> Any:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    return decorate if function is None else function


def import_e3nn() -> None:
    """Import ``e3nn.o3`` without the compiler, if that is not there yet, and remember moments."""
    disable = torch.compiler.disable
    if "torch._dynamo" not in sys.modules:
        torch.compiler.disable = _leave_alone  # type: ignore[assignment]
    try:
        import e3nn.o3  # noqa: F401
        from e3nn.math import _normalize_activation
    finally:
        torch.compiler.disable = disable
    moment = _normalize_activation.moment

    @functools.cache
    def remembered(f: Any, n: int, dtype: Any, device: Any, default: Any) -> Any:
        return moment(f, n, dtype=dtype, device=device)

    def quick(f: Any, n: int, dtype: Any = None, device: Any = None) -> Any:
        return remembered(
            f, n, dtype or torch.get_default_dtype(), device, torch.get_default_device()
        )

    _normalize_activation.moment = quick


import_e3nn()
