"""Protocols without equilibrium: both over time, from the same start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.structure import radial_distributions
from lammps_trajcast.analysis.thermal import degrees_of_freedom, kinetic_temperatures
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import Check, Part, Plot
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.scripts import Plan
from lammps_trajcast.validation.trajectory import Trajectory

Floats = NDArray[np.float64]

# A trajectory and the reference's potential energy of its frames.
Series = tuple[Trajectory, Floats]
# Fluctuations of a few frames hide what changes slowly: series are averaged over this many parts.
PARTS = 20


def quench_parts(
    config: ValidationConfig, plan: Plan, reference: Series, model: Series
) -> list[Part]:
    """Energy and displacement over time, and the structure at the end."""
    observables = {}
    for name, (frames, energy) in (("reference", reference), ("model", model)):
        number = len(frames.species)
        moved = frames.positions - frames.positions[0]
        observables[name] = {
            "temperature, K": _temperature(frames, np.arange(number)),
            "potential energy per atom": energy[: len(frames)] / number,
            "mean-square displacement, Å²": np.mean(np.sum(moved**2, axis=2), axis=1),
        }
    part = _over_time(config, plan, observables)
    settings = config.rdf
    if settings is not None and bool(reference[0].pbc.all()):
        part.checks.extend(_final_structure(config, reference[0], model[0]))
    return [part]


def hot_half_parts(
    config: ValidationConfig, plan: Plan, reference: Series, model: Series
) -> list[Part]:
    """Temperatures of both halves over time."""
    first = reference[0]
    heights = np.linalg.solve(first.cell.T, first.positions[0].T)[2] % 1.0
    lower = heights < 0.5
    observables = {}
    for name, (frames, energy) in (("reference", reference), ("model", model)):
        hot = _temperature(frames, np.flatnonzero(lower))
        cold = _temperature(frames, np.flatnonzero(~lower))
        observables[name] = {
            "temperature of the hot half, K": hot,
            "temperature of the cold half, K": cold,
            "potential energy per atom": energy[: len(frames)] / len(frames.species),
        }
    return [_over_time(config, plan, observables)]


def _temperature(frames: Trajectory, atoms: NDArray[np.int64]) -> Floats:
    shares = degrees_of_freedom(frames.masses)
    return kinetic_temperatures(frames.velocities[:, atoms], frames.masses[atoms], shares[atoms])


def _over_time(
    config: ValidationConfig, plan: Plan, observables: dict[str, dict[str, Floats]]
) -> Part:
    spacing = plan.every * plan.horizon * 1e-3
    reference, model = observables["reference"], observables["model"]
    checks, lines = [], {}
    for name, known in reference.items():
        found = model[name]
        common = min(len(known), len(found))
        smooth = [
            np.array([part.mean() for part in np.array_split(series[:common], min(PARTS, common))])
            for series in (known, found)
        ]
        span = float(np.ptp(smooth[0]))
        deviation = float(np.mean(np.abs(smooth[1] - smooth[0])))
        checks.append(
            Check(
                f"{name}, over time",
                value=deviation / span if span > 0.0 else float("inf"),
                unit="%",
                limit=config.tolerances.series,
                reference=f"{smooth[0][0]:.5g} to {smooth[0][-1]:.5g}",
                model=f"{smooth[1][0]:.5g} to {smooth[1][-1]:.5g}",
            )
        )
        lines[name] = [
            ("reference", spacing * np.arange(float(len(known))), known),
            ("model", spacing * np.arange(float(len(found))), found),
        ]
    return Part(
        "Over time",
        f"Means over {PARTS} parts of the protocol: mean |difference| over the range that the "
        "reference goes through.",
        checks,
        [Plot("series", plots.series(lines, "time / ps", ""), "both from the same start")],
    )


def _final_structure(
    config: ValidationConfig, reference: Trajectory, model: Trajectory
) -> list[Check]:
    settings = config.rdf
    assert settings is not None
    g = [
        radial_distributions(
            frames.positions[-max(len(frames) // 5, 1) :],
            frames.cell,
            frames.species,
            frames.elements,
            settings.r_max,
            settings.bin_width,
        )
        for frames in (reference, model)
    ]
    return [
        Check(
            f"g(r) {pair}, last fifth",
            value=float(np.abs(g[1][pair].y - known.y).sum() / np.abs(known.y - 1.0).sum()),
            unit="%",
            limit=config.tolerances.rdf,
        )
        for pair, known in g[0].items()
    ]
