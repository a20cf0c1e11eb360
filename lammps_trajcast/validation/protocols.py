"""Protocols without equilibrium: both over time, from the same start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks, inefficiency
from lammps_trajcast.analysis.structure import radial_distributions
from lammps_trajcast.analysis.thermal import degrees_of_freedom, kinetic_temperatures
from lammps_trajcast.analysis.uncertainty import Error, jackknife
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    Check,
    Plot,
    ReferenceSelfCheck,
    ReportSection,
    Split,
    compare_curves,
)
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule

Floats = NDArray[np.float64]

# A trajectory and the reference's potential energy of its frames; the trajectory of a model that
# was stopped is shorter than the reference's.
Series = tuple[Trajectory, Floats]
# Fluctuations of a few frames hide what changes slowly: series are averaged over this many parts.
PARTS = 20
# What numbers of a log and of a dump are not exact by.
ROUNDING = 1e-9


def quench_parts(
    config: ValidationConfig,
    plan: RunSchedule,
    reference: Sequence[Series],
    model: Sequence[Series],
) -> list[ReportSection]:
    """Energy and displacement over time, and the structure at the end.

    Args:
        config: of the validation.
        plan: lengths in horizons.
        reference: series of each run of the reference.
        model: series of each run of the model, from the same starts.
    """

    def observe(series: Series) -> dict[str, Floats]:
        frames, energy = series
        number = len(frames.species)
        moved = frames.positions - frames.positions[0]
        return {
            "temperature, K": _temperature(frames, np.arange(number)),
            "potential energy per atom": energy[: len(frames)] / number,
            "mean-square displacement, Å²": np.mean(np.sum(moved**2, axis=2), axis=1),
        }

    part = _over_time(config, plan, [observe(run) for run in reference], map(observe, model))
    settings = config.rdf
    if settings is not None and bool(reference[0][0].pbc.all()):
        part.checks.extend(
            _final_structure(config, [run[0] for run in reference], [run[0] for run in model])
        )
    return [part]


def two_temperature_parts(
    config: ValidationConfig,
    plan: RunSchedule,
    reference: Sequence[Series],
    model: Sequence[Series],
) -> list[ReportSection]:
    """Temperatures of both halves over time. Arguments as of :func:`quench_parts`."""

    def observe(series: Series, lower: NDArray[np.bool_]) -> dict[str, Floats]:
        frames, energy = series
        return {
            "temperature of the hot half, K": _temperature(frames, np.flatnonzero(lower)),
            "temperature of the cold half, K": _temperature(frames, np.flatnonzero(~lower)),
            "potential energy per atom": energy[: len(frames)] / len(frames.species),
        }

    halves = []
    for frames, _ in reference:
        heights = np.linalg.solve(frames.cell.T, frames.positions[0].T)[2] % 1.0
        halves.append(heights < 0.5)
    return [_over_time(config, plan, map(observe, reference, halves), map(observe, model, halves))]


def _temperature(frames: Trajectory, atoms: NDArray[np.int64]) -> Floats:
    shares = degrees_of_freedom(frames.masses)
    return kinetic_temperatures(frames.velocities[:, atoms], frames.masses[atoms], shares[atoms])


def _over_time(
    config: ValidationConfig,
    plan: RunSchedule,
    reference: Iterable[dict[str, Floats]],
    model: Iterable[dict[str, Floats]],
) -> ReportSection:
    """Compare means over the runs, of observables by name."""
    spacing = plan.every * plan.horizon * 1e-3
    known_runs, found_runs = list(reference), list(model)
    checks, lines = [], {}
    for name in known_runs[0]:
        known = _table([run[name] for run in known_runs])
        found = _table([run[name] for run in found_runs], known.shape[1])
        checks.append(_series_check(name, known, found, spacing, config.tolerances.series))
        lines[name] = [
            (label, spacing * np.arange(float(table.shape[1])), _mean(table))
            for label, table in (("reference", known), ("model", found))
        ]
    runs = f"{len(known_runs)} runs" if len(known_runs) > 1 else "one run"
    return ReportSection(
        "Over time",
        f"Means of {runs} over {PARTS} parts of the protocol: mean |difference| over the range "
        "that the reference goes through.",
        checks,
        [
            Plot(
                "series",
                plots.series(lines, "time / ps", ""),
                f"{runs[0].upper()}{runs[1:]}, both from the same start",
            )
        ],
    )


def _table(runs: Sequence[Floats], length: int = 0) -> Floats:
    """Return (runs, length or that of the longest); nothing known is NaN."""
    table = np.full((len(runs), max(length, *(len(run) for run in runs))), np.nan)
    for row, run in zip(table, runs, strict=True):
        row[: len(run)] = run
    return table


def _mean(table: Floats) -> Floats:
    """Return means over runs, of those that go so far."""
    number = np.sum(np.isfinite(table), axis=0)
    return np.nansum(table, axis=0) / np.where(number > 0, number, np.nan)


def _series_check(
    name: str, known: Floats, found: Floats, spacing: float, tolerance: float | None
) -> Check:
    """Compare a series (runs, times) of reference and model; spacing of the times in ps."""
    # A run of the reference counts only as long as the model's from the same start goes.
    known = np.where(np.isfinite(found), known, np.nan)
    length = int(np.max(np.sum(np.isfinite(found), axis=1)))
    smooth = [_parts(_mean(series)[:length]) for series in (known, found)]
    span = float(np.ptp(smooth[0]))
    if span == 0.0:
        return Check(f"{name}, over time", value=float("inf"), unit="%", limit=tolerance)
    deviation = np.abs(smooth[1] - smooth[0]) / span
    errors, error = _errors((found - known)[:, :length] / span)
    words = f"{smooth[1][0]:.5g} to {smooth[1][-1]:.5g}"
    if tolerance is not None:
        ends = spacing * np.cumsum([len(part) for part in _split(known[0, :length])])
        beyond = np.flatnonzero(deviation > tolerance + 2.0 * errors + ROUNDING)
        until = ends[beyond[0] - 1] if beyond.size and beyond[0] else 0.0
        words += f"; beyond {100.0 * tolerance:g} % from {until:.3g} ps" if beyond.size else ""
    return Check(
        f"{name}, over time",
        value=float(deviation.mean()),
        unit="%",
        limit=tolerance,
        reference=f"{smooth[0][0]:.5g} to {smooth[0][-1]:.5g}",
        model=words,
        error=error.size,
        freedom=error.freedom,
        # Mean of |x| of a normal distribution.
        floor=float(errors.mean() * np.sqrt(2.0 / np.pi)),
        own=_own_series(known[:, :length] / span),
    )


def _own_series(series: Floats) -> ReferenceSelfCheck | None:
    """How far the mean of half of the reference's runs (runs, times) is from that of all.

    None if too few go so far.
    """
    smooth = np.array([_parts(run) for run in series if np.isfinite(run).all()])
    if len(smooth) < 2:
        return None
    first, second = (half.mean(axis=0) for half in np.array_split(smooth, 2))
    return ReferenceSelfCheck(
        0.5 * float(np.abs(first - second).mean()), "half of its runs beside all"
    )


def _parts(series: Floats) -> Floats:
    return np.array([part.mean() for part in _split(series)])


def _split(series: Floats) -> list[Floats]:
    """Return at most PARTS parts of a series (times)."""
    return np.array_split(series, min(PARTS, len(series)))


def _errors(difference: Floats) -> tuple[Floats, Error]:
    """Standard errors of the mean over runs: of each part, and of the mean |value| of the parts.

    From run to run; where a single run goes so far, from the fluctuations within its parts, which
    cannot show how far another run would be from it.

    difference: (runs, times).
    """
    smooth = np.array([_parts(run) for run in difference if np.isfinite(run).all()])
    if len(smooth) > 1:
        errors = np.asarray(smooth.std(axis=0, ddof=1) / np.sqrt(len(smooth)))
        nothing = np.zeros((2, smooth.shape[1]))
        return errors, jackknife(lambda mean, _: float(np.abs(mean).mean()), smooth, nothing)
    longest = max(difference, key=lambda run: int(np.isfinite(run).sum()))
    variances = np.array([_line_variance(part) for part in _split(longest[np.isfinite(longest)])])
    known = variances[np.isfinite(variances)]
    variances = np.where(np.isfinite(variances), variances, known.mean() if len(known) else 0.0)
    return np.sqrt(variances), Error(float(np.sqrt(variances.sum())) / len(variances))


def _line_variance(part: Floats) -> float:
    """Variance of the mean of a series (L,), from the deviations from a straight line through it.

    NaN if it is too short for one.
    """
    number = len(part)
    if number < 4:
        return float("nan")
    times = np.arange(float(number))
    rest = part - np.polyval(np.polyfit(times, part, 1), times)
    # A line through numbers without noise leaves what rounding leaves.
    if float(np.sum(rest**2)) <= 1e-18 * float(np.sum(part**2)):
        return 0.0
    return float(np.sum(rest**2)) / (number - 2) * inefficiency(rest)[0] / number


def _final_structure(
    config: ValidationConfig, reference: Sequence[Trajectory], model: Sequence[Trajectory]
) -> list[Check]:
    settings = config.rdf
    assert settings is not None
    known, found = (
        [
            radial_distributions(
                frames.positions[-max(len(frames) // 5, 1) :],
                frames.cell,
                frames.species,
                frames.elements,
                settings.r_max,
                settings.bin_width,
            )
            for frames in runs
        ]
        for runs in (reference, model)
    )
    runs = np.array_split(np.arange(len(reference)), 2)
    splits: list[Split] = [(runs[0].tolist(), runs[1].tolist())] if len(reference) > 1 else []
    checks = []
    for pair in known[0]:
        reference_g, model_g = (
            Blocks(np.array([g[pair].y for g in runs])) for runs in (known, found)
        )
        checks.append(
            compare_curves(
                f"g(r) {pair}, last fifth",
                reference_g,
                model_g,
                scale=lambda g: float(np.abs(g - 1.0).sum()),
                tolerance=config.tolerances.rdf,
                splits=splits,
            )
        )
    return checks
