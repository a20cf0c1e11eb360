"""The data set file: HDF5, one group for every segment of a trajectory.

/                 attrs: format, format_version, horizon (fs), units ("real": velocities are in
                  Angstrom/fs), elements (symbols), masses (g/mol, in the same order)
/segments/000000  attrs: split ("train", "validation" or "test"), source (name of the file it
                  comes from), first_step (MD step of its first frame)
    species       (N,) int64, index into elements
    cell          (3, 3) float64, Angstrom, rows are the lattice vectors;  pbc (3,) bool
    positions     (F, N, 3) float64, Angstrom, continuous in time
    velocities    (F, N, 3) float64, Angstrom/fs
    pairs         (P, 2) int64, the frames of (state at t, state at t + horizon)
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import h5py

FORMAT = "lammps-trajcast dataset"
FORMAT_VERSION = 1
UNITS = "real"

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class DatasetError(Exception):
    """A data set that cannot be made or read; the message says what to change."""


def open_dataset(path: Path | str) -> h5py.File:
    """Open a data set for reading.

    Raises DatasetError if there is no such file or it is not a data set of this format version.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; make it with 'lammps-trajcast dataset'")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise DatasetError(
            f"{path}: not a data set (not HDF5, or cut off); make it anew with "
            "'lammps-trajcast dataset'"
        ) from None
    if file.attrs.get("format") != FORMAT:
        file.close()
        raise DatasetError(f"{path}: not a data set; make it with 'lammps-trajcast dataset'")
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        file.close()
        raise DatasetError(
            f"{path}: format version {version}, but this program reads {FORMAT_VERSION}; make the "
            "data set anew with 'lammps-trajcast dataset'"
        )
    return file


def segments_of(file: h5py.File, split: Split) -> list[str]:
    """Names of the groups that belong to a split, in the order of the file."""
    return [
        f"segments/{name}"
        for name, segment in sorted(file["segments"].items())
        if segment.attrs["split"] == split
    ]
