"""The parts that the LAMMPS inputs of a validation are made of."""

from __future__ import annotations

from lammps_trajcast.lammps_runs.script import READ, dump_lines, join
from lammps_trajcast.units import TIME_IN_FS
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.system import Model, System

THERMO = "custom step temp pe ke etotal"
# Thermostats that count the energy that they take out.
TALLYING = ("temp/berendsen", "temp/csld", "temp/csvr", "temp/rescale")
# Thermostats that suppress the fluctuations of the temperature.
NOT_CANONICAL = ("temp/berendsen", "temp/rescale")
# Thermostats that push each atom by itself, and so the molecule as a whole.
PUSHING = ("langevin", "gle")
# Of fix langevin in the equilibration, ps: slow modes are damped little enough to forget their
# start as well. Where the time is short, this part of it.
DAMPING, DAMPING_PART = 0.2, 1.0 / 8.0


class ScriptParts:
    """Parts of the inputs of one system, model and plan, at one temperature."""

    def __init__(
        self,
        config: ValidationConfig,
        system: System,
        model: Model,
        plan: RunSchedule,
        temperature: float,
    ) -> None:
        self.config = config
        self.system = system
        self.model = model
        self.plan = plan
        self.temperature = temperature

    @property
    def _box(self) -> str:
        return f"box {'yes' if self.system.box else 'no'}"

    def _head(self, what: str, *variables: str) -> str:
        if self.system.include == "${system}":
            variables = (*variables, "system")
        given = " ".join(f"-var {name} {name.upper()}" for name in variables)
        return (
            f"# {self.config.name}: {what}. Written by lammps-trajcast validate.\n"
            f"#   lmp -in in.lmp {given}    (in the directory of {self.system.path.name})"
        )

    def _reference_system(self, timestep: float | None = None) -> str:
        timestep = timestep or self.config.reference.timestep
        return join(
            f"include         {self.system.include}",
            f"timestep        {timestep / TIME_IN_FS[self.system.units]:.12g}",
            "fix             integrate all nve",
        )

    def _equilibrated(self) -> str:
        """The end of an equilibration."""
        return join(f"read_dump       ${{start}} 0 {READ} {self._box}", self._degrees_of_freedom())

    def _local_bath(self, temperature: float, horizons: int, seed: int) -> str:
        damping = self.config.reference.damping or min(
            DAMPING, DAMPING_PART * horizons * self.plan.horizon * 1e-3
        )
        in_units = damping * 1e3 / TIME_IN_FS[self.system.units]
        angular = " angular" if self.model.angular else ""
        return join(
            f"fix             local all langevin {temperature:g} {temperature:g} {in_units:.6g} "
            f"{seed}",
            # What takes the total momentum away step by step leaves the rest canonical; `zero yes`
            # does so only for atoms of one mass.
            f"fix             still all momentum 1 linear 1 1 1{angular}",
        )

    @property
    def kinetic_columns(self) -> dict[str, str]:
        """Columns of the tested part of an equilibration, with the element each is of."""
        names = dict.fromkeys(self.config.elements)
        return {f"c_kinetic_{element}": element for element in names}

    def _kinetic_energies(self) -> list[str]:
        lines = []
        for element in self.kinetic_columns.values():
            types = [k for k, other in enumerate(self.config.elements, 1) if other == element]
            lines += [
                f"group           element_{element} type {' '.join(map(str, types))}",
                f"compute         kinetic_{element} element_{element} ke",
            ]
        return lines

    def _velocities(self, temperature: float, seed: int) -> str:
        # For the temperature of the protocol unless the user wants it otherwise.
        start = self.config.reference.initial_temperature or temperature
        rotation = "yes" if self.model.angular else "no"
        return f"velocity        all create {start:g} {seed} mom yes rot {rotation} dist gaussian"

    def _model_system(self) -> str:
        # No forces act on the atoms; pair style zero asks for the neighbors.
        model = self.model
        timestep = model.timestep / TIME_IN_FS[self.system.units]
        return join(
            f"include         {self.system.include}",
            "kspace_style    none" if self.system.kspace else "",
            *(f"unfix           {fix}" for fix in self.system.charges),
            f"pair_style      zero {model.cutoff:.12g} full",
            "pair_coeff      * *",
            *(f"{kind}_style{' ' * (10 - len(kind))}none" for kind in self.system.molecular),
            # A weight of zero would take bonded neighbors out of the list.
            "special_bonds   lj/coul 1e-50 1e-50 1e-50" if self.system.molecular else "",
            f"timestep        {timestep:.12g}",
        )

    def _model_integrator(self) -> str:
        elements = " ".join(self.config.elements)
        line = f"fix             integrate all python/trajcast ${{model}} {elements}"
        return join(f"{line} {self.config.fix_options}".rstrip(), self._degrees_of_freedom())

    def _degrees_of_freedom(self) -> str:
        # Three belong to the fixed momentum, three more to the fixed angular momentum.
        return "compute_modify  thermo_temp extra/dof 6" if self.model.angular else ""

    @property
    def tallies(self) -> bool:
        """Whether the thermostat's scalar is the energy that it has taken out so far."""
        return self.config.thermostat.split()[0] in TALLYING

    def _bath(self, start: float, stop: float, number: int) -> str:
        line = self.config.thermostat.format(
            start=f"{start:g}", stop=f"{stop:g}", seed=self.config.seed + number
        )
        modify = "fix_modify      bath temp thermo_temp" if self.model.angular else ""
        return join(f"fix             bath all {line}", modify, self.still)

    @property
    def still(self) -> str:
        """What keeps an isolated molecule from moving and turning in a bath that pushes it."""
        pushes = self.config.thermostat.split()[0] in PUSHING
        if not (self.model.angular and pushes):
            return ""
        return "fix             still all momentum 1 linear 1 1 1 angular"

    def _production(self, steps: int) -> str:
        plan = self.plan
        lines = [self._thermo(plan.every * steps), dump_lines("frames", plan.every * steps)]
        for block in range(plan.blocks):
            lines += [
                dump_lines("spectrum", steps, f"spectrum.{block}.dump"),
                f"run             {plan.spectrum * steps}",
                "undump          spectrum",
            ]
            if plan.block > plan.spectrum:
                lines.append(f"run             {(plan.block - plan.spectrum) * steps}")
        return join(*lines, "undump          frames")

    def _nve(self, steps: int) -> str:
        plan = self.plan
        return join(
            self._thermo(plan.nve_every * steps),
            dump_lines("nve", steps),
            f"run             {plan.nve * steps}",
            "undump          nve",
        )

    def _thermo(self, every: int, columns: str = THERMO) -> str:
        return join(
            f"thermo          {every}",
            f"thermo_style    {columns}",
            # LAMMPS shows a hundred; those of each run must not use them up before a guard's.
            "thermo_modify   flush yes format float %.12g warn 100000",
        )
