"""What to record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lammps_trajcast.data.build import check_shares, draw_splits
from lammps_trajcast.data.layout import DatasetError

# The cell changes at once, and atoms with it: more would break bonds.
LARGEST_STRAIN = 0.05


@dataclass(frozen=True)
class RecordOptions:
    """What to record.

    Attributes:
        horizon: fs between the two states of a pair.
        elements: of LAMMPS type 1, 2, …
        masses: g/mol, of each type; None: those of the script, which have to be near the standard
            atomic weights.
        temperatures: values of the script's variable T, each with a LAMMPS of its own; none: the
            script as it is.
        segments: NVE segments for each temperature.
        segment_length: ps.
        decorrelate: ps with the script's thermostats before each segment.
        interval: fs between stored frames; None: a third of the horizon or more.
        segments_per_shard: segments in a file.
        split: shares of the segments for training, validation and test.
        seed: of the random assignment of segments to splits and of the thermostats.
        strain: largest strain of the cell of the script, drawn anew for each segment, in each of
            its periodic directions; tilts of triclinic cells too.
        keep: names of fixes to leave on during segments.
        variables: further index variables for the script.
        lmp: command that starts LAMMPS; None: the `lmp` of this environment.
    """

    horizon: float
    elements: Sequence[str]
    temperatures: Sequence[float] = ()
    segments: int = 40
    segment_length: float = 3.0
    decorrelate: float = 1.0
    interval: float | None = None
    segments_per_shard: int = 10
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    strain: float = 0.0
    keep: Sequence[str] = ()
    variables: dict[str, str] = field(default_factory=dict)
    lmp: str | None = None
    masses: Sequence[float] | None = None

    def check(self) -> None:
        """Check the options.

        Raises:
            DatasetError: a value is out of range, or options contradict one another.
        """
        for name in ("horizon", "segment_length", "decorrelate", "interval"):
            value = getattr(self, name)
            if value is not None and not (value > 0.0 and math.isfinite(value)):
                option = "--" + name.replace("_", "-")
                raise DatasetError(f"{option} {value:g}: must be greater than zero")
        for name in ("segments", "segments_per_shard"):
            if getattr(self, name) < 1:
                option = "--" + name.replace("_", "-")
                raise DatasetError(f"{option} {getattr(self, name)}: must be 1 or more")
        if any(not temperature > 0.0 for temperature in self.temperatures):
            raise DatasetError("--temperatures: every one must be greater than zero")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise DatasetError("--temperatures: one is named twice; raise --segments instead")
        if self.segment_length * 1e3 < self.horizon:
            raise DatasetError(
                f"--segment-length {self.segment_length:g} ps is shorter than --horizon "
                f"{self.horizon:g} fs; no pair fits in: write a longer segment"
            )
        if not 0.0 <= self.strain <= LARGEST_STRAIN:
            raise DatasetError(
                f"--strain {self.strain:g}: must be between 0 and {LARGEST_STRAIN:g}; 0.01 is 1 %"
            )
        if self.seed < 0:
            raise DatasetError(f"--seed {self.seed}: must be 0 or more")
        check_shares(self.split)
        draw_splits(self.segments, self.split, self.seed)
