"""Runs at equilibrium: of a given length, or continued until every check is decided."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lammps_trajcast.lammps_runs.runner import FinishedRun, Loop
from lammps_trajcast.validation.compare import Check, ReportSection
from lammps_trajcast.validation.comparison import Comparison, Production
from lammps_trajcast.validation.constant_energy import Nve, SameCost, nve_part
from lammps_trajcast.validation.equilibration import reference_part
from lammps_trajcast.validation.equilibrium import equilibrium_parts
from lammps_trajcast.validation.own_energy import own_energy_part
from lammps_trajcast.validation.reading import joined
from lammps_trajcast.validation.speed import Speeds, measure, speed_part, steps_of

if TYPE_CHECKING:
    from lammps_trajcast.validation.validate import Validation


class EquilibriumRuns:
    """Runs of both with the thermostat, each in parts of equal length, one after the other."""

    def __init__(self, validation: Validation, name: str, temperature: float) -> None:
        """name: of the protocol. temperature: K."""
        self.validation = validation
        self.plan = validation.plan
        self.name = name
        self.temperature = temperature
        self.inputs = validation.inputs(temperature)
        self.starts = [
            validation.equilibrated(temperature, number)
            for number in range(self.plan.reference_runs)
        ]
        self.first = validation.reference(
            f"{name}-reference", self.inputs.reference(), self.starts[0].run
        )
        # Of each run: its parts, as directories and as what was read of them.
        self._references: list[list[FinishedRun]] = []
        self._models: list[list[FinishedRun]] = []
        self._known: list[list[Production]] = []
        self._found: list[list[Production]] = []
        self._errors: list[str] = []
        self._nve: Loop | None = None
        self._begin()

    @property
    def length(self) -> float:
        """Of each run of the reference, ps."""
        return len(self._references[0]) * self.part_length

    @property
    def part_length(self) -> float:
        """Of a part of a run, ps."""
        return self.plan.blocks * self.plan.block * self.plan.horizon * 1e-3

    # ---- runs ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        validation, plan = self.validation, self.plan
        self._references = [[self.first]]
        for number in range(1, plan.reference_runs):
            text = self.inputs.another_reference(number)
            run = validation.reference(
                f"{self.name}-reference-{number + 1}", text, self.starts[number].run
            )
            self._references.append([run])
        # The last loop of the first run has no thermostat.
        for number, (run,) in enumerate(self._references):
            loops = run.loops()
            self._known.append([self._of_reference(run, loops if number else loops[:-1])])
        frames = self.first.directory / "frames.dump"
        for number in range(plan.runs):
            text = self.inputs.production(number)
            name = f"{self.name}-model-{number + 1}"
            self._models.append([validation.model_run(name, text, frames, self.first)])
        self.free = validation.model_run(
            f"{self.name}-nve", self.inputs.nve(), self.first.directory / "nve.dump", self.first
        )
        steps = validation.reading.last_step(self.free, "nve.dump")
        whole = not self.free.error and steps == plan.nve
        self._errors = [""] * plan.runs
        self._found = [[] for _ in range(plan.runs)]
        self._nve = self._read_models(f"{self.name}-energies", self.free if whole else None)

    def grow(self, parts: int) -> None:
        """Continue all runs until they have so many parts.

        A run of the model that ended early stays as it is.
        """
        validation = self.validation
        while len(self._references[0]) < parts:
            part = len(self._references[0])
            suffix = f"-part{part + 1}"
            for number, chain in enumerate(self._references):
                run = validation.continuation(
                    f"{self.name}-reference" + (f"-{number + 1}" if number else "") + suffix,
                    self.inputs.continued(number, part, of_model=False),
                    chain[-1],
                    of_model=False,
                )
                chain.append(run)
                self._known[number].append(self._of_reference(run, run.loops()))
            for number, chain in enumerate(self._models):
                if self._errors[number]:
                    continue
                text = self.inputs.continued(number, part, of_model=True)
                name = f"{self.name}-model-{number + 1}{suffix}"
                chain.append(validation.continuation(name, text, chain[-1], of_model=True))
            self._read_models(f"{self.name}-energies{suffix}", None)

    def _of_reference(self, run: FinishedRun, loops: list[Loop]) -> Production:
        plan, reading = self.plan, self.validation.reading
        return reading.production(
            reading.blocks(run, "frames", plan.steps, plan.blocks),
            reading.windows(run, plan.steps, plan.blocks),
            loops,
            None,
        )

    def _read_models(self, name: str, free: FinishedRun | None) -> Loop | None:
        """Read the parts of the model's runs that have not been read; energies of `free`, too."""
        plan, reading = self.plan, self.validation.reading
        new = []
        for number, chain in enumerate(self._models):
            if self._errors[number] or len(chain) == len(self._found[number]):
                continue
            run = reading.model_run(chain[-1])
            self._errors[number] = run.error
            if run.frames:
                new.append((number, run))
        wanted = [(run.run, "frames", plan.every, len(run.frames) * plan.block) for _, run in new]
        if free is not None:
            wanted.append((free, "nve", plan.nve_every, plan.nve))
        energies = self.validation.energies(name, self.inputs, wanted) if wanted else []
        for (number, run), energy in zip(new, energies, strict=False):
            self._found[number].append(
                reading.production(run.frames, run.spectra, run.run.loops(), energy)
            )
        return energies[-1] if free is not None else None

    def seconds_of_part(self) -> float:
        """Wall time that the last part of all runs took, for an estimate of the next."""
        runs = [chain[-1] for chain in [*self._references, *self._models]]
        return sum(loop.seconds for run in runs for loop in run.loops())

    # ---- report ----------------------------------------------------------------------------------

    def compared(self) -> list[ReportSection]:
        """What depends on the length of the runs: stability, and the sections at equilibrium."""
        validation = self.validation
        parts = [failures_part(self._errors)]
        found = [joined(chain) for chain in self._found if chain]
        if found:
            both = Comparison(
                validation.config,
                validation.system.units,
                validation.model.angular,
                self.plan,
                self.temperature,
                [joined(chain) for chain in self._known],
                found,
            )
            parts += equilibrium_parts(both)
        return parts

    def parts(self, compared: list[ReportSection], speeds: Speeds | None) -> list[ReportSection]:
        """All sections of the report. compared: from :meth:`compared`."""
        validation, reading = self.validation, self.validation.reading
        free = reading.nve(self.free.loops()[-1], 1, self._nve) if self._nve is not None else None
        return [
            compared[0],
            reference_part(self.starts, validation.config.reference.rounds),
            validation.single_steps(self.first, self.free),
            *compared[1:],
            *self._own_energy(),
            nve_part(
                reading.nve(self.first.loops()[-1], self.plan.steps, None),
                free,
                self.same_cost(speeds) if speeds is not None else None,
                len(self._known[0][0].frames[0].species),
                validation.system.units,
                validation.config.tolerances.nve_drift,
                reading.why(self.free),
            ),
            speed_part(speeds),
        ]

    def _own_energy(self) -> list[ReportSection]:
        """The section of a potential energy in the model file, if it has one."""
        validation = self.validation
        if validation.energy is None:
            return []
        return [
            own_energy_part(
                validation.energy,
                validation.metadata.species,
                [joined(chain) for chain in self._known],
                validation.system.units,
                validation.config.tolerances,
            )
        ]

    def same_cost(self, speeds: Speeds) -> SameCost:
        """The reference's integrator with the time step with which it is as fast as the model."""
        validation = self.validation
        # Speeds are not known better.
        timestep = float(f"{validation.config.reference.timestep * speeds.ratio:.2g}")
        run = validation.runner.run(
            f"{self.name}-same-cost",
            self.inputs.reference_nve(timestep),
            {"start": self.first.directory / "nve.dump"},
            after=[*validation.content, self.first.key],
            may_fail=True,
        )
        if run.error:
            return SameCost(timestep, None, run.error)
        (loop,) = run.loops()
        columns = loop.columns
        energies = Nve(columns["Step"] * timestep * 1e-3, columns["TotEng"], columns["Temp"])
        return SameCost(timestep, energies, "")

    def speeds(self, pairs: int) -> Speeds | None:
        """Measure the speed of both. None without a run of the model that came to an end."""
        loops = [loop for chain in self._models for loop in chain[0].loops()]
        if not loops or not pairs or any(self._errors):
            return None
        validation, steps = self.validation, self.plan.steps
        start = self.first.directory / "nve.dump"
        sides = [self._known[0][0].loops, loops]
        # Only a guess of how many steps take long enough.
        of_step = [sum(e.seconds for e in each) / sum(e.steps for e in each) for each in sides]

        def piece(of_model: bool, number: int, pair: int) -> tuple[float, ...]:
            text = self.inputs.speed(number, of_model, pair + 1)
            name = f"speed-{'model' if of_model else 'reference'}-{pair + 1}"
            files, after = {"start": start}, [*validation.content, self.first.key]
            if of_model:
                files["model"] = validation.model.path
                after.append(validation.model.fingerprint)
            return validation.runner.run(name, text, files, after, clock=True).cpu

        return measure(
            piece,
            (steps_of(of_step[0] * steps, steps), steps_of(of_step[1])),
            (validation.config.reference.timestep, self.plan.horizon),
            pairs,
        )


# A run that is continued by less hardly decides more.
LEAST_GROWTH = 1.2


def until_decided(runs: EquilibriumRuns, began: float) -> tuple[list[ReportSection], str]:
    """Double the length of all runs until no check is undecided, or a bound is reached.

    Args:
        runs: of reference and model in equilibrium.
        began: when the validation began, by time.monotonic().

    Returns:
        The sections that depend on the length, and in words how it ended; empty if the length is
        fixed.
    """
    validation = runs.validation
    lengths = validation.config.lengths[validation.length]
    compared = runs.compared()
    if not lengths.until_decided:
        return compared, ""
    while True:
        checks = [check for part in compared for check in part.checks]
        undecided = [check.name for check in checks if check.undecided and not check.blind]
        if not undecided:
            return (
                compared,
                f"All checks that longer runs can decide are decided after {runs.length:.4g} ps.",
            )
        failed = [check.name for check in checks if check.passed is False]
        number = len(undecided)
        words = f"{number} check{'s' * (number > 1)} undecided after {runs.length:.4g} ps"
        if checks[0].passed is False:
            return compared, f"{words}; a run of the model ended early, none is continued."
        if lengths.until_failed and failed:
            return compared, f"{words}; none is continued, as a check fails: {', '.join(failed)}."
        now = round(runs.length / runs.part_length)
        # Whole parts up to the bound; runs that are there already are read, and cost no time.
        following = int(min(2 * now, lengths.most / runs.part_length * (1.0 + 1e-9)))
        if following <= now:
            return compared, f"{words}, the bound: {', '.join(undecided)}."
        if lengths.max_hours is not None:
            left = lengths.max_hours * 3600.0 - (time.monotonic() - began)
            # Runs that LAMMPS ended at once have taken no time.
            following = min(following, now + int(left / max(runs.seconds_of_part(), 1e-6)))
            if following < LEAST_GROWTH * now:
                hours = f"{lengths.max_hours:.3g}"
                return compared, f"{words}; more would take longer than {hours} hours."
        longer = following * runs.part_length
        validation.tell(runs.name, f"{words}: {', '.join(undecided)}; on to {longer:.4g} ps")
        runs.grow(following)
        compared = runs.compared()


def failures_part(errors: list[str]) -> ReportSection:
    """Runs of the model that did not come to their end; errors: of each, empty if it did."""
    failed = [(number, error) for number, error in enumerate(errors, 1) if error]
    return ReportSection(
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
