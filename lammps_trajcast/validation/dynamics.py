"""Sections of dynamics: vibrational spectrum, displacement and diffusion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.dynamics import (
    cosine_similarity,
    diffusion_constant,
    mean_square_displacement,
    spectral_peaks,
    vibrational_spectrum,
)
from lammps_trajcast.analysis.structure import Histogram
from lammps_trajcast.analysis.uncertainty import Error, combined, jackknife
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    CHANCE,
    HALF,
    Check,
    Plot,
    ReferenceSelfCheck,
    ReportSection,
    compare_curves,
    in_digits,
    relative,
)
from lammps_trajcast.validation.comparison import Comparison, curve_blocks, curve_data

Floats = NDArray[np.float64]

# Least prominence of a peak of the model's spectrum, as a share of the highest.
FAINT_PEAK = 0.03
# So many times the resolution asked for is too coarse; it comes in whole frames.
COARSE = 1.2


def spectrum(both: Comparison) -> ReportSection:
    """Vibrational density of states, of all atoms and of each element."""
    settings = both.config.spectrum

    def of(window: Trajectory) -> dict[str, Histogram]:
        result = {}
        for name, atoms in both.groups(window).items():
            result[name] = Histogram(
                *vibrational_spectrum(
                    window.velocities[:, atoms],
                    window.masses[atoms],
                    both.plan.horizon,
                    settings.resolution,
                )
            )
        return result

    x, reference, model = curve_blocks(
        *(
            [of(window) for run in side for window in run.spectra]
            for side in (both.reference, both.model)
        )
    )
    frequencies = x["all"]
    resolution = float(frequencies[1] - frequencies[0])
    # Averages over wider intervals are more alike: what is coarse hides what is wrong.
    blind = ""
    if resolution > COARSE * settings.resolution:
        blind = (
            f"points {resolution:.2g} THz apart, not {settings.resolution:g}: each block needs a "
            f"spectrum of {1.0 / settings.resolution:.3g} ps"
        )
    checks = [
        replace(_similarity(reference["all"], model["all"], both), blind=blind),
        _peak_shift(frequencies, reference["all"], model["all"], both),
    ]
    nyquist = 500.0 / both.plan.horizon
    figure = plots.curves(
        {name: (x[name], reference[name], model[name]) for name in reference},
        "frequency / THz",
        "density / (1/THz)",
    )
    return ReportSection(
        "Vibrational spectrum",
        "Mass-weighted power spectrum of the velocities, the Fourier transform of their "
        f"autocorrelation, both sampled every {both.plan.horizon:g} fs, the time step of the "
        f"model: what vibrates faster than {nyquist:.1f} THz appears folded back below it, in "
        f"both alike. Points are {resolution:.2g} THz apart.",
        checks,
        [Plot("spectrum", figure, "Vibrational density of states; gray band: spread of blocks")],
        curve_data(x, reference, model),
        limits=f"Lines closer than {resolution:.2g} THz are one; energy that goes from one "
        f"vibration to another over more than {in_digits(both.lasted)} ps, the length of a run, "
        "is not seen.",
    )


def _similarity(reference: Blocks, model: Blocks, both: Comparison) -> Check:
    """Cosine of the angle between the spectra.

    Noise turns the mean of each block in a direction of its own: the cosine of two right spectra
    is less than 1. Products of different blocks are free of it, and say how much it is.
    """
    value = cosine_similarity(model.mean, reference.mean)
    error = jackknife(cosine_similarity, reference.values, model.values)
    halves = []
    for split in both.splits:
        first, second = (Blocks(reference.values[list(half)]) for half in split)
        apart = _without_noise(first, second)
        chance = jackknife(cosine_similarity, first.values, second.values)
        halves.append(
            ReferenceSelfCheck(apart, "one half beside the other", error=chance.half_width / CHANCE)
        )
    blocks = [cosine_similarity(each, reference.mean) for each in reference.values]
    return Check(
        "spectrum, cosine similarity",
        value=value,
        limit=both.tolerances.spectrum_similarity,
        at_least=True,
        reference=f"block with the mean of all {np.mean(blocks):.4f}",
        model=f"without what noise takes off {_without_noise(reference, model):.4f}",
        error=error.size,
        freedom=error.freedom,
        floor=max(_without_noise(reference, model) - value, 0.0),
        own=min(halves, key=lambda own: own.value + CHANCE * (own.error or 0.0), default=None),
    )


def _without_noise(first: Blocks, second: Blocks) -> float:
    """Cosine of two curves, the noise of the blocks (B, K) of each taken off their lengths."""

    def square(blocks: Blocks, other: Blocks) -> float:
        noise = blocks if len(blocks.values) > 1 else other
        variance = float(np.sum(noise.spread**2)) / len(blocks.values)
        return float(np.sum(blocks.mean**2)) - variance

    squares = square(first, second), square(second, first)
    if min(squares) <= 0.0:
        return 1.0 if first.mean.any() and second.mean.any() else 0.0
    return float(first.mean @ second.mean) / float(np.sqrt(squares[0] * squares[1]))


def _peak_shift(frequencies: Floats, reference: Blocks, model: Blocks, both: Comparison) -> Check:
    """The main peak of the reference from which the nearest peak of the model is farthest."""
    prominence = both.config.spectrum.prominence
    peaks = spectral_peaks(frequencies, reference.mean, prominence)
    candidates = spectral_peaks(frequencies, model.mean, FAINT_PEAK)

    def farthest_shift(_: Floats, found: Floats) -> float:
        places = spectral_peaks(frequencies, found, FAINT_PEAK)
        shifts = [
            float(np.abs(places - peak).min()) if len(places) else float("inf") for peak in peaks
        ]
        return max(shifts, default=float("inf"))

    def of_known(known: Floats, found: Floats) -> float:
        return farthest_shift(found, known)

    # Both peaks lie somewhere in an interval between two points: a uniform distribution.
    resolution = float(frequencies[1] - frequencies[0])
    grid = Error(resolution * np.sqrt(2.0 / 12.0))
    error = combined([jackknife(farthest_shift, reference.values, model.values), grid])
    of_reference = jackknife(of_known, reference.values, reference.values)
    halves = [reference.values[list(half)].mean(axis=0) for split in both.splits for half in split]
    nearest = [candidates[np.abs(candidates - peak).argmin()] for peak in peaks if len(candidates)]
    return Check(
        "spectrum, farthest shift of a main peak",
        value=farthest_shift(reference.mean, model.mean),
        unit="THz",
        limit=both.tolerances.spectrum_peak,
        reference=" ".join(f"{peak:.1f}" for peak in peaks) + " THz",
        model=" ".join(f"{peak:.1f}" for peak in nearest) + " THz",
        error=error.size,
        freedom=error.freedom,
        own=ReferenceSelfCheck(
            max(farthest_shift(half, half) for half in halves),
            HALF,
            error=combined([of_reference, grid]).size,
        ),
    )


def displacement(both: Comparison) -> ReportSection:
    """Mean-square displacement of each element, and diffusion constants."""

    def of(block: Trajectory) -> dict[str, Histogram]:
        lags = block.times - block.times[0]
        result = {}
        for name, atoms in both.groups(block).items():
            msd = mean_square_displacement(block.positions[:, atoms])
            result[name] = Histogram(lags[: len(msd)], msd)
        return result

    x, reference, model = curve_blocks(*[[of(block) for block in side] for side in both.blocks()])
    checks = [
        compare_curves(
            f"mean-square displacement, {name}",
            reference[name],
            model[name],
            lambda curve: float(curve.sum()),
            both.tolerances.displacement,
            both.splits,
        )
        for name in reference
    ]
    settings = both.config.diffusion
    if settings is not None:
        longest = x["all"][-1] * 1e-3
        for name in reference:
            try:
                constants = [
                    Blocks(
                        np.array([diffusion_constant(x[name], msd, settings.fit) for msd in side])
                    )
                    for side in (reference[name].values, model[name].values)
                ]
            except ValueError:
                checks.append(
                    Check(
                        f"diffusion constant, {name}",
                        value=float("nan"),
                        reference=f"needs lags up to {settings.fit[1]:g} ps, blocks give "
                        f"{longest:.2g} ps",
                    )
                )
                continue
            checks.append(
                relative(
                    f"diffusion constant, {name}",
                    constants[0],
                    constants[1],
                    "1e-9 m²/s",
                    both.tolerances.diffusion,
                    both.splits,
                )
            )
    figure = plots.curves(
        {name: (x[name] * 1e-3, reference[name], model[name]) for name in reference},
        "time / ps",
        "Å²",
    )
    return ReportSection(
        "Mean-square displacement",
        "Integrated difference over the integral of the reference's, up to half a block.",
        checks,
        [Plot("msd", figure, "Mean-square displacement; gray band: spread of blocks")],
        curve_data(x, reference, model),
        limits=f"Displacements over more than {in_digits(x['all'][-1] * 1e-3)} ps, half a block, "
        "are not seen.",
    )
