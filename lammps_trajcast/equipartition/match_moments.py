"""`lammps-trajcast match-moments`: energies that a step gives to motions, set right on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.layout import Split
from lammps_trajcast.equipartition.correction import LastLayerCorrection
from lammps_trajcast.equipartition.motions import MotionClasses
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.batches import Batch, GraphPairs, State
from lammps_trajcast.training.loaders import make_loader
from lammps_trajcast.validation.config import SetupError

# Atoms of a mini-batch, and parts of the data whose scatter is the uncertainty of a mean.
BATCH_ATOMS, PARTS = 1000, 16
SPLITS: tuple[Split, ...] = ("train", "test")
# Pairs of states on which the effect of a change is measured, as many as have so many atoms; it
# hardly depends on them.
EFFECT_PAIRS, EFFECT_ATOMS, FEWEST_EFFECT_PAIRS = 600, 24_000, 24
# And those from which the mean distances of kinds are taken.
CENTER_PAIRS = 2000
# Kinds with fewer pairs of atoms in the data are left out.
FEWEST = 400
# No gain is known to better than this.
LEAST_UNCERTAINTY = 1e-5
# Beside uncertainties: gains far below it are worth no loss, as they cost little to leave.
TOLERATED_GAIN = 1e-3


@dataclass(frozen=True)
class MomentErrors:
    """What the steps of a model give to kinds of motion and should not.

    Attributes:
        gain: root mean square over kinds of what a step changes, relative.
        uncertainty: the same of what the number of pairs leaves open.
        largest: the gain farthest from zero, in its uncertainty.
        cost: growth of the loss since the beginning, relative to it.
    """

    gain: float
    uncertainty: float
    largest: float
    cost: float


class Moments(NamedTuple):
    """Second moments of a prediction and of the truth, and the difference of the first; (K,).

    Kinds are those of :mod:`motions`: squares of the velocities of each element's atoms, of pairs
    along and across the line between them; then the squares of deviations of pair distances from
    the mean of their kind, then the distances themselves.
    """

    predicted: Tensor
    true: Tensor
    scale: Tensor
    number: Tensor


class MomentMatching(LastLayerCorrection):
    """Changes the last layer until energies of single steps are right on the mean of a data set.

    A motion that hardly exchanges energy with others keeps what every step gives it: with a
    thousandth in a step of 7 fs, and tens of picoseconds to lose it again, it ends at several times
    its energy. Where steps from states of the reference lead is known. The change is the cheapest
    after which predictions have the second moments of the truth: of velocities of atoms, of pairs
    along and across the line between them, and of pair distances, for each pair of elements and
    twelve bins of distance. Other than in runs of the model (:class:`EquipartitionCorrector`)
    motions are seen near their equilibrium, and as often as there are data.

    Args:
        model: model file.
        dataset: that the model was trained on, for the cost of a change.
        states: groups of data sets with the states to begin with, which should be at the
            temperatures of the runs. Moments are matched for each group.
        number: of the pairs of each that are used.
        loss_growth: largest growth of the loss, relative to it; gains remain where it does not
            suffice.

    Raises:
        SetupError: the system, the model and the data do not fit together.
    """

    def __init__(
        self,
        model: Path,
        dataset: Sequence[Path],
        states: Sequence[Sequence[Path]],
        number: int,
        loss_growth: float = 0.03,
    ) -> None:
        self.states, self.number, self.loss_growth = states, number, loss_growth
        trained_on = TrajectoryPairs(dataset, "train")
        for group in states:
            given = TrajectoryPairs(group, "train")
            if (given.elements, given.horizon) != (trained_on.elements, trained_on.horizon):
                raise SetupError(
                    f"--states: for {' '.join(given.elements)} and {given.horizon:g} fs, --dataset "
                    f"for {' '.join(trained_on.elements)} and {trained_on.horizon:g} fs; take data "
                    "sets of one system and one horizon"
                )
            for split in SPLITS:
                if self._number(group, split) < 2 * PARTS:
                    raise SetupError(
                        f"--states: {self._number(group, split)} pairs in the split '{split}' of "
                        f"{' '.join(map(str, group))}, too few to say anything of energies; "
                        f"record more, at least {2 * PARTS}"
                    )
        super().__init__(model, dataset)

    def run(self, tell: Callable[[str, MomentErrors], None]) -> ModelFile:
        """Return the changed model; `tell` is called with what unseen pairs show, twice."""
        none = torch.zeros(self.layer.size, dtype=torch.float64)
        tell("before", self._seen("test", none))
        found = []
        for group in self.states:
            gain, doubt, used = self._gains(group, "train")
            found.append((self._effect(group, used), -gain, doubt))
        effect, wanted, doubt = (torch.cat(parts) for parts in zip(*found, strict=True))
        doubt = (doubt.square() + TOLERATED_GAIN**2).sqrt()
        change = within_budget(self._factor(), effect, wanted, doubt, self.loss_growth)
        self.layer.add(change)
        tell("after", self._seen("test", change))
        number = sum(self._number(group, "train") for group in self.states)
        return self.with_errors(self.model_file("moments_matched", f"on {number} pairs of states"))

    def _seen(self, split: Split, change: Tensor) -> MomentErrors:
        """Return what the pairs of a split show."""
        found = [self._gains(group, split)[:2] for group in self.states]
        gain, doubt = (torch.cat(parts) for parts in zip(*found, strict=True))
        return self._moment_errors(gain, doubt, change)

    def _moment_errors(self, gain: Tensor, doubt: Tensor, change: Tensor) -> MomentErrors:
        return MomentErrors(
            float(gain.square().mean().sqrt()),
            float(doubt.square().mean().sqrt()),
            float((gain / doubt).abs().max()),
            float(change @ self.cost @ change),
        )

    def _number(self, group: Sequence[Path], split: Split) -> int:
        return min(self.number, len(TrajectoryPairs(group, split)))

    def _batches(self, group: Sequence[Path], split: Split, number: int) -> DataLoader[Any]:
        """Mini-batches of so many pairs, drawn at random; of fewer pairs, the first of them."""
        pairs = TrajectoryPairs(group, split)
        chosen = np.random.default_rng(0).permutation(len(pairs))[:number].tolist()
        together = min(1 + BATCH_ATOMS // len(pairs[0].species), 1 + len(chosen) // (2 * PARTS))
        return make_loader(GraphPairs(pairs, self.cutoff, chosen), together)

    def _gains(self, group: Sequence[Path], split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Return gains and their uncertainties, relative, and which kinds they are of."""
        batches = self._batches(group, split, self._number(group, split))
        centers = self._centers(group, split)
        parts: list[list[Tensor]] = [[] for _ in range(PARTS)]
        for k, batch in enumerate(batches):
            found = self._moments(batch, centers)
            part = parts[k * PARTS // len(batches)]
            part.append(torch.stack(found))
        sums = torch.stack([torch.stack(part).sum(0) for part in parts if part])
        predicted, true, scale, number = sums.sum(0)
        used = (number > FEWEST) & (scale > 0.0)
        if not bool(used.any()):
            raise SetupError(
                f"--states: no kind of motion is there more than {FEWEST} times in the split "
                f"'{split}', too few to say anything of energies; record more"
            )
        gain = (predicted - true) / scale.clamp_min(1e-30)
        of_parts = (sums[:, 0] - sums[:, 1]) / sums[:, 2].clamp_min(1e-30)
        doubt = of_parts.std(0) / len(of_parts) ** 0.5
        doubt = (doubt.square() + LEAST_UNCERTAINTY**2).sqrt()
        return gain[used], doubt[used], used.nonzero().squeeze(1)

    def _after(self, batch: Batch) -> Batch:
        """Return the batch at the true states after the step."""
        state = State(batch.positions + batch.displacement, batch.velocity_after)
        return batch._replace(later=[state]).advanced(*state, self.cutoff)

    def _centers(self, group: Sequence[Path], split: Split) -> Tensor:
        """Return the mean distance of every kind of pairs."""
        sums: list[Tensor] = []
        for batch in self._batches(group, split, min(CENTER_PAIRS, self._number(group, split))):
            after = self._after(batch)
            kinds = MotionClasses.of(after, self.cutoff)
            length = after.edge_vectors.norm(dim=1)
            sums.append(torch.stack([kinds.sums(length), kinds.sums(torch.ones_like(length))]))
        length, number = torch.stack(sums).sum(0)
        return length / number.clamp_min(1.0)

    def _moments(self, batch: Batch, centers: Tensor) -> Moments:
        displacement, velocity = self.layer.predict(batch)
        after = self._after(batch)
        kinds = MotionClasses.of(after, self.cutoff)
        both = [
            _moments_of(after, kinds, centers, d - batch.displacement, v)
            for d, v in ((displacement, velocity), (batch.displacement, batch.velocity_after))
        ]
        predicted, true = (torch.cat(moments) for moments in both)
        ones = torch.ones(len(after.edge_vectors), dtype=torch.float64)
        number = kinds.sums(ones)
        # A shift of the mean counts in units of the width.
        scale = torch.cat([*both[1][:4], (both[1][3] * number).sqrt()])
        return Moments(predicted, true, scale, torch.cat([kinds.elements.sum(0), *4 * [number]]))

    def _effect(self, group: Sequence[Path], used: Tensor) -> Tensor:
        """Return the derivatives (K, size) of the gains of the kinds in use by the weights."""
        fitting = EFFECT_ATOMS // len(TrajectoryPairs(group, "train")[0].species)
        wanted = min(EFFECT_PAIRS, max(FEWEST_EFFECT_PAIRS, fitting))
        batches = self._batches(group, "train", min(wanted, self._number(group, "train")))
        centers = self._centers(group, "train")
        effect, scale = torch.zeros(()), torch.zeros(())
        for batch in batches:
            displacement, velocity = self.layer.predict(batch)
            after = self._after(batch)
            kinds = MotionClasses.of(after, self.cutoff)
            by = _derivatives(after, kinds, centers, displacement - batch.displacement, velocity)
            for k, (target, directions) in enumerate(by):
                by[k] = (target, self.layer.pull(batch, target, directions))
            effect = effect + torch.cat([pulled for _, pulled in by])
            scale = scale + self._moments(batch, centers).scale
        return (effect / scale.clamp_min(1e-30)[:, None])[used]


def _moments_of(
    after: Batch, kinds: MotionClasses, centers: Tensor, missed: Tensor, velocities: Tensor
) -> list[Tensor]:
    """Return sums over atoms and pairs of each kind.

    after: at the true positions. centers: mean distances. missed: (N, 3) from the true positions.
    """
    found = [kinds.elements.T @ velocities.square().sum(1)]
    found += [kinds.sums(part.square().sum(1)) for part in kinds.parts(after, velocities)]
    vectors = after.edge_vectors + missed[after.senders] - missed[after.receivers]
    length = vectors.norm(dim=1)
    return [*found, kinds.sums((length - centers[kinds.kind]).square()), kinds.sums(length)]


def _derivatives(
    after: Batch, kinds: MotionClasses, centers: Tensor, missed: Tensor, velocities: Tensor
) -> list[tuple[int, Tensor]]:
    """Return the derivatives (K, N, 3) of :func:`_moments_of`.

    With each 0 if it is by displacements, 1 if by velocities.
    """
    found = [(1, 2.0 * kinds.elements.T[:, :, None] * velocities)]
    found += [(1, kinds.spread(after, 2.0 * part)) for part in kinds.parts(after, velocities)]
    vectors = after.edge_vectors + missed[after.senders] - missed[after.receivers]
    length = vectors.norm(dim=1, keepdim=True)
    line = vectors / length
    beyond = length - centers[kinds.kind][:, None]
    return [*found, (0, kinds.spread(after, 2.0 * beyond * line)), (0, kinds.spread(after, line))]


def within_budget(
    factor: Tensor, effect: Tensor, wanted: Tensor, uncertainty: Tensor, budget: float
) -> Tensor:
    """Return the change (size,) that comes closest to what is wanted at a bounded cost.

    Minimizes w times the cost plus the square of what is missing over its uncertainty, with the
    least w >= 1 at which the cost is within the budget. With w = 1 a gain of one standard error
    counts as much as a loss twice as large.

    Args:
        factor: (size, size) Cholesky factor of the cost, relative to the loss.
        effect: (K, size) of a change of the weights on the gains.
        wanted: (K,) change of the gains.
        uncertainty: (K,) of what is wanted.
        budget: largest growth of the loss, relative.
    """
    # In units of the uncertainties, along the axes in which gains are independent.
    scaled = effect / uncertainty[:, None]
    solved = torch.cholesky_solve(scaled.T, factor)
    values, axes = torch.linalg.eigh(scaled @ solved)
    values = values.clamp_min(0.0)
    along = axes.T @ (wanted / uncertainty)

    def cost(logarithm: float) -> float:
        return float((values * (along / (values + math.exp(logarithm))).square()).sum())

    low, high = 0.0, 0.0
    if cost(low) > budget:
        while cost(high) > budget:
            high += 5.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if cost(middle) > budget else (low, middle)
    return solved @ (axes @ (along / (values + math.exp(high))))
