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

from lammps_trajcast.data.layout import (
    DatasetSource,
    Shards,
    Split,
    dataset_files,
    open_dataset,
    segments_of,
)

# Bytes of files that are kept in memory.
IN_MEMORY = 512 * 2**20


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
    """The pairs of one split, read frame by frame when they are asked for.

    Only the numbers of the pairs are kept in memory: the files may be larger than it. Small ones,
    up to :data:`IN_MEMORY`, are kept once they were read. Every worker process of a data loader
    opens them for itself.

    Attributes:
        files: of the data set
        horizon: fs
        elements: symbols, in the order of species indices
        masses: g/mol, in the same order

    Raises:
        DatasetError: a file is not a data set or belongs to another one.
    """

    def __init__(self, source: DatasetSource, split: Split) -> None:
        self.files: list[Path] = dataset_files(source)
        self.split: Split = split
        self._segment_cache: dict[str, Any] = {}
        self._file: h5py.File | Shards | None = None
        self._opened_by = 0
        with open_dataset(self.files) as file:
            self.horizon = float(file.attrs["horizon"])
            self.elements = [str(element) for element in file.attrs["elements"]]
            self.masses = [float(mass) for mass in file.attrs["masses"]]
            self._segments = segments_of(file, split)
            pairs = [file[name]["pairs"][:] for name in self._segments]
        self._in_memory = sum(path.stat().st_size for path in self.files) <= IN_MEMORY
        self._pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *pairs])
        counts = [len(p) for p in pairs]
        self._segment_of_pair = np.repeat(np.arange(len(pairs)), counts)
        self._first_pair = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        segment = self._segment(self._segments[self._segment_of_pair[index]])
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
        return self._chain(index, count, start=1, end=0)

    def earlier_states(self, index: int, count: int) -> list[State]:
        """The states 1, 2, ... horizons before the first of a pair.

        At most `count` of them; fewer where the segment begins.
        """
        return self._chain(index, count, start=0, end=1)

    def _chain(self, index: int, count: int, start: int, end: int) -> list[State]:
        """Follow pairs whose column `end` is the frame that was reached in column `start`."""
        if count < 1:
            return []
        number = self._segment_of_pair[index]
        pairs = self._pairs[self._first_pair[number] : self._first_pair[number + 1]]
        segment = self._segment(self._segments[number])
        frame = self._pairs[index, start]
        states: list[State] = []
        while len(states) < count:
            # Pairs are in the order of their frames.
            place = np.searchsorted(pairs[:, end], frame)
            if place == len(pairs) or pairs[place, end] != frame:
                break
            frame = pairs[place, start]
            states.append(
                State(
                    torch.from_numpy(segment["positions"][frame]),
                    torch.from_numpy(segment["velocities"][frame]),
                )
            )
        return states

    def _segment(self, name: str) -> Any:
        """Return the arrays of a segment by name, in memory or in the file."""
        if not self._in_memory:
            return self._open()[name]
        if name not in self._segment_cache:
            group = self._open()[name]
            wanted = ("species", "positions", "velocities", "cell", "pbc")
            self._segment_cache[name] = {key: group[key][:] for key in wanted}
        return self._segment_cache[name]

    def _open(self) -> h5py.File | Shards:
        # An open HDF5 file survives neither a fork nor pickling.
        if self._file is None or self._opened_by != os.getpid():
            self._file = open_dataset(self.files)
            self._opened_by = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_segment_cache": {}}
