"""Faults of a stored data set, found before training begins: one pass over its files."""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.data.consistency import Fault, Jump, MotionCheck
from lammps_trajcast.data.layout import (
    SPLITS,
    DatasetError,
    DatasetSource,
    describe_frame,
    one_line_for_damage,
    open_dataset,
)

# Bytes of positions that are looked at together: a segment may be larger than memory.
BLOCK = 1 << 26


def check_dataset(
    source: DatasetSource, progress: Callable[[int, int], None] | None = None
) -> None:
    """Check frames, pairs and velocities of a data set.

    Every frame must be whole, the frames of every pair one horizon apart, and atoms must move as
    fast as their velocities say.

    Args:
        source: the data set.
        progress: called with the number of segments that are done, and of all.

    Raises:
        DatasetError: a check fails; the message names the file, the segment and the MD step.
    """
    with one_line_for_damage(source), open_dataset(source) as file:
        elements = [str(element) for element in file.attrs["elements"]]
        masses, horizon = np.asarray(file.attrs["masses"]), float(file.attrs["horizon"])
        names = sorted(file["segments"])
        for number, name in enumerate(names):
            if progress is not None:
                progress(number, len(names))
            segment = file["segments"][name]
            _check_shapes(segment)
            _check_arrays(segment)
            _check_system(segment, len(elements))
            _check_pairs(segment)
            _check_finite(segment)
            _check_motion(segment, elements, masses, horizon)


def _fault(segment: h5py.Group, message: str) -> DatasetError:
    return DatasetError(f"{segment.file.filename}, {segment.name}: {message}")


def _check_shapes(segment: h5py.Group) -> None:
    missing = [
        name
        for name in ("species", "cell", "pbc", "positions", "velocities", "pairs")
        if name not in segment
    ]
    if missing:
        raise _fault(segment, f"lacks {', '.join(missing)}; make the data set anew")
    shape, atoms = segment["positions"].shape, len(segment["species"])
    if len(shape) != 3 or shape[1:] != (atoms, 3) or segment["velocities"].shape != shape:
        raise _fault(
            segment,
            f"{atoms} species, positions {shape} and velocities {segment['velocities'].shape} "
            "do not belong together; an atom was lost, make the data set anew",
        )


def _check_arrays(segment: h5py.Group) -> None:
    kinds = {"species": "i", "cell": "f", "positions": "f", "velocities": "f", "pairs": "i"}
    for name, kind in kinds.items():
        array = segment[name]
        if array.dtype.kind != kind:
            raise _fault(segment, f"{name} are of type {array.dtype}; make the data set anew")
        # HDF5 makes up what is not in the file, as much as the header asks for.
        if array.chunks is None and array.id.get_storage_size() < array.nbytes:
            raise _fault(segment, f"{name} are not in the file; make the data set anew")
    if segment["cell"].shape != (3, 3) or segment["pbc"].shape != (3,):
        raise _fault(segment, "cell and pbc must be (3, 3) and (3,); make the data set anew")
    if segment["pairs"].shape[1:] != (2,):
        raise _fault(segment, "pairs must be (P, 2); make the data set anew")


def _check_system(segment: h5py.Group, num_elements: int) -> None:
    if segment.attrs["split"] not in SPLITS:
        raise _fault(segment, "belongs to no split; make the data set anew")
    species = segment["species"][:]
    if len(species) == 0 or species.min() < 0 or species.max() >= num_elements:
        raise _fault(segment, f"species must be 0 … {num_elements - 1}; make the data set anew")
    cell, pbc = segment["cell"][:], segment["pbc"][:]
    if not np.isfinite(cell).all() or (pbc.all() and abs(np.linalg.det(cell)) < 1e-6):
        raise _fault(segment, "is periodic but its cell has no volume; make the data set anew")


def _check_pairs(segment: h5py.Group) -> None:
    pairs, frames = segment["pairs"][:], len(segment["positions"])
    if len(pairs) == 0:
        return
    if pairs.min() < 0 or pairs.max() >= frames or (pairs[:, 1] <= pairs[:, 0]).any():
        raise _fault(segment, f"pairs refer to frames that the {frames} stored ones do not hold")
    if "steps" not in segment:
        return
    steps = segment["steps"][:]
    apart = steps[pairs[:, 1]] - steps[pairs[:, 0]]
    values, counts = np.unique(apart, return_counts=True)
    usual = int(values[counts.argmax()])
    wrong = np.flatnonzero(apart != usual)
    if len(wrong):
        raise DatasetError(
            f"{describe_frame(segment, int(pairs[wrong[0], 1]))}: {apart[wrong[0]]} steps after "
            f"the state it is paired with, but other pairs are {usual} apart; a frame is missing, "
            "make the data set anew"
        )


def _check_finite(segment: h5py.Group) -> None:
    positions = segment["positions"]
    block = max(1, BLOCK // max(1, positions[0].nbytes))
    for first in range(0, len(positions), block):
        for name in ("positions", "velocities"):
            values = segment[name][first : first + block]
            broken = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
            if len(broken):
                raise DatasetError(
                    f"{describe_frame(segment, first + int(broken[0]))}: {name} hold a number that "
                    "is not finite; leave this run out and make the data set anew"
                )


def _check_motion(
    segment: h5py.Group, elements: list[str], masses: NDArray[np.float64], horizon: float
) -> None:
    """Compare velocities with displacements, where frames follow each other at one interval."""
    positions, velocities = segment["positions"], segment["velocities"]
    species, pairs = segment["species"][:], segment["pairs"][:]
    if len(pairs) == 0:
        return
    steps = segment["steps"][:] if "steps" in segment else np.arange(len(positions))
    spans = steps[pairs[:, 1]] - steps[pairs[:, 0]]
    if spans[0] <= 0 or (spans != spans[0]).any():
        return
    between = np.diff(steps)
    usual = int(np.median(between)) if len(between) else 0
    if usual <= 0 or ("steps" not in segment and (np.diff(pairs[:, 0]) != 1).any()):
        return  # frames were left out, and where is not known
    interval = horizon * usual / int(spans[0])
    check = MotionCheck(species, masses[species])
    block = max(1, BLOCK // max(1, positions[0].nbytes))
    for first in range(0, len(positions), block):
        x, v = positions[first : first + block], velocities[first : first + block]
        for k in range(len(x)):
            frame = first + k
            if frame > 0 and between[frame - 1] != usual:
                _refuse_motion(segment, elements, check.finish())
                check = MotionCheck(species, masses[species])
            _refuse_motion(segment, elements, check.add(frame, x[k], v[k], interval))
    _refuse_motion(segment, elements, check.finish())


def _refuse_motion(segment: h5py.Group, elements: list[str], found: Fault | Jump | None) -> None:
    if found is None:
        return
    if isinstance(found, Jump):
        raise DatasetError(
            f"{describe_frame(segment, found.step)}: an atom is {found.distance:.3g} Angstrom from "
            "where it was in the frame before, farther than its velocity allows; the atoms have "
            "changed their order, make the data set anew"
        )
    atoms = "atoms" if found.species is None else f"atoms of {elements[found.species]}"
    what = {
        "still": f"the velocities of {atoms} are zero, but they move",
        "unrelated": f"{atoms} do not move where their velocities point",
        "factor": f"from frame to frame {atoms} move {found.factor:.3g} times as far as velocity "
        "times time: units, time step or masses were wrong",
    }
    raise _fault(segment, f"{what[found.kind]}; make the data set anew from its trajectories")
