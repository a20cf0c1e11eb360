"""The error that a network has to beat: of a plain linear map on a crystal, of straight flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import vesin
from numpy.typing import NDArray

from lammps_trajcast.data.layout import (
    SPLITS,
    DatasetError,
    DatasetSource,
    Split,
    open_dataset,
    segments_of,
)

# The normal equations of so many unknowns fill half a gigabyte, and take minutes.
MAX_FEATURES = 8000
# Pairs whose outer products are summed in one go.
BLOCK = 256
# Ridge parameters that are tried, over the largest eigenvalue of the normal equations.
RIDGES = np.logspace(-12, 0, 37)
# Atoms that stray further from their mean positions, over the smallest distance between these, do
# not vibrate about a lattice.
LINDEMANN = 0.25
# Multiplications that a map for comparison may take, half a minute; and its unknowns.
CHEAP, CHEAP_FEATURES = 2e11, 1300

Progress = Callable[[int, int], None]


class NoCrystalError(DatasetError):
    """The atoms have no mean positions, or not the same in all segments: there is no linear map."""


@dataclass(frozen=True)
class BallisticBaseline:
    """Errors of x + v t, v, the map of atoms that feel nothing.

    Errors are RMSE over rms, as in :class:`Baseline`, over all atoms of the split's pairs.

    Attributes:
        horizon: fs.
        pairs: it was judged on.
        displacement, velocity: errors.
    """

    horizon: float
    pairs: int
    displacement: float
    velocity: float

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain mapping, for JSON, under the names of :class:`Baseline`."""
        return {
            "horizon": self.horizon,
            "test_pairs": self.pairs,
            "ballistic_displacement": self.displacement,
            "ballistic_velocity": self.velocity,
        }


class Comparison(NamedTuple):
    """Errors of a map without a network, RMSE over rms on the test split."""

    kind: Literal["linear map", "straight flight"]
    displacement: float
    velocity: float


@dataclass(frozen=True)
class Baseline:
    """Errors of the linear map from (x - x0, v) and a constant to the state one horizon later.

    Errors are RMSE over rms, on the test split: of the displacement x(t + horizon) - x(t) and of
    the velocity v(t + horizon).

    Attributes:
        atoms: in the crystal.
        horizon: fs.
        training_pairs: pairs the map was fitted to.
        test_pairs: pairs it was judged on.
        unknowns: columns of the map; with fewer training pairs than these the fit is
            underdetermined without the ridge.
        ridge: parameter that is best on the validation split, over the largest eigenvalue of the
            normal equations; 0 is plain least squares.
        rms_deviation: of atoms from their mean positions, Angstrom.
        displacement, velocity: errors of the map.
        ballistic_displacement, ballistic_velocity: errors of x + v t, v.
    """

    atoms: int
    horizon: float
    training_pairs: int
    test_pairs: int
    unknowns: int
    ridge: float
    rms_deviation: float
    displacement: float
    velocity: float
    ballistic_displacement: float
    ballistic_velocity: float

    def as_dict(self) -> dict[str, Any]:
        """The same as a plain mapping, for JSON."""
        return asdict(self)


def ballistic_baseline(source: DatasetSource, split: Split = "test") -> BallisticBaseline:
    """Return the errors of x + v t, v on a split of any data set.

    Raises:
        DatasetError: the data set cannot be read or the split is empty.
    """
    errors, squares, number = np.zeros(2), np.zeros(2), 0
    with open_dataset(source) as file:
        horizon = float(file.attrs["horizon"])
        for name in segments_of(file, split):
            segment = file[name]
            positions, velocities = segment["positions"][:], segment["velocities"][:]
            before, after = segment["pairs"][:].T
            number += len(before)
            for first in range(0, len(before), BLOCK):
                now, then = before[first : first + BLOCK], after[first : first + BLOCK]
                moved = positions[then] - positions[now]
                errors[0] += np.sum((moved - horizon * velocities[now]) ** 2)
                errors[1] += np.sum((velocities[then] - velocities[now]) ** 2)
                squares += [np.sum(moved**2), np.sum(velocities[then] ** 2)]
    if number == 0:
        raise DatasetError(f"the split '{split}' is empty; make the data set of more segments")
    if not (squares > 0.0).all():
        raise DatasetError("its atoms do not move: there is nothing to predict")
    relative = np.sqrt(errors / squares)
    return BallisticBaseline(horizon, number, float(relative[0]), float(relative[1]))


def cheap_comparison(source: DatasetSource, atoms: int, pairs: int) -> Comparison:
    """Return the better of a linear map, where that is found in less than a minute, and flight.

    Args:
        source: data set of any kind.
        atoms: in its segments, or in one of them.
        pairs: in its training split.

    Raises:
        DatasetError: the data set cannot be read or its test split is empty.
    """
    flight = ballistic_baseline(source)
    found = Comparison("straight flight", flight.displacement, flight.velocity)
    features = 6 * atoms + 1
    affordable = min(pairs, int(CHEAP / features**2))
    if features > CHEAP_FEATURES or affordable < min(pairs, features):
        return found
    try:
        crystal = linear_baseline(source, affordable)
    except DatasetError:  # no crystal, or one that does not vibrate
        return found
    linear = Comparison("linear map", crystal.displacement, crystal.velocity)
    return min(found, linear, key=lambda comparison: comparison.velocity)


def linear_baseline(
    source: DatasetSource, training_pairs: int | None = None, progress: Progress | None = None
) -> Baseline:
    """Fit the map to the training split and judge it on the test split.

    Args:
        source: data set of a crystal.
        training_pairs: fit to that many pairs, drawn at random; None: to all.
        progress: called with the number of segments that are done, and of all.

    Raises:
        DatasetError: the data set cannot be read or is too large.
        NoCrystalError: it is not of a single crystal.
    """
    with open_dataset(source) as file:
        crystal = _Crystal(file, source)
        sums = {split: _Sums(crystal.features) for split in SPLITS}
        names = [(split, name) for split in SPLITS for name in segments_of(file, split)]
        counts = [len(file[name]["pairs"]) for split, name in names if split == "train"]
        wanted = iter(_draw_pairs(counts, training_pairs))
        for number, (split, name) in enumerate(names):
            if progress is not None:
                progress(number, len(names))
            pairs = file[name]["pairs"][:]
            if split == "train":
                pairs = pairs[next(wanted)]
            _add_segment(sums[split], crystal, file[name], pairs)
        horizon = float(file.attrs["horizon"])
    for split in SPLITS:
        if sums[split].pairs == 0:
            raise DatasetError(f"the split '{split}' is empty; make the data set of more segments")
    ridge, weights = _fit(sums["train"], sums["validation"], crystal.components)
    test = sums["test"]
    ballistic = np.zeros_like(weights)
    half = crystal.components
    # Features and targets are in units of the same scales.
    ballistic[half:-1, :half] = np.eye(half) * horizon * crystal.scale_v / crystal.scale_x
    ballistic[half:-1, half:] = np.eye(half)
    error, plain = test.errors(weights, half), test.errors(ballistic, half)
    return Baseline(
        atoms=half // 3,
        horizon=horizon,
        training_pairs=sums["train"].pairs,
        test_pairs=test.pairs,
        unknowns=crystal.features,
        ridge=ridge,
        rms_deviation=crystal.scale_x,
        displacement=error[0],
        velocity=error[1],
        ballistic_displacement=plain[0],
        ballistic_velocity=plain[1],
    )


def _draw_pairs(counts: list[int], number: int | None) -> list[NDArray[np.bool_]]:
    """Which of the pairs of each segment are fitted to."""
    total = sum(counts)
    if number is not None and not 1 <= number <= total:
        raise DatasetError(f"--pairs {number}: the data set has {total} pairs for training")
    drawn = np.zeros(total, dtype=bool)
    drawn[np.random.default_rng(0).permutation(total)[: total if number is None else number]] = True
    return np.split(drawn, np.cumsum(counts)[:-1])


class _Crystal:
    """Mean positions over the training split, and how far atoms stray from them."""

    def __init__(self, file: Any, source: DatasetSource) -> None:
        names = segments_of(file, "train")
        if not names:
            raise DatasetError("the split 'train' is empty; make the data set of more segments")
        first = file[names[0]]
        self.species: NDArray[np.int64] = first["species"][:]
        self.masses: NDArray[np.float64] = np.asarray(file.attrs["masses"])[self.species]
        # All of it is read now: of many files the first is closed again while others are read.
        cell, pbc = first["cell"][:], first["pbc"][:]
        if not pbc.all():
            raise NoCrystalError("the linear map is for crystals, but this system is not periodic")
        self.components = 3 * len(self.species)
        self.features = 2 * self.components + 1  # and a constant, as x0 is known from few frames
        if self.features > MAX_FEATURES:
            raise DatasetError(
                f"{len(self.species)} atoms make a linear map of {self.features} unknowns for each "
                f"component; take a crystal of at most {MAX_FEATURES // 6} atoms"
            )
        reference = self._inside(first)[0]
        total, frames = np.zeros_like(reference), 0
        squares = speeds = 0.0
        for name in names:
            places = self._near(self._inside(file[name]), reference)
            total += places.sum(axis=0)
            frames += len(places)
        self.lattice = total / frames
        for name in names:
            segment = file[name]
            moved = (self._near(self._inside(segment), self.lattice) - self.lattice) @ segment[
                "cell"
            ][:]
            squares += float(np.sum(moved**2))
            speeds += float(np.sum(segment["velocities"][:] ** 2))
        self.scale_x = float(np.sqrt(squares / (frames * self.components)))
        self.scale_v = float(np.sqrt(speeds / (frames * self.components)))
        if len(self.species) == 1 or not (self.scale_x > 1e-9 and self.scale_v > 0.0):
            raise DatasetError("its atoms do not move about their center of mass: nothing to fit")
        # Coordination shells of a perfect crystal: the nearest is all that is needed.
        neighbors = vesin.NeighborList(cutoff=4.0, full_list=False)
        (distances,) = neighbors.compute(self.lattice @ cell, cell, periodic=pbc, quantities="d")
        nearest = float(distances.min()) if len(distances) else 4.0
        if np.sqrt(3.0) * self.scale_x > LINDEMANN * nearest:
            raise NoCrystalError(
                f"atoms stray {np.sqrt(3.0) * self.scale_x:.2f} Angstrom from their mean "
                f"positions, which are {nearest:.2f} Angstrom apart: this is not a crystal, and a "
                "linear map about mean positions means nothing"
            )

    def deviations(self, segment: Any) -> NDArray[np.float64]:
        """Displacements x - x0 (F, N, 3) from the mean positions, without the crystal's motion.

        Args:
            segment: HDF5 group of F frames.

        Returns:
            (F, N, 3) Angstrom.

        Raises:
            NoCrystalError: the segment holds other atoms than the first one.
        """
        near = self._near(self._inside(segment), self.lattice)
        return (near - self.lattice) @ segment["cell"][:]

    def _inside(self, segment: Any) -> NDArray[np.float64]:
        """Fractional coordinates (F, N, 3) about the center of mass."""
        if not np.array_equal(segment["species"][:], self.species):
            raise NoCrystalError(
                f"{segment.file.filename}, {segment.name}: holds other atoms than the first "
                "segment; a linear map is for one crystal"
            )
        fractional = segment["positions"][:] @ np.linalg.inv(segment["cell"][:])
        center = np.einsum("n,fnc->fc", self.masses, fractional) / self.masses.sum()
        return fractional - center[:, None, :]

    def _near(
        self, places: NDArray[np.float64], reference: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The images nearest to a reference; atoms may have crossed the cell between segments."""
        near = places - np.round(places - reference)
        # Crossing atoms have moved the center of mass of the images that were stored.
        shift = np.einsum("n,fnc->fc", self.masses, near - reference) / self.masses.sum()
        return near - shift[:, None, :]


class _Sums:
    """Sums of products of features X (P, 6N + 1) and targets Y (P, 6N) over pairs."""

    def __init__(self, features: int) -> None:
        self.pairs = 0
        self.xx = np.zeros((features, features))
        self.xy = np.zeros((features, features - 1))
        self.yy = np.zeros(features - 1)

    def add(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.pairs += len(x)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.sum(y**2, axis=0)

    def squared_error(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum over pairs of (X weights - Y)^2 for each target."""
        cross = 2.0 * np.sum(weights * self.xy, axis=0)
        return np.sum(weights * (self.xx @ weights), axis=0) - cross + self.yy

    def errors(self, weights: NDArray[np.float64], half: int) -> tuple[float, float]:
        """RMSE over rms of displacement and of velocity."""
        error = np.maximum(self.squared_error(weights), 0.0)
        return (
            float(np.sqrt(error[:half].sum() / self.yy[:half].sum())),
            float(np.sqrt(error[half:].sum() / self.yy[half:].sum())),
        )


def _add_segment(sums: _Sums, crystal: _Crystal, segment: Any, pairs: NDArray[np.int64]) -> None:
    frames = len(segment["positions"])
    moved = crystal.deviations(segment).reshape(frames, -1) / crystal.scale_x
    velocities = segment["velocities"][:].reshape(frames, -1) / crystal.scale_v
    states = np.concatenate([moved, velocities, np.ones((frames, 1))], axis=1)
    for first in range(0, len(pairs), BLOCK):
        before, after = pairs[first : first + BLOCK].T
        displacement = moved[after] - moved[before]
        sums.add(states[before], np.concatenate([displacement, velocities[after]], axis=1))


def _fit(train: _Sums, validation: _Sums, half: int) -> tuple[float, NDArray[np.float64]]:
    """Return the ridge parameter that is best on the validation split, and its weights."""
    values, vectors = np.linalg.eigh(train.xx)
    projected = vectors.T @ train.xy
    largest = float(values[-1])
    # The weights are vectors @ diag(d) @ projected: errors are quadratic forms in d.
    quadratic = vectors.T @ validation.xx @ vectors
    linear = projected * (vectors.T @ validation.xy)
    forms = []
    for part in (slice(None, half), slice(half, None)):
        matrix = quadratic * (projected[:, part] @ projected[:, part].T)
        forms.append((matrix, linear[:, part].sum(axis=1), validation.yy[part].sum()))
    best: tuple[float, float, NDArray[np.float64]] | None = None
    ridges = [0.0, *RIDGES] if train.pairs > 2 * len(values) else RIDGES
    for ridge in ridges:
        damped = np.maximum(values, 0.0) + ridge * largest
        # Uniform motion of the crystal carries no information.
        d = np.divide(1.0, damped, out=np.zeros_like(damped), where=damped > 1e-13 * largest)
        error = sum(np.sqrt(max(d @ q @ d - 2.0 * b @ d + y, 0.0) / y) for q, b, y in forms)
        if best is None or error < best[0]:
            best = float(error), float(ridge), d
    assert best is not None
    return best[1], vectors @ (best[2][:, None] * projected)
