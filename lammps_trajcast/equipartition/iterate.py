"""`lammps-trajcast equipartition`: runs of a model, and small changes that bring equipartition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lammps_trajcast.data.dataset import Pair
from lammps_trajcast.equipartition.correction import LastLayerCorrection
from lammps_trajcast.equipartition.motions import MotionEnergies, gradients, motions
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.lock import InUseError, alone_in
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.training.batches import Batch, Sample, collate
from lammps_trajcast.validation.config import SetupError, ValidationConfig
from lammps_trajcast.validation.validate import Validation

# Frames of a round, and how many of them the effect of a change is averaged over.
FRAMES, EFFECT_FRAMES = 120, 40
# Of a round that a guard stopped.
FEWEST_FRAMES = 40
# Part of a round that is not looked at: the model changed at its beginning.
SETTLING = 0.3
# Blocks of a round whose scatter is the uncertainty of its means.
BLOCKS = 6
# Uncertainty below which no mean is trusted, relative.
FLOOR = 0.01
# Part of the heat that a round takes away.
HEAT_SHARE = 0.5
# Of a kind of motion over that of equilibrium; no less is believed.
LEAST_ENERGY = 1e-3
# Logarithms of energies over those of equilibrium, beyond which a deviation counts no more.
LARGEST_DEVIATION = 1.5
# Kinds of motion with fewer pairs in a frame are left out.
FEWEST_PAIRS = 0.5


def gains(energy: Tensor, last: Tensor, rate: float, damping: float) -> tuple[Tensor, Tensor]:
    """Return what kinds of motion shall gain in a step more than before, and their deviations.

    An integral controller (damping: and a proportional one) of the logarithms of energies, since a
    step multiplies energies, that says by how much its output changes from round to round.

    Args:
        energy: (K,) over that of equilibrium.
        last: deviations (K,) that it returned the round before; at the first zero.
        rate: integral gain, see :class:`EquipartitionCorrector`.
        damping: proportional gain, see there.
    """
    deviation = energy.log().clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)
    return -rate * deviation - damping * (deviation - last), deviation


@dataclass(frozen=True)
class Round:
    """What a run showed.

    Attributes:
        temperature: of the thermostat, K.
        elements: temperature of each element, K.
        deviation: root mean square deviation from equipartition of all kinds of motion, relative.
        uncertainty: median of their uncertainties.
        heat: that the thermostat took out in a step, over the kinetic energy.
        cost: growth of the loss since the beginning, relative to it.
    """

    temperature: float
    elements: dict[str, float]
    deviation: float
    uncertainty: float
    heat: float
    cost: float


@dataclass
class RunSeries:
    """The runs at one temperature.

    Attributes:
        before: the last one, if the next can go on from its end.
        last: deviations that :func:`gains` returned.
    """

    temperature: float
    before: FinishedRun | None = None
    last: Tensor = field(default_factory=lambda: torch.zeros(()))


class RequestedChange(NamedTuple):
    """What a run asks of the change that follows it; K kinds of motion.

    Attributes:
        effect: (K, size) of the weights on energies, relative.
        wanted: (K,) relative change of the energies in a step.
        uncertainty: (K,) of it.
    """

    effect: Tensor
    wanted: Tensor
    uncertainty: Tensor


class EquipartitionCorrector(LastLayerCorrection):
    """Changes the last layer of a model until its runs show equipartition.

    A network that is right to a percent in each step still gives some kinds of motion a little
    energy in every step and takes it from others, and where motions are weakly coupled this adds
    up. Equipartition says how much each should have, whatever the forces. A round runs the model
    with the thermostat in LAMMPS, and asks for a change of the energy that a step gives to each
    kind of motion, against its deviation and in proportion to it; the change of the last layer is
    the one that does this at the least cost in the loss on the data set. What the thermostat takes
    out in a step is taken from all kinds alike. Over the rounds changes add up: an integral
    controller. With several temperatures a round has a run at each, and the change answers to all:
    what a step gives and takes depends on the temperature.

    Args:
        config: the system, its temperature and thermostat.
        directory: of the runs; finished ones are not repeated.
        dataset: that the model was trained on.
        duration: of a run, ps.
        rate: change of a kind's energy in one step over its deviation, both relative.
        damping: the same for what a deviation has grown since the round before. Without it the
            energies of motions that hardly exchange any swing from round to round.
        temperatures: of the runs, K; by default that of the system alone.
        command: starts LAMMPS.

    Raises:
        SetupError: the system, the model and the data do not fit together.
    """

    def __init__(
        self,
        config: ValidationConfig,
        directory: Path,
        dataset: Sequence[Path],
        duration: float,
        rate: float,
        damping: float = 0.0,
        temperatures: Sequence[float] = (),
        command: Sequence[str] | None = None,
    ) -> None:
        length = next(iter(config.lengths))
        self.validation = Validation(config, length, directory / "runs", command)
        self.config, self.directory, self.rate, self.damping = config, directory, rate, damping
        self.temperatures = list(temperatures) or [config.temperature]
        super().__init__(config.model, dataset)
        data = self.metadata
        self.horizons = round(duration * 1e3 / data.timestep / FRAMES) * FRAMES
        if self.horizons < FRAMES:
            raise SetupError(
                f"--duration: {duration:g} ps are fewer than {FRAMES} steps of {data.timestep:g} "
                f"fs; write at least {FRAMES * data.timestep * 1e-3:.3g}"
            )

    def run(self, rounds: int, tell: Callable[[int, Round], None]) -> ModelFile:
        """Return the model with the mean weights of the later half of the rounds.

        Args:
            rounds: number of runs, each followed by a change.
            tell: called after each with its number, from 1, and what it showed.

        Raises:
            SetupError: LAMMPS fails, or another process is at work in the directory.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with alone_in(self.directory, "name another --directory"):
                return self._run(rounds, tell)
        except InUseError as error:
            raise SetupError(str(error)) from None

    def _run(self, rounds: int, tell: Callable[[int, Round], None]) -> ModelFile:
        factor = self._factor()
        changes = [torch.zeros(self.layer.size, dtype=torch.float64)]
        courses = [RunSeries(temperature) for temperature in self.temperatures]
        for number in range(rounds):
            cost = float(changes[-1] @ self.cost @ changes[-1])
            found = [self._answer(number, course, cost, tell) for course in courses]
            change = self._change(factor, *(torch.cat(parts) for parts in zip(*found, strict=True)))
            self.layer.add(change)
            changes.append(changes[-1] + change)
        later = changes[(len(changes) + 1) // 2 :]
        self.layer.add(torch.stack(later).mean(0) - changes[-1])
        return self.with_errors(self._model(rounds))

    def _answer(
        self, number: int, course: RunSeries, cost: float, tell: Callable[[int, Round], None]
    ) -> RequestedChange:
        """Run the model at one temperature, and ask for a change."""
        finished, trajectory = self._sample(number, course)
        heat = self._heat(finished)
        # Stopped by a guard: the next run cannot begin from its last state.
        course.before = finished if trajectory.steps[-1] == self.horizons else None
        deviation, uncertainty, effect, used = self._observe(trajectory, course.temperature)
        elements = 1.0 + deviation[: len(self.metadata.species)]
        seen = Round(
            course.temperature,
            {
                element: course.temperature * float(share)
                for element, share in zip(self.metadata.species, elements, strict=True)
            },
            float(deviation[used].square().mean().sqrt()),
            float(uncertainty[used].median()),
            heat,
            cost,
        )
        tell(number + 1, seen)
        energy = (1.0 + deviation).clamp_min(LEAST_ENERGY)
        gain, course.last = gains(energy, course.last, self.rate, self.damping)
        wanted = gain - HEAT_SHARE * seen.heat
        energy = energy[used]
        return RequestedChange(
            effect[used] / energy[:, None],
            wanted[used],
            (self.rate + self.damping) * uncertainty[used] / energy,
        )

    def _sample(self, number: int, course: RunSeries) -> tuple[FinishedRun, Trajectory]:
        """Run the model with its present weights from the end of the run before."""
        before, several = course.before, len(self.temperatures) > 1
        model = self._model(number)
        path = self.directory / f"round{number}.safetensors"
        model.save(path)
        inputs = self.validation.inputs(course.temperature)
        text = inputs.sampling(self.horizons, self.horizons // FRAMES, before is None, number)
        variables = {"model": path}
        if before is None:
            # Runs with a global thermostat keep what modes have at the start: not from a crystal
            # at rest, whose modes have what their velocities were drawn to be.
            start = self.validation.equilibrated(course.temperature).run
            variables["start"] = start.directory / "state.dump"
        else:
            start = before
            variables["start"] = before.directory / "frames.dump"
        after = [model.fingerprint(), start.key]
        name = f"round{number}" + (f"-{course.temperature:g}K" if several else "")
        done = self.validation.runner.run(name, text, variables, after)
        place = f"round {number + 1}" + (f" at {course.temperature:g} K" if several else "")
        if done.error:
            raise SetupError(f"{place}: {done.error}; see {done.directory}")
        reader = self.validation.reader
        trajectory = reader.read(done.directory / "frames.dump", self.metadata.timestep)
        if len(trajectory) < FEWEST_FRAMES:
            raise SetupError(
                f"{place}: the model was stopped after {int(trajectory.steps[-1])} of "
                f"{self.horizons} steps, too early to learn from; see {done.directory}/log.lammps"
            )
        return done, trajectory

    def _heat(self, run: FinishedRun) -> float:
        """Return what the thermostat took out in a step, relative to the kinetic energy.

        All motions together cannot show it: the thermostat holds their temperature. Zero if it
        does not count.
        """
        if not self.validation.inputs(self.config.temperature).tallies:
            return 0.0
        (loop,) = run.loops()
        later = slice(round(SETTLING * len(loop.columns["Step"])), None)
        step, taken = (loop.columns[name][later] for name in ("Step", "f_bath"))
        kinetic = loop.columns["KinEng"][later].mean()
        return float((taken[-1] - taken[0]) / (step[-1] - step[0]) / kinetic)

    def _observe(
        self, trajectory: Trajectory, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return deviations and uncertainties (K,), effects (K, size), and which are of use."""
        first = round(SETTLING * len(trajectory))
        frames = range(first, len(trajectory))
        found: list[MotionEnergies] = []
        effect: Tensor | None = None
        every = max(1, len(frames) // EFFECT_FRAMES)
        angular = self.metadata.architecture.conserve_ang_mom
        for k in frames:
            batch = self._batch(trajectory, k)
            found.append(motions(batch, batch.velocities, temperature, self.cutoff, angular))
            if (k - first) % every == 0:
                _, velocity = self.layer.predict(batch)
                pulled = self.layer.pull(batch, 1, gradients(batch, velocity, self.cutoff))
                effect = pulled if effect is None else effect + pulled
        assert effect is not None
        energy = torch.stack([x.energy for x in found])
        expected = torch.stack([x.expected for x in found])
        number = torch.stack([x.number for x in found]).mean(0)
        used = (number > FEWEST_PAIRS) & (expected.sum(0) > 0.0)
        total = expected.sum(0).clamp_min(1e-30)
        deviation = energy.sum(0) / total - 1.0
        blocks = [
            energy[part].sum(0) / expected[part].sum(0).clamp_min(1e-30)
            for part in torch.arange(len(found)).chunk(BLOCKS)
        ]
        scatter = torch.stack(blocks).std(0) / len(blocks) ** 0.5
        uncertainty = (scatter.square() + FLOOR**2).sqrt()
        effect = effect / len(range(0, len(frames), every)) / (total / len(found))[:, None]
        return deviation, uncertainty, effect, used.nonzero().squeeze(1)

    def _batch(self, trajectory: Trajectory, frame: int) -> Batch:
        positions = torch.from_numpy(trajectory.positions[frame])
        velocities = torch.from_numpy(trajectory.velocities[frame])
        order = [self.metadata.species.index(element) for element in trajectory.elements]
        nothing = torch.zeros_like(positions)
        pair = Pair(
            species=torch.tensor(order)[torch.from_numpy(trajectory.species)],
            masses=torch.from_numpy(trajectory.masses),
            positions=positions,
            velocities=velocities,
            displacement=nothing,
            velocity_after=nothing,
            cell=torch.from_numpy(trajectory.cell),
            pbc=torch.from_numpy(trajectory.pbc),
        )
        graph = build_graph(positions, trajectory.cell, trajectory.pbc, self.cutoff)
        return collate([Sample(pair, graph, [])])

    def _model(self, rounds: int) -> ModelFile:
        temperatures = ", ".join(f"{temperature:g}" for temperature in self.temperatures)
        return self.model_file(
            "equipartition",
            f"{rounds} rounds of {self.horizons} steps at {temperatures} K, rate "
            f"{self.rate:g}{f', damping {self.damping:g}' if self.damping else ''}, "
            f"{self.config.name}",
        )
