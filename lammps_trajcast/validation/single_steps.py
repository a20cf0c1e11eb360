"""The section of single steps: errors of one time step of the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.uncertainty import Error, jackknife
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import Check, Plot, ReportSection

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SingleSteps:
    """Pairs of states one horizon apart, and what the model predicts; each (P, N, 3).

    Displacements in Angstrom, velocities in Angstrom/fs.
    """

    displacement: Floats
    velocity: Floats
    predicted_displacement: Floats
    predicted_velocity: Floats
    velocity_before: Floats
    horizon: float
    species: NDArray[np.int64]
    elements: list[str]


def single_steps_part(
    steps: SingleSteps, of_displacement: float | None, of_velocity: float | None
) -> ReportSection:
    """RMSE over rms of the predictions from states of the reference."""
    ballistic = steps.velocity_before * steps.horizon

    def error(predicted: Floats, true: Floats) -> float:
        return float(np.sqrt(np.sum((predicted - true) ** 2) / np.sum(true**2)))

    def spread(predicted: Floats, true: Floats) -> Error:
        # Sums of squares of each pair of states.
        squares = np.stack([((predicted - true) ** 2).sum((1, 2)), (true**2).sum((1, 2))], axis=1)

        def ratio(_: Floats, means: Floats) -> float:
            return float(np.sqrt(means[0] / means[1]))

        return jackknife(ratio, squares, squares)

    checks = []
    groups = {"": slice(None)} | {
        f" of {element}": np.flatnonzero(steps.species == index)
        for index, element in enumerate(steps.elements)
        if len(steps.elements) > 1
    }
    for name, atoms in groups.items():
        for what, predicted, true, trivial, limit in (
            (
                "displacement",
                steps.predicted_displacement,
                steps.displacement,
                ballistic,
                of_displacement,
            ),
            (
                "velocity",
                steps.predicted_velocity,
                steps.velocity,
                steps.velocity_before,
                of_velocity,
            ),
        ):
            uncertainty = spread(predicted[:, atoms], true[:, atoms])
            checks.append(
                Check(
                    f"{what}{name}, one step",
                    value=error(predicted[:, atoms], true[:, atoms]),
                    unit="%",
                    error=uncertainty.size,
                    freedom=uncertainty.freedom,
                    limit=limit if not name else None,
                    model="at constant velocity "
                    f"{100.0 * error(trivial[:, atoms], true[:, atoms]):.3g} %",
                )
            )
    figure, (left, right) = plots.panels(2, height=5.6)
    for axes, predicted, true, label in (
        (left, steps.predicted_displacement, steps.displacement, "displacement / Å"),
        (right, steps.predicted_velocity, steps.velocity, "velocity / (Å/fs)"),
    ):
        axes.hexbin(true.ravel(), predicted.ravel(), gridsize=60, bins="log", cmap="Greys")
        axes.axline((0.0, 0.0), slope=1.0, color=plots.MODEL, linewidth=0.8)
        axes.set(title=label, xlabel="reference", ylabel="predicted")
    return ReportSection(
        "Single steps",
        f"From {len(steps.displacement)} states of the reference without thermostat, one step of "
        f"{steps.horizon:g} fs in LAMMPS: RMSE over rms of all components.",
        checks,
        [Plot("one_step", figure, "Single steps, each component: predicted against reference")],
    )
