"""`lammps-trajcast validate`: run both, compare, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lammps_trajcast.analysis.thermal import degrees_of_freedom
from lammps_trajcast.data.trajectory import Species, TrajectoryError
from lammps_trajcast.model.file import ModelFile, ModelFileError
from lammps_trajcast.validation.compare import Check, Part
from lammps_trajcast.validation.comparison import BOLTZMANN, Comparison
from lammps_trajcast.validation.config import Length, SetupError, ValidationConfig
from lammps_trajcast.validation.constant_energy import Nve, SameCost, nve_part
from lammps_trajcast.validation.equilibration import (
    Equilibrated,
    Sample,
    equilibrium_figures,
    reference_part,
)
from lammps_trajcast.validation.equilibrium import equilibrium_parts
from lammps_trajcast.validation.protocols import hot_half_parts, quench_parts
from lammps_trajcast.validation.reading import RunReader, column
from lammps_trajcast.validation.report import Report
from lammps_trajcast.validation.runner import Finished, Loop, Runner, file_key
from lammps_trajcast.validation.scripts import NOT_CANONICAL, Inputs, Model, Plan, System
from lammps_trajcast.validation.single_steps import SingleSteps, single_steps_part
from lammps_trajcast.validation.speed import Speed, speed_of, speed_part
from lammps_trajcast.validation.trajectory import Reader

EQUILIBRIUM = "equilibrium"


class Validation:
    """Everything about one system, one model and one length."""

    def __init__(
        self,
        config: ValidationConfig,
        length: Length,
        directory: Path,
        command: Sequence[str] | None = None,
    ) -> None:
        """Read the model and the system; nothing runs yet.

        directory: of the runs. command: starts LAMMPS.

        Raises SetupError.
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
        self.model = Model(
            path=config.model,
            fingerprint=file.fingerprint(),
            timestep=metadata.timestep,
            cutoff=metadata.architecture.edge_cutoff,
            angular=metadata.architecture.conserve_ang_mom,
        )
        self.system = System.read(config.system)
        self.plan = Plan.make(config.lengths[length], metadata.timestep, config.reference.timestep)
        masses = [metadata.masses[metadata.species.index(e)] for e in config.elements]
        self.reader = Reader(Species.from_types(config.elements, masses), self.system.units)  # type: ignore[arg-type]
        self.reading = RunReader(self.reader, self.plan)
        self.runner = Runner(directory, config.system.parent, command, {"system": config.system})
        self._content = [file_key(path) for path in self.system.files]

    def run(self, protocols: Sequence[str] = (EQUILIBRIUM,)) -> Report:
        """Run what has not been run, and compare.

        protocols: names from the YAML file, or "equilibrium".

        Raises SetupError.
        """
        chapters: list[tuple[str, list[Part]]] = []
        for name in protocols:
            if name == EQUILIBRIUM:
                parts = self._equilibrium(name, self.config.temperature)
                title = f"Equilibrium at {self.config.temperature:g} K"
            else:
                title, parts = self._protocol(name)
            chapters.append((title, parts))
        return Report(
            config=self.config,
            length=self.length,
            model=self.model,
            metadata=self.metadata,
            plan=self.plan,
            chapters=chapters,
            runs=self.runner.directory,
        )

    def _protocol(self, name: str) -> tuple[str, list[Part]]:
        protocol = self.config.protocols.get(name)
        if protocol is None:
            known = ", ".join([EQUILIBRIUM, *self.config.protocols])
            raise SetupError(f"no protocol '{name}'; there are {known}")
        if protocol.temperature is not None:
            title = f"{name}: equilibrium at {protocol.temperature:g} K"
            return title, self._equilibrium(name, protocol.temperature)
        if protocol.quench is not None:
            start, stop, rate = protocol.quench
            title = f"{name}: from {start:g} to {stop:g} K at {rate:g} K/ps"
            horizons = self._horizons(abs(stop - start) / rate)
            inputs = self.inputs(start)
            text = partial(inputs.quench, start, stop, horizons)
            compare = quench_parts
        else:
            assert protocol.hot_half is not None
            cold, hot = protocol.hot_half
            title = f"{name}: a half at {hot:g} K, the other at {cold:g} K"
            horizons = self._horizons(protocol.duration)
            inputs = self.inputs(cold)
            text = partial(inputs.hot_half, cold, hot, horizons)
            compare = hot_half_parts
        return title, self._over_time(name, inputs, text, horizons, compare)

    def _over_time(
        self,
        name: str,
        inputs: Inputs,
        text: Callable[[bool, int], str],
        horizons: int,
        compare: Callable[..., list[Part]],
    ) -> list[Part]:
        """Run reference and model from the same starts, and compare.

        text: the input of a run, by whether it is the model's and its number.
        """
        plan = self.plan
        starts, references, models = [], [], []
        for number in range(plan.runs):
            suffix = f"-{number + 1}" if number else ""
            starts.append(self.equilibrated(inputs.temperature, number))
            reference = self._reference(
                f"{name}-reference{suffix}", text(False, number), starts[-1].run
            )
            start = reference.directory / "series.dump"
            models.append(self._model(f"{name}{suffix}", text(True, number), start, reference))
            references.append(reference)
        found = [self.reading.read(model, "series.dump", 1, whole=False) for model in models]
        energies = self._energies(
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
        return [_failures(errors), reference_part(starts, self.config.reference.rounds), *parts]

    def _horizons(self, picoseconds: float) -> int:
        return max(round(picoseconds * 1e3 / self.plan.horizon), 4 * self.plan.every)

    # ---- equilibration ---------------------------------------------------------------------------

    def equilibrated(self, temperature: float, number: int = 0) -> Equilibrated:
        """Equilibrate the reference until it passes the tests, as many rounds as there may be.

        number: of the start, from 0; each has random numbers of its own.

        Raises SetupError.
        """
        inputs, rounds = self.inputs(temperature), self.config.reference.rounds
        label = f"equilibration-{temperature:g}K" + (f"-{number + 1}" if number else "")
        before: Finished | None = None
        time = 0.0
        for count in range(rounds):
            suffix = f"-round{count + 1}" if count else ""
            run = self._reference(f"{label}{suffix}", inputs.equilibration(number, count), before)
            time += sum(self.plan.halves(count)) * self.plan.horizon * 1e-3
            canonical = self.config.thermostat.split()[0] not in NOT_CANONICAL
            sample, shares = self._sample(run, temperature)
            figures = equilibrium_figures(
                sample,
                temperature,
                sum(shares.values()),
                shares,
                self.config.tolerances,
                canonical,
            )
            found = Equilibrated(run, figures, time)
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

    def _sample(self, run: Finished, temperature: float) -> tuple[Sample, dict[str, float]]:
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

    # ---- equilibrium -----------------------------------------------------------------------------

    def _equilibrium(self, name: str, temperature: float) -> list[Part]:
        plan, inputs = self.plan, self.inputs(temperature)
        starts = [self.equilibrated(temperature, number) for number in range(plan.reference_runs)]
        reference = self._reference(f"{name}-reference", inputs.reference(), starts[0].run)
        others = [
            self._reference(
                f"{name}-reference-{number + 1}",
                inputs.another_reference(number),
                starts[number].run,
            )
            for number in range(1, plan.reference_runs)
        ]
        runs = [
            self.reading.model_run(
                self._model(
                    f"{name}-model-{number + 1}",
                    inputs.production(number),
                    reference.directory / "frames.dump",
                    reference,
                )
            )
            for number in range(plan.runs)
        ]
        free = self._model(f"{name}-nve", inputs.nve(), reference.directory / "nve.dump", reference)
        nve_steps = self.reading.last_step(free, "nve.dump")
        wanted = [
            (run.run, "frames", plan.every, len(run.frames) * plan.block)
            for run in runs
            if run.frames
        ]
        whole_nve = not free.error and nve_steps == plan.nve
        if whole_nve:
            wanted.append((free, "nve", plan.nve_every, plan.nve))
        energies = self._energies(f"{name}-energies", inputs, wanted) if wanted else []

        # The last loop of the first run has no thermostat.
        loops = [reference.loops()[:-1], *(run.loops() for run in others)]
        known = [
            self.reading.production(
                self.reading.blocks(run, "frames", plan.steps, plan.blocks),
                self.reading.windows(run, plan.steps, plan.blocks),
                of_run,
                None,
            )
            for run, of_run in zip([reference, *others], loops, strict=True)
        ]
        found = [
            self.reading.production(run.frames, run.spectra, run.run.loops(), loop)
            for run, loop in zip((run for run in runs if run.frames), energies, strict=False)
        ]
        parts = [_failures([run.error for run in runs])]
        parts.append(reference_part(starts, self.config.reference.rounds))
        parts.append(self._single_steps(reference, free))
        if found:
            both = Comparison(
                self.config,
                self.system.units,
                self.model.angular,
                plan,
                temperature,
                known,
                found,
            )
            parts += equilibrium_parts(both)
        speeds = [
            speed_of([loop for run in side for loop in run.loops], timestep)
            for side, timestep in (
                (known, self.config.reference.timestep),
                (found, plan.horizon),
            )
        ]
        parts.append(
            nve_part(
                self.reading.nve(reference.loops()[-1], plan.steps, None),
                self.reading.nve(free.loops()[-1], 1, energies[-1]) if whole_nve else None,
                self._same_cost(name, inputs, reference, *speeds),
                len(known[0].frames[0].species),
                self.system.units,
                self.config.tolerances.nve_drift,
                self.reading.why(free),
            )
        )
        parts.append(speed_part(*speeds))
        return parts

    def _same_cost(
        self,
        name: str,
        inputs: Inputs,
        reference: Finished,
        of_reference: Speed | None,
        of_model: Speed | None,
    ) -> SameCost | None:
        """The reference's integrator with the time step with which it is as fast as the model."""
        if of_reference is None or of_model is None:
            return None
        ratio = of_model.nanoseconds_a_day / of_reference.nanoseconds_a_day
        # Speeds are not known better.
        timestep = float(f"{self.config.reference.timestep * ratio:.2g}")
        run = self.runner.run(
            f"{name}-same-cost",
            inputs.reference_nve(timestep),
            {"start": reference.directory / "nve.dump"},
            after=[*self._content, reference.key],
            may_fail=True,
        )
        if run.error:
            return SameCost(timestep, None, run.error)
        (loop,) = run.loops()
        columns = loop.columns
        energies = Nve(columns["Step"] * timestep * 1e-3, columns["TotEng"], columns["Temp"])
        return SameCost(timestep, energies, "")

    def _single_steps(self, reference: Finished, free: Finished) -> Part:
        plan = self.plan
        path = free.directory / "one_step.dump"
        states = self.reading.read(reference, "nve.dump", plan.steps)
        first = np.arange(plan.pairs) * plan.pair_spacing
        try:
            after = self.reader.read_states(path, plan.horizon)
        except TrajectoryError as error:
            return _failures([f"{path.name}: {error}"])
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

    def inputs(self, temperature: float) -> Inputs:
        return Inputs(self.config, self.system, self.model, self.plan, temperature)

    def _reference(self, name: str, text: str, start: Finished | None) -> Finished:
        """start: an equilibration, whose end it begins from."""
        variables = {"start": start.directory / "state.dump"} if start else {}
        after = [*self._content, *([start.key] if start else [])]
        run = self.runner.run(name, text, variables, after)
        if run.error:
            raise SetupError(
                f"the reference failed: {run.error} (input: {run.directory / 'in.lmp'}); correct "
                f"{self.system.path.name} or the YAML file"
            )
        return run

    def _model(self, name: str, text: str, start: Path, reference: Finished) -> Finished:
        run = self.runner.run(
            name,
            text,
            {"model": self.model.path, "start": start},
            after=[*self._content, self.model.fingerprint, reference.key],
        )
        if run.error and not any(run.directory.glob("*.dump")):
            raise SetupError(
                f"the model's run did not start: {run.error} (input: {run.directory / 'in.lmp'})"
            )
        return run

    def _energies(
        self, name: str, inputs: Inputs, runs: list[tuple[Finished, str, int, int]]
    ) -> list[Loop]:
        """Energies by the reference of frames of runs of the model, one table for each.

        runs: run, name of the dump, every how many steps, up to which step.
        """
        variables, dumps = {}, []
        for number, (run, dump, every, last) in enumerate(runs):
            variables[f"frames{number}"] = run.directory / f"{dump}.dump"
            dumps.append((f"frames{number}", every, last))
        done = self.runner.run(
            name,
            inputs.energies(dumps),
            variables,
            after=[*self._content, *(run.key for run, *_ in runs)],
        )
        loops = done.loops()
        if done.error or len(loops) != len(runs):
            raise SetupError(
                f"the reference's energy of the model's frames cannot be had: {done.error} "
                f"(input: {done.directory / 'in.lmp'})"
            )
        return loops

    # ---- files -----------------------------------------------------------------------------------


def _failures(errors: list[str]) -> Part:
    failed = [(number, error) for number, error in enumerate(errors, 1) if error]
    return Part(
        "Stability",
        "Runs of the model that LAMMPS ended with an error, or that ended early.",
        [
            Check(
                f"failures in {len(errors)} run{'s' if len(errors) > 1 else ''}",
                value=float(len(failed)),
                limit=0.0,
                model="; ".join(f"run {number}: {error}" for number, error in failed),
            )
        ],
    )


def with_model(config: ValidationConfig, model: Path | None) -> ValidationConfig:
    """The configuration for another model file."""
    return config if model is None else config.model_copy(update={"model": model.resolve()})
