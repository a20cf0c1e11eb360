"""How torch multiplies matrices of single precision: a setting of the process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


def _newer() -> list[Any]:
    """The places of the same setting from torch 2.9 on, one for each backend."""
    backends = sys.modules["torch"].backends
    places = (backends.cuda.matmul, backends.mkldnn.matmul)
    return [place for place in places if hasattr(place, "fp32_precision")]


class MatmulPrecision(NamedTuple):
    """The setting, and what a newer torch lets each of its backends do instead.

    torch does not say the one while the others differ from it.
    """

    name: str | None  # "highest", "high" or "medium"; None: not known
    backends: tuple[str, ...] | None  # None: as a new process has them

    @classmethod
    def now(cls) -> MatmulPrecision:
        """That of the process, which has imported torch."""
        return cls(_name(), tuple(place.fp32_precision for place in _newer()))

    @classmethod
    def of_a_new_process(cls) -> MatmulPrecision:
        """What torch begins with."""
        return cls("highest", None)

    def apply(self) -> None:
        """Make it that of the process."""
        torch = sys.modules["torch"]
        places = _newer()
        if self.name is None or self.name != _name():
            torch.set_float32_matmul_precision(self.name or "highest")
        for place, value in zip(places, self.backends or ("none",) * len(places), strict=True):
            if place.fp32_precision != value:
                place.fp32_precision = value


@contextmanager
def highest_matmul_precision() -> Iterator[None]:
    """Within this context products are of single precision throughout, "highest" in torch."""
    if _name() == "highest":
        yield
        return
    before = MatmulPrecision.now()
    sys.modules["torch"].set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        before.apply()


def _name() -> str | None:
    try:
        name: str = sys.modules["torch"].get_float32_matmul_precision()
    except RuntimeError:
        return None
    return name
