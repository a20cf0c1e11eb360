"""What a network trained on a data set has seen: scales for its targets, limits for its users."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import h5py
import numpy as np
import vesin
from numpy.typing import NDArray

from lammps_trajcast.data.layout import DatasetSource, Split, open_dataset, segments_of
from lammps_trajcast.data.trajectory import BOLTZMANN

# Frames of a segment in which the smallest distance is looked for: it hardly changes with more.
DISTANCE_FRAMES = 50


@dataclass(frozen=True)
class Statistics:
    """Of the pairs of states in one split of a data set; lengths in Angstrom, times in fs.

    Root mean squares are over pairs, atoms and Cartesian components.

    pairs:               number of pairs.
    rms_displacement:    of x(t + horizon) - x(t), Angstrom.
    rms_velocity:        of v(t + horizon), Angstrom/fs.
    max_displacement:    largest length of a displacement, Angstrom.
    max_speed:           largest speed, Angstrom/fs.
    min_distance:        smallest distance between two atoms, Angstrom.
    temperature:         mean kinetic temperature, K.
    """

    pairs: int
    rms_displacement: float
    rms_velocity: float
    max_displacement: float
    max_speed: float
    min_distance: float
    temperature: float

    def as_dict(self) -> dict[str, float]:
        """The same as a plain mapping, for the header of a model file."""
        return asdict(self)


def dataset_statistics(path: DatasetSource, split: Split = "train") -> Statistics:
    """Statistics of a split of a data set.

    Raises DatasetError if the file is no data set, ValueError if the split is empty.
    """
    pairs = components = 0
    displacement_squares = velocity_squares = 0.0
    max_displacement = max_speed = 0.0
    min_distance = np.inf
    temperatures: list[float] = []
    with open_dataset(path) as file:
        for name in segments_of(file, split):
            segment: h5py.Group = file[name]
            positions, velocities = segment["positions"][:], segment["velocities"][:]
            before, after = segment["pairs"][:].T
            displacement = positions[after] - positions[before]
            pairs += len(before)
            components += displacement.size
            displacement_squares += float(np.sum(displacement**2))
            velocity_squares += float(np.sum(velocities[after] ** 2))
            max_displacement = max(max_displacement, _longest(displacement))
            max_speed = max(max_speed, _longest(velocities))
            masses = file.attrs["masses"][segment["species"][:]]
            temperatures.append(_temperature(velocities, masses))
            spread = np.linspace(0, len(positions) - 1, min(DISTANCE_FRAMES, len(positions)))
            for frame in np.unique(spread.astype(int)):
                distance = smallest_distance(
                    positions[frame], segment["cell"][:], segment["pbc"][:]
                )
                min_distance = min(min_distance, distance)
    if pairs == 0:
        raise ValueError(f"{path}: split '{split}' is empty")
    return Statistics(
        pairs=pairs,
        rms_displacement=float(np.sqrt(displacement_squares / components)),
        rms_velocity=float(np.sqrt(velocity_squares / components)),
        max_displacement=max_displacement,
        max_speed=max_speed,
        min_distance=min_distance,
        temperature=float(np.mean(temperatures)),
    )


def smallest_distance(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]
) -> float:
    """Smallest distance between two atoms or images of atoms; infinite for a lone atom.

    positions (N, 3), cell (3, 3) in Angstrom; pbc (3,).
    """
    volume = abs(np.linalg.det(cell)) if pbc.all() else np.prod(np.ptp(positions, axis=0) + 1.0)
    # A little more than the spacing of a simple cubic lattice of that density.
    cutoff = 1.2 * float(volume / len(positions)) ** (1.0 / 3.0)
    # Nothing lies outside a sphere of the whole system and one cell.
    limit = float(np.linalg.norm(np.ptp(positions, axis=0)) + np.abs(cell).sum() + cutoff)
    while cutoff < 2.0 * limit:
        neighbours = vesin.NeighborList(cutoff=cutoff, full_list=False)
        (distances,) = neighbours.compute(positions, cell, periodic=pbc, quantities="d")
        if len(distances) > 0:
            return float(np.min(distances))
        cutoff *= 1.5
    return float("inf")


def _longest(vectors: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.max(np.sum(vectors**2, axis=-1))))


def _temperature(velocities: NDArray[np.float64], masses: NDArray[np.float64]) -> float:
    """Mean over frames, velocities (F, N, 3) about the centre of mass."""
    drift = np.einsum("n,fnc->fc", masses, velocities) / masses.sum()
    relative = velocities - drift[:, None, :]
    twice_kinetic = np.einsum("n,fnc,fnc->f", masses, relative, relative)
    return float(np.mean(twice_kinetic)) / (max(3 * len(masses) - 3, 1) * BOLTZMANN)
