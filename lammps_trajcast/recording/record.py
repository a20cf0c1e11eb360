"""`lammps-trajcast record`: a LAMMPS input script becomes a data set."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from lammps_trajcast.atomic_file import replacing
from lammps_trajcast.child_processes import interruptible
from lammps_trajcast.data.build import (
    Masses,
    draw_splits,
    new_file,
    write_header,
    write_segment,
)
from lammps_trajcast.data.frames import Frame, Species
from lammps_trajcast.data.labels import Labels
from lammps_trajcast.data.lammps_dump import LammpsDump
from lammps_trajcast.data.layout import DatasetError, open_dataset
from lammps_trajcast.data.trajectory import checked
from lammps_trajcast.lammps_runs.errors import FailedRunError, LaunchError
from lammps_trajcast.lammps_runs.paths import PlainPaths
from lammps_trajcast.lammps_runs.program import lammps_command
from lammps_trajcast.lammps_runs.session import LammpsSession
from lammps_trajcast.lammps_runs.state import State, read_state
from lammps_trajcast.lock import InUseError, alone_in
from lammps_trajcast.progress_bar import ProgressBar
from lammps_trajcast.recording.ensemble import Ensemble, sort_fixes
from lammps_trajcast.recording.options import RecordOptions
from lammps_trajcast.recording.strain import Box, draw_strains
from lammps_trajcast.recording.thermodynamic_labels import (
    COMPUTE_VIRIAL,
    energies_every,
    labels_in,
)
from lammps_trajcast.units import TIME_IN_FS

# No pressure: a potential need not have one.
QUIET = ("thermo_style custom step temp pe", "thermo 0")
# A pair for every phase of fast vibrations without storing frames that are nearly the same.
FRAMES_PER_HORIZON = 3


@dataclass(frozen=True)
class _Schedule:
    """Numbers of MD steps."""

    horizon: int
    interval: int
    segment: int
    decorrelate: int

    @classmethod
    def of(cls, options: RecordOptions, timestep: float) -> _Schedule:
        """Schedule for a time step in fs; raises DatasetError if the times are not multiples."""
        horizon = _steps("--horizon", options.horizon, timestep)
        if options.interval is None:
            interval = next(
                step for step in range(1, horizon + 1)
                if horizon % step == 0 and step * FRAMES_PER_HORIZON >= horizon
            )  # fmt: skip
        else:
            interval = _steps("--interval", options.interval, timestep)
            if horizon % interval:
                raise DatasetError(
                    f"--horizon {options.horizon:g} fs is not a multiple of --interval "
                    f"{options.interval:g} fs; write another interval"
                )
        return cls(
            horizon=horizon,
            interval=interval,
            segment=interval * max(round(options.segment_length * 1e3 / timestep / interval), 1),
            decorrelate=max(round(options.decorrelate * 1e3 / timestep), 1),
        )


def _steps(option: str, time: float, timestep: float) -> int:
    steps = round(time / timestep)
    if steps < 1 or abs(steps * timestep - time) > 1e-6 * time:
        raise DatasetError(
            f"{option} {time:g} fs is not a multiple of the script's time step of {timestep:g} fs; "
            f"write {timestep * max(steps, 1):g}, or another multiple"
        )
    return steps


def record(script: Path, output: Path, options: RecordOptions, progress: bool = True) -> list[Path]:
    """Run a script and write NVE segments from its end on; the same call goes on if interrupted.

    The script runs in the current directory, as with `lmp -in`.

    Args:
        script: LAMMPS input.
        output: directory for the shards, made if it is not there.
        options: what to record.
        progress: show a progress bar.

    Returns:
        The shards, those of earlier calls included.

    Raises:
        DatasetError: LAMMPS stopped, the script is not suitable, or a shard cannot be written.
        TrajectoryError: a segment holds a fault, e.g. a lost atom.
    """
    options.check()
    if not script.is_file():
        raise DatasetError(f"{script}: no such file")
    species = Species.from_types(options.elements, options.masses)
    try:
        command = lammps_command(options.lmp)
        output.mkdir(parents=True, exist_ok=True)
    except LaunchError as error:
        raise DatasetError(str(error)) from None
    except OSError as error:
        raise DatasetError(
            f"{output}: cannot be made ({error.strerror}); name another --output"
        ) from None
    try:
        with alone_in(output, "name another --output") as lock, PlainPaths() as paths:
            runs = [
                _Recording(script, output, options, species, temperature, paths)
                for temperature in (options.temperatures or (None,))
            ]
            _finish(runs, command, lock, progress)
    except (InUseError, LaunchError, FailedRunError) as error:
        raise DatasetError(str(error)) from None
    return [shard for run in runs for shard in run.shards]


def _finish(runs: list[_Recording], command: list[str], lock: int, progress: bool) -> None:
    for run in runs:
        run.check_finished()
    total = sum(run.options.segments for run in runs)
    done = sum(run.finished_segments for run in runs)
    with ProgressBar(total=total, initial=done, unit="segment", disable=not progress) as bar:
        try:
            with interruptible():
                for run in runs:
                    run.finish(command, lock, bar)
        except KeyboardInterrupt:
            finished = sum(run.finished for run in runs)
            raise DatasetError(
                f"interrupted; {finished} shards are finished, the same command goes on from there"
            ) from None


class _Recording:
    """The segments of one temperature, in shards of a few segments."""

    def __init__(
        self,
        script: Path,
        output: Path,
        options: RecordOptions,
        species: Species,
        temperature: float | None,
        paths: PlainPaths,
    ) -> None:
        self.paths = paths
        self.script = script
        self.output = output
        self.options = options
        self.species = species
        self.temperature = temperature
        self.name = "run" if temperature is None else f"t{temperature:g}"
        count = -(-options.segments // options.segments_per_shard)
        self.shards = [output / f"{self.name}.{k:03d}.h5" for k in range(count)]
        self.finished = 0
        self.box: Box | None = None
        while self.finished < count and self.shards[self.finished].exists():
            self.finished += 1
        self.splits = draw_splits(options.segments, options.split, options.seed)

    @property
    def finished_segments(self) -> int:
        """Number of segments in shards that are there already."""
        return min(self.finished * self.options.segments_per_shard, self.options.segments)

    def check_finished(self) -> None:
        """Check that the shards on disk were recorded with the same options.

        Raises:
            DatasetError: they were not.
        """
        for shard in self.shards[: self.finished]:
            with open_dataset(shard) as file:
                # Files of earlier releases do not name the strain.
                then = {"strain": 0.0} | json.loads(file.attrs.get("recording", "{}"))
            now = self._description()
            different = [name for name in now if then.get(name) != now[name]]
            if different:
                name = different[0]
                raise DatasetError(
                    f"{shard}: was recorded with {name} {then.get(name)}, not {now[name]}; write "
                    "another --output, or delete it"
                )
        if 0 < self.finished < len(self.shards) and not self._state_file(self.finished).is_file():
            raise DatasetError(
                f"{self._state_file(self.finished)}: is missing, and the recording cannot go on "
                f"without it; delete {self.output / self.name}.*.h5 to begin anew"
            )

    def finish(self, command: list[str], lock: int, bar: ProgressBar) -> None:
        """Record the shards that are not there."""
        if self.finished == len(self.shards):
            return
        variables = dict(self.options.variables)
        if self.temperature is not None:
            variables["T"] = f"{self.temperature:g}"
        bar.set_postfix_str(f"{self.name}: {self.script.name}")
        for left in self.output.glob(f".{self.name}.*"):  # by a call that was killed
            shutil.rmtree(left, ignore_errors=True)
        with (
            tempfile.TemporaryDirectory(dir=self.output, prefix=f".{self.name}.") as scratch,
            LammpsSession(command, variables, self.output / f"{self.name}.log", lock) as lammps,
        ):
            echoed = lammps.run([f"include {self.paths.of(self.script)}"])
            state = read_state(lammps, echoed)
            self._check_script(state, echoed)
            ensemble = sort_fixes(state.fixes, list(self.options.keep))
            bath = ensemble.global_bath
            if bath is not None:
                bar.write(
                    f"WARNING: {self.script}: fix {bath.name} ({bath.style}) scales all velocities "
                    "alike: modes of a crystal keep the phases and energies that they started with "
                    "in all segments; end the script with fix langevin instead",
                    file=sys.stderr,
                )
            self.box = box = self._box(lammps, ensemble)
            schedule = _Schedule.of(self.options, state.timestep * TIME_IN_FS[state.units])
            lammps.run(
                [
                    *QUIET,
                    COMPUTE_VIRIAL,
                    "restart 0",
                    *(f"undump {name}" for name in state.dumps),
                    *ensemble.start(),
                ]
            )
            if self.finished:
                # Atoms are taken by their ID.
                lammps.run(
                    [
                        f"read_dump {self.paths.of(self._state_file(self.finished))} "
                        f"{self._step_of_state()} x y z ix iy iz vx vy vz box yes replace yes"
                    ]
                )
                state = read_state(lammps, [])
            worker = _Worker(
                *(lammps, state, ensemble, schedule, Path(scratch), self._first_draw()),
                self.paths,
                box,
                self.options.strain,
            )
            for number in range(self.finished, len(self.shards)):
                self._record_shard(worker, number, bar)

    def _check_script(self, state: State, echoed: list[str]) -> None:
        if state.units not in TIME_IN_FS:
            raise DatasetError(
                f"{self.script}: has units {state.units}; write it in units metal or real"
            )
        if state.types != len(self.species.type_index):
            raise DatasetError(
                f"{self.script}: has {state.types} atom types, but --elements names "
                f"{len(self.species.type_index)}; write one element for each type"
            )
        uses_temperature = any(re.search(r"\$T\b|\$\{T\}|\bv_T\b", line) for line in echoed)
        if self.temperature is not None and not uses_temperature:
            raise DatasetError(
                f"{self.script}: does not use the variable T, which --temperatures sets; write $T "
                "where its thermostat has the temperature"
            )

    def _box(self, lammps: LammpsSession, ensemble: Ensemble) -> Box | None:
        """The box of the script if it is to be strained."""
        if self.options.strain == 0.0:
            return None
        barostat = ensemble.barostat
        if barostat is not None:
            raise DatasetError(
                f"{self.script}: fix {barostat.name} ({barostat.style}) changes the cell, and so "
                "does --strain: leave one of them out"
            )
        if self.finished:
            # The script, which has run again, may end with another one.
            with open_dataset(self.shards[0]) as file:
                return Box.from_json(str(file.attrs["unstrained_box"]))
        box = Box.of(lammps)
        if not any(box.periodic):
            raise DatasetError(
                f"{self.script}: has no periodic direction that --strain could strain; leave it out"
            )
        return box

    def _record_shard(self, worker: _Worker, number: int, bar: ProgressBar) -> None:
        first = number * self.options.segments_per_shard
        end = min(first + self.options.segments_per_shard, self.options.segments)
        shard = self.shards[number]
        with new_file(shard) as target:
            group = write_header(target, self.options.horizon, self.species)
            masses = Masses(self.species)
            for segment in range(first, end):
                bar.set_postfix_str(self.name, refresh=False)
                frames = worker.segment(segment, self.species, masses)
                pairs = write_segment(
                    group, frames, worker.frames_per_horizon, 1, f"{self.name} segment {segment}"
                )
                assert pairs > 0
                written = group[f"{len(group) - 1:06d}"]
                written.attrs["split"] = self.splits[segment]
                bar.update()
            target.attrs["masses"] = masses.values
            target.attrs["recording"] = json.dumps(self._description())
            if self.box is not None:
                target.attrs["unstrained_box"] = self.box.as_json()
            # Before the shard appears: a shard without the state at its end could not be followed
            # by other segments than its own.
            worker.save_state(self._state_file(number + 1))
        self.finished = number + 1
        self._state_file(number).unlink(missing_ok=True)

    def _first_draw(self) -> int:
        """A number that tells the noise of this recording from that of others.

        With the same noise, trajectories at different temperatures are scaled copies of each other.
        """
        return 1 + 100_000 * self.options.seed + 1009 * round(10 * (self.temperature or 0.0))

    def _state_file(self, shards: int) -> Path:
        """Where the state after so many shards is kept."""
        return self.output / f"{self.name}.{shards:03d}.state"

    def _step_of_state(self) -> int:
        with self._state_file(self.finished).open() as file:
            return int(file.read(200).split()[2])

    def _description(self) -> dict[str, object]:
        """What must not differ between the shards of a recording."""
        options = self.options
        return {
            "script": self.script.name,
            "elements": list(options.elements),
            "horizon": options.horizon,
            "interval": options.interval,
            "segment_length": options.segment_length,
            "decorrelate": options.decorrelate,
            "segments_per_shard": options.segments_per_shard,
            "seed": options.seed,
            "strain": options.strain,
            "keep": list(options.keep),
            "variables": options.variables,
        }


class _Worker:
    """A LAMMPS at the end of its script, which records one segment after the other."""

    def __init__(
        self,
        lammps: LammpsSession,
        state: State,
        ensemble: Ensemble,
        schedule: _Schedule,
        scratch: Path,
        first_draw: int,
        paths: PlainPaths,
        box: Box | None,
        strain: float,
    ) -> None:
        self.lammps = lammps
        self.paths = paths
        self.state = state
        self.ensemble = ensemble
        self.schedule = schedule
        self.dump = scratch / "segment.dump"
        self.dump_for_lammps = paths.of(self.dump)
        self.first_draw = first_draw
        self.box = box
        self.strain = strain
        self.step = state.step
        self.frames_per_horizon = schedule.horizon // schedule.interval

    def segment(self, number: int, species: Species, masses: Masses) -> list[Frame]:
        """Draw a new start and record its segment.

        Raises:
            TrajectoryError: the trajectory is at fault.
            FailedRunError: LAMMPS stops.
            DatasetError: frames are missing.
        """
        every = self.schedule.interval
        # LAMMPS dumps on multiples of the interval.
        bath = self.schedule.decorrelate + -(self.step + self.schedule.decorrelate) % every
        draw = self.first_draw + number
        strains = [] if self.box is None else [self._strained(self.box, draw)]
        self.lammps.run(
            [
                *strains,
                *self.ensemble.bath_on(draw),
                f"run {bath}",
                *self.ensemble.bath_off(),
                *self.ensemble.nve_on(),
                "velocity all zero linear",
                f"dump trajcast_record all custom {every} {self.dump_for_lammps} "
                "id type mass xu yu zu vx vy vz fx fy fz",
                "dump_modify trajcast_record sort id first yes format float %.15g",
                *energies_every(every),
            ]
        )
        printed = self.lammps.run([f"run {self.schedule.segment}"])
        self.lammps.run(
            [
                *QUIET,
                "undump trajcast_record",
                *self.ensemble.nve_off(),
            ]
        )
        self.step += bath + self.schedule.segment
        timestep = self.state.timestep * TIME_IN_FS[self.state.units]
        file = LammpsDump(self.dump, species, self.state.units, timestep)  # type: ignore[arg-type]
        frames = []
        labels = labels_in(printed, self.state.units)
        for frame in checked(file):
            masses.see(file, frame)
            label = labels.get(frame.step, Labels())
            found = frame.labels._replace(
                energy=label.energy, virial=label.virial if frame.pbc.all() else None
            )
            frames.append(replace(frame, labels=found))
        expected = self.schedule.segment // every + 1
        if len(frames) != expected:
            raise DatasetError(
                f"{self.dump}: segment {number} has {len(frames)} frames instead of {expected}; is "
                "the disk full?"
            )
        return frames

    def _strained(self, box: Box, draw: int) -> str:
        return box.strained(draw_strains(self.strain, draw)).command()

    def save_state(self, path: Path) -> None:
        """Write positions and velocities for a later call to go on from.

        Raises:
            FailedRunError: LAMMPS stops.
            OSError: the file is not whole.
        """
        with replacing(path) as partial:
            self.lammps.run(
                [
                    f"write_dump all custom {self.paths.of(partial)} id type x y z ix iy iz "
                    "vx vy vz modify sort id format float %.17g"
                ]
            )
            lines = partial.read_text().splitlines()
            if len(lines) != 9 + int(lines[3]) or len(lines[-1].split()) != 11:
                raise OSError(f"{path} is not whole; is the disk full?")
