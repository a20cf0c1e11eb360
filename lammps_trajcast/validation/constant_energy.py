"""The section of constant energy: drift without a thermostat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.dynamics import linear_drift
from lammps_trajcast.analysis.uncertainty import slope_error
from lammps_trajcast.units import MILLI_EV
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    CHANCE,
    Check,
    Plot,
    ReferenceSelfCheck,
    ReportSection,
    in_digits,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Nve:
    """A run without thermostat.

    Attributes:
        times: (L,) ps.
        energy: (L,) total, in the unit of the run.
        temperature: (L,) K.
    """

    times: Floats
    energy: Floats
    temperature: Floats


@dataclass(frozen=True)
class SameCost:
    """The reference's integrator without thermostat, as fast as the model.

    Attributes:
        timestep: fs.
        run: None if LAMMPS ended it, and error says why.
    """

    timestep: float
    run: Nve | None
    error: str


def nve_part(
    reference: Nve,
    model: Nve | None,
    same_cost: SameCost | None,
    atoms: int,
    units: str,
    limit: float | None,
    failure: str,
) -> ReportSection:
    """Drift of the total energy without a thermostat; `failure` says why there is no model."""

    def per_atom(run: Nve) -> Floats:
        change: Floats = (run.energy - run.energy[0]) / atoms / MILLI_EV[units]
        return change

    def drift(run: Nve | None) -> float:
        return linear_drift(run.times, per_atom(run)) if run else float("nan")

    of_reference, of_model = drift(reference), drift(model)
    errors = [slope_error(run.times, per_atom(run)) if run else None for run in (reference, model)]
    checks = [
        Check(
            "failures without a thermostat",
            value=0.0 if model else 1.0,
            limit=0.0,
            model="" if model else failure,
        ),
        Check(
            "drift of the total energy",
            value=abs(of_model),
            unit="meV/atom/ps",
            limit=limit,
            reference=f"{of_reference:+.3g} meV/atom/ps",
            model=f"{of_model:+.3g} meV/atom/ps" if model else "",
            error=errors[1].size if errors[1] else None,
            freedom=errors[1].freedom if errors[1] else float("inf"),
            own=ReferenceSelfCheck(
                abs(of_reference),
                "from its own start",
                error=errors[0].half_width / CHANCE if errors[0] else None,
            ),
        ),
    ]
    if same_cost:
        slope = drift(same_cost.run)
        checks.append(
            Check(
                "drift of the reference, as fast as the model",
                value=abs(slope),
                unit="meV/atom/ps",
                reference=f"{slope:+.3g} meV/atom/ps with {same_cost.timestep:g} fs"
                if same_cost.run
                else f"with {same_cost.timestep:g} fs: {same_cost.error}",
            )
        )
    shown = [(name, run) for name, run in (("reference", reference), ("model", model)) if run]
    figure = plots.series(
        {
            "total energy − start, meV/atom": [
                (name, run.times, per_atom(run)) for name, run in shown
            ],
            "temperature, K": [(name, run.times, run.temperature) for name, run in shown],
        },
        "time / ps",
        "",
    )
    return ReportSection(
        "Constant energy",
        "Without a thermostat; the potential energy is that of the reference for both. Last, the "
        "reference's integrator with a time step with which it is as fast as the model.",
        checks,
        [Plot("nve", figure, "Total energy and temperature without a thermostat")],
        limits=f"A drift that begins later than {in_digits(reference.times[-1])} ps is not seen.",
    )
