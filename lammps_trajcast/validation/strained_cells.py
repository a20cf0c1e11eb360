"""The runs of a strain protocol: both sides in cells that are strained, or heated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lammps_trajcast.validation.compare import ReportSection
from lammps_trajcast.validation.config import Protocol, SetupError
from lammps_trajcast.validation.equilibration import Equilibrated, reference_part
from lammps_trajcast.validation.production import failures_part
from lammps_trajcast.validation.scripts import Inputs
from lammps_trajcast.validation.strain import (
    AXES,
    COLUMNS,
    LINES_OF_A_BLOCK,
    SETTLING,
    Cell,
    Pressures,
    strain_parts,
)

if TYPE_CHECKING:
    from lammps_trajcast.validation.validate import Validation


class StrainedCells:
    """Runs reference and model with the thermostat in each cell, and compares their pressures."""

    def __init__(self, validation: Validation, name: str, protocol: Protocol) -> None:
        """name: of the protocol; raises SetupError if it cannot be carried out."""
        assert protocol.strain is not None
        self.validation = validation
        self.name = name
        self.strain = protocol.strain
        self.heated = protocol.expansion or ()
        energy, plan = validation.energy, validation.plan
        if energy is None:
            raise SetupError(
                f"protocols.{name}: a strain needs the pressure of the model, and "
                f"{validation.config.model} has no potential energy: add one with "
                "'lammps-trajcast add-energy'"
            )
        duration = protocol.duration
        # The energy may reach farther than the steps.
        farther = max(validation.model.cutoff, energy.basis.cutoff)
        self.model = replace(validation.model, cutoff=farther)
        self.lengths = (validation.horizons(SETTLING * duration), validation.horizons(duration))
        lines, needed = self.lengths[1] // plan.every, LINES_OF_A_BLOCK * plan.blocks
        if lines < needed:
            raise SetupError(
                f"protocols.{name}: {duration:g} ps are {lines} frames for {plan.blocks} blocks; "
                f"write a duration of at least {needed * plan.every * plan.horizon * 1e-3:.3g}"
            )
        self.sides = Pressures(), Pressures()

    def parts(self) -> list[ReportSection]:
        """Run, and compare; raises SetupError."""
        validation, plan = self.validation, self.validation.plan
        temperature = validation.config.temperature
        starts = self._starts(temperature)
        first = validation.reading.read(starts[0].run, "state.dump", plan.steps)
        directions = [d for d in range(3) if first.pbc[d]]
        if not directions:
            raise SetupError(
                f"protocols.{self.name}: {validation.config.system.name} is periodic in no "
                "direction; there is no cell to strain: leave the protocol out"
            )
        if self.heated and len(directions) < 3:
            raise SetupError(
                f"protocols.{self.name}.expansion: {validation.config.system.name} is not "
                "periodic in all directions; leave it out"
            )
        for number, start in enumerate(starts):
            for d in directions:
                for sign in (1, -1):
                    self._run(Cell(d, sign, temperature), start, number)
        used = list(starts)
        for temperature in self.heated:
            of_temperature = self._starts(temperature)
            for number, start in enumerate(of_temperature):
                self._run(Cell(None, 0, temperature), start, number)
            used += of_temperature
        return [
            failures_part(self.sides[1].errors),
            reference_part(used, validation.config.reference.rounds),
            *strain_parts(
                validation.config, self.strain, plan.blocks, directions, *self.sides, self.heated
            ),
        ]

    def _starts(self, temperature: float) -> list[Equilibrated]:
        validation = self.validation
        return [validation.equilibrated(temperature, k) for k in range(validation.plan.runs)]

    def _run(self, cell: Cell, start: Equilibrated, number: int) -> None:
        """Both in one cell, from a state of the reference; number: of the start, from 0."""
        validation, plan = self.validation, self.validation.plan
        inputs = Inputs(validation.config, validation.system, self.model, plan, cell.temperature)
        if cell.direction is None:
            which, axis = f"{self.name}-{cell.temperature:g}K", ""
        else:
            axis = AXES[cell.direction]
            which = f"{self.name}-{axis}{'+' if cell.sign > 0 else '-'}"
        which += f"-{number + 1}" if number else ""
        texts = [
            inputs.strain(axis, cell.sign * self.strain, self.lengths, of_model, number)
            for of_model in (False, True)
        ]
        known = validation.reference(f"{which}-reference", texts[0], start.run)
        state = start.run.directory / "state.dump"
        found = validation.model_run(which, texts[1], state, start.run)
        for side, run, steps in zip(self.sides, (known, found), (plan.steps, 1), strict=True):
            loops = run.loops()
            last = loops[-1].columns if loops and not run.error else {}
            whole = COLUMNS[0] in last and last["Step"][-1] == sum(self.lengths) * steps
            why = "" if whole else validation.reading.why(run)
            side.add(cell, run, validation.system.units, why)
