"""What a network trained on a data set has seen: scales for its targets, limits for its users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import h5py
import numpy as np
import vesin
from numpy.typing import NDArray

from lammps_trajcast.data.layout import (
    DatasetError,
    DatasetSource,
    Split,
    open_dataset,
    segments_of,
)
from lammps_trajcast.model.limits import Limits
from lammps_trajcast.units import BOLTZMANN_PER_MASS

# Frames of a segment in which the smallest distance is looked for: it hardly changes with more.
DISTANCE_FRAMES = 50
# Atoms of two species that never come closer than this are not neighbors, Angstrom.
NEIGHBOR_RANGE = 6.0


@dataclass(frozen=True)
class Statistics:
    """Of the pairs of states in one split of a data set; lengths in Angstrom, times in fs.

    Root mean squares are over pairs, atoms and Cartesian components.

    Attributes:
        pairs: number of pairs.
        rms_displacement: of x(t + horizon) - x(t), Angstrom.
        rms_velocity: of v(t + horizon), Angstrom/fs.
        max_displacement: largest length of a displacement, Angstrom.
        max_speed: largest speed, Angstrom/fs.
        min_distance: smallest distance between two atoms, Angstrom.
        temperature: mean kinetic temperature, K.
        limits: extremes for each species, speeds in Angstrom/fs.
    """

    pairs: int
    rms_displacement: float
    rms_velocity: float
    max_displacement: float
    max_speed: float
    min_distance: float
    temperature: float
    limits: Limits

    def as_dict(self) -> dict[str, float]:
        """The numbers of the whole data set, for the header of a model file."""
        numbers = asdict(self)
        del numbers["limits"]
        return numbers


def unseen_elements(statistics: Statistics, elements: Sequence[str]) -> list[str]:
    """Return the elements of which a data set has no atom: a model learns nothing of them.

    Args:
        statistics: of the data set.
        elements: symbols, in the order of species indices.
    """
    return [name for k, name in enumerate(elements) if not statistics.limits.has_seen(k)]


class _LengthsOfSpecies:
    """Largest and root mean square length of vectors, for each species."""

    def __init__(self, num_species: int) -> None:
        self.largest_square = np.zeros(num_species)
        self._sums = np.zeros(num_species)
        self._counts = np.zeros(num_species)

    def see(self, vectors: NDArray[np.float64], species: NDArray[np.int64]) -> None:
        """Take in vectors (F, N, 3) of atoms (N,)."""
        squares = np.einsum("fnc,fnc->fn", vectors, vectors)
        np.maximum.at(self.largest_square, species, squares.max(axis=0, initial=0.0))
        np.add.at(self._sums, species, squares.sum(axis=0))
        np.add.at(self._counts, species, len(squares))

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    @property
    def sum_of_squares(self) -> float:
        return float(self._sums.sum())

    def largest(self) -> tuple[float | None, ...]:
        return _positive(np.sqrt(self.largest_square))

    def rms(self) -> tuple[float | None, ...]:
        return _positive(np.sqrt(self._sums / np.maximum(self._counts, 1.0)))


def dataset_statistics(
    path: DatasetSource,
    split: Split = "train",
    progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Statistics of a split of a data set, which is read one segment at a time.

    Args:
        path: the data set.
        split: the part that is read.
        progress: called with the number of segments that are done, and of all.

    Raises:
        DatasetError: the file is not a data set, or the split is empty.
    """
    pairs = 0
    velocity_squares = 0.0
    lone_distance = np.inf
    temperatures: list[float] = []
    means: list[float] = []
    with open_dataset(path) as file:
        num_species = len(file.attrs["elements"])
        displacements, speeds = _LengthsOfSpecies(num_species), _LengthsOfSpecies(num_species)
        distances = np.full((num_species, num_species), np.inf)
        nearest = np.zeros(num_species)
        names = segments_of(file, split)
        for number, name in enumerate(names):
            if progress is not None:
                progress(number, len(names))
            segment: h5py.Group = file[name]
            species, cell, pbc = segment["species"][:], segment["cell"][:], segment["pbc"][:]
            positions, velocities = segment["positions"][:], segment["velocities"][:]
            before, after = segment["pairs"][:].T
            pairs += len(before)
            displacements.see(positions[after] - positions[before], species)
            speeds.see(velocities, species)
            velocity_squares += float(np.sum(velocities[after] ** 2))
            of_frames = _temperatures(velocities, file.attrs["masses"][species])
            temperatures += [of_frames.min(), of_frames.max()]
            means.append(float(of_frames.mean()))
            spread = np.linspace(0, len(positions) - 1, min(DISTANCE_FRAMES, len(positions)))
            for frame in np.unique(spread.astype(int)):
                lower_distances(distances, positions[frame], cell, pbc, species)
                raise_nearest_distance(nearest, positions[frame], cell, pbc, species)
                if np.isinf(distances).all():
                    lone_distance = min(
                        lone_distance, smallest_distance(positions[frame], cell, pbc)
                    )
    if pairs == 0:
        raise DatasetError(
            f"{path}: the split '{split}' is empty; make the data set of more segments"
        )
    squares = (displacements.sum_of_squares, velocity_squares, *temperatures)
    if not np.isfinite(squares).all():
        raise DatasetError(
            f"{path}: the squares of displacements or velocities are not finite numbers; leave out "
            "the run that diverged and make the data set anew"
        )
    components = 3 * displacements.count
    return Statistics(
        pairs=pairs,
        rms_displacement=float(np.sqrt(displacements.sum_of_squares / components)),
        rms_velocity=float(np.sqrt(velocity_squares / components)),
        max_displacement=float(np.sqrt(displacements.largest_square.max())),
        max_speed=float(np.sqrt(speeds.largest_square.max())),
        min_distance=float(min(distances.min(), lone_distance)),
        temperature=float(np.mean(means)),
        limits=Limits(
            max_displacement=displacements.largest(),
            rms_displacement=displacements.rms(),
            max_speed=speeds.largest(),
            rms_speed=speeds.rms(),
            min_distance=tuple(_positive(row) for row in distances),
            max_nearest_distance=_positive(nearest),
            min_temperature=min(temperatures),
            mean_temperature=float(np.mean(means)),
            max_temperature=max(temperatures),
        ),
    )


def lower_distances(
    smallest: NDArray[np.float64],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    species: NDArray[np.int64],
) -> None:
    """Lower the smallest distances of species where a frame has smaller ones.

    smallest (S, S) symmetric, positions (N, 3), cell (3, 3) in Angstrom; pbc (3,), species (N,).
    Distances beyond NEIGHBOR_RANGE are not looked for.
    """
    present = np.unique(species)
    # Nothing beyond what is known already counts, but every pair has to be known first.
    cutoff = min(float(smallest[np.ix_(present, present)].max()), NEIGHBOR_RANGE)
    neighbors = vesin.NeighborList(cutoff=cutoff, full_list=False)
    first, second, found = neighbors.compute(positions, cell, periodic=pbc, quantities="ijd")
    np.minimum.at(smallest, (species[first], species[second]), found)
    np.minimum(smallest, smallest.T, out=smallest)


def raise_nearest_distance(
    largest: NDArray[np.float64],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    species: NDArray[np.int64],
) -> None:
    """Raise the largest distance of a species to the nearest neighbor where a frame has more.

    largest (S,), positions (N, 3), cell (3, 3) in Angstrom; pbc (3,), species (N,). An atom without
    a neighbor within NEIGHBOR_RANGE has none: infinite.
    """
    neighbors = vesin.NeighborList(cutoff=NEIGHBOR_RANGE, full_list=True)
    atoms, found = neighbors.compute(positions, cell, periodic=pbc, quantities="id")
    nearest = np.full(len(species), np.inf)
    np.minimum.at(nearest, atoms, found)
    np.maximum.at(largest, species, nearest)


def smallest_distance(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> float:
    """Smallest distance between two atoms or images of atoms; infinite for a lone atom.

    positions (N, 3), cell (3, 3) in Angstrom; pbc (3,).
    """
    if len(positions) == 1 and not pbc.any():
        return float("inf")
    volume = abs(np.linalg.det(cell)) if pbc.all() else np.prod(np.ptp(positions, axis=0) + 1.0)
    # A little more than the spacing of a simple cubic lattice of that density.
    cutoff = 1.2 * float(volume / len(positions)) ** (1.0 / 3.0)
    # Nothing lies outside a sphere of the whole system and one cell.
    limit = float(np.linalg.norm(np.ptp(positions, axis=0)) + np.abs(cell).sum() + cutoff)
    while cutoff < 2.0 * limit:
        neighbors = vesin.NeighborList(cutoff=cutoff, full_list=False)
        (distances,) = neighbors.compute(positions, cell, periodic=pbc, quantities="d")
        if len(distances) > 0:
            return float(np.min(distances))
        cutoff *= 1.5
    return float("inf")


def _positive(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(float(x) if 0.0 < x < np.inf else None for x in values)


def _temperatures(
    velocities: NDArray[np.float64], masses: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Temperature of each frame, velocities (F, N, 3) about the center of mass."""
    drift = np.einsum("n,fnc->fc", masses, velocities) / masses.sum()
    relative = velocities - drift[:, None, :]
    twice_kinetic = np.einsum("n,fnc,fnc->f", masses, relative, relative)
    return twice_kinetic / (max(3 * len(masses) - 3, 1) * BOLTZMANN_PER_MASS)
