"""The data set as training sees it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lammps_trajcast.data.layout import Split, open_dataset, segments_of


class Pair(NamedTuple):
    """Two states of a system, one horizon apart.

    species         (N,) int64, index into the elements of the data set
    positions       (N, 3) float64, Angstrom, at t
    velocities      (N, 3) float64, Angstrom/fs, at t
    cell            (3, 3) float64, Angstrom, rows are the lattice vectors
    pbc             (3,) bool
    displacement    (N, 3) float64, Angstrom, x(t + horizon) - x(t)
    velocity_after  (N, 3) float64, Angstrom/fs, at t + horizon
    masses          (N,) float64, g/mol
    """

    species: Tensor
    positions: Tensor
    velocities: Tensor
    cell: Tensor
    pbc: Tensor
    displacement: Tensor
    velocity_after: Tensor
    masses: Tensor


class State(NamedTuple):
    """Where the atoms are: positions (N, 3), Angstrom; velocities (N, 3), Angstrom/fs; float64."""

    positions: Tensor
    velocities: Tensor


class TrajectoryPairs(Dataset[Pair]):
    """The pairs of one split, read from the file when they are asked for.

    Every worker process of a data loader opens the file for itself.

    horizon:  fs
    elements: symbols, in the order of species indices
    masses:   g/mol, in the same order

    Raises DatasetError if the file is no data set.
    """

    def __init__(self, path: Path | str, split: Split) -> None:
        self.path = Path(path)
        self.split: Split = split
        self._file: h5py.File | None = None
        self._opened_by = 0
        with open_dataset(self.path) as file:
            self.horizon = float(file.attrs["horizon"])
            self.elements = [str(element) for element in file.attrs["elements"]]
            self.masses = [float(mass) for mass in file.attrs["masses"]]
            self._segments = segments_of(file, split)
            pairs = [file[name]["pairs"][:] for name in self._segments]
        self._pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])
        self._segment_of_pair = np.repeat(np.arange(len(pairs)), [len(p) for p in pairs])

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        segment = self._open()[self._segments[self._segment_of_pair[index]]]
        before, after = self._pairs[index]
        species = segment["species"][:]
        positions = segment["positions"][before]
        return Pair(
            species=torch.from_numpy(species),
            positions=torch.from_numpy(positions),
            velocities=torch.from_numpy(segment["velocities"][before]),
            cell=torch.from_numpy(segment["cell"][:]),
            pbc=torch.from_numpy(segment["pbc"][:]),
            displacement=torch.from_numpy(segment["positions"][after] - positions),
            velocity_after=torch.from_numpy(segment["velocities"][after]),
            masses=torch.from_numpy(np.asarray(self.masses)[species]),
        )

    def later_states(self, index: int, count: int) -> list[State]:
        """The states 2, 3, ... horizons after the first of a pair.

        At most `count` of them; fewer where the segment ends.
        """
        segment = self._open()[self._segments[self._segment_of_pair[index]]]
        before, after = (int(frame) for frame in self._pairs[index])
        span = after - before
        frames = range(after + span, len(segment["positions"]), span)[:count]
        return [
            State(
                torch.from_numpy(segment["positions"][frame]),
                torch.from_numpy(segment["velocities"][frame]),
            )
            for frame in frames
        ]

    def _open(self) -> h5py.File:
        # An open HDF5 file survives neither a fork nor pickling.
        if self._file is None or self._opened_by != os.getpid():
            self._file = open_dataset(self.path)
            self._opened_by = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}
