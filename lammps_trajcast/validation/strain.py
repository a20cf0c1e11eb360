"""A strain protocol: elastic constants and density, by the pressures of strained cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.uncertainty import jackknife
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import Check, Plot, ReportSection, with_error
from lammps_trajcast.validation.config import ValidationConfig

Floats = NDArray[np.float64]

AXES = "xyz"
COLUMNS = ("Pxx", "Pyy", "Pzz")
# GPa in the pressure unit of a unit style.
GIGAPASCAL = {"metal": 1e-4, "real": 1.01325e-4}
# Of the length of a run, before its pressure counts.
SETTLING = 0.2
# Of thermodynamic output, at least.
LINES_OF_A_BLOCK = 2


@dataclass
class Pressures:
    """Of one side: diagonal of the pressure tensor in strained cells.

    Attributes:
        series: by direction, 0 to 2, and sign, 1 or -1: of each run (lines, 3), GPa.
        errors: of each run that ended early, why.
    """

    series: dict[tuple[int, int], list[Floats]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, direction: int, sign: int, run: FinishedRun, units: str, why: str) -> None:
        """Take what the last loop of a run printed; why: it ended early, or empty."""
        self.errors.append(why)
        loops = run.loops()
        found = self.series.setdefault((direction, sign), [])
        if not why and loops:
            table = np.column_stack([loops[-1].columns[name] for name in COLUMNS])
            found.append(table * GIGAPASCAL[units])

    def blocks(self, number: int) -> dict[tuple[int, int], Floats]:
        """Means over so many parts of each run (runs x number, 3)."""
        return {
            key: np.array(
                [part.mean(axis=0) for run in runs for part in np.array_split(run, number)]
            )
            for key, runs in self.series.items()
        }


def strain_parts(
    config: ValidationConfig,
    strain: float,
    blocks: int,
    directions: Sequence[int],
    reference: Pressures,
    model: Pressures,
) -> list[ReportSection]:
    """Elastic constants of both, and the density at which the model has the reference's pressure.

    Args:
        config: of the validation.
        strain: of the cells, to both sides.
        blocks: that each run is cut into.
        directions: that are strained, 0 to 2.
        reference: its pressures.
        model: its pressures.
    """
    sides = [side.blocks(blocks) for side in (reference, model)]
    if any(not len(side.get((d, s), ())) for side in sides for d in directions for s in (1, -1)):
        # Nothing can be said without one of them; failures are told elsewhere.
        return []
    constants = [_constants(side, strain, directions) for side in sides]
    checks = []
    diagonal = {d: abs(float(constants[0][:, d, d].mean())) for d in directions}
    for i in directions:
        for j in directions:
            if j < i:
                continue
            # Both halves of a symmetric matrix.
            known, found = (Blocks(0.5 * (c[:, i, j] + c[:, j, i])) for c in constants)
            checks.append(
                _difference(
                    f"elastic constant C{i + 1}{j + 1}",
                    known,
                    found,
                    float(np.sqrt(diagonal[i] * diagonal[j])),
                    config.tolerances.elastic,
                )
            )
    if len(directions) == 3:
        checks.append(_density(sides, constants, config.tolerances.density))
    lines = {
        f"along {AXES[d]}": [
            (
                label,
                strain * np.array([-1.0, 1.0]),
                np.array([side[d, s][:, d].mean() for s in (-1, 1)]),
            )
            for label, side in zip(("reference", "model"), sides, strict=True)
        ]
        for d in directions
    }
    return [
        ReportSection(
            "Strained cells",
            f"Mean pressure in cells strained by {100.0 * strain:g} % to both sides along one "
            "direction, atoms free to relax: C_ij is what the pressure along i loses for the "
            "strain along j. Differences are over sqrt(C_ii C_jj) of the reference. Density: "
            "where the model has the pressure of the reference, by its bulk modulus.",
            checks,
            [
                Plot(
                    "strain",
                    plots.series(lines, "strain", "pressure / GPa"),
                    "Pressure along the strain",
                )
            ],
        )
    ]


def _constants(
    pressures: Mapping[tuple[int, int], Floats], strain: float, directions: Sequence[int]
) -> Floats:
    """Elastic constants (blocks, 3, 3) in GPa: [:, i, j] of the pressure i for the strain j."""
    number = min(len(values) for values in pressures.values())
    constants = np.full((number, 3, 3), np.nan)
    for d in directions:
        pulled, pushed = (pressures[d, sign][:number] for sign in (1, -1))
        constants[:, :, d] = -(pulled - pushed) / (2.0 * strain)
    return constants


def _difference(
    name: str, known: Blocks, found: Blocks, scale: float, tolerance: float | None
) -> Check:
    def deviation(known: Floats, found: Floats) -> float:
        return float(found - known) / scale

    error = jackknife(deviation, known.values, found.values)
    return Check(
        name,
        value=abs(deviation(known.mean, found.mean)),
        unit="%",
        limit=tolerance,
        reference=with_error(known, "GPa"),
        model=with_error(found, "GPa"),
        error=error.size,
        freedom=error.freedom,
    )


def _density(
    sides: Sequence[Mapping[tuple[int, int], Floats]],
    constants: Sequence[Floats],
    tolerance: float | None,
) -> Check:
    """By how much the density of the model is off, at the pressure of the reference."""
    number = min(len(values) for side in sides for values in side.values())
    means = [
        Blocks(np.mean([values[:number].mean(axis=1) for values in side.values()], axis=0))
        for side in sides
    ]
    bulk = abs(float(constants[0].mean()))
    error = jackknife(lambda p, q: float(q - p) / bulk, means[0].values, means[1].values)
    return Check(
        "density at the reference's pressure",
        value=abs(float(means[1].mean - means[0].mean)) / bulk,
        unit="%",
        limit=tolerance,
        reference=f"pressure {with_error(means[0], 'GPa')}, bulk modulus {bulk:.4g} GPa",
        model=f"pressure {with_error(means[1], 'GPa')}",
        error=error.size,
        freedom=error.freedom,
    )
