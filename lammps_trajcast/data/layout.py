"""The data set file: HDF5, one group for every segment of a trajectory.

/                 attrs: format, format_version, horizon (fs), units ("real": velocities are in
                  Angstrom/fs), elements (symbols), masses (g/mol, in the same order)
/segments/000000  attrs: split ("train", "validation" or "test"), source (name of the file it
                  comes from), first_step (MD step of its first frame)
    species       (N,) int64, index into elements
    cell          (3, 3) float64, Angstrom, rows are the lattice vectors;  pbc (3,) bool. In a
                  direction that is not periodic the vector means nothing (LAMMPS: the box of the
                  first frame)
    positions     (F, N, 3) float64, Angstrom, continuous in time
    velocities    (F, N, 3) float64, Angstrom/fs
    pairs         (P, 2) int64, the frames of (state at t, state at t + horizon)
    steps         (F,) int64, MD step of each frame; not in files of the first version
    energy        (F,) float64, kcal/mol, where it is known; as virial (F, 6), kcal/mol, and forces
                  (F, N, 3) float32, kcal/mol/Angstrom, see :mod:`lammps_trajcast.data.labels`

A data set may be spread over several such files, its shards.
"""

from __future__ import annotations

import glob
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import h5py
import numpy as np

FORMAT = "lammps-trajcast dataset"
FORMAT_VERSION = 1
UNITS: Literal["real"] = "real"

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# One file, a directory of .h5 files, a pattern such as quartz/t300.*.h5, or several of these.
DatasetSource: TypeAlias = Path | str | Sequence[Path | str]

# The operating system lets a process have about a thousand.
MAX_OPEN_FILES = 128


class DatasetError(Exception):
    """A data set that cannot be made or read; the message says what to change."""


def dataset_files(source: DatasetSource) -> list[Path]:
    """The files of a data set, in a fixed order, each once.

    Raises:
        DatasetError: the source names no file.
    """
    given = [source] if isinstance(source, str | Path) else list(source)
    files: list[Path] = []
    for entry in map(Path, given):
        if entry.is_dir():
            found = sorted(entry.glob("*.h5"))
            if not found:
                raise DatasetError(
                    f"{entry}: holds no .h5 file; make a data set with 'lammps-trajcast record'"
                )
        elif not entry.exists() and glob.has_magic(str(entry)):
            found = [Path(name) for name in sorted(glob.glob(str(entry), recursive=True))]
            if not found:
                raise DatasetError(f"{entry}: no file has such a name; correct the pattern")
        else:
            found = [entry]
        files += found
    if not files:
        raise DatasetError("a data set of no files; name at least one")
    return list(dict.fromkeys(files))


def open_dataset(source: DatasetSource) -> h5py.File | Shards:
    """Open a data set for reading; one of several files looks as if it were a single one.

    Raises:
        DatasetError: there is no such file, it is not a data set of this format version, or the
            files are for different systems or horizons.
    """
    files = dataset_files(source)
    return _open_file(files[0]) if len(files) == 1 else Shards(files)


def _open_file(path: Path) -> h5py.File:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; make it with 'lammps-trajcast dataset'")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise DatasetError(
            f"{path}: not a data set (not HDF5, or cut off); make it anew with "
            "'lammps-trajcast dataset'"
        ) from None
    try:
        with one_line_for_damage(path):
            _check_header(file, path)
    except DatasetError:
        file.close()
        raise
    return file


def _check_header(file: h5py.File, path: Path) -> None:
    if file.attrs.get("format") != FORMAT:
        raise DatasetError(f"{path}: not a data set; make it with 'lammps-trajcast dataset'")
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{path}: format version {version}, but this program reads {FORMAT_VERSION}; make the "
            "data set anew with 'lammps-trajcast dataset'"
        )
    horizon = float(file.attrs["horizon"])
    elements = [str(element) for element in file.attrs["elements"]]
    masses = np.asarray(file.attrs["masses"], np.float64)
    if not 0.0 < horizon < np.inf:
        raise ValueError(f"its horizon is {horizon:g} fs")
    if not elements or masses.shape != (len(elements),):
        raise ValueError(f"it has {masses.size} masses for {len(elements)} elements")
    if not np.all((masses > 0.0) & np.isfinite(masses)):
        raise ValueError("a mass is not a positive number")
    if not isinstance(file["segments"], h5py.Group):
        raise ValueError("its segments are not a group")


@contextmanager
def one_line_for_damage(source: DatasetSource) -> Iterator[None]:
    """Turn the exceptions of many kinds with which h5py meets damage into DatasetError."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        names = [source] if isinstance(source, str | Path) else source
        what = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise DatasetError(
            f"{', '.join(map(str, names))}: damaged data set ({what}); make it anew with "
            "'lammps-trajcast dataset'"
        ) from None


class Shards:
    """Several files as one: `attrs`, and segments under numbers that run through all files.

    Has of h5py.File what readers of a data set use.
    """

    def __init__(self, files: list[Path]) -> None:
        self.attrs: dict[str, Any] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        self._open: OrderedDict[Path, h5py.File] = OrderedDict()
        try:
            for path in files:
                shard = self._file(path)
                if not self.attrs:
                    self.attrs = dict(shard.attrs)
                self._check_same(shard, path, files[0])
                for name in sorted(shard["segments"]):
                    number = f"segments/{len(self._places):06d}"
                    self._places[number] = path, f"segments/{name}"
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Any:
        if name == "segments":
            # Looked up one by one: not all files may be open at once.
            return _SegmentsOfShards(self, [place.split("/")[1] for place in self._places])
        path, inner = self._places[name]
        return self._file(path)[inner]

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def _file(self, path: Path) -> h5py.File:
        if path not in self._open:
            if len(self._open) >= MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            self._open[path] = _open_file(path)
        self._open.move_to_end(path)
        return self._open[path]

    def _check_same(self, shard: h5py.File, path: Path, first_path: Path) -> None:
        for name in ("horizon", "units", "elements", "masses"):
            here, there = shard.attrs[name], self.attrs[name]
            if not np.array_equal(here, there):
                raise DatasetError(
                    f"{path}: {name} {_words(here)}, but {_words(there)} in {first_path}; "
                    "take files of one system and one horizon"
                )


class _SegmentsOfShards(Mapping[str, h5py.Group]):
    def __init__(self, shards: Shards, names: list[str]) -> None:
        self._shards = shards
        self._names = names

    def __getitem__(self, name: str) -> h5py.Group:
        return self._shards[f"segments/{name}"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _words(value: Any) -> str:
    return " ".join(str(word) for word in np.atleast_1d(value))


def segments_of(file: h5py.File | Shards, split: Split) -> list[str]:
    """Names of the groups that belong to a split, in the order of the file."""
    segments = file["segments"]
    return [
        f"segments/{name}" for name in sorted(segments) if segments[name].attrs["split"] == split
    ]


def describe_frame(segment: h5py.Group, frame: int) -> str:
    """Where a frame comes from, for messages: file, source and MD step."""
    if "steps" in segment:
        step = f"step {int(segment['steps'][frame])}"
    else:
        step = f"frame {frame} after step {int(segment.attrs['first_step'])}"
    return f"{segment.file.filename}, {segment.name}, from {segment.attrs['source']}, {step}"
