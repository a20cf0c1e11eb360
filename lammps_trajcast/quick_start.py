"""Import e3nn so that LAMMPS starts in half the time.

One decorator in e3nn, ``torch.compiler.disable`` on a function that nobody compiles here, imports
torch's whole compiler; a part of e3nn that no network uses imports sympy; and every activation of a
network is integrated over a million random numbers, always the same ones.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _leave_alone(function: Any = None, *_: Any, **__: Any) -> Any:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    return decorate if function is None else function


# Makes Legendre polynomials with sympy, which the spherical harmonics of a vector do not need.
_USES_SYMPY = "e3nn.o3._angular_spherical_harmonics"


class _LaterSympy:
    """What ``from sympy import`` takes functions from that import it when they are called."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.functions.setdefault(name, functools.partial(self._call, name))

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        import sympy

        # First all that the module has of it, pi too: the calls that follow are sympy's own.
        module = sys.modules[_USES_SYMPY]
        for key, value in self.functions.items():
            if vars(module).get(key) is value:
                setattr(module, key, getattr(sympy, key))
        return getattr(sympy, name)(*arguments, **options)


@contextmanager
def _sympy_later() -> Iterator[None]:
    """Where sympy is not there yet, the module of e3nn that asks for it gets it later."""
    if "sympy" in sys.modules:
        yield
        return
    real, later = builtins.__import__, _LaterSympy()

    def quick(name: str, globals: Any = None, *rest: Any, **options: Any) -> Any:
        if name == "sympy" and globals is not None and globals.get("__name__") == _USES_SYMPY:
            return later
        return real(name, globals, *rest, **options)

    builtins.__import__ = quick
    try:
        yield
    finally:
        builtins.__import__ = real


def import_e3nn() -> None:
    """Import ``e3nn.o3`` without compiler and sympy, if they are not there, remember moments."""
    disable = torch.compiler.disable
    if "torch._dynamo" not in sys.modules:
        torch.compiler.disable = _leave_alone  # type: ignore[assignment]
    try:
        with _sympy_later():
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
