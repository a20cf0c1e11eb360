"""Figures with a verdict, and the curves that they come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Check:
    """One figure.

    value:      what is judged.
    unit:       "%" shows shares as per cent.
    limit:      what it may be at most (or at least), None if it is only reported.
    at_least:   whether the limit is a lower one.
    reference, model: what the value comes from, in words.
    noise:      how far the value goes for reasons of statistics alone, None if not known.
    """

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    reference: str = ""
    model: str = ""
    noise: float | None = None

    @property
    def passed(self) -> bool | None:
        """None if the figure is not judged; a value that is no number fails."""
        if self.limit is None:
            return None
        if not math.isfinite(self.value):
            return False
        return bool(self.value >= self.limit if self.at_least else self.value <= self.limit)

    @property
    def verdict(self) -> str:
        return {True: "pass", False: "FAIL", None: "not judged"}[self.passed]

    def text(self, value: float | None) -> str:
        """A value with its unit; a dash for None."""
        if value is None:
            return "–"
        if self.unit == "%":
            return f"{100.0 * value:.3g} %"
        return f"{value:.3g} {self.unit}".strip()

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no infinities."""

        def number(value: float | None) -> float | None:
            return float(value) if value is not None and math.isfinite(value) else None

        return {
            "name": self.name,
            "value": number(self.value),
            "unit": "share" if self.unit == "%" else self.unit,
            "limit": number(self.limit),
            "limit_is": "least" if self.at_least else "most",
            "noise": number(self.noise),
            "passed": self.passed,
            "reference": self.reference,
            "model": self.model,
        }


@dataclass(frozen=True)
class Plot:
    """A figure and what is to be seen on it. slug: name of its file."""

    slug: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Part:
    """A chapter of the report."""

    title: str
    text: str
    checks: list[Check] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def compare_curves(
    name: str,
    reference: Blocks,
    model: Blocks,
    scale: float,
    tolerance: float | None,
    spreads: float,
) -> Check:
    """Sum of |model - reference| over `scale`, against a tolerance or the reference's own spread.

    The spread is the mean distance of a block of the reference from the mean of its other blocks;
    the curve passes within `spreads` times that, too. Where that would excuse anything, nothing is
    judged.
    """
    own = reference.own_distance(scale)
    too_short = spreads * own >= 1.0
    limit = None if tolerance is None or too_short else max(tolerance, spreads * own)
    return Check(
        name,
        value=reference.distance(model.mean, scale),
        unit="%",
        limit=limit,
        reference=_scatter(reference, scale) + (": blocks too short" if too_short else ""),
        model=_scatter(model, scale),
        noise=own / math.sqrt(len(reference.values)) if own else None,
    )


def _scatter(curve: Blocks, scale: float) -> str:
    if len(curve.values) < 2:
        return ""
    return f"block from the others {100.0 * curve.own_distance(scale):.3g} %"


def relative(name: str, reference: Blocks, model: Blocks, unit: str, limit: float | None) -> Check:
    """|model / reference - 1| of a number."""
    known, found = float(reference.mean), float(model.mean)
    noise = math.hypot(float(reference.error), float(model.error)) / abs(known) if known else None
    return Check(
        name,
        value=abs(found / known - 1.0) if known else float("inf"),
        unit="%",
        limit=limit,
        reference=with_error(reference, unit),
        model=with_error(model, unit),
        noise=noise,
    )


def with_error(number: Blocks, unit: str) -> str:
    """Mean and standard error of a number."""
    return f"{float(number.mean):.4g} ± {float(number.error):.2g} {unit}".strip()
