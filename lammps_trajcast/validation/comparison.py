"""Runs of both sides at equilibrium, and what all sections of the report make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks, inefficiency
from lammps_trajcast.analysis.structure import Histogram
from lammps_trajcast.analysis.thermal import degrees_of_freedom
from lammps_trajcast.lammps_runs.runner import Loop
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.validation.compare import Split, in_digits
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule

Floats = NDArray[np.float64]

# Frames from which the shares of a rotating molecule in the degrees of freedom are averaged.
SHARE_FRAMES = 50


@dataclass(frozen=True)
class Production:
    """One run with a thermostat, in blocks of equal length.

    Attributes:
        frames: of each block.
        spectra: the part of each block in which every horizon was kept.
        temperature, energy: (L,) K, unit of the run; potential energy by the reference, of the
            frames.
        loops: its `run` commands.
    """

    frames: list[Trajectory]
    spectra: list[Trajectory]
    temperature: Floats
    energy: Floats
    loops: list[Loop]


class Comparison:
    """What the sections of the report compare. All runs of a side count alike."""

    def __init__(
        self,
        config: ValidationConfig,
        units: str,
        angular: bool,
        plan: RunSchedule,
        temperature: float,
        reference: Sequence[Production],
        model: Sequence[Production],
    ) -> None:
        self.config = config
        self.tolerances = config.tolerances
        self.units = units
        self.angular = angular
        self.plan = plan
        self.temperature = temperature
        self.reference = list(reference)
        self.model = list(model)
        first = self.reference[0].frames[0]
        self.first = first
        self.splits = splits_of(len(self.reference), len(self.reference[0].frames))
        self.periodic = bool(first.pbc.all())
        positions = first.positions[:: max(len(first) // SHARE_FRAMES, 1)] if angular else None
        self.shares = (
            degrees_of_freedom(first.masses)
            if positions is None
            else np.mean([degrees_of_freedom(first.masses, x) for x in positions], axis=0)
        )

    @property
    def num_blocks(self) -> int:
        """Of a run; one that was continued until all is decided has more than were planned."""
        return len(self.reference[0].frames)

    def blocks(self) -> tuple[list[Trajectory], list[Trajectory]]:
        """The blocks of all runs, of the reference and of the model."""
        reference, model = (
            [block for run in side for block in run.frames] for side in (self.reference, self.model)
        )
        return reference, model

    @property
    def lasted(self) -> float:
        """Length of the longest run of the model, ps."""
        horizons = max(len(run.frames) for run in self.model) * self.plan.block
        return horizons * self.plan.horizon * 1e-3

    def independent(self, series: Sequence[Floats]) -> str:
        """In words, how many independent samples the series (L,) of the model's runs are.

        And what runs of this length cannot see.
        """
        number = sum(len(run) / inefficiency(run)[0] for run in series)
        samples = sum(len(run) for run in series)
        apart = samples / number * self.plan.every * self.plan.horizon * 1e-3
        return (
            f"{samples} frames of the model count as {in_digits(number)} independent ones, "
            f"{in_digits(apart, 2)} ps apart; what changes over more than "
            f"{in_digits(self.lasted)} ps, the length of a run, is not seen."
        )

    def groups(self, frames: Trajectory) -> dict[str, NDArray[np.int64]]:
        """Indices of all atoms and, where there are several, of those of each element."""
        groups = {"all": np.arange(len(frames.species))}
        if len(frames.elements) > 1:
            for index, element in enumerate(frames.elements):
                groups[element] = np.flatnonzero(frames.species == index)
        return groups


def splits_of(runs: int, blocks: int) -> list[Split]:
    """Halves of the blocks of several runs, one after the other: in time, and by run."""
    numbers = np.arange(runs * blocks).reshape(runs, blocks)
    halves = [np.array_split(numbers, 2, axis=1)]
    if runs > 1:
        halves.append(np.array_split(numbers, 2, axis=0))
    return [(first.ravel().tolist(), second.ravel().tolist()) for first, second in halves]


def curve_blocks(
    reference: list[dict[str, Histogram]], model: list[dict[str, Histogram]]
) -> tuple[dict[str, Floats], dict[str, Blocks], dict[str, Blocks]]:
    """By name: x, and the blocks of both. What a block lacks counts as zero there."""
    names = list(dict.fromkeys(name for block in [*reference, *model] for name in block))
    x: dict[str, Floats] = {}
    sides: list[dict[str, Blocks]] = [{}, {}]
    for name in names:
        some = next(block[name] for block in [*reference, *model] if name in block)
        x[name] = some.x
        nothing = np.zeros_like(some.y)
        for side, blocks in zip(sides, (reference, model), strict=True):
            side[name] = Blocks(
                np.array([block[name].y if name in block else nothing for block in blocks])
            )
    return x, sides[0], sides[1]


def visible(x: Floats, reference: Blocks, model: Blocks) -> tuple[Floats, Blocks, Blocks]:
    """The part of two curves between the first and the last point where one is not zero."""
    inside = np.flatnonzero((reference.mean > 0.0) | (model.mean > 0.0))
    window = slice(max(inside[0] - 1, 0), inside[-1] + 2) if len(inside) else slice(None)
    return x[window], Blocks(reference.values[:, window]), Blocks(model.values[:, window])


def curve_data(
    x: dict[str, Floats], reference: dict[str, Blocks], model: dict[str, Blocks]
) -> dict[str, dict[str, list[float]]]:
    """For JSON: enough digits for a plot."""

    def digits(values: Floats) -> list[float]:
        return [float(f"{value:.5g}") for value in values]

    return {
        name: {
            "x": digits(x[name]),
            "reference": digits(reference[name].mean),
            "spread": digits(reference[name].spread),
            "model": digits(model[name].mean),
        }
        for name in reference
    }
