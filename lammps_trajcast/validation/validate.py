"""`lammps-trajcast validate`: run both, compare, report."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lammps_trajcast.analysis.thermal import degrees_of_freedom
from lammps_trajcast.data.frames import Species, TrajectoryError
from lammps_trajcast.lammps_runs.errors import with_remedy
from lammps_trajcast.lammps_runs.runner import FinishedRun, Loop, Observer, Runner, file_key
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader
from lammps_trajcast.model.file import ModelFile, ModelFileError
from lammps_trajcast.units import BOLTZMANN, TIME_IN_FS
from lammps_trajcast.validation.compare import ReportSection
from lammps_trajcast.validation.config import EQUILIBRIUM, Length, SetupError, ValidationConfig
from lammps_trajcast.validation.equilibration import (
    Equilibrated,
    EquilibrationCheck,
    Sample,
    equilibrium_checks,
    reference_part,
)
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.production import EquilibriumRuns, failures_part, until_decided
from lammps_trajcast.validation.protocols import quench_parts, two_temperature_parts
from lammps_trajcast.validation.reading import RunReader, column
from lammps_trajcast.validation.report import Report
from lammps_trajcast.validation.script_parts import NOT_CANONICAL
from lammps_trajcast.validation.scripts import Inputs
from lammps_trajcast.validation.single_steps import SingleSteps, single_steps_part
from lammps_trajcast.validation.speed import Speeds
from lammps_trajcast.validation.strained_cells import StrainedCells
from lammps_trajcast.validation.system import Model, System


class Validation:
    """Everything about one system, one model and one length."""

    def __init__(
        self,
        config: ValidationConfig,
        length: Length,
        directory: Path,
        command: Sequence[str] | None = None,
        observe: Observer | None = None,
    ) -> None:
        """Read the model and the system; nothing runs yet.

        Args:
            config: of the validation.
            length: which of its lengths.
            directory: of the runs.
            command: starts LAMMPS; None: the `lmp` beside this Python.
            observe: is told of progress.

        Raises:
            SetupError: the model or the system is not usable, or the lengths do not fit.
        """
        if length not in config.lengths:
            raise SetupError(f"lengths: has no '{length}'; add it to the YAML file")
        try:
            file = ModelFile.load(config.model)
        except ModelFileError as error:
            raise SetupError(f"model: {error}") from None
        metadata = file.metadata
        unknown = [element for element in config.elements if element not in metadata.species]
        if unknown:
            raise SetupError(
                f"elements: the model {config.model} does not know {unknown[0]}; it is for "
                f"{' '.join(metadata.species)}"
            )
        self.config = config
        self.length = length
        self.metadata = metadata
        self.energy = file.energy
        self.model = Model(
            path=config.model,
            fingerprint=file.fingerprint(),
            timestep=metadata.timestep,
            cutoff=metadata.architecture.edge_cutoff,
            angular=metadata.architecture.conserve_ang_mom,
        )
        self.system = System.read(config.system)
        self.plan = RunSchedule.make(
            config.lengths[length], metadata.timestep, config.reference.timestep
        )
        masses = [metadata.masses[metadata.species.index(e)] for e in config.elements]
        species = Species.from_types(config.elements, masses)
        self.reader = TrajectoryReader(species, self.system.units)  # type: ignore[arg-type]
        self.reading = RunReader(self.reader, self.plan)
        self.runner = Runner(
            directory, config.system.parent, command, {"system": config.system}, observe
        )
        self._began = time.monotonic()
        self._speeds: Speeds | None = None
        self._measured = False
        self.content = [file_key(path) for path in self.system.files]

    def run(self, protocols: Sequence[str] = (EQUILIBRIUM,)) -> Iterator[Report]:
        """Run what has not been run, and compare: a report for each protocol, once it is there.

        Args:
            protocols: names from the YAML file, or "equilibrium".

        Raises:
            SetupError: the validation cannot be carried out; the message says what to change.
        """
        for name in protocols:
            if name != EQUILIBRIUM and name not in self.config.protocols:
                known = ", ".join([EQUILIBRIUM, *self.config.protocols])
                raise SetupError(f"no protocol '{name}'; there are {known}")
        return (self._report(name) for name in dict.fromkeys(protocols))

    def tell(self, stage: str, words: str) -> None:
        """Say how far it is: a line, and to the observer."""
        tqdm.write(f"{stage}: {words}", file=sys.stderr)
        if self.runner.observe is not None:
            self.runner.observe(stage, words, None)

    def _report(self, name: str) -> Report:
        note = ""
        if name == EQUILIBRIUM:
            title = f"Equilibrium at {self.config.temperature:g} K"
            parts, note = self._equilibrium(name, self.config.temperature)
        else:
            title, parts, note = self._protocol(name)
        return Report(
            config=self.config,
            length=self.length,
            model=self.model,
            metadata=self.metadata,
            name=name,
            title=title,
            parts=parts,
            note=note,
            speeds=self._speeds,
        )

    def _equilibrium(self, name: str, temperature: float) -> tuple[list[ReportSection], str]:
        runs = EquilibriumRuns(self, name, temperature)
        compared, note = until_decided(runs, self._began)
        if not self._measured:
            self._speeds = runs.speeds(self.config.lengths[self.length].speed)
            self._measured = True
        return runs.parts(compared, self._speeds), note

    def _protocol(self, name: str) -> tuple[str, list[ReportSection], str]:
        protocol = self.config.protocols[name]
        if protocol.temperature is not None:
            title = f"{name}: equilibrium at {protocol.temperature:g} K"
            return title, *self._equilibrium(name, protocol.temperature)
        if protocol.strain is not None:
            title = f"{name}: cells strained by {100.0 * protocol.strain:g} %"
            return title, StrainedCells(self, name, protocol).parts(), ""
        if protocol.quench is not None:
            start, stop, rate = protocol.quench
            title = f"{name}: from {start:g} to {stop:g} K at {rate:g} K/ps"
            horizons = self.horizons(abs(stop - start) / rate)
            inputs = self.inputs(start)
            text = partial(inputs.quench, start, stop, horizons)
            compare = quench_parts
        else:
            assert protocol.two_temperature is not None
            cold, hot = protocol.two_temperature
            title = f"{name}: a half at {hot:g} K, the other at {cold:g} K"
            horizons = self.horizons(protocol.duration)
            inputs = self.inputs(cold, protocol.fix_options)
            text = partial(inputs.two_temperature, cold, hot, horizons)
            compare = two_temperature_parts
        return title, self._over_time(name, inputs, text, horizons, compare), ""

    def _over_time(
        self,
        name: str,
        inputs: Inputs,
        text: Callable[[bool, int], str],
        horizons: int,
        compare: Callable[..., list[ReportSection]],
    ) -> list[ReportSection]:
        """Run reference and model from the same starts, and compare.

        text: the input of a run, by whether it is the model's and its number.
        """
        plan = self.plan
        starts, references, models = [], [], []
        for number in range(plan.runs):
            suffix = f"-{number + 1}" if number else ""
            starts.append(self.equilibrated(inputs.temperature, number))
            reference = self.reference(
                f"{name}-reference{suffix}", text(False, number), starts[-1].run
            )
            start = reference.directory / "series.dump"
            models.append(self.model_run(f"{name}{suffix}", text(True, number), start, reference))
            references.append(reference)
        found = [self.reading.read(model, "series.dump", 1, whole=False) for model in models]
        energies = self.energies(
            f"{name}-energies",
            inputs,
            [
                (model, "series", plan.every, int(frames.steps[-1]))
                for model, frames in zip(models, found, strict=True)
            ],
        )
        parts = compare(
            self.config,
            plan,
            [
                (
                    self.reading.read(reference, "series.dump", plan.steps),
                    column(reference.loops()[-1:], "PotEng"),
                )
                for reference in references
            ],
            [
                (frames, column([energy], "PotEng"))
                for frames, energy in zip(found, energies, strict=True)
            ],
        )
        expected = horizons // plan.every * plan.every
        ended = [int(frames.steps[-1]) < expected for frames in found]
        errors = [
            self.reading.why(model) if early else ""
            for model, early in zip(models, ended, strict=True)
        ]
        return [failures_part(errors), reference_part(starts, self.config.reference.rounds), *parts]

    def horizons(self, picoseconds: float) -> int:
        """Steps of the model in so many ps; enough for a table."""
        return max(round(picoseconds * 1e3 / self.plan.horizon), 4 * self.plan.every)

    # ---- equilibration ---------------------------------------------------------------------------

    def equilibrated(self, temperature: float, number: int = 0) -> Equilibrated:
        """Equilibrate the reference until it passes the tests, as many rounds as there may be.

        Args:
            temperature: K.
            number: of the start, from 0; each has random numbers of its own.

        Raises:
            SetupError: the reference fails.
        """
        given = self.config.reference.equilibrated
        if given is not None and number == 0 and temperature == self.config.temperature:
            return self._given_start(given, temperature)
        inputs, rounds = self.inputs(temperature), self.config.reference.rounds
        label = f"equilibration-{temperature:g}K" + (f"-{number + 1}" if number else "")
        before: FinishedRun | None = None
        time = 0.0
        for count in range(rounds):
            suffix = f"-round{count + 1}" if count else ""
            run = self.reference(f"{label}{suffix}", inputs.equilibration(number, count), before)
            time += sum(self.plan.halves(count)) * self.plan.horizon * 1e-3
            found = Equilibrated(run, self._tested(run, temperature), time)
            if not found.faults:
                break
            more = "going on from there"
            if count + 1 < rounds:
                longer = sum(self.plan.halves(count + 1)) * self.plan.horizon * 1e-3
                more = f"{longer:.3g} ps more, round {count + 2} of {rounds}"
            faults = "; ".join(fault.text() for fault in found.faults)
            tqdm.write(
                f"{label}: not in equilibrium after {time:.3g} ps: {faults}; {more}",
                file=sys.stderr,
            )
            before = run
        return found

    def _given_start(self, directory: Path, temperature: float) -> Equilibrated:
        state, log = directory / "state.dump", directory / "log.lammps"
        if not state.is_file() or not log.is_file():
            raise SetupError(
                f"reference.equilibrated: {directory} has no state.dump and log.lammps; name the "
                "directory of a finished equilibration, or leave it out"
            )
        run = FinishedRun(directory, file_key(state))
        try:
            checks = self._tested(run, temperature)
        except (KeyError, IndexError, TrajectoryError) as error:
            raise SetupError(
                f"reference.equilibrated: {directory} is not an equilibration of this system "
                f"({error}); leave it out"
            ) from None
        steps = sum(loop.steps for loop in run.loops())
        written = re.findall(r"^timestep\s+([0-9.eE+-]+)\s*$", log.read_text(), re.MULTILINE)
        unit = TIME_IN_FS[self.system.units]
        timestep = float(written[-1]) * unit if written else self.config.reference.timestep
        return Equilibrated(run, checks, steps * timestep * 1e-3)

    def _tested(self, run: FinishedRun, temperature: float) -> list[EquilibrationCheck]:
        canonical = self.config.thermostat.split()[0] not in NOT_CANONICAL
        sample, shares = self._sample(run, temperature)
        return equilibrium_checks(
            sample,
            temperature,
            sum(shares.values()),
            shares,
            self.config.tolerances,
            canonical,
        )

    def _sample(self, run: FinishedRun, temperature: float) -> tuple[Sample, dict[str, float]]:
        """The tested part of an equilibration, and the degrees of freedom of each element."""
        state = self.reading.read(run, "state.dump", self.plan.steps)
        positions, velocities = state.positions[0], state.velocities[0]
        freedom = degrees_of_freedom(state.masses, positions if self.model.angular else None)
        shares = {
            element: float(freedom[state.species == index].sum())
            for index, element in enumerate(state.elements)
            if np.any(state.species == index)
        }
        columns = run.loops()[-1].columns
        boltzmann = BOLTZMANN[self.system.units]
        thermal = len(state.species) * boltzmann * temperature
        momentum = state.masses @ velocities
        kinetic = 0.5 * float(state.masses @ np.sum(velocities**2, axis=1))
        return Sample(
            temperature=columns["Temp"],
            potential=columns["PotEng"] / thermal,
            total=columns["TotEng"] / thermal,
            elements={
                element: 2.0 * columns[name] / (boltzmann * shares[element])
                for name, element in self.inputs(temperature).kinetic_columns.items()
                if element in shares
            },
            momentum=0.5 * float(momentum @ momentum) / (state.masses.sum() * kinetic),
        ), shares

    # ---- single steps ----------------------------------------------------------------------------

    def single_steps(self, reference: FinishedRun, free: FinishedRun) -> ReportSection:
        """The section of single steps, from the runs without thermostat of both."""
        plan = self.plan
        path = free.directory / "one_step.dump"
        states = self.reading.read(reference, "nve.dump", plan.steps)
        first = np.arange(plan.pairs) * plan.pair_spacing
        try:
            after = self.reader.read_states(path, plan.horizon)
        except TrajectoryError as error:
            return failures_part([f"{path.name}: {error}"])
        # A run that LAMMPS ended has fewer.
        first = first[: len(after)]
        return single_steps_part(
            SingleSteps(
                displacement=states.positions[first + 1] - states.positions[first],
                velocity=states.velocities[first + 1],
                predicted_displacement=after.positions - states.positions[first],
                predicted_velocity=after.velocities,
                velocity_before=states.velocities[first],
                horizon=plan.horizon,
                species=states.species,
                elements=states.elements,
            ),
            self.config.tolerances.one_step_displacement,
            self.config.tolerances.one_step_velocity,
        )

    # ---- runs ------------------------------------------------------------------------------------

    def inputs(self, temperature: float, fix_options: str = "") -> Inputs:
        """Return the writer of LAMMPS inputs for a temperature, K, with further keywords."""
        options = f"{self.config.fix_options} {fix_options}".strip()
        config = self.config.model_copy(update={"fix_options": options})
        return Inputs(config, self.system, self.model, self.plan, temperature)

    def reference(self, name: str, text: str, start: FinishedRun | None) -> FinishedRun:
        """Run an input of the reference.

        Args:
            name: of the run.
            text: the input.
            start: an equilibration, whose end it begins from.

        Raises:
            SetupError: LAMMPS fails.
        """
        variables = {"start": start.directory / "state.dump"} if start else {}
        after = [*self.content, *([start.key] if start else [])]
        return self._checked(self.runner.run(name, text, variables, after))

    def continuation(
        self, name: str, text: str, before: FinishedRun, of_model: bool
    ) -> FinishedRun:
        """Run the next part of a production.

        Args:
            name: of the run.
            text: the input.
            before: the part that it continues.
            of_model: whether it is a run of the model or of the reference.

        Raises:
            SetupError: the reference fails, or the model's run does not start.
        """
        frames = before.directory / "frames.dump"
        if of_model:
            return self.model_run(name, text, frames, before)
        after = [*self.content, before.key]
        return self._checked(self.runner.run(name, text, {"start": frames}, after))

    def _checked(self, run: FinishedRun) -> FinishedRun:
        if run.error:
            raise SetupError(
                f"the reference failed: {with_remedy(run.error)} (input: "
                f"{run.directory / 'in.lmp'}); correct {self.system.path.name} or the YAML file"
            )
        return run

    def model_run(self, name: str, text: str, start: Path, reference: FinishedRun) -> FinishedRun:
        """Run an input of the model.

        Args:
            name: of the run.
            text: the input.
            start: a dump to begin from.
            reference: the run that wrote this dump.

        Raises:
            SetupError: the model's run does not start.
        """
        run = self.runner.run(
            name,
            text,
            {"model": self.model.path, "start": start},
            after=[*self.content, self.model.fingerprint, reference.key],
        )
        if run.error and not any(run.directory.glob("*.dump")):
            raise SetupError(
                f"the model's run did not start: {run.error} (input: {run.directory / 'in.lmp'})"
            )
        return run

    def energies(
        self, name: str, inputs: Inputs, runs: list[tuple[FinishedRun, str, int, int]]
    ) -> list[Loop]:
        """Energies by the reference of frames of runs of the model, one table for each.

        Args:
            name: of the run.
            inputs: writer of LAMMPS inputs at the temperature of the runs.
            runs: run, name of the dump, every how many steps, up to which step.

        Raises:
            SetupError: the reference fails.
        """
        variables, dumps = {}, []
        for number, (run, dump, every, last) in enumerate(runs):
            variables[f"frames{number}"] = run.directory / f"{dump}.dump"
            dumps.append((f"frames{number}", every, last))
        done = self.runner.run(
            name,
            inputs.energies(dumps),
            variables,
            after=[*self.content, *(run.key for run, *_ in runs)],
        )
        loops = done.loops()
        if done.error or len(loops) != len(runs):
            raise SetupError(
                f"the reference's energy of the model's frames cannot be had: {done.error} "
                f"(input: {done.directory / 'in.lmp'})"
            )
        return loops

    # ---- files -----------------------------------------------------------------------------------


def with_model(config: ValidationConfig, model: Path | None) -> ValidationConfig:
    """The configuration for another model file."""
    return config if model is None else config.model_copy(update={"model": model.resolve()})
