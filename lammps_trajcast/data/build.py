"""Making a data set: trajectories are cut into segments, segments are shared out to the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.atomic_file import replacing
from lammps_trajcast.data.frames import Frame, Frames, Species
from lammps_trajcast.data.labels import arrays_of
from lammps_trajcast.data.layout import FORMAT, FORMAT_VERSION, SPLITS, UNITS, DatasetError, Split
from lammps_trajcast.data.trajectory import checked, read_frames
from lammps_trajcast.lock import InUseError, alone_with
from lammps_trajcast.progress_bar import ProgressBar
from lammps_trajcast.units import Units


@dataclass(frozen=True)
class DatasetOptions:
    """How to make a data set.

    Attributes:
        horizon: fs between the two states of a pair.
        units: LAMMPS units of the velocities in the files.
        timestep: fs per MD step, for files without times.
        interval: fs between frames, for files without times and steps.
        stride: every stride-th frame starts a pair.
        segment_length: ps; segments share no frame, a shorter rest makes a segment of its own.
        split: shares of the segments for training, validation and test.
        seed: of the random assignment of segments to splits.
    """

    horizon: float
    units: Units = "metal"
    timestep: float | None = None
    interval: float | None = None
    stride: int = 1
    segment_length: float = 3.0
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def check(self) -> None:
        """Check the options.

        Raises:
            DatasetError: an option makes no sense.
        """
        for name in ("horizon", "segment_length", "timestep", "interval"):
            value = getattr(self, name)
            if value is not None and not value > 0.0:
                option = "--" + name.replace("_", "-")
                raise DatasetError(f"{option} {value:g}: must be greater than zero")
        if self.stride < 1:
            raise DatasetError(f"--stride {self.stride}: must be 1 or more")
        if self.seed < 0:
            raise DatasetError(f"--seed {self.seed}: must be 0 or more")
        check_shares(self.split)
        if self.segment_length * 1e3 < self.horizon:
            raise DatasetError(
                f"--segment-length {self.segment_length:g} ps is shorter than --horizon "
                f"{self.horizon:g} fs; no pair fits in: write a longer segment"
            )


def check_shares(split: tuple[float, float, float]) -> None:
    """Raise DatasetError unless these are shares for training, validation and test."""
    if min(split) < 0.0 or not split[0] > 0.0 or abs(sum(split) - 1.0) > 1e-6:
        shares = " ".join(f"{share:g}" for share in split)
        raise DatasetError(
            f"--split {shares}: write three shares that add up to 1, the first above zero, "
            "e.g. --split 0.8 0.1 0.1"
        )


@dataclass(frozen=True)
class DatasetSummary:
    """What went into a data set: segments and pairs of each split."""

    segments: dict[Split, int]
    pairs: dict[Split, int]


def build_dataset(
    files: Sequence[Path],
    output: Path,
    species: Species,
    options: DatasetOptions,
    progress: bool = True,
) -> DatasetSummary:
    """Make a data set of NVE trajectories, one file each.

    The file appears under its name only when it is complete.

    Args:
        files: trajectories, in any format that :func:`read_frames` opens.
        output: HDF5 file.
        species: elements and masses of the data set.
        options: lengths, time step and splits.
        progress: whether a progress bar is shown.

    Raises:
        DatasetError: an option makes no sense, or the file cannot be written.
        TrajectoryError: a trajectory is at fault.
    """
    options.check()
    if not output.parent.is_dir():
        raise DatasetError(f"{output}: there is no directory {output.parent}; make it first")
    with new_file(output) as target:
        writer = _SegmentWriter(write_header(target, options.horizon, species), options)
        masses = Masses(species)
        trajectories = [
            read_frames(path, species, options.units, options.timestep) for path in files
        ]
        total = sum(frames.size for frames in trajectories)
        with ProgressBar(total=total, unit="B", unit_scale=True, disable=not progress) as bar:
            for frames in trajectories:
                bar.set_postfix_str(frames.path.name, refresh=False)
                done = bar.n
                for frame in checked(frames, options.interval):
                    masses.see(frames, frame)
                    writer.add(frames, frame)
                    bar.update(done + frames.position - bar.n)
                writer.end_of_trajectory(frames)
                bar.update(done + frames.size - bar.n)
        target.attrs["masses"] = masses.values
        _assign_splits(target, options)
        return _summary(target)


# Relative differences of masses: between files, which round them; of --masses; of an element from
# its standard weight, which force fields round to whole numbers.
SAME_MASS, GIVEN_MASS, STANDARD_MASS = 1e-4, 1e-3, 0.02


class Masses:
    """One mass for each species: --masses, else those in the files, else standard weights.

    Attributes:
        values: (S,) g/mol.
    """

    def __init__(self, species: Species) -> None:
        self.values = np.array(species.masses)
        self._from_file: dict[int, float] = {}
        self._divided: dict[int, Path] = {}

    def see(self, frames: Frames, frame: Frame) -> None:
        """Compare a frame with those before.

        Raises:
            TrajectoryError: the frame contradicts them; the message names the file and the step.
        """
        for index in map(int, np.unique(frame.species)):
            if frame.masses is not None:
                self._see_mass(frames, frame, index, frame.masses[frame.species == index])
            elif frame.divided:
                self._divided.setdefault(index, frames.path)
            self._compare_divided(frames, frame, index)

    def _see_mass(
        self, frames: Frames, frame: Frame, index: int, of_species: NDArray[np.float64]
    ) -> None:
        species, element = frames.species, frames.species.elements[index]
        mass = self._from_file.setdefault(index, float(of_species[0]))
        if not np.allclose(of_species, mass, rtol=1e-6):
            raise frames.error(
                f"atoms of element {element} have different masses, but a data set has one mass "
                "for each element; give them the same mass in the run",
                frame.step,
            )
        expected = species.masses[index]
        tolerance = GIVEN_MASS if species.masses_given else STANDARD_MASS
        if abs(mass - expected) > tolerance * expected:
            assert frame.masses is not None
            # The file's own, of all elements that it holds.
            masses = list(species.masses)
            for other in map(int, np.unique(frame.species)):
                masses[other] = float(frame.masses[frame.species == other][0])
            of_types = [masses[other] for other in species.type_index]
            says = "--masses says" if species.masses_given else "the element has"
            raise frames.error(
                f"the mass of {element} is {mass:g} g/mol, but {says} {expected:g}; correct the "
                "order of --elements, or write --masses " + " ".join(f"{m:g}" for m in of_types),
                frame.step,
            )
        if not species.masses_given:
            self.values[index] = mass

    def _compare_divided(self, frames: Frames, frame: Frame, index: int) -> None:
        """Velocities made of momenta need the mass of the data set."""
        used, mass = frames.species.masses[index], self.values[index]
        if index in self._divided and abs(used - mass) > SAME_MASS * mass:
            raise frames.error(
                f"the mass of {frames.species.elements[index]} is {mass:g} g/mol here, but the "
                f"momenta of {self._divided[index]} were divided by {used:g}; write --masses",
                frame.step,
            )


class _SegmentWriter:
    """Collects frames until a segment is full, then writes it."""

    def __init__(self, group: h5py.Group, options: DatasetOptions) -> None:
        self._group = group
        self._options = options
        self._frames: list[Frame] = []
        self._span: int | None = None
        self._pairs_of_trajectory = 0

    def add(self, frames: Frames, frame: Frame) -> None:
        if self._frames and self._span is None:
            self._span = self._frames_per_horizon(frames, self._frames[-1], frame)
        self._frames.append(frame)
        if self._span is not None:
            spacing = self._options.horizon / self._span
            # Segments share no frame: n intervals take n + 1 of them.
            full = int(self._options.segment_length * 1e3 / spacing + 1e-6) + 1
            if len(self._frames) >= full:
                self._write(frames)

    def end_of_trajectory(self, frames: Frames) -> None:
        self._write(frames)
        if self._pairs_of_trajectory == 0:
            raise frames.error(
                f"is shorter than the horizon of {self._options.horizon:g} fs; use a longer run"
            )
        self._span = None
        self._pairs_of_trajectory = 0

    def _frames_per_horizon(self, frames: Frames, before: Frame, after: Frame) -> int:
        assert before.time is not None and after.time is not None
        spacing = after.time - before.time
        horizon = self._options.horizon
        span = round(horizon / spacing)
        if span < 1 or abs(span * spacing - horizon) > 1e-3 * spacing:
            raise frames.error(
                f"frames are {spacing:g} fs apart, and --horizon {horizon:g} fs is not a multiple "
                "of that; write another horizon or dump at another interval",
                after.step,
            )
        return span

    def _write(self, frames: Frames) -> None:
        segment, self._frames = self._frames, []
        if self._span is not None:
            self._pairs_of_trajectory += write_segment(
                self._group, segment, self._span, self._options.stride, frames.path.name
            )


def write_segment(
    segments: h5py.Group, frames: Sequence[Frame], span: int, stride: int, source: str
) -> int:
    """Write frames of one trajectory as a segment of a data set.

    Args:
        segments: group of all segments.
        frames: equally spaced; if they make no pair nothing is written.
        span: number of frames in a horizon.
        stride: every stride-th frame starts a pair.
        source: where the frames come from.

    Returns:
        The number of pairs.
    """
    starts = np.arange(0, max(len(frames) - span, 0), stride)
    if len(starts) == 0:
        return 0
    pairs = np.stack([starts, starts + span], axis=1)
    # Frames that no pair refers to are not stored.
    kept, index = np.unique(pairs, return_inverse=True)
    first = frames[0]
    group = segments.create_group(f"{len(segments):06d}")
    group.attrs["source"] = source
    group.attrs["first_step"] = first.step
    group["species"] = first.species.astype(np.int64)
    group["cell"] = first.cell
    group["pbc"] = first.pbc
    group["positions"] = np.stack([frames[k].positions for k in kept])
    group["velocities"] = np.stack([frames[k].velocities for k in kept])
    group["steps"] = np.array([frames[k].step for k in kept], dtype=np.int64)
    for name, values in arrays_of([frames[k].labels for k in kept]).items():
        group[name] = values
    group["pairs"] = index.reshape(pairs.shape).astype(np.int64)
    return len(pairs)


def write_header(target: h5py.File, horizon: float, species: Species) -> h5py.Group:
    """Write what a data set is of.

    Args:
        target: new file.
        horizon: time between the frames of a pair, fs.
        species: elements and masses.

    Returns:
        The group for its segments.
    """
    target.attrs["format"] = FORMAT
    target.attrs["format_version"] = FORMAT_VERSION
    target.attrs["horizon"] = horizon
    target.attrs["units"] = UNITS
    target.attrs["elements"] = species.elements
    return target.create_group("segments")


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that appears under its name only when it is complete.

    Raises:
        DatasetError: it cannot be written.
    """
    try:
        with (
            alone_with(path, "write another file"),
            replacing(path) as partial,
            # This version of the format has checksums of all that is not an array.
            h5py.File(partial, "w", libver=("v110", "v110")) as target,
        ):
            yield target
    except InUseError as error:
        raise DatasetError(str(error)) from None
    except (OSError, RuntimeError) as error:  # HDF5 fails with the latter when it closes a file
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DatasetError(f"cannot write {path}: {reason}") from None


def _assign_splits(target: h5py.File, options: DatasetOptions) -> None:
    names = sorted(target["segments"])
    for name, split in zip(
        names, draw_splits(len(names), options.split, options.seed), strict=True
    ):
        target[f"segments/{name}"].attrs["split"] = split


def draw_splits(number: int, shares: tuple[float, float, float], seed: int) -> list[str]:
    """Return the split of each of `number` segments, drawn at random.

    Raises:
        DatasetError: there are fewer segments than splits with a share.
    """
    labels: NDArray[np.str_] = np.repeat(SPLITS, _share_out(number, shares))
    drawn: NDArray[np.str_] = np.empty_like(labels)
    drawn[np.random.default_rng(seed).permutation(number)] = labels
    return [str(label) for label in drawn]


def _share_out(number: int, shares: tuple[float, float, float]) -> list[int]:
    """Numbers of segments for each split; every split with a share gets at least one."""
    wanted = sum(share > 0.0 for share in shares)
    if number < wanted:
        raise DatasetError(
            f"{number} segment(s) for {wanted} splits are too few; write more --segments (record), "
            "a shorter --segment-length or more trajectories (dataset), or --split 1 0 0"
        )
    counts = [max(round(number * share), 1) if share > 0.0 else 0 for share in shares]
    counts[0] = number - counts[1] - counts[2]
    while counts[0] < 1:
        counts[counts.index(max(counts))] -= 1
        counts[0] += 1
    return counts


def _summary(target: h5py.File) -> DatasetSummary:
    segments: Counter[Split] = Counter()
    pairs: Counter[Split] = Counter()
    for segment in target["segments"].values():
        segments[segment.attrs["split"]] += 1
        pairs[segment.attrs["split"]] += len(segment["pairs"])
    return DatasetSummary(
        segments={split: segments[split] for split in SPLITS},
        pairs={split: pairs[split] for split in SPLITS},
    )
