"""The LAMMPS inputs that a validation runs; they are left in its directory for the user to read.

Every input works in the directory of the system's include file and takes its files from variables:
`out`, the directory that it writes to, and where needed `start`, `model` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lammps_trajcast.launch import is_plain
from lammps_trajcast.units import TIME_IN_FS
from lammps_trajcast.validation.config import Lengths, SetupError, ValidationConfig

DUMP = "id type xu yu zu vx vy vz"
READ = "x y z vx vy vz wrapped no"
THERMO = "custom step temp pe ke etotal"
# Thermostats that count the energy that they take out.
TALLYING = ("temp/berendsen", "temp/csld", "temp/csvr", "temp/rescale")
# Thermostats that suppress the fluctuations of the temperature.
NOT_CANONICAL = ("temp/berendsen", "temp/rescale")
# Of fix langevin in the equilibration, ps: slow modes are damped little enough to forget their
# start as well. Where the time is short, this part of it.
DAMPING, DAMPING_PART = 0.2, 1.0 / 8.0
# Between the seeds of rounds of equilibration.
ROUND_SEEDS = 104_729
# Before the speed is measured.
WARM_STEPS = 10
# Between the seeds of parts of a production.
PART_SEEDS = 15_485_863
# In the tested part of an equilibration.
TEST_SAMPLES = 500
# Frames of an NVE run in which the potential energy is evaluated.
NVE_ENERGIES = 200
# Seeds of further runs of the reference begin so far above the first one's, those of the model's
# runs follow it.
OTHER_REFERENCES = 499


@dataclass(frozen=True)
class System:
    """What the include file of a system says, with the files that it includes.

    units:     "metal" or "real".
    molecular: styles of bonded interactions that it sets ("bond", "angle", …).
    kspace:    whether it sets a long-range solver.
    charges:   IDs of the fixes that equilibrate charges for its pair style.
    box:       whether frames have to bring their box along: it follows the atoms.
    files:     all files that it names and that exist, itself first.
    """

    path: Path
    units: str
    molecular: tuple[str, ...]
    kspace: bool
    charges: tuple[str, ...]
    box: bool
    files: tuple[Path, ...]

    @property
    def include(self) -> str:
        """Its name for an include command: from the variable `system` if no command can hold it."""
        return self.path.name if is_plain(Path(self.path.name)) else "${system}"

    @classmethod
    def read(cls, path: Path) -> System:
        """Raises SetupError if the file is absent or its units are not of use."""
        if not path.is_file():
            raise SetupError(f"{path}: no such file; name the LAMMPS include under system")
        inputs, others = [path], list[Path]()
        lines: list[list[str]] = []
        for file in inputs:
            for line in file.read_text(errors="replace").splitlines():
                words = line.split("#")[0].split()
                named = [path.parent / word for word in words[1:] if (path.parent / word).is_file()]
                is_include = words[:1] == ["include"]
                (inputs if is_include else others).extend(
                    name for name in named if name not in inputs
                )
                lines.append(words)
        commands = {words[0]: words[1:] for words in lines if words}
        units = " ".join(commands.get("units", ["lj"]))
        if units not in TIME_IN_FS:
            raise SetupError(
                f"{path}: needs a line 'units metal' or 'units real' (it has '{units}')"
            )
        kinds = ("bond", "angle", "dihedral", "improper")
        return cls(
            path=path,
            units=units,
            molecular=tuple(kind for kind in kinds if f"{kind}_style" in commands),
            kspace="kspace_style" in commands,
            charges=tuple(
                words[1]
                for words in lines
                if words[:1] == ["fix"] and words[3:] and words[3].startswith(("qeq/", "acks2/"))
            ),
            box=set("".join(commands.get("boundary", ["p"]))) != {"p"},
            files=tuple(dict.fromkeys([*inputs, *others])),
        )


@dataclass(frozen=True)
class Model:
    """What the inputs have to know of a model file.

    timestep: fs. cutoff: Angstrom. angular: whether it keeps the angular momentum.
    """

    path: Path
    fingerprint: str
    timestep: float
    cutoff: float
    angular: bool


@dataclass(frozen=True)
class Plan:
    """How many horizons (time steps of the model) everything takes.

    steps: time steps of the reference in a horizon.
    """

    horizon: float
    steps: int
    equilibration: int
    blocks: int
    block: int
    spectrum: int
    every: int
    nve: int
    pairs: int
    runs: int
    reference_runs: int

    @classmethod
    def make(cls, lengths: Lengths, horizon: float, timestep: float) -> Plan:
        """horizon and timestep of the reference: fs.

        Raises SetupError if the times do not fit together.
        """
        steps = round(horizon / timestep)
        if steps < 1 or abs(steps * timestep - horizon) > 1e-6 * horizon:
            raise SetupError(
                f"reference.timestep {timestep:g} fs does not divide the model's time step of "
                f"{horizon:g} fs; write {horizon / max(steps, 1):g}"
            )

        def horizons(picoseconds: float) -> int:
            return max(round(picoseconds * 1e3 / horizon), 1)

        every = lengths.frames_every
        block = horizons(lengths.production) // lengths.blocks // every * every
        # The displacement needs frames of different lags in every block.
        if block < 4 * every:
            raise SetupError(
                f"lengths: a production of {lengths.production:g} ps in {lengths.blocks} blocks "
                f"leaves fewer than 4 frames to a block; write at least "
                f"{4 * every * lengths.blocks * horizon * 1e-3:g}"
            )
        spectrum = block if lengths.spectrum is None else horizons(lengths.spectrum)
        nve = horizons(lengths.nve)
        return cls(
            horizon=horizon,
            steps=steps,
            equilibration=horizons(lengths.equilibration),
            blocks=lengths.blocks,
            block=block,
            spectrum=min(spectrum, block),
            every=every,
            nve=nve,
            pairs=min(lengths.one_step, nve),
            runs=lengths.runs,
            reference_runs=lengths.reference_runs,
        )

    def halves(self, number: int) -> tuple[int, int]:
        """Horizons of the two parts of a round of equilibration; number: of the round, from 0."""
        whole = max(self.equilibration, 2) * 2**number
        return whole - whole // 2, whole // 2

    @property
    def pair_spacing(self) -> int:
        """Horizons between the starts of one-step pairs."""
        return max(self.nve // self.pairs, 1)

    @property
    def nve_every(self) -> int:
        """Horizons between energies of an NVE run."""
        return max(self.nve // NVE_ENERGIES, 1)


class Inputs:
    """Writes the inputs of one system, model and plan, at one temperature."""

    def __init__(
        self, config: ValidationConfig, system: System, model: Model, plan: Plan, temperature: float
    ) -> None:
        self.config = config
        self.system = system
        self.model = model
        self.plan = plan
        self.temperature = temperature

    # ---- equilibrium -----------------------------------------------------------------------------

    def equilibration(self, run: int, number: int) -> str:
        """Equilibration of the reference, from the system as it is or from the end of a round.

        A global thermostat scales all velocities alike: it leaves the modes of a crystal in the
        phases, and with the shares of the energy, that they started with. A local one does not.
        The second half is with the configured thermostat, to be tested.

        Args:
            run: number of the start, from 0; each has random numbers of its own.
            number: of the round, from 0; each takes twice as long as the one before.

        Writes state, the end.
        """
        plan = self.plan
        seed = self.config.seed + (OTHER_REFERENCES + run if run else 0)
        first, second = plan.halves(number)
        of_round = (seed + ROUND_SEEDS * number - 1) % 900_000_000 + 1
        temperature = self.temperature
        bath = self._bath(temperature, temperature, of_round - self.config.seed)
        local = self.config.reference.equilibration == "local"
        what = f"equilibration of the reference at {temperature:g} K"
        what += f", start {run + 1}" if run else ""
        what += f", round {number + 1}" if number else ""
        return _join(
            self._head(what, "out", *["start"][: bool(number)]),
            self._reference_system(),
            self._equilibrated() if number else self._velocities(temperature, seed),
            "" if number else self._degrees_of_freedom(),
            self._local_bath(temperature, first, of_round) if local else bath,
            self._thermo(plan.every * plan.steps),
            f"run             {first * plan.steps}",
            _join("unfix           still", "unfix           local", bath) if local else "",
            "reset_timestep  0",
            *self._kinetic_energies(),
            self._thermo(
                max(second * plan.steps // TEST_SAMPLES, 1),
                f"{THERMO} {' '.join(self.kinetic_columns)}",
            ),
            f"run             {second * plan.steps}",
            "reset_timestep  0",
            f"write_dump      all custom ${{out}}/state.dump {DUMP} "
            "modify sort id format float %.17g",
        )

    def reference(self) -> str:
        """Production with the thermostat from an equilibrated state, then NVE.

        Writes frames, spectrum, nve.
        """
        plan = self.plan
        return _join(
            self._head("the reference", "out", "start"),
            self._reference_system(),
            self._equilibrated(),
            self._bath(self.temperature, self.temperature, 0),
            self._production(plan.steps),
            "unfix           bath",
            "reset_timestep  0",
            self._nve(plan.steps),
        )

    def another_reference(self, run: int) -> str:
        """Production of the reference from another state, with random numbers of its own.

        run: number of the run, from 1. Writes frames and spectrum.
        """
        return _join(
            self._head(f"the reference, run {run + 1}", "out", "start"),
            self._reference_system(),
            self._equilibrated(),
            self._bath(self.temperature, self.temperature, OTHER_REFERENCES + run),
            self._production(self.plan.steps),
        )

    def production(self, run: int) -> str:
        """Production of the model from a state of the reference. Writes frames and spectrum.

        run: number of the run, from 0; each starts from another block of the reference.
        """
        plan = self.plan
        start = run % plan.blocks * plan.block * plan.steps
        return _join(
            self._head(f"the model, run {run + 1}", "out", "model", "start"),
            self._model_system(),
            f"read_dump       ${{start}} {start} {READ} {self._box}",
            "reset_timestep  0",
            self._model_integrator(),
            self._bath(self.temperature, self.temperature, run + 1),
            self._production(1),
        )

    def continued(self, run: int, part: int, of_model: bool) -> str:
        """The next part of a production, from the end of the one before and as long.

        Writes frames and spectrum.

        Args:
            run: number of the run, from 0.
            part: its number, from 1; each has random numbers of its own.
        """
        plan = self.plan
        steps = 1 if of_model else plan.steps
        last = plan.blocks * plan.block * steps
        seed = self.config.seed + (run + 1 if of_model else OTHER_REFERENCES + run)
        seed = (seed + PART_SEEDS * part - 1) % 900_000_000 + 1
        side = "model" if of_model else "reference"
        return _join(
            self._head(
                f"the {side}, run {run + 1}, part {part + 1}",
                *("out", "model", "start") if of_model else ("out", "start"),
            ),
            self._model_system() if of_model else self._reference_system(),
            f"read_dump       ${{start}} {last} {READ} {self._box}",
            "reset_timestep  0",
            self._model_integrator() if of_model else self._degrees_of_freedom(),
            self._bath(self.temperature, self.temperature, seed - self.config.seed),
            self._production(steps),
        )

    def speed(self, steps: int, of_model: bool, piece: int) -> str:
        """Some steps with the thermostat to become warm, then so many to be measured.

        A line of output comes at the beginning and at the end of both.

        piece: its number: each is run.
        """
        side = "model" if of_model else "reference"
        return _join(
            self._head(
                f"speed of the {side}, piece {piece}",
                *("model", "start") if of_model else ("start",),
            ),
            self._model_system() if of_model else self._reference_system(),
            f"read_dump       ${{start}} 0 {READ} {self._box}",
            self._model_integrator() if of_model else self._degrees_of_freedom(),
            self._bath(self.temperature, self.temperature, 0),
            self._thermo(10 * steps),
            # What compiles itself does so in its first steps.
            f"run             {min(WARM_STEPS, steps)}",
            f"run             {steps}",
        )

    def sampling(self, horizons: int, every: int, begins: bool, run: int) -> str:
        """A run of the model with the thermostat, from an equilibrated state of the reference or
        from the last frame of a run of the same length. Writes frames.

        run: changes the thermostat's random numbers.
        """
        return _join(
            self._head(f"the model, round {run + 1}", "out", "model", "start"),
            self._model_system(),
            f"read_dump       ${{start}} {0 if begins else horizons} {READ} {self._box}",
            "reset_timestep  0",
            self._model_integrator(),
            self._bath(self.temperature, self.temperature, run + 1),
            self._thermo(every, THERMO + " f_bath" if self.tallies else THERMO),
            _dump("frames", every),
            f"run             {horizons}",
        )

    def nve(self) -> str:
        """Single steps of the model from states along the reference's NVE run, appended to
        one_step.dump; then NVE from the first of these states. Writes nve."""
        plan = self.plan
        spacing = plan.pair_spacing * plan.steps
        return _join(
            self._head(
                "single steps of the model, then without thermostat", "out", "model", "start"
            ),
            self._model_system(),
            self._model_integrator(),
            "thermo          1000000",
            f"variable        pair loop 0 {plan.pairs - 1}",
            "label           next_pair",
            f"variable        state equal {spacing}*v_pair",
            f"read_dump       ${{start}} ${{state}} {READ} {self._box}",
            "run             1 post no",
            f"write_dump      all custom ${{out}}/one_step.dump {DUMP} "
            "modify sort id append yes format float %.10g",
            "next            pair",
            "jump            SELF next_pair",
            f"read_dump       ${{start}} 0 {READ} {self._box}",
            self._nve(1),
        )

    def reference_nve(self, timestep: float) -> str:
        """NVE of the reference with another time step (fs), from the same state and as long as
        the model's."""
        steps = max(round(self.plan.nve * self.plan.horizon / timestep), 1)
        return _join(
            self._head(f"the reference without thermostat, {timestep:g} fs", "out", "start"),
            self._reference_system(timestep),
            f"read_dump       ${{start}} 0 {READ} {self._box}",
            self._degrees_of_freedom(),
            self._thermo(max(steps // NVE_ENERGIES, 1)),
            f"run             {steps}",
        )

    def energies(self, dumps: Sequence[tuple[str, int, int]]) -> str:
        """Potential energy, by the reference, of frames of the model.

        dumps: the variable that holds the name of a dump, every how many steps a frame is taken,
            and the last step.
        """
        lines = []
        for variable, every, last in dumps:
            lines += [
                self._thermo(every),
                f"rerun           ${{{variable}}} every {every} last {last} "
                f"dump x y z wrapped no {self._box}",
            ]
        return _join(
            self._head("the reference's energy of given frames", *(dump[0] for dump in dumps)),
            f"include         {self.system.include}",
            *lines,
        )

    # ---- protocols -------------------------------------------------------------------------------

    def quench(self, start: float, stop: float, horizons: int, of_model: bool, run: int = 0) -> str:
        """The thermostat goes from one temperature to another. Writes series.

        run: its number, from 0; another start and other random numbers.
        """
        what = f"quench from {start:g} to {stop:g} K"
        return _join(
            self._protocol_start(what, of_model, run),
            self._bath(start, stop, 1 + run),
            self._series(horizons, of_model),
        )

    def two_temperature(
        self, cold: float, hot: float, horizons: int, of_model: bool, run: int = 0
    ) -> str:
        """Half of the atoms at another temperature, no thermostat. Writes series.

        run: its number, from 0; another start.
        """
        seed = self.config.seed + 1 + run
        heat = _join(
            "compute         height all property/atom zs",
            "run             0",
            'variable        lower atom "c_height < 0.5"',
            "group           lower variable lower",
            f"velocity        lower create {hot:g} {seed} mom yes dist gaussian",
            "velocity        all zero linear",
        )
        what = f"a half at {hot:g} K, the other at {cold:g} K"
        return _join(
            self._protocol_start(what, of_model, run),
            "" if of_model else heat,
            self._series(horizons, of_model),
        )

    def _protocol_start(self, what: str, of_model: bool, run: int) -> str:
        what += f", run {run + 1}" if run else ""
        if of_model:
            return _join(
                self._head(f"the model, {what}", "out", "model", "start"),
                self._model_system(),
                f"read_dump       ${{start}} 0 {READ} {self._box}",
                self._model_integrator(),
            )
        return _join(
            self._head(f"the reference, {what}", "out", "start"),
            self._reference_system(),
            self._equilibrated(),
        )

    def _series(self, horizons: int, of_model: bool) -> str:
        steps = 1 if of_model else self.plan.steps
        every = self.plan.every * steps
        return _join(
            self._thermo(every),
            _dump("series", every, "series.dump"),
            f"run             {horizons * steps}",
        )

    # ---- parts -----------------------------------------------------------------------------------

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
        return _join(
            f"include         {self.system.include}",
            f"timestep        {timestep / TIME_IN_FS[self.system.units]:.12g}",
            "fix             integrate all nve",
        )

    def _equilibrated(self) -> str:
        """The end of an equilibration."""
        return _join(f"read_dump       ${{start}} 0 {READ} {self._box}", self._degrees_of_freedom())

    def _local_bath(self, temperature: float, horizons: int, seed: int) -> str:
        damping = self.config.reference.damping or min(
            DAMPING, DAMPING_PART * horizons * self.plan.horizon * 1e-3
        )
        in_units = damping * 1e3 / TIME_IN_FS[self.system.units]
        angular = " angular" if self.model.angular else ""
        return _join(
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
        return _join(
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
        return _join(f"{line} {self.config.fix_options}".rstrip(), self._degrees_of_freedom())

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
        return _join(f"fix             bath all {line}", modify)

    def _production(self, steps: int) -> str:
        plan = self.plan
        lines = [self._thermo(plan.every * steps), _dump("frames", plan.every * steps)]
        for block in range(plan.blocks):
            lines += [
                _dump("spectrum", steps, f"spectrum.{block}.dump"),
                f"run             {plan.spectrum * steps}",
                "undump          spectrum",
            ]
            if plan.block > plan.spectrum:
                lines.append(f"run             {(plan.block - plan.spectrum) * steps}")
        return _join(*lines, "undump          frames")

    def _nve(self, steps: int) -> str:
        plan = self.plan
        return _join(
            self._thermo(plan.nve_every * steps),
            _dump("nve", steps),
            f"run             {plan.nve * steps}",
            "undump          nve",
        )

    def _thermo(self, every: int, columns: str = THERMO) -> str:
        return _join(
            f"thermo          {every}",
            f"thermo_style    {columns}",
            # LAMMPS shows a hundred; those of each run must not use them up before a guard's.
            "thermo_modify   flush yes format float %.12g warn 100000",
        )


def _dump(name: str, every: int, file: str | None = None) -> str:
    return _join(
        f"dump            {name} all custom {every} ${{out}}/{file or name + '.dump'} {DUMP}",
        f"dump_modify     {name} sort id format float %.10g",
    )


def _join(*parts: str) -> str:
    return re.sub(r"\n+", "\n", "\n".join(part for part in parts if part)).strip("\n") + "\n"
