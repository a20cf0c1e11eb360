"""Motion in a trajectory: vibrational spectrum, mean-square displacement, diffusion, drift."""

from __future__ import annotations

import numpy as np
import scipy.signal
import scipy.stats
import tidynamics
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def vibrational_spectrum(
    velocities: Floats, masses: Floats, interval: float, resolution: float
) -> tuple[Floats, Floats]:
    """Vibrational density of states: the mass-weighted power spectrum of the velocities.

    By the Wiener-Khinchin theorem it is the Fourier transform of the velocity autocorrelation;
    it is estimated with Welch's method and Hann windows. What vibrates faster than half the
    sampling rate appears folded back below it.

    Args:
        velocities: (F, N, 3), any unit.
        masses: (N,) g/mol.
        interval: between frames, fs.
        resolution: THz; coarser where the trajectory is too short for it.

    Returns:
        Frequencies (K,) in THz and densities (K,) with an integral of 1.
    """
    window = int(round(1e3 / (resolution * interval)))
    window = max(min(window, len(velocities)), 1)
    frequencies, power = scipy.signal.welch(
        velocities, fs=1e3 / interval, nperseg=window, axis=0, detrend=False
    )
    spectrum = np.einsum("knc,n->k", power, masses)
    total = float(np.sum(spectrum)) * (frequencies[1] if len(frequencies) > 1 else 1.0)
    return frequencies, spectrum / total if total > 0.0 else spectrum


def spectral_peaks(frequencies: Floats, spectrum: Floats, prominence: float) -> Floats:
    """Frequencies of the maxima that stand out by a share of the highest value, ascending."""
    padded = np.concatenate([[0.0], spectrum, [0.0]])
    places, _ = scipy.signal.find_peaks(padded, prominence=prominence * spectrum.max(initial=0.0))
    return frequencies[places - 1]


def cosine_similarity(first: Floats, second: Floats) -> float:
    """Of two curves on the same points: 1 if they differ by a factor only; 0 if one is zero."""
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm > 0.0 else 0.0


def mean_square_displacement(positions: Floats) -> Floats:
    """Mean over atoms and time origins of the square of x(t + lag) - x(t), Angstrom^2.

    Args:
        positions: (F, N, 3) Angstrom, continuous in time.

    Returns:
        (F // 2 + 1,) Angstrom^2, for lags from 0 to F // 2 frames; longer lags have too few
        origins.
    """
    lags = len(positions) // 2 + 1
    total = np.zeros(lags)
    for atom in range(positions.shape[1]):
        # Sums of squares lose digits far from the origin.
        path = positions[:, atom] - positions[:, atom].mean(axis=0)
        total += tidynamics.msd(path)[:lags]
    return total / positions.shape[1]


def diffusion_constant(lags: Floats, msd: Floats, fit: tuple[float, float]) -> float:
    """Einstein's: a sixth of the slope of the mean-square displacement, in 1e-9 m^2/s.

    Args:
        lags: (K,) fs.
        msd: (K,) mean-square displacement at these lags, Angstrom^2.
        fit: first and last lag of the part of the curve through which the line goes, ps.

    Raises:
        ValueError: fewer than two points lie in this part.
    """
    inside = (lags >= 1e3 * fit[0]) & (lags <= 1e3 * fit[1])
    if inside.sum() < 2:
        raise ValueError(f"no mean-square displacement between {fit[0]:g} and {fit[1]:g} ps")
    slope = scipy.stats.linregress(lags[inside], msd[inside]).slope
    # 1 Angstrom^2/fs = 1e-5 m^2/s
    return float(slope) / 6.0 * 1e4


def linear_drift(times: Floats, values: Floats) -> float:
    """Slope of the straight line through values (F,) at times (F,)."""
    return float(scipy.stats.linregress(times, values).slope)


def first_peak(x: Floats, y: Floats) -> float:
    """Position of the first maximum of a curve that reaches a quarter of its largest value.

    A parabola through the points around it that reach 60 % of it resolves a part of a bin. NaN if
    there is none.
    """
    places, _ = scipy.signal.find_peaks(
        np.concatenate([[0.0], y, [0.0]]),
        height=0.25 * y.max(initial=0.0),
        prominence=0.1 * y.max(initial=0.0),
    )
    if not len(places) or y.max() <= 0.0:
        return float("nan")
    top = int(places[0]) - 1
    low = high = top
    while low > 0 and y[low - 1] >= 0.6 * y[top]:
        low -= 1
    while high < len(y) - 1 and y[high + 1] >= 0.6 * y[top]:
        high += 1
    if high - low < 2:
        low, high = max(top - 1, 0), min(top + 1, len(y) - 1)
    a, b, _ = np.polyfit(x[low : high + 1] - x[top], y[low : high + 1], 2)
    return float(x[top] - b / (2.0 * a)) if a < 0.0 else float(x[top])
