"""Whether the reference is in equilibrium: tests of the end of its equilibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import inefficiency
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.validation.compare import Check, ReportSection
from lammps_trajcast.validation.config import Tolerances

Floats = NDArray[np.float64]

# Standard errors beyond which a deviation is not due to chance.
SIGNIFICANT = 3.0


@dataclass(frozen=True)
class EquilibrationCheck:
    """A quantity of the reference beside what it is in equilibrium.

    Attributes:
        deviation: relative, or in kT.
        error: standard error, the same.
        tolerance: None if not tested.
        found: in words.
    """

    name: str
    deviation: float
    error: float
    tolerance: float | None
    found: str
    unit: str = "%"

    @property
    def passed(self) -> bool:
        """Within the tolerance, or by chance beyond it."""
        if self.tolerance is None:
            return True
        least = max(self.tolerance, SIGNIFICANT * self.error)
        return bool(abs(self.deviation) <= least)

    @property
    def errors(self) -> float:
        """The deviation in standard errors."""
        return abs(self.deviation) / self.error if self.error > 0.0 else float("inf")

    def text(self) -> str:
        """In words, for a line of progress."""
        size = Check("", abs(self.deviation), self.unit)
        return f"{self.name} {size.text(size.value)} off ({self.errors:.2g} standard errors)"


class Sample(NamedTuple):
    """The tested part of an equilibration, L samples at equal distances in time.

    Attributes:
        temperature: (L,) K.
        potential, total: (L,) energy of an atom, kT.
        elements: (L,) temperatures of each, K.
        momentum: share of the motion of the center of mass in the kinetic energy at the end.
    """

    temperature: Floats
    potential: Floats
    total: Floats
    elements: Mapping[str, Floats]
    momentum: float


@dataclass(frozen=True)
class Equilibrated:
    """A start of the reference.

    Attributes:
        run: the last round of its equilibration, with the state in state.dump.
        checks: those of its tested part.
        time: ps of all rounds together.
    """

    run: FinishedRun
    checks: list[EquilibrationCheck]
    time: float

    @property
    def faults(self) -> list[EquilibrationCheck]:
        """What is not in equilibrium."""
        return [check for check in self.checks if not check.passed]


def equilibrium_checks(
    sample: Sample,
    target: float,
    freedom: float,
    shares: Mapping[str, float],
    tolerances: Tolerances,
    canonical: bool = True,
) -> list[EquilibrationCheck]:
    """Compare a sample with the canonical ensemble.

    In it the temperature of f degrees of freedom has the relative variance 2 / f, whatever the
    forces, and every group of atoms has the same mean. The errors are those of a sample in
    equilibrium: the known variance, and as many independent samples as the autocorrelation says.
    Half of the variance of the kinetic energy is that of the total energy, which the thermostat
    may change slowly, so that the kinetic energy by itself shows little of it: no error is less
    than this half says.

    Args:
        sample: series (L,) of temperatures and energies.
        target: temperature of the ensemble, K.
        freedom: degrees of freedom of all atoms.
        shares: degrees of freedom of each element.
        tolerances: of the validation; a deviation within them passes.
        canonical: whether the thermostat lets the temperature fluctuate as it should.
    """
    temperature = sample.temperature
    number = len(temperature)
    slow = inefficiency(sample.total)
    variance = 2.0 / freedom

    def mean_error(of: float, samples: Floats) -> float:
        fast = 2.0 / of * inefficiency(samples)[0]
        return float(np.sqrt(max(fast, 0.5 * variance * slow[0]) / number))

    error = mean_error(freedom, temperature)
    # About the mean of the sample: what it lacks is the variance of that mean.
    ratio = float(np.sqrt((np.var(temperature / target) + error**2) / variance))
    of_variance = max(inefficiency(temperature)[1], 0.25 * slow[1])
    checks = [
        EquilibrationCheck(
            "temperature",
            float(temperature.mean()) / target - 1.0,
            error,
            tolerances.temperature,
            f"{temperature.mean():.4g} K",
        ),
        EquilibrationCheck(
            "fluctuation of the temperature",
            ratio - 1.0,
            float(np.sqrt(of_variance / (2.0 * number))),
            tolerances.fluctuation if canonical else None,
            f"{ratio:.3g} times the canonical",
        ),
    ]
    checks += [
        EquilibrationCheck(
            f"temperature of {element}",
            float(of.mean()) / target - 1.0,
            mean_error(shares[element], of),
            tolerances.element_temperature,
            f"{of.mean():.4g} K",
        )
        for element, of in sample.elements.items()
        if len(sample.elements) > 1
    ]
    first, second = np.array_split(sample.potential, 2)
    drift = float(second.mean() - first.mean())
    squares = []
    for series, share in ((sample.potential, 1.0), (sample.total, 0.5)):
        # Within each half: what the halves differ by is not chance.
        rest = np.concatenate([half - half.mean() for half in np.array_split(series, 2)])
        squares.append(4.0 * share**2 * float(rest.var()) * inefficiency(rest)[0] / number)
    error = float(np.sqrt(max(squares)))
    checks.append(
        EquilibrationCheck(
            "potential energy, second half less first",
            drift,
            error,
            tolerances.energy,
            f"{drift:+.3g} kT per atom",
            "kT",
        )
    )
    checks.append(
        EquilibrationCheck(
            "kinetic energy of the center of mass",
            sample.momentum,
            0.0,
            tolerances.temperature,
            f"{100.0 * sample.momentum:.2g} % of the kinetic energy",
        )
    )
    return checks


def reference_part(starts: Sequence[Equilibrated], rounds: int) -> ReportSection:
    """The chapter of the report: of every check the start that is farthest off."""
    checks = []
    for rows in zip(*(start.checks for start in starts), strict=True):
        worst = max(rows, key=lambda row: (not row.passed, abs(row.deviation)))
        faults = sum(not row.passed for row in rows)
        checks.append(
            Check(
                f"reference, {worst.name}",
                value=abs(worst.deviation),
                unit=worst.unit,
                limit=worst.tolerance,
                reference=worst.found
                + (
                    f"; fails in {faults} of {len(rows)} starts" if len(rows) > 1 and faults else ""
                ),
                error=worst.error,
                of_reference=worst.passed,
            )
        )
    times = sorted({start.time for start in starts})
    lasted = " to ".join(f"{time:.3g}" for time in {times[0]: None, times[-1]: None})
    several = f"{len(starts)} starts, the one that is farthest off in each check. " * (
        len(starts) > 1
    )
    failed = sum(bool(start.faults) for start in starts)
    words = (
        f"In {failed} of {len(starts)} starts the reference is not in equilibrium after {rounds} "
        "rounds; what follows goes on from there."
        if failed
        else "The reference is in equilibrium as far as this part shows."
    )
    return ReportSection(
        "Equilibration of the reference",
        f"{lasted} ps; checks of the last part, with the thermostat. {several}A check fails if "
        f"it is off by more than the tolerance and more than {SIGNIFICANT:g} standard errors. "
        f"They say nothing of the model. {words}",
        checks,
    )
