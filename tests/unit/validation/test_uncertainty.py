"""Verdicts on synthetic runs whose true values are known: how often they are wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.signal
import scipy.stats
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.dynamics import cosine_similarity
from lammps_trajcast.analysis.uncertainty import (
    Error,
    combined,
    deviation_error,
    jackknife,
    mean_error,
    slope_error,
)
from lammps_trajcast.validation.compare import Check, compare_curves, relative
from lammps_trajcast.validation.config import Tolerances
from lammps_trajcast.validation.dynamics import _similarity

Floats = NDArray[np.float64]

REPEATS = 400
# Two and three standard deviations of a normal distribution leave so much at one side.
ONE_SIDE, BEYOND_THREE = 1.0 - scipy.stats.norm.cdf([2.0, 3.0])
# So many wrong ones of REPEATS are exceeded once in a thousand times if the rate is as stated.
MOST = int(scipy.stats.binom.ppf(0.999, REPEATS, ONE_SIDE))
MOST_FAILURES = int(scipy.stats.binom.ppf(0.999, REPEATS, BEYOND_THREE))


def autoregressive(random: np.random.Generator, memory: float, shape: tuple[int, ...]) -> Floats:
    """Gaussian series (…, L) of variance 1 with the correlations memory^k."""
    noise = random.normal(size=shape) * np.sqrt(1.0 - memory**2)
    noise[..., 0] /= np.sqrt(1.0 - memory**2)
    series: Floats = scipy.signal.lfilter([1.0], [1.0, -memory], noise)
    return series


@pytest.mark.parametrize(("memory", "blocks"), [(0.0, 4), (0.8, 4), (0.8, 12), (0.98, 4)])
def test_means_of_correlated_series(memory: float, blocks: int) -> None:
    """A true deviation that is the tolerance itself is decided by chance only.

    It passes as often as two standard deviations say, and fails as often as three. One of four
    times as much is found.
    """
    random = np.random.default_rng(1)
    number = 2000
    # Variance of the mean of such a series, from its formula.
    error = np.sqrt((1.0 + memory) / (1.0 - memory) / number)
    limit = 8.0 * error
    counts: dict[str, Counter[str]] = {"limit": Counter(), "right": Counter(), "wrong": Counter()}
    for series in autoregressive(random, memory, (REPEATS, number)):
        found = mean_error([series], blocks)
        for name, mean in (("limit", limit), ("right", 0.0), ("wrong", 4.0 * limit)):
            value = abs(mean + float(series.mean()))
            check = Check("x", value, limit=limit, error=found.size, freedom=found.freedom)
            counts[name][check.verdict] += 1
    assert counts["limit"]["passed"] <= MOST, counts
    assert counts["limit"]["failed"] <= MOST_FAILURES, counts
    assert counts["right"]["failed"] == 0 and counts["wrong"]["passed"] == 0
    assert counts["right"]["passed"] > 0.85 * REPEATS and counts["wrong"]["failed"] > 0.85 * REPEATS


def test_a_right_model_fails_no_validation_by_chance() -> None:
    """Twenty checks, looked at again whenever the runs have doubled, as `until_decided` does.

    With two standard errors 36 of the 150 validations failed.
    """
    random = np.random.default_rng(8)
    validations, checks, most = 150, 20, 16
    failed = 0
    for _ in range(validations):
        # Blocks of a run; the tolerance is 0.7 of the error of the first look.
        blocks = random.normal(size=(checks, 5 * most))
        limit = 0.7 / np.sqrt(5.0)
        verdicts = []
        for length in (1, 2, 4, 8, 16):
            for of_check in blocks[:, : 5 * length]:
                error = mean_error([of_check], 5 * length)
                value = abs(float(of_check.mean()))
                verdicts.append(
                    Check("x", value, limit=limit, error=error.size, freedom=error.freedom).passed
                )
        failed += False in verdicts
    assert failed <= 4


def test_errors_of_several_runs_count_as_one() -> None:
    """Of all samples, however they are spread over runs; of a slope by its formula."""
    random = np.random.default_rng(2)
    runs = list(autoregressive(random, 0.5, (6, 4000)))
    assert mean_error(runs, 5).size == pytest.approx(np.sqrt(3.0 / 24000.0), rel=0.35)
    times = np.linspace(0.0, 3.0, 200)
    slopes, errors = [], []
    for noise in autoregressive(random, 0.6, (300, 200)):
        values = 1.0 - 2.0 * times + noise
        slopes.append(np.polyfit(times, values, 1)[0])
        errors.append(slope_error(times, values).size)
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.15)
    # Student's t with few degrees of freedom, from its table: 97.725 % lies below.
    assert Error(1.0, 3.0).half_width == pytest.approx(3.307, abs=0.002)
    assert Error(1.0).half_width == 2.0
    sum_ = combined([Error(3.0, 4.0), Error(4.0, 9.0)])
    assert sum_.size == pytest.approx(5.0)
    assert sum_.freedom == pytest.approx(25.0**2 / (9.0**2 / 4.0 + 16.0**2 / 9.0))


def test_errors_of_standard_deviations() -> None:
    """The error of the deviation is the known one.

    Of a Gaussian series the variance of x^2 is known, and what correlations make of it; of a
    series that swings regularly nothing is uncertain.
    """
    random = np.random.default_rng(8)
    memory, number = 0.7, 3000
    found = [
        (series.std(), deviation_error([series], 8))
        for series in autoregressive(random, memory, (REPEATS, number))
    ]
    # (1 + a^2) / (1 - a^2) samples count as one for x^2, whose variance is 2.
    expected = np.sqrt((1.0 + memory**2) / (1.0 - memory**2) / (2.0 * number))
    deviations = np.array([std - 1.0 for std, _ in found])
    assert deviations.std() == pytest.approx(expected, rel=0.1)
    assert np.mean([error.size for _, error in found]) == pytest.approx(expected, rel=0.1)
    far = np.mean([abs(std - 1.0) > error.half_width for std, error in found])
    assert far < 2.0 * ONE_SIDE + 4.0 * np.sqrt(2.0 * ONE_SIDE / REPEATS)
    swing = np.sin(0.7 * np.arange(number)) + 0.1 * random.normal(size=number)
    assert deviation_error([swing], 4).half_width < 0.03


def test_jackknife_of_a_nonlinear_figure() -> None:
    """The error of a ratio of means, from its propagation; of one block, from that of others."""
    random = np.random.default_rng(3)
    first, second = 5.0 + random.normal(size=(400, 1)), 2.0 + random.normal(size=(100, 1))
    expected = np.hypot(2.0 / 25.0 / 20.0, 1.0 / 5.0 / 10.0)
    found = jackknife(lambda a, b: float((b / a).item()), first, second)
    assert found.size == pytest.approx(expected, rel=0.2)
    alone = jackknife(lambda a, b: float((b - a).item()), first, second[:1])
    assert alone.size == pytest.approx(np.hypot(1.0, 1.0 / 20.0), rel=0.2)
    assert not np.isfinite(jackknife(lambda a, b: 0.0, first[:1], second[:1]).size)


CURVE = 5.0 + np.sin(np.linspace(0.0, 12.0, 150))


def distances(
    random: np.random.Generator, noise: float, true: float, blocks: int, together: bool
) -> Check:
    """Check of two curves that truly differ by a share `true`, with a tolerance of 3 %.

    noise: standard deviation of a block. together: it is the same at all points.
    """

    def side() -> Floats:
        return noise * random.normal(size=(blocks, 1 if together else len(CURVE))) + CURVE

    difference = true * CURVE.mean() * np.where(np.arange(len(CURVE)) % 2 == 0, 1.0, -1.0)
    if together:
        difference = np.full(len(CURVE), true * CURVE.mean())
    return compare_curves(
        "x", Blocks(side()), Blocks(side() + difference), lambda curve: float(curve.sum()), 0.03
    )


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("blocks", [4, 10])
def test_distances_of_curves_have_a_floor(together: bool, blocks: int) -> None:
    """Noise decides how much a check can tell.

    Chance alone makes a distance of twice the tolerance: nothing is decided. Little noise: the
    right passes, what is wrong fails, and at the tolerance itself neither is certain.
    """
    random = np.random.default_rng(4)

    def counts(noise: float, true: float) -> Counter[str]:
        number = REPEATS // 2
        return Counter(
            distances(random, noise, true, blocks, together).verdict for _ in range(number)
        )

    # sqrt(2 / pi) of the standard error of the difference, over the mean of the curve.
    unit = 5.0 * np.sqrt(np.pi / 2.0) / np.sqrt(2.0 / blocks)
    most = int(scipy.stats.binom.ppf(0.999, REPEATS // 2, ONE_SIDE))
    noisy = counts(0.06 * unit, 0.0)
    assert noisy["failed"] <= most, noisy
    if not together:
        assert noisy["undecided"] == REPEATS // 2, noisy
        check = distances(random, 0.06 * unit, 0.0, blocks, together)
        assert check.floor == pytest.approx(0.06, rel=0.1) and "too short" in check.remark
        assert check.value == pytest.approx(0.06, rel=0.2)
    quiet = counts(0.004 * unit, 0.0)
    assert quiet["failed"] == 0 and quiet["passed"] > 0.9 * REPEATS / 2, quiet
    limit = counts(0.004 * unit, 0.03)
    assert limit["failed"] <= most and limit["passed"] <= most, limit
    wrong = counts(0.004 * unit, 0.08)
    assert wrong["passed"] == 0 and wrong["failed"] > 0.9 * REPEATS / 2, wrong
    # However noisy, what differs by far more than noise can make fails.
    assert counts(0.06 * unit, 3.0)["failed"] > 0.9 * REPEATS / 2


@dataclass
class Settings:
    """What the check of a spectrum asks for."""

    tolerances: Tolerances
    splits: tuple[()] = ()


FREQUENCIES = np.linspace(0.0, 16.0, 100)


def spectrum(shift: float) -> Floats:
    """Three lines; shift: of all of them, THz."""
    lines = [np.exp(-0.5 * ((FREQUENCIES - c - shift) / 0.7) ** 2) for c in (3.0, 7.0, 12.0)]
    return np.asarray(sum(lines)) + 0.02


def similarity(random: np.random.Generator, shift: float, windows: int, blocks: int = 4) -> Check:
    """Check of spectra with the noise of periodograms.

    Each block is a mean of so many windows, in each of which a power is exponentially distributed.
    """

    def side(of: Floats) -> Blocks:
        return Blocks(of * random.gamma(windows, 1.0 / windows, size=(blocks, len(of))))

    settings = Settings(Tolerances())
    return _similarity(side(spectrum(0.0)), side(spectrum(shift)), settings)  # type: ignore[arg-type]


def test_cosine_of_noisy_spectra() -> None:
    """Noise alone takes the cosine of two right spectra below the tolerance: undecided, not failed.

    With little noise the right passes and a wrong one fails.
    """
    random = np.random.default_rng(5)
    true = cosine_similarity(spectrum(0.0), spectrum(0.3))
    assert 0.93 < true < 0.96
    most = int(scipy.stats.binom.ppf(0.999, 200, ONE_SIDE))

    def checks(shift: float, windows: int) -> list[Check]:
        return [similarity(random, shift, windows) for _ in range(200)]

    noisy = checks(0.0, 5)
    assert np.mean([check.value for check in noisy]) < 0.97
    assert sum(check.passed is False for check in noisy) <= most
    # What noise takes off is known: without it the cosine is that of the curves.
    corrected = [check.value + check.floor for check in noisy]
    assert np.mean(corrected) == pytest.approx(1.0, abs=0.004)
    quiet = checks(0.0, 200)
    assert sum(check.passed is True for check in quiet) > 190
    assert not any(check.passed is False for check in quiet)
    wrong = checks(0.3, 600)
    assert np.mean([check.value + check.floor for check in wrong]) == pytest.approx(true, abs=0.002)
    assert sum(check.passed is False for check in wrong) > 190
    assert not any(check.passed for check in checks(0.3, 10))


def test_relative_deviations() -> None:
    """Diffusion constants of some blocks: 10 % apart with a tolerance of 15 %, and 40 %."""
    random = np.random.default_rng(6)

    def verdicts(factor: float, blocks: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(200):
            sides = [Blocks(m + 0.2 * random.normal(size=blocks)) for m in (1.0, factor)]
            found[relative("x", *sides, "", 0.15).verdict] += 1
        return found

    most = int(scipy.stats.binom.ppf(0.999, 200, ONE_SIDE))
    for blocks in (5, 20):
        for factor in (1.0, 1.1):
            assert verdicts(factor, blocks)["failed"] <= most
        assert verdicts(1.8, blocks)["passed"] == 0
    assert verdicts(1.0, 100)["passed"] > 190 and verdicts(1.4, 100)["failed"] > 190
    assert verdicts(1.15, 100)["failed"] <= most and verdicts(1.15, 100)["passed"] <= most
