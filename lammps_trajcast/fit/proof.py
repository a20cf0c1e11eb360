"""The checks of a model: how each came out, and which of two models is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lammps_trajcast.fit.config import Verdict
from lammps_trajcast.validation.compare import (
    FAILED,
    PASSED,
    REFERENCE_FAILS,
    UNDECIDED,
    Check,
)
from lammps_trajcast.validation.report import Report

# How the check that no run ended early is called.
STABILITY = "failures"
# Worst excess over a tolerance that still counts: one failed check must not outweigh all others.
WORST = 20.0


@dataclass(frozen=True)
class Outcome:
    """How the checks of a validation came out.

    Attributes:
        passed: number.
        fails, undecided: names with values.
        noisy: names of those whose noise is the reason.
        score: sum of excesses over tolerances, 0 for a model that passes all.
        unstable: whether a run ended early, so that other checks are absent.
        leaning: number of undecided checks that would fail if longer runs gave the same value.
        doubtful: number of those beyond their limit by two standard errors, but not by three.
    """

    passed: int
    fails: list[str]
    undecided: list[str]
    noisy: list[str]
    score: float
    unstable: bool = False
    leaning: int = 0
    doubtful: int = 0

    @property
    def verdict(self) -> Verdict:
        """Fails if a check does, undecided if one is."""
        if self.fails:
            return "fails"
        return "undecided" if self.undecided or not self.passed else "proven"

    @property
    def rank(self) -> tuple[bool, float, int, int, int]:
        """Smaller is better."""
        return self.unstable, self.score, self.doubtful, self.leaning, -self.passed

    @classmethod
    def of(cls, report: Report) -> Outcome:
        """Of the checks of a report."""
        return cls.of_checks(report.checks)

    @classmethod
    def of_checks(cls, checks: Sequence[Check]) -> Outcome:
        """Judge: within the tolerance, beyond it, or too noisy to tell."""
        passed, score, unstable, leaning, doubtful = 0, 0.0, False, 0, 0
        fails: list[str] = []
        undecided: list[str] = []
        noisy: list[str] = []
        for check in checks:
            words = f"{check.name} {check.text(check.value)} ({check.tolerance})"
            if check.verdict == PASSED:
                passed += 1
            elif check.verdict == UNDECIDED:
                undecided.append(words)
                noisy.append(check.name)
                leaning += _leans(check)
                doubtful += check.doubtful
            elif check.verdict == REFERENCE_FAILS and check.of_reference is None:
                undecided.append(f"{check.name} (the reference itself fails)")
            elif check.verdict == FAILED and check.limit is not None:
                fails.append(words)
                unstable |= check.name.startswith(STABILITY)
                beyond = check.limit - check.value if check.at_least else check.value - check.limit
                scale = 1.0 - check.limit if check.at_least else check.limit
                excess = beyond / scale if scale > 0.0 and math.isfinite(beyond) else WORST
                score += min(excess, WORST)
        return cls(passed, fails, undecided, noisy, score, unstable, leaning, doubtful)

    def as_dict(self) -> dict[str, Any]:
        """Return what :meth:`from_dict` reads, as JSON can hold it."""
        return {
            "passed": self.passed,
            "fails": self.fails,
            "undecided": self.undecided,
            "noisy": self.noisy,
            "score": round(self.score, 4),
            "unstable": self.unstable,
            "leaning": self.leaning,
            "doubtful": self.doubtful,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Outcome:
        """Make the outcome that :meth:`as_dict` wrote."""
        return cls(**content)

    def __str__(self) -> str:
        words = f"{self.passed} checks pass, {len(self.fails)} fail"
        return words + (f", {len(self.undecided)} undecided" if self.undecided else "")


def _leans(check: Check) -> bool:
    """Whether the value itself, but for what chance alone adds to it, is beyond the limit."""
    if check.limit is None:
        return False
    if check.at_least:
        return check.value + check.floor < check.limit
    return check.value - check.floor > check.limit
