"""Import e3nn so that LAMMPS starts in half the time.

One decorator in e3nn, ``torch.compiler.disable`` on a function that nobody compiles here, imports
torch's whole compiler; a part of e3nn that no network uses imports sympy; and every activation of a
network is integrated over a million random numbers, always the same ones.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch


def _leave_alone(function: Any = None, *_: Any, **__: Any) -> Any:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    return decorate if function is None else function


class _LaterSympy(ModuleType):
    """In the place of sympy while e3nn is imported: its functions import it when they are called.

    ``e3nn.o3._angular_spherical_harmonics`` makes Legendre polynomials with it, which the spherical
    harmonics of a vector do not need.
    """

    def __init__(self) -> None:
        super().__init__("sympy")
        self.functions: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.functions.setdefault(name, functools.partial(self._call, name))

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        import sympy

        # First all that e3nn has of it, pi too: the calls that follow are sympy's own.
        for module in [m for n, m in sys.modules.items() if n.startswith("e3nn.o3")]:
            for key, value in self.functions.items():
                if vars(module).get(key) is value:
                    setattr(module, key, getattr(sympy, key))
        return getattr(sympy, name)(*arguments, **options)


@contextmanager
def _sympy_later() -> Iterator[None]:
    """Where sympy is not there yet, leave it out of what is imported meanwhile."""
    if "sympy" in sys.modules:
        yield
        return
    sys.modules["sympy"] = _LaterSympy()
    try:
        yield
    finally:
        del sys.modules["sympy"]


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
