"""A strain protocol: elastic constants, density and expansion, by pressures of given cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.uncertainty import jackknife
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    Check,
    Plot,
    ReportSection,
    with_error,
)
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


class Cell(NamedTuple):
    """A cell that both run in.

    Attributes:
        direction: that it is strained along, 0 to 2; None: as it is.
        sign: of the strain, 1 or -1; 0 without.
        temperature: of the thermostat, K.
    """

    direction: int | None
    sign: int
    temperature: float


@dataclass
class Pressures:
    """Of one side: diagonal of the pressure tensor in each cell.

    Attributes:
        series: by cell: of each run (lines, 3), GPa.
        errors: of each run that ended early, why.
    """

    series: dict[Cell, list[Floats]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, cell: Cell, run: FinishedRun, units: str, why: str) -> None:
        """Take what the last loop of a run printed; why: it ended early, or empty."""
        self.errors.append(why)
        loops = run.loops()
        found = self.series.setdefault(cell, [])
        if not why and loops:
            table = np.column_stack([loops[-1].columns[name] for name in COLUMNS])
            found.append(table * GIGAPASCAL[units])

    def strained(self, number: int) -> dict[tuple[int, int], Floats]:
        """By direction and sign: means over so many parts of each run (runs x number, 3)."""
        return {
            (cell.direction, cell.sign): _parts(runs, number)
            for cell, runs in self.series.items()
            if cell.direction is not None
        }

    def heated(self, number: int) -> dict[float, Floats]:
        """By temperature, of the cell as it is: means over parts of each run, as above."""
        return {
            cell.temperature: _parts(runs, number)
            for cell, runs in self.series.items()
            if cell.direction is None
        }


def _parts(runs: Sequence[Floats], number: int) -> Floats:
    return np.array([part.mean(axis=0) for run in runs for part in np.array_split(run, number)])


def strain_parts(
    config: ValidationConfig,
    strain: float,
    blocks: int,
    directions: Sequence[int],
    reference: Pressures,
    model: Pressures,
    temperatures: Sequence[float] = (),
) -> list[ReportSection]:
    """Elastic constants of both, and the density at which the model has the reference's pressure.

    With two temperatures also the thermal expansion between them.

    Args:
        config: of the validation.
        strain: of the cells, to both sides.
        blocks: that each run is cut into.
        directions: that are strained, 0 to 2.
        reference: its pressures.
        model: its pressures.
        temperatures: of the cells that are not strained, K: none or two.
    """
    sides = [side.strained(blocks) for side in (reference, model)]
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
    if temperatures:
        heated = [side.heated(blocks) for side in (reference, model)]
        if all(len(side.get(t, ())) for side in heated for t in temperatures):
            low, high = temperatures
            checks.append(_expansion(heated, constants, (low, high), config.tolerances.expansion))
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
            "where the model has the pressure of the reference, by its bulk modulus. Expansion: "
            "strain that takes back what the pressure gains between two temperatures in the same "
            "cell, by the elastic constants of each side.",
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

    words = with_error(known, "GPa"), with_error(found, "GPa")
    return _judged(name, deviation, (known.values, found.values), tolerance, words)


def _judged(
    name: str,
    deviation: Callable[[Floats, Floats], float],
    sides: tuple[Floats, Floats],
    tolerance: float | None,
    words: tuple[str, str],
) -> Check:
    """Judge how far the model is off, a share, by the averages of the blocks (B, …) of both."""
    known, found = sides
    error = jackknife(deviation, known, found)
    return Check(
        name,
        value=abs(deviation(known.mean(axis=0), found.mean(axis=0))),
        unit="%",
        limit=tolerance,
        reference=words[0],
        model=words[1],
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
    known, found = (
        Blocks(np.mean([values[:number].mean(axis=1) for values in side.values()], axis=0))
        for side in sides
    )
    bulk = abs(float(constants[0].mean()))
    return _judged(
        "density at the reference's pressure",
        lambda p, q: float(q - p) / bulk,
        (known.values, found.values),
        tolerance,
        (
            f"pressure {with_error(known, 'GPa')}, bulk modulus {bulk:.4g} GPa",
            f"pressure {with_error(found, 'GPa')}",
        ),
    )


def _expansion(
    heated: Sequence[Mapping[float, Floats]],
    constants: Sequence[Floats],
    temperatures: tuple[float, float],
    tolerance: float | None,
) -> Check:
    """Thermal expansion of the volume of the model, relative to that of the reference."""
    low, high = temperatures
    sides = []
    for pressures, of_side in zip(heated, constants, strict=True):
        number = min(len(pressures[low]), len(pressures[high]), len(of_side))
        gained = pressures[high][:number] - pressures[low][:number]
        # The constants have errors of their own, which count for small strains.
        sides.append(np.concatenate([gained[:, None], of_side[:number]], axis=1))

    def expansion(average: Floats) -> float:
        """Sum of the strains whose stress is the gained pressure, 1e-6 / K."""
        gained, matrix = average[0], average[1:]
        strains = np.linalg.solve(0.5 * (matrix + matrix.T), gained)
        return float(1e6 * strains.sum() / (high - low))

    def deviation(known: Floats, found: Floats) -> float:
        return expansion(found) / expansion(known) - 1.0

    def words(side: Floats) -> str:
        # Of one side alone: the other is not counted.
        number = len(side)
        rest = (number * side.mean(axis=0) - side) / (number - 1) if number > 1 else side
        spread = np.std([expansion(average) for average in rest])
        return f"{expansion(side.mean(axis=0)):.4g} ± {np.sqrt(number - 1) * spread:.2g} 10⁻⁶/K"

    known, found = sides
    name = f"thermal expansion, {low:g} to {high:g} K"
    return _judged(name, deviation, (known, found), tolerance, (words(known), words(found)))
