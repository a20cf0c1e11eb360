"""Figures with a verdict, and the curves that they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.uncertainty import STANDARD_ERRORS, Error, chance_distance, jackknife

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

# Two parts of the reference's blocks, by their numbers.
Split = tuple[Sequence[int], Sequence[int]]
HALF = "a half beside the whole"
# Standard errors within which a quantity of the reference itself is what it should be.
CHANCE = 2.0
# So many times the distance that chance makes, halves of a curve of the reference may differ by.
CHANCE_DISTANCES = 2.0
# A model fails if a value is beyond its limit by so many standard errors. It passes if all of some
# twenty checks pass, but one is enough to fail: with two standard errors, looked at again whenever
# the runs have doubled, a right model would fail one of four validations by chance.
TO_FAIL = 3.0
# Below this a number is nothing but rounding.
ROUNDING = 1e-12
PASSED, FAILED, UNDECIDED, NOT_JUDGED = "passed", "failed", "undecided", "not judged"
REFERENCE_PASSES, REFERENCE_FAILS = "reference passes", "reference fails"


def in_digits(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; 1600 is not 1.6e+03, and rounding errors are 0."""
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    return f"{0.0 if abs(rounded) < ROUNDING else rounded:.12g}"


@dataclass(frozen=True)
class ReferenceSelfCheck:
    """A quantity of the reference itself: beside what is known exactly, or a half beside the whole.

    Attributes:
        value: as that of the model.
        what: beside what.
        limit: None if it is the model's.
        error: as that of the model; a value within twice as much is due to chance.
    """

    value: float
    what: str
    limit: float | None = None
    error: float | None = None

    @property
    def by_chance(self) -> bool:
        """Whether statistics alone explain it."""
        return self.error is not None and self.value <= CHANCE * self.error


@dataclass(frozen=True)
class Check:
    """One quantity of the model, with its uncertainty, and what it may be.

    The true value, of runs without end, lies in `interval` with a probability of 95 %. It passes
    if the whole interval is within the limit, and fails if all of a wider one, of 99.7 %, is
    beyond; in between it is undecided.

    Attributes:
        value: what is judged.
        unit: "%" shows shares as per cent.
        limit: what it may be at most (or at least), None if it is only reported.
        at_least: whether the limit is a lower one.
        reference, model: what the value comes from, in words.
        error: standard error of the value, None if it is exact.
        freedom: from how many degrees of freedom the error is known; infinity: exactly.
        floor: how far chance alone takes the value toward the limit if the model is right: the
            distance of two curves is never zero.
        blind: why it cannot pass, as runs of this kind do not see all of it; empty if they do.
        own: the same of the reference itself, None if there is no telling.
        of_reference: for a check of the reference alone, whether it passes; says nothing of the
            model.
    """

    name: str
    value: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    reference: str = ""
    model: str = ""
    error: float | None = None
    freedom: float = float("inf")
    floor: float = 0.0
    blind: str = ""
    own: ReferenceSelfCheck | None = None
    of_reference: bool | None = None

    @property
    def half_width(self) -> float:
        """Half of the interval, without the floor: two standard errors, or as Student's t says."""
        return self._half_width(STANDARD_ERRORS)

    def _half_width(self, errors: float) -> float:
        if self.error is None:
            return 0.0
        return Error(self.error, self.freedom).width_of(errors) if self.error >= 0.0 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """In which the true value lies: without what chance alone adds at one end."""
        return self._interval(STANDARD_ERRORS)

    def _interval(self, errors: float) -> tuple[float, float]:
        width = self._half_width(errors)
        low, high = self.value - width, self.value + width
        return (low, high + self.floor) if self.at_least else (low - self.floor, high)

    @property
    def verdict(self) -> str:
        """In words; a value that is not finite fails."""
        if self.of_reference is not None:
            return REFERENCE_PASSES if self.of_reference else REFERENCE_FAILS
        if self.reference_fails:
            return REFERENCE_FAILS
        if self.limit is None:
            return NOT_JUDGED
        if not math.isfinite(self.value):
            return FAILED
        low, high = self.interval
        if low >= self.limit if self.at_least else high <= self.limit:
            return UNDECIDED if self.blind else PASSED
        low, high = self._interval(TO_FAIL)
        if high < self.limit if self.at_least else low > self.limit:
            return FAILED
        return UNDECIDED

    @property
    def passed(self) -> bool | None:
        """None if the check is not judged or undecided."""
        return {PASSED: True, FAILED: False}.get(self.verdict)

    @property
    def undecided(self) -> bool:
        """Whether it should be judged and is not: by chance, or as the reference itself fails."""
        return self.verdict in (UNDECIDED, REFERENCE_FAILS)

    @property
    def doubtful(self) -> bool:
        """Whether it is undecided although the whole interval of 95 % is beyond the limit."""
        if self.verdict != UNDECIDED or self.limit is None:
            return False
        low, high = self.interval
        return high < self.limit if self.at_least else low > self.limit

    @property
    def reference_fails(self) -> bool:
        """Whether the check is judged in principle, but the reference itself does not pass.

        It does not if it is beyond the limit, and not by chance.
        """
        if self.limit is None or self.own is None or self.of_reference is not None:
            return False
        if self.own.by_chance and not self.at_least:
            return False
        limit = self.limit if self.own.limit is None else self.own.limit
        if not math.isfinite(self.own.value):
            return True
        error = CHANCE * (self.own.error or 0.0)
        return bool(self.own.value + error < limit if self.at_least else self.own.value > limit)

    @property
    def remark(self) -> str:
        """Why it is undecided; empty if it is not."""
        if self.verdict == UNDECIDED:
            if self.blind:
                return self.blind
            low, high = self.interval
            if self.doubtful:
                low, high = self._interval(TO_FAIL)
            if self.floor > 0.0 and self.at_least and 1.0 - self.floor < (self.limit or 0.0):
                return f"runs too short: chance alone takes {self.text(self.floor)} off"
            if self.floor > (self.limit or 0.0) and not self.at_least:
                return f"runs too short: chance alone makes {self.text(self.floor)}"
            return f"between {self.text(low if self.at_least else max(low, 0.0))} and " + (
                self.text(high)
            )
        if not self.reference_fails or self.own is None:
            return ""
        limit = self.limit if self.own.limit is None else self.own.limit
        error = f" ± {self.text(self.own.error)}" if self.own.error is not None else ""
        sign = "≥" if self.at_least else "≤"
        return (
            f"reference itself {self.text(self.own.value)}{error} ({self.own.what}), not {sign} "
            f"{self.text(limit)}"
        )

    @property
    def uncertainty(self) -> str:
        """The standard error and the floor in words; empty if the value is exact."""
        words = [] if self.error is None else [f"± {self.text(self.error)}"]
        if self.floor > 0.0:
            words.append(f"chance {self.text(self.floor)}")
        return ", ".join(words)

    @property
    def tolerance(self) -> str:
        """The limit in words; empty if there is none."""
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.text(self.limit)}"

    def text(self, value: float | None) -> str:
        """A value with its unit; a dash for None."""
        if value is None:
            return "–"
        if self.unit == "%":
            return f"{in_digits(100.0 * value)} %"
        return f"{in_digits(value)} {self.unit}".strip()

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
            "error": number(self.error),
            "freedom": number(self.freedom),
            "chance": number(self.floor),
            "interval": [number(end) for end in self.interval],
            "interval_to_fail": [number(end) for end in self._interval(TO_FAIL)],
            "passed": self.passed,
            "verdict": self.verdict,
            "reference_itself": None
            if self.own is None
            else {
                "value": number(self.own.value),
                "limit": number(self.limit if self.own.limit is None else self.own.limit),
                "error": number(self.own.error),
                "is": self.own.what,
            },
            "reference": self.reference,
            "model": self.model,
        }


@dataclass(frozen=True)
class Plot:
    """A figure and what is to be seen on it.

    Attributes:
        slug: name of its file.
    """

    slug: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class ReportSection:
    """A section of the report.

    Attributes:
        limits: what runs of this length cannot see, one line.
    """

    title: str
    text: str
    checks: list[Check] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    limits: str = ""


def own_halves(
    reference: Blocks, splits: Sequence[Split], scale: float, spreads: float | None = None
) -> ReferenceSelfCheck | None:
    """How far halves of the reference are from the whole: of the splits, the worst.

    Args:
        reference: blocks of the reference.
        splits: how the blocks are divided into halves.
        scale: what the distance is relative to.
        spreads: so many times the distance that is due to chance passes, too; None: none.
    """
    found = []
    for split in splits:
        distance, chance = reference.halves(*split, scale)
        if spreads is None:
            found.append(ReferenceSelfCheck(distance, HALF, error=chance))
        elif chance is not None:
            # Zero is less than any tolerance.
            found.append(ReferenceSelfCheck(distance, HALF, limit=spreads * chance, error=chance))
    return max(
        found, key=lambda own: (not own.by_chance, own.value - (own.limit or 0.0)), default=None
    )


def compare_curves(
    name: str,
    reference: Blocks,
    model: Blocks,
    scale: Callable[[Floats], float],
    tolerance: float | None,
    splits: Sequence[Split] = (),
) -> Check:
    """Sum over the curve of |model - reference|, over `scale` of the mean of the reference.

    Two curves of the same system differ by chance. This distance, from what the blocks of both say,
    is the floor of the check: a distance D of curves that truly differ by d has a mean between d
    and d plus the floor. The reference itself fails if its halves, by `splits`, differ from the
    whole by more than the tolerance and more than what the blocks within a half say of chance.
    """

    def distance(known: Floats, found: Floats) -> float:
        size = scale(known)
        return float(np.abs(found - known).sum()) / size if size > 0.0 else float("inf")

    size = scale(reference.mean)
    itself = own_halves(reference, splits, size, CHANCE_DISTANCES)
    if itself is not None and tolerance is not None:
        itself = replace(itself, limit=max(tolerance, itself.limit or 0.0))
    error = jackknife(distance, reference.values, model.values)
    by_chance = float(chance_distance(reference.values, model.values).sum())
    return Check(
        name,
        value=distance(reference.mean, model.mean),
        unit="%",
        limit=tolerance,
        reference=_scatter(reference, size),
        model=_scatter(model, size),
        error=error.size,
        freedom=error.freedom,
        floor=by_chance / size if size > 0.0 else 0.0,
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

    def deviation(known: Floats, found: Floats) -> float:
        return float(found / known) - 1.0 if known else float("inf")

    error = jackknife(deviation, reference.values, model.values)
    return Check(
        name,
        value=abs(found / known - 1.0) if known else float("inf"),
        unit="%",
        limit=limit,
        reference=with_error(reference, unit),
        model=with_error(model, unit),
        error=error.size,
        freedom=error.freedom,
        own=own_halves(reference, splits, abs(known)) if known else None,
    )


def with_error(number: Blocks, unit: str) -> str:
    """Mean and standard error of a number."""
    return f"{float(number.mean):.4g} ± {float(number.error):.2g} {unit}".strip()
