"""Sections of dynamics: vibrational spectrum, displacement and diffusion."""

from __future__ import annotations

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
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    HALF,
    Check,
    Own,
    Part,
    Plot,
    compare_curves,
    relative,
)
from lammps_trajcast.validation.comparison import Comparison, curve_blocks, curve_data
from lammps_trajcast.validation.trajectory import Trajectory

Floats = NDArray[np.float64]

# Least prominence of a peak of the model's spectrum, as a share of the highest.
FAINT_PEAK = 0.03


def spectrum(both: Comparison) -> Part:
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
    known, found = reference["all"], model["all"]
    blocks = [cosine_similarity(each, known.mean) for each in known.values]
    frequencies = x["all"]
    peaks = spectral_peaks(frequencies, known.mean, settings.prominence)
    candidates = spectral_peaks(frequencies, found.mean, FAINT_PEAK)
    halves = [known.values[list(half)].mean(axis=0) for split in both.splits for half in split]

    def farthest_shift(candidates: Floats) -> float:
        shifts = [
            float(np.abs(candidates - peak).min()) if len(candidates) else float("inf")
            for peak in peaks
        ]
        return max(shifts, default=float("inf"))

    resolution = float(frequencies[1] - frequencies[0])
    nearest = [candidates[np.abs(candidates - peak).argmin()] for peak in peaks if len(candidates)]
    checks = [
        Check(
            "spectrum, cosine similarity",
            value=cosine_similarity(found.mean, known.mean),
            limit=both.tolerances.spectrum_similarity,
            at_least=True,
            reference=f"block with the mean of all {np.mean(blocks):.4f}",
            own=Own(min(cosine_similarity(half, known.mean) for half in halves), HALF),
        ),
        Check(
            "spectrum, farthest shift of a main peak",
            value=farthest_shift(candidates),
            unit="THz",
            limit=both.tolerances.spectrum_peak,
            reference=" ".join(f"{peak:.1f}" for peak in peaks) + " THz",
            model=" ".join(f"{peak:.1f}" for peak in nearest) + " THz",
            noise=0.5 * resolution,
            own=Own(
                max(
                    farthest_shift(spectral_peaks(frequencies, half, FAINT_PEAK)) for half in halves
                ),
                HALF,
                noise=0.5 * resolution,
            ),
        ),
    ]
    nyquist = 500.0 / both.plan.horizon
    figure = plots.curves(
        {name: (x[name], reference[name], model[name]) for name in reference},
        "frequency / THz",
        "density / (1/THz)",
    )
    return Part(
        "Vibrational spectrum",
        "Mass-weighted power spectrum of the velocities, the Fourier transform of their "
        f"autocorrelation, both sampled every {both.plan.horizon:g} fs, the time step of the "
        f"model: what vibrates faster than {nyquist:.1f} THz appears folded back below it, in "
        f"both alike. Points are {resolution:.2g} THz apart.",
        checks,
        [Plot("spectrum", figure, "vibrational density of states")],
        curve_data(x, reference, model),
    )


def displacement(both: Comparison) -> Part:
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
            float(reference[name].mean.sum()),
            both.tolerances.displacement,
            both.tolerances.spreads,
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
    return Part(
        "Mean-square displacement",
        "Integrated difference over the integral of the reference's, up to half a block.",
        checks,
        [Plot("msd", figure, "mean-square displacement")],
        curve_data(x, reference, model),
    )
