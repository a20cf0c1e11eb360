"""Figures with a verdict, and the curves that they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

# Two parts of the reference's blocks, by their numbers.
Split = tuple[Sequence[int], Sequence[int]]
HALF = "a half beside the whole"
# Standard errors within which a figure of the reference itself is what it should be.
CHANCE = 2.0


@dataclass(frozen=True)
class Own:
    """A figure of the reference itself: beside what is known exactly, or a half beside the whole.

    value: as that of the model. what: beside what. limit: None if it is the model's.
    noise: as that of the model; a value within twice as much is due to chance.
    """

    value: float
    what: str
    limit: float | None = None
    noise: float | None = None

    @property
    def by_chance(self) -> bool:
        """Whether statistics alone explain it."""
        return self.noise is not None and self.value <= CHANCE * self.noise


@dataclass(frozen=True)
class Check:
    """One figure.

    value:      what is judged.
    unit:       "%" shows shares as per cent.
    limit:      what it may be at most (or at least), None if it is only reported.
    at_least:   whether the limit is a lower one.
    reference, model: what the value comes from, in words.
    noise:      how far the value goes for reasons of statistics alone, None if not known.
    own:        the same of the reference itself, None if there is no telling.
    of_reference: for a figure of the reference alone, whether it passes; says nothing of the model.
    """

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    reference: str = ""
    model: str = ""
    noise: float | None = None
    own: Own | None = None
    of_reference: bool | None = None

    @property
    def passed(self) -> bool | None:
        """None if the figure is not judged; a value that is no number fails."""
        if self.of_reference is not None or self.reference_fails:
            return None
        return self._within(self.value, self.limit)

    @property
    def reference_fails(self) -> bool:
        """Whether the figure is judged in principle, but the reference itself does not pass.

        It does not if it is beyond the limit, and not by chance.
        """
        if self.limit is None or self.own is None or self.of_reference is not None:
            return False
        if self.own.by_chance and not self.at_least:
            return False
        limit = self.limit if self.own.limit is None else self.own.limit
        return self._within(self.own.value, limit) is False

    def _within(self, value: float, limit: float | None) -> bool | None:
        if limit is None:
            return None
        if not math.isfinite(value):
            return False
        return bool(value >= limit if self.at_least else value <= limit)

    @property
    def verdict(self) -> str:
        if self.of_reference is not None:
            return "reference passes" if self.of_reference else "reference fails"
        if self.reference_fails:
            return "reference fails"
        return {True: "pass", False: "FAIL", None: "not judged"}[self.passed]

    @property
    def remark(self) -> str:
        """What the reference's own figure is; empty if it passes or there is none."""
        if not self.reference_fails or self.own is None:
            return ""
        limit = self.limit if self.own.limit is None else self.own.limit
        noise = f" ± {self.text(self.own.noise)}" if self.own.noise is not None else ""
        sign = "≥" if self.at_least else "≤"
        return (
            f"reference itself {self.text(self.own.value)}{noise} ({self.own.what}), not {sign} "
            f"{self.text(limit)}"
        )

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
            "verdict": self.verdict,
            "reference_itself": None
            if self.own is None
            else {
                "value": number(self.own.value),
                "limit": number(self.limit if self.own.limit is None else self.own.limit),
                "noise": number(self.own.noise),
                "is": self.own.what,
            },
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


def own_halves(
    reference: Blocks, splits: Sequence[Split], scale: float, spreads: float | None = None
) -> Own | None:
    """How far halves of the reference are from the whole: of the splits, the worst.

    spreads: so many times the distance that is due to chance passes, too; None: none.
    """
    found = []
    for split in splits:
        distance, chance = reference.halves(*split, scale)
        if spreads is None:
            found.append(Own(distance, HALF, noise=chance))
        elif chance is not None:
            # Zero is less than any tolerance.
            found.append(Own(distance, HALF, limit=spreads * chance, noise=chance))
    return max(
        found, key=lambda own: (not own.by_chance, own.value - (own.limit or 0.0)), default=None
    )


def compare_curves(
    name: str,
    reference: Blocks,
    model: Blocks,
    scale: float,
    tolerance: float | None,
    spreads: float,
    splits: Sequence[Split] = (),
) -> Check:
    """Sum of |model - reference| over `scale`, against a tolerance or the reference's own spread.

    The spread is the mean distance of a block of the reference from the mean of its other blocks;
    the curve passes within `spreads` times that, too. Where that would excuse anything, nothing is
    judged. The reference itself fails if its halves, by `splits`, differ from the whole by more
    than the tolerance and more than `spreads` times what the blocks within a half say of chance.
    """
    own = reference.own_distance(scale)
    too_short = spreads * own >= 1.0
    limit = None if tolerance is None or too_short else max(tolerance, spreads * own)
    itself = own_halves(reference, splits, scale, spreads)
    if itself is not None and tolerance is not None:
        itself = replace(itself, limit=max(tolerance, itself.limit or 0.0))
    return Check(
        name,
        value=reference.distance(model.mean, scale),
        unit="%",
        limit=limit,
        reference=_scatter(reference, scale) + (": blocks too short" if too_short else ""),
        model=_scatter(model, scale),
        noise=own / math.sqrt(len(reference.values)) if own else None,
        own=itself,
    )


def _scatter(curve: Blocks, scale: float) -> str:
    if len(curve.values) < 2:
        return ""
    return f"block from the others {100.0 * curve.own_distance(scale):.3g} %"


def relative(
    name: str,
    reference: Blocks,
    model: Blocks,
    unit: str,
    limit: float | None,
    splits: Sequence[Split] = (),
) -> Check:
    """|model / reference - 1| of a number. splits: halves of the reference's blocks."""
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
        own=own_halves(reference, splits, abs(known)) if known else None,
    )


def with_error(number: Blocks, unit: str) -> str:
    """Mean and standard error of a number."""
    return f"{float(number.mean):.4g} ± {float(number.error):.2g} {unit}".strip()
