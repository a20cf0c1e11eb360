"""The LAMMPS inputs that a validation runs; they are left in its directory for the user to read.

Every input works in the directory of the system's include file and takes its files from variables:
`out`, the directory that it writes to, and where needed `start`, `model` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

from lammps_trajcast.lammps_runs.script import DUMP, READ, dump_lines, join
from lammps_trajcast.validation.plan import NVE_ENERGIES
from lammps_trajcast.validation.script_parts import THERMO, ScriptParts

# Between the seeds of rounds of equilibration.
ROUND_SEEDS = 104_729
# Before the speed is measured.
WARM_STEPS = 10
# Between the seeds of parts of a production.
PART_SEEDS = 15_485_863
# In the tested part of an equilibration.
TEST_SAMPLES = 500
# Seeds of further runs of the reference begin so far above the first one's, those of the model's
# runs follow it.
OTHER_REFERENCES = 499


class Inputs(ScriptParts):
    """Writes the inputs of one system, model and plan, at one temperature."""

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
        return join(
            self._head(what, "out", *["start"][: bool(number)]),
            self._reference_system(),
            self._equilibrated() if number else self._velocities(temperature, seed),
            "" if number else self._degrees_of_freedom(),
            self._local_bath(temperature, first, of_round) if local else bath,
            self._thermo(plan.every * plan.steps),
            f"run             {first * plan.steps}",
            join("unfix           still", "unfix           local", bath) if local else "",
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
        return join(
            self._head("the reference", "out", "start"),
            self._reference_system(),
            self._equilibrated(),
            self._bath(self.temperature, self.temperature, 0),
            self._production(plan.steps),
            "unfix           still" if self.still else "",
            "unfix           bath",
            "reset_timestep  0",
            self._nve(plan.steps),
        )

    def another_reference(self, run: int) -> str:
        """Production of the reference from another state, with random numbers of its own.

        Writes frames and spectrum.

        Args:
            run: number of the run, from 1.
        """
        return join(
            self._head(f"the reference, run {run + 1}", "out", "start"),
            self._reference_system(),
            self._equilibrated(),
            self._bath(self.temperature, self.temperature, OTHER_REFERENCES + run),
            self._production(self.plan.steps),
        )

    def production(self, run: int) -> str:
        """Production of the model from a state of the reference. Writes frames and spectrum.

        Args:
            run: number of the run, from 0; each starts from another block of the reference.
        """
        plan = self.plan
        start = run % plan.blocks * plan.block * plan.steps
        return join(
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
            of_model: whether the run is of the model or of the reference.
        """
        plan = self.plan
        steps = 1 if of_model else plan.steps
        last = plan.blocks * plan.block * steps
        seed = self.config.seed + (run + 1 if of_model else OTHER_REFERENCES + run)
        seed = (seed + PART_SEEDS * part - 1) % 900_000_000 + 1
        side = "model" if of_model else "reference"
        return join(
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

        Args:
            steps: number of measured steps.
            of_model: whether the run is of the model or of the reference.
            piece: its number; it makes each piece a run of its own.
        """
        side = "model" if of_model else "reference"
        return join(
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
        """A run of the model with the thermostat. Writes frames.

        Args:
            horizons: length, in time steps of the model.
            every: time steps between frames.
            begins: whether it starts from an equilibrated state of the reference; else from the
                last frame of a run of the same length.
            run: its number, from 0; each has random numbers of its own.
        """
        return join(
            self._head(f"the model, round {run + 1}", "out", "model", "start"),
            self._model_system(),
            f"read_dump       ${{start}} {0 if begins else horizons} {READ} {self._box}",
            "reset_timestep  0",
            self._model_integrator(),
            self._bath(self.temperature, self.temperature, run + 1),
            self._thermo(every, THERMO + " f_bath" if self.tallies else THERMO),
            dump_lines("frames", every),
            f"run             {horizons}",
        )

    def nve(self) -> str:
        """Single steps of the model, then NVE. Writes one_step.dump and the thermodynamic output.

        The single steps start from states along the reference's NVE run and are appended to
        one_step.dump; NVE starts from the first of these states.
        """
        plan = self.plan
        spacing = plan.pair_spacing * plan.steps
        return join(
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
        """NVE of the reference with another time step.

        It starts from the same state as the model's NVE run and is as long.

        Args:
            timestep: fs.
        """
        steps = max(round(self.plan.nve * self.plan.horizon / timestep), 1)
        return join(
            self._head(f"the reference without thermostat, {timestep:g} fs", "out", "start"),
            self._reference_system(timestep),
            f"read_dump       ${{start}} 0 {READ} {self._box}",
            self._degrees_of_freedom(),
            self._thermo(max(steps // NVE_ENERGIES, 1)),
            f"run             {steps}",
        )

    def energies(self, dumps: Sequence[tuple[str, int, int]]) -> str:
        """Potential energy, by the reference, of frames of the model.

        Args:
            dumps: for each, the variable that holds the name of the dump, every how many steps a
                frame is taken, and the last step.
        """
        lines = []
        for variable, every, last in dumps:
            lines += [
                self._thermo(every),
                f"rerun           ${{{variable}}} every {every} last {last} "
                f"dump x y z wrapped no {self._box}",
            ]
        return join(
            self._head("the reference's energy of given frames", *(dump[0] for dump in dumps)),
            f"include         {self.system.include}",
            *lines,
        )

    # ---- protocols -------------------------------------------------------------------------------

    def quench(self, start: float, stop: float, horizons: int, of_model: bool, run: int = 0) -> str:
        """The thermostat goes from one temperature to another. Writes series.

        Args:
            start: temperature, K.
            stop: temperature, K.
            horizons: length, in time steps of the model.
            of_model: whether the run is of the model or of the reference.
            run: its number, from 0; each has another start and other random numbers.
        """
        what = f"quench from {start:g} to {stop:g} K"
        return join(
            self._protocol_start(what, of_model, run),
            self._bath(start, stop, 1 + run),
            self._series(horizons, of_model),
        )

    def two_temperature(
        self, cold: float, hot: float, horizons: int, of_model: bool, run: int = 0
    ) -> str:
        """Half of the atoms at another temperature, no thermostat. Writes series.

        Args:
            cold: temperature of one half, K.
            hot: temperature of the other half, K.
            horizons: length, in time steps of the model.
            of_model: whether the run is of the model or of the reference.
            run: its number, from 0; each has another start.
        """
        seed = self.config.seed + 1 + run
        heat = join(
            "compute         height all property/atom zs",
            "run             0",
            'variable        lower atom "c_height < 0.5"',
            "group           lower variable lower",
            f"velocity        lower create {hot:g} {seed} mom yes dist gaussian",
            "velocity        all zero linear",
        )
        what = f"a half at {hot:g} K, the other at {cold:g} K"
        return join(
            self._protocol_start(what, of_model, run),
            "" if of_model else heat,
            self._series(horizons, of_model),
        )

    def strain(
        self,
        direction: str,
        strain: float,
        horizons: tuple[int, int],
        of_model: bool,
        run: int = 0,
    ) -> str:
        """A strained cell with the thermostat. Writes series, a frame, and pressures.

        Args:
            direction: x, y or z; empty: the cell as it is.
            strain: of the cell along it.
            horizons: lengths before and while the pressure counts, in time steps of the model.
            of_model: whether the run is of the model or of the reference.
            run: its number, from 0; each has another start and other random numbers.
        """
        side = "model" if of_model else "reference"
        steps = 1 if of_model else self.plan.steps
        what, changes = f"{self.temperature:g} K", []
        if direction:
            what = f"{100.0 * strain:+g} % along {direction}"
            factor = f"{1.0 + strain:.12g}"
            # An edge takes its tilts along.
            tilts = {"x": ("xy", "xz"), "y": ("yz",), "z": ()}[direction]
            finals = " ".join(f"{tilt} final $({tilt}*{factor})" for tilt in tilts)
            change = f"change_box all {direction} scale {factor}"
            changes = [
                "variable        tilted equal xy!=0||xz!=0||yz!=0",
                f'if "${{tilted}} > 0" then "{change} {finals} remap" else "{change} remap"',
            ]
        what += f", run {run + 1}" if run else ""
        return join(
            self._head(
                f"the {side}, {what}",
                *(("out", "model", "start") if of_model else ("out", "start")),
            ),
            self._model_system() if of_model else self._reference_system(),
            f"read_dump       ${{start}} 0 {READ} {self._box}",
            "reset_timestep  0",
            *changes,
            self._model_integrator() if of_model else self._degrees_of_freedom(),
            "fix_modify      integrate energy yes virial yes" if of_model else "",
            self._bath(self.temperature, self.temperature, 1 + run),
            self._thermo(self.plan.every * steps),
            f"run             {horizons[0] * steps}",
            # A run of the model that has written a file has started.
            f"write_dump      all custom ${{out}}/series.dump {DUMP} "
            "modify sort id format float %.10g",
            self._thermo(self.plan.every * steps, f"{THERMO} pxx pyy pzz"),
            f"run             {horizons[1] * steps}",
        )

    def _protocol_start(self, what: str, of_model: bool, run: int) -> str:
        what += f", run {run + 1}" if run else ""
        if of_model:
            return join(
                self._head(f"the model, {what}", "out", "model", "start"),
                self._model_system(),
                f"read_dump       ${{start}} 0 {READ} {self._box}",
                self._model_integrator(),
            )
        return join(
            self._head(f"the reference, {what}", "out", "start"),
            self._reference_system(),
            self._equilibrated(),
        )

    def _series(self, horizons: int, of_model: bool) -> str:
        steps = 1 if of_model else self.plan.steps
        every = self.plan.every * steps
        return join(
            self._thermo(every),
            dump_lines("series", every, "series.dump"),
            f"run             {horizons * steps}",
        )
