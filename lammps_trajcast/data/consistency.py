"""Whether the velocities of a trajectory are the rates at which its positions change.

Velocities in another unit, a wrong time step, or atoms that change their order show in a comparison
of displacements with velocities times time. Frames are often so far apart that atoms turn around in
between; what can still be concluded is the following, for stationary motion of any spectrum.

For a smooth function w of time that vanishes at its ends, the integral of w v equals that of -w' x.
Sampled at the frames, with a cubic B-spline of several frames' width for w, both sums, M and D,
hold the slow motions, for which they agree. Motions faster than the frames can resolve appear as
noise in M, and in D only little. Rounded positions are noise in D. So, if velocities are too small
by a factor f,

    <D M> / <M M>  <=  f  <=  <D D> / <D M>,

up to motions whose period is close to the time between frames, which make the right-hand side
smaller. Apart from these, the mean square displacement never exceeds that of free flight,
<v^2> t^2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Frames that are looked at together, and atoms: both are enough for many samples.
FRAMES = 64
ATOMS = 2000
# Widths of the splines in frames; 0 stands for the trapezoidal rule between two frames. That of 1,
# Simpson's rule, gives no upper bound: motions near the frames' Nyquist frequency lower it.
WIDTHS = (0, 1, 2, 4, 8, 16)
# Independent samples below which nothing is concluded.
SAMPLES = 12
# Standard errors that count as none.
ERRORS = 5.0
# Displacements in Angstrom below which the digits of positions may matter.
VISIBLE = 0.02


class Fault(NamedTuple):
    """What is wrong with velocities.

    Attributes:
        kind: "factor": displacements are `factor` times velocity times time. "unrelated": they
            have nothing to do with each other. "still": velocities are zero, and atoms move.
        factor: of the displacements.
        species: index of the element for which it is so; None: for all atoms.
    """

    kind: str
    factor: float
    species: int | None


class Jump(NamedTuple):
    """An atom that moved farther than it could.

    Attributes:
        step: of the later frame.
        atom: number of the atom.
        distance: Angstrom.
    """

    step: int
    atom: int
    distance: float


@dataclass
class _Sums:
    """Sums over samples, for all atoms (weighted with their masses) and for each element."""

    dd: Array
    dm: Array
    mm: Array
    weight: Array  # of the samples: components, times masses
    samples: Array  # independent ones, about

    @classmethod
    def none(cls, groups: int) -> _Sums:
        return cls(*(np.zeros(groups) for _ in range(5)))

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            *(self.dd + other.dd, self.dm + other.dm, self.mm + other.mm),
            *(self.weight + other.weight, self.samples + other.samples),
        )

    def judge(self, group: int) -> _Estimate:
        """Bounds of the factor; there must be motion in both D and M."""
        dd, dm, mm = float(self.dd[group]), float(self.dm[group]), float(self.mm[group])
        correlation = dm / np.sqrt(dd * mm)
        square = max(correlation**2, 1e-12)
        error = np.sqrt(max(1.0 - square, 0.0) / square / self.samples[group])
        return _Estimate(
            *(dm / mm, dd / dm if dm != 0.0 else np.inf, float(np.sqrt(dd / mm))),
            *(float(correlation), float(error), float(self.samples[group])),
        )


class _Estimate(NamedTuple):
    lower: float
    upper: float
    middle: float  # of the amplitudes, without a sign
    correlation: float
    error: float  # relative standard error of the bounds
    samples: float


@dataclass
class _Comparison:
    """Sums for each width, and of free flight."""

    widths: dict[int, _Sums] = field(default_factory=dict)
    flight: Array = field(default_factory=lambda: np.zeros(0))  # mean of v^2 t^2 of both frames

    def __add__(self, other: _Comparison) -> _Comparison:
        widths = dict(self.widths)
        for width, sums in other.widths.items():
            widths[width] = widths[width] + sums if width in widths else sums
        flight = other.flight if not self.flight.size else self.flight + other.flight
        return _Comparison(widths, flight)

    def fault(self) -> Fault | None:
        """What can be concluded; it is of a single element if those of another are right."""
        whole, *elements = (self._fault_of(group) for group in range(len(self.flight)))
        single = [k for k, fault in enumerate(elements) if fault is not None]
        found = whole or next((fault for fault in elements if fault is not None), None)
        others = [k for k in range(len(elements)) if k not in single]
        if len(single) == 1 and any(self._is_right(k + 1) for k in others):
            found = elements[single[0]]
            return None if found is None else found._replace(species=single[0])
        return found

    def _is_right(self, group: int) -> bool:
        return any(
            estimate.correlation > 0.9 and 0.9 < estimate.middle < 1.1
            for _, estimate in self._estimates(group)
        )

    def _estimates(self, group: int) -> Iterator[tuple[int, _Estimate]]:
        for width, sums in self.widths.items():
            moving = sums.dd[group] > 0.0 and sums.mm[group] > 0.0
            if moving and sums.samples[group] >= SAMPLES:
                yield width, sums.judge(group)

    def _fault_of(self, group: int) -> Fault | None:
        pairs = self.widths.get(0)
        if pairs is None or pairs.samples[group] == 0.0:
            return None
        displacement = float(np.sqrt(pairs.dd[group] / pairs.weight[group]))
        if self.flight[group] == 0.0:
            return Fault("still", np.inf, None) if displacement > VISIBLE / 10 else None
        estimates = list(self._estimates(group))
        if not estimates:
            return None
        best = max((estimate for _, estimate in estimates), key=lambda e: e.correlation)
        factor = best.middle if best.correlation > 0.95 else best.upper
        flight = float(pairs.dd[group] / self.flight[group])
        first = dict(estimates).get(0)
        if first is not None and displacement > VISIBLE:
            spread = 1.0 - 2.0 * ERRORS / np.sqrt(first.samples)
            # As far as in free flight, but not to where the velocities point: at half the square
            # of free flight at least, any motion has a correlation above 0.55.
            if flight * spread > 0.5 and best.correlation + 4.0 / np.sqrt(first.samples) < 0.5:
                return Fault("unrelated", float("nan"), None)
            if flight * spread > 1.1:
                return Fault("factor", factor, None)
        for width, estimate in estimates:
            squared = estimate.correlation**2
            if estimate.correlation < -0.9 and 0.5 < estimate.middle < 2.0:
                return Fault("factor", -estimate.middle, None)
            if estimate.correlation < 0.0:
                continue
            lower = estimate.lower * (1.0 - ERRORS * estimate.error)
            # The trapezoidal rule overestimates fast motions.
            if (width > 0 and lower > 1.05) or (lower > 2.0 and flight > 1.1):
                return Fault("factor", factor, None)
            # Motions that the frames do not resolve: only a high correlation excludes them.
            upper = estimate.upper * (1.0 + ERRORS * estimate.error)
            if width != 1 and ((squared > 0.8 and upper < 0.92) or (squared > 0.3 and upper < 0.1)):
                return Fault("factor", factor, None)
        return None


class MotionCheck:
    """Compares the frames of one system with each other as they come.

    Args:
        species: (N,) index of the element of each atom.
        masses: (N,) g/mol.
    """

    def __init__(self, species: NDArray[np.int64], masses: Array) -> None:
        self._species = species
        chosen = np.arange(len(species))
        if len(species) > ATOMS:
            # Of each element as many as its share, at least a few.
            wanted = max(1, -(-len(species) // ATOMS))
            of_elements = [np.flatnonzero(species == k) for k in range(int(species.max()) + 1)]
            chosen = np.sort(
                np.concatenate([of[:: max(1, min(wanted, len(of) // 64))] for of in of_elements])
            )
        self._chosen = chosen
        self._masses = masses[chosen]
        self._chosen_species = species[chosen]
        self._groups = 1 + int(species.max(initial=0))
        self._fastest = np.zeros(self._groups)
        self._last: tuple[Array, Array] | None = None
        self._positions: list[Array] = []
        self._velocities: list[Array] = []
        self._far: list[NDArray[np.bool_]] = []  # of the chosen atoms, between frames
        self._jumps: list[Jump] = []
        self._all = _Comparison()

    def add(
        self, step: int, positions: Array, velocities: Array, interval: float
    ) -> Fault | Jump | None:
        """Take in the next frame.

        Args:
            step: name of the frame in a :class:`Jump`.
            positions: (N, 3) Angstrom, continuous in time.
            velocities: (N, 3) Angstrom/fs.
            interval: fs to the frame before.

        Returns:
            What is wrong with this frame and those before; None if nothing is.
        """
        self._interval = interval
        speeds = np.sqrt(np.einsum("nc,nc->n", velocities, velocities))
        np.maximum.at(self._fastest, self._species, speeds)
        if self._last is not None:
            self._look_for_jumps(step, positions, velocities)
        self._last = positions, velocities
        self._positions.append(positions[self._chosen])
        self._velocities.append(velocities[self._chosen])
        return self._look() if len(self._positions) == FRAMES else None

    def finish(self) -> Fault | Jump | None:
        """The same for the last frames."""
        return self._look() if len(self._positions) > 1 else None

    def _look_for_jumps(self, step: int, positions: Array, velocities: Array) -> None:
        before, velocities_before = self._last  # type: ignore[misc]
        moved = positions - before
        squares = 0.5 * (velocities**2 + velocities_before**2).mean(axis=1)
        counts = np.bincount(self._species, minlength=self._groups)
        thermal = np.sqrt(
            np.bincount(self._species, squares, minlength=self._groups) / np.maximum(counts, 1)
        )
        # Fast atoms may be slow at both frames; half an Angstrom is a wide vibration.
        reach = np.maximum(2.0 * self._fastest, 6.0 * thermal) * self._interval + 0.5
        distances = np.sqrt(np.einsum("nc,nc->n", moved, moved))
        far = distances > reach[self._species]
        self._far.append(far[self._chosen])
        if far.any() and len(self._jumps) < FRAMES:
            atom = int(np.argmax(distances - reach[self._species]))
            self._jumps.append(Jump(step, atom, float(distances[atom])))

    def _look(self) -> Fault | Jump | None:
        positions, velocities = np.array(self._positions), np.array(self._velocities)
        far = np.array(self._far)
        atoms, runs = self._without_jumps(far, len(positions))
        seen = _Comparison()
        for first, last in runs:
            seen = seen + self._compare(
                positions[first:last, atoms], velocities[first:last, atoms], atoms
            )
        self._all = self._all + seen
        # The next frames are compared with the last of these.
        self._positions, self._velocities = self._positions[-1:], self._velocities[-1:]
        self._far = []
        found = (seen.fault() if seen.flight.size else None) or (
            self._all.fault() if self._all.flight.size else None
        )
        if found is None and self._jumps:
            return self._jumps[0]
        self._jumps = []
        return found

    @staticmethod
    def _without_jumps(
        far: NDArray[np.bool_], frames: int
    ) -> tuple[NDArray[np.bool_], list[tuple[int, int]]]:
        """Atoms and runs of frames without jumps; all of them if that leaves nothing."""
        calm: NDArray[np.bool_] = np.logical_not(far.any(axis=0))
        if calm.mean() >= 0.5:
            return calm, [(0, frames)]
        breaks = [0, *(np.flatnonzero(far.any(axis=1)) + 1), frames]
        runs = [(first, last) for first, last in pairwise(breaks) if last - first > 1]
        return np.ones_like(calm), runs or [(0, frames)]

    def _compare(
        self, positions: Array, velocities: Array, atoms: NDArray[np.bool_]
    ) -> _Comparison:
        masses, species = self._masses[atoms], self._chosen_species[atoms]
        comparison = _Comparison()
        for width in WIDTHS:
            pair = _displacements(positions, velocities, self._interval, width)
            if pair is None:
                break
            moved, meant = pair
            dd, dm, mm = (
                self._by_group(np.einsum("wnc,wnc->n", a, b), masses, species)
                for a, b in ((moved, moved), (moved, meant), (meant, meant))
            )
            comparison.widths[width] = _Sums(
                *(dd, dm, mm),
                self._by_group(np.full(len(masses), 3.0 * len(moved)), masses, species),
                # Splines overlap, and displacements in a row resemble each other.
                1.5 * len(moved) * self._by_group(np.ones(len(masses)), None, species),
            )
        squares = np.einsum("fnc,fnc->fn", velocities, velocities) * self._interval**2
        flight = 0.5 * (squares[1:] + squares[:-1]).sum(axis=0)
        comparison.flight = self._by_group(flight, masses, species)
        return comparison

    def _by_group(self, of_atoms: Array, masses: Array | None, species: NDArray[np.int64]) -> Array:
        of_species = np.bincount(species, of_atoms, minlength=self._groups)
        everything = float(of_atoms.sum() if masses is None else of_atoms @ masses)
        return np.concatenate([[everything], of_species])


def _displacements(
    positions: Array, velocities: Array, interval: float, width: int
) -> tuple[Array, Array] | None:
    """D and M (windows, N, 3) in Angstrom for a width; None if there are too few frames."""
    if width == 0:
        return np.diff(positions, axis=0), 0.5 * interval * (velocities[1:] + velocities[:-1])
    places = np.arange(1 - 2 * width, 2 * width)
    if len(positions) < len(places):
        return None
    weights = _cubic(places / width)
    slopes = (_quadratic(places / width + 0.5) - _quadratic(places / width - 0.5)) / width
    starts = range(0, len(positions) - len(places) + 1, width)
    moved = np.stack(
        [
            # About the position in the middle: digits would be lost far from the origin.
            -np.tensordot(
                slopes, positions[k : k + len(places)] - positions[k + len(places) // 2], 1
            )
            for k in starts
        ]
    )
    meant = np.stack(
        [interval * np.tensordot(weights, velocities[k : k + len(places)], 1) for k in starts]
    )
    return moved, meant


def _cubic(t: Array) -> Array:
    """Cubic B-spline of unit integral."""
    t = np.abs(t)
    return np.where(t < 1.0, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2.0, (2.0 - t) ** 3 / 6, 0.0))


def _quadratic(t: Array) -> Array:
    """Quadratic B-spline: differences of it are the slopes of the cubic one."""
    t = np.abs(t)
    return np.where(t < 0.5, 0.75 - t**2, np.where(t < 1.5, 0.5 * (1.5 - t) ** 2, 0.0))
