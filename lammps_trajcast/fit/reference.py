"""The reference by itself, before there is a model: what it is, and its equilibrium."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from lammps_trajcast.data.frames import Species, TrajectoryError
from lammps_trajcast.data.lammps_dump import LammpsDump
from lammps_trajcast.fit.config import FitConfig, FitError
from lammps_trajcast.lammps_runs.errors import with_remedy
from lammps_trajcast.lammps_runs.runner import FinishedRun, Runner, file_key
from lammps_trajcast.lammps_runs.script import commands_in
from lammps_trajcast.lammps_runs.state import fixes_in
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader
from lammps_trajcast.recording.ensemble import CHARGES, FORCE_FIELD, OUTPUT, plain_style
from lammps_trajcast.units import BOLTZMANN, TIME_IN_FS
from lammps_trajcast.validation.config import Lengths, Reference, SetupError, ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.reading import RunReader
from lammps_trajcast.validation.system import Model, System
from lammps_trajcast.validation.validate import Validation

Floats = NDArray[np.float64]

# Before the shortest period is known, fs: with hydrogen, without.
CAREFUL_STEP, FIRST_STEP = 0.5, 1.0
# MD steps whose time is taken.
TIMED_STEPS = 40
# Of a mass, relative, from the standard weight of its element.
MASS_TOLERANCE = 0.02
# Atoms rest in their places if the forces would not change their energy by more than this part of
# kT within 0.1 Angstrom.
AT_REST = 0.2


@dataclass(frozen=True)
class Inspected:
    """What the include file defines.

    Attributes:
        atoms: number.
        masses: g/mol, of each type.
        timestep: fs, of its own, None if it sets none.
        periodic: of each direction.
        heights: Angstrom, of the cell.
        at_rest: whether the atoms are where hardly a force acts on them, as in a perfect crystal.
        step_seconds: wall time of an MD step.
        nearest: Angstrom, typical distance of nearest neighbors.
    """

    atoms: int
    masses: list[float]
    timestep: float | None
    periodic: list[bool]
    heights: list[float]
    at_rest: bool
    step_seconds: float
    nearest: float

    @property
    def isolated(self) -> bool:
        """Whether it is an isolated molecule."""
        return not any(self.periodic)


class SurveyRuns:
    """Runs LAMMPS inputs of the survey in the directory of the include file, each once."""

    def __init__(self, config: FitConfig, directory: Path, command: Sequence[str] | None) -> None:
        """Read the include file.

        Args:
            config: of the fit.
            directory: of the runs.
            command: starts LAMMPS; None: the `lmp` beside this Python.

        Raises:
            FitError: the include file is absent or its units are not supported.
        """
        try:
            self.system = System.read(config.system)
            self.runner = Runner(
                directory, config.system.parent, command, {"system": config.system}
            )
        except SetupError as error:
            raise FitError(str(error)) from None
        self.config = config
        self.content = [file_key(path) for path in self.system.files]

    def run(self, name: str, text: str, start: FinishedRun | None = None) -> FinishedRun:
        """Run an input, from the end of an equilibration if one is given.

        Args:
            name: of the run.
            text: the input.
            start: an equilibration, whose end it begins from.

        Raises:
            FitError: the run fails; the message is LAMMPS's.
        """
        variables = {"start": start.directory / "state.dump"} if start else {}
        after = [*self.content, *([start.key] if start else [])]
        try:
            done = self.runner.run(name, text, variables, after)
        except SetupError as error:
            raise FitError(str(error)) from None
        if done.error:
            raise FitError(
                f"the reference failed: {with_remedy(done.error)} (input: "
                f"{done.directory / 'in.lmp'}); correct {self.system.path}"
            )
        return done

    @property
    def time_unit(self) -> float:
        """The time unit of the system, fs."""
        return TIME_IN_FS[self.system.units]


def inspect(runs: SurveyRuns) -> Inspected:
    """Read the system in LAMMPS and time its steps.

    Raises:
        FitError: LAMMPS stops, or the elements do not fit.
    """
    config, system = runs.config, runs.system
    first = CAREFUL_STEP if "H" in config.elements else FIRST_STEP
    own = _own_timestep(system)
    text = f"""\
# {config.name}: what the system is. Written by lammps-trajcast fit.
include         {system.include}
{"" if own else f"timestep        {first / runs.time_unit:.12g}"}
thermo_style    custom step temp pe
run             0
info            system fixes out log
print           "time step of fit: $(dt:%.12g)"
write_dump      all custom ${{out}}/start.dump id type mass x y z vx vy vz fx fy fz &
                modify sort id format float %.17g
velocity        all create {config.temperature:g} {config.seed} mom yes rot no dist gaussian
fix             integrate all nve
thermo          {TIMED_STEPS}
run             {TIMED_STEPS}
"""
    done = runs.run("system", text)
    log = (done.directory / "log.lammps").read_text(errors="replace")
    types = re.search(r"^Atoms\s+=\s+\d+,\s+types =\s+(\d+)", log, re.MULTILINE)
    if types and int(types[1]) != len(config.elements):
        raise FitError(
            f"elements: {len(config.elements)} named ({' '.join(config.elements)}), but "
            f"{system.path} has {types[1]} atom types; write one element for each type"
        )
    _check_what_acts(system, log)
    step = re.search(r"^time step of fit: (\S+)", log, re.MULTILINE)
    try:
        species = Species.from_types(config.elements, config.masses)
        dump = LammpsDump(done.directory / "start.dump", species, system.units, None)  # type: ignore[arg-type]
        frame = next(iter(dump))
    except (TrajectoryError, StopIteration) as error:
        raise FitError(f"{system.path}: {error or 'defines no atoms'}") from None
    forces, kinds, masses = _forces_types_masses(done.directory / "start.dump")
    if config.masses is None:
        _check_masses(config, system, kinds, masses)
    if len(frame.species) < 2:
        raise FitError(f"{system.path}: defines a single atom; nothing acts on it")
    boltzmann = BOLTZMANN[system.units]
    rms_force = float(np.sqrt(np.mean(forces**2)))
    volume_heights = _heights(frame.cell)
    loop = done.loops()[-1]
    return Inspected(
        atoms=len(frame.species),
        masses=[
            float(masses[kinds == kind].mean()) if np.any(kinds == kind) else 0.0
            for kind in range(1, len(config.elements) + 1)
        ],
        timestep=float(step[1]) * runs.time_unit if own and step else None,
        periodic=[bool(flag) for flag in frame.pbc],
        heights=[float(height) for height in volume_heights],
        at_rest=bool(0.1 * rms_force < AT_REST * boltzmann * config.temperature),
        step_seconds=max(loop.seconds, 1e-6) / max(loop.steps, 1),
        nearest=nearest_distance(frame.positions, frame.cell, frame.pbc),
    )


def _check_what_acts(system: System, log: str) -> None:
    """Raise FitError if something else than a potential acts on the atoms, or in two dimensions."""
    if re.search(r"^Dimensions\s+=\s+2", log, re.MULTILINE):
        raise FitError(
            f"{system.path}: is two-dimensional, which the network is not: write 'dimension 3', "
            "and leave a vacuum in the cell"
        )
    for name, style, _ in fixes_in(log):
        plain = plain_style(style)
        # Those of LAMMPS itself, for a compute, are written in capitals.
        if plain in FORCE_FIELD | OUTPUT or plain.startswith(("ave/", *CHARGES)) or plain.isupper():
            continue
        raise FitError(
            f"{system.path}: fix {name} ({style}) acts on the atoms beside the potential, and a "
            "network would learn that, too: remove it; runs with the model can have it"
        )


def _check_masses(
    config: FitConfig, system: System, kinds: NDArray[np.int64], masses: Floats
) -> None:
    """Raise FitError for a type whose mass is that of another element than the one named."""
    for kind, element in enumerate(config.elements, 1):
        found = masses[kinds == kind]
        if not found.size:
            continue
        mass, known = float(found[0]), float(atomic_masses[atomic_numbers[element]])
        if abs(mass / known - 1.0) <= MASS_TOLERANCE:
            continue
        nearest = chemical_symbols[int(np.argmin(np.abs(atomic_masses - mass)))]
        raise FitError(
            f"elements: type {kind} is named {element} ({known:.4g} g/mol), but has the mass "
            f"{mass:.4g} in {system.path}, near that of {nearest}; correct the order of elements, "
            f"or the mass, or give --masses for an isotope"
        )


def _own_timestep(system: System) -> bool:
    """Whether one of the files that LAMMPS reads as input sets a time step."""
    for path in system.files:
        # Data and potential files may be large, and set none.
        if path == system.path or path.stat().st_size < 1_000_000:
            for words in commands_in(path.read_text(errors="replace")):
                if words[0] == "timestep":
                    return True
    return False


def _forces_types_masses(path: Path) -> tuple[Floats, NDArray[np.int64], Floats]:
    lines = path.read_text().splitlines()
    place = next(k for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS"))
    names = lines[place].split()[2:]
    table = np.loadtxt(lines[place + 1 :], ndmin=2)
    table = table[np.argsort(table[:, names.index("id")])]
    forces = table[:, [names.index(name) for name in ("fx", "fy", "fz")]]
    masses = table[:, names.index("mass")] if "mass" in names else np.zeros(len(table))
    return forces, table[:, names.index("type")].astype(int), masses


def forces_of(path: Path) -> Floats:
    """Forces (N, 3) in a dump of one frame, atoms in the order of their IDs."""
    return _forces_types_masses(path)[0]


def _heights(cell: Floats) -> Floats:
    """Perpendicular heights of a cell (3,)."""
    volume = abs(float(np.linalg.det(cell)))
    areas = [np.linalg.norm(np.cross(cell[(k + 1) % 3], cell[(k + 2) % 3])) for k in range(3)]
    return np.array([volume / area if area > 0.0 else 0.0 for area in areas])


def nearest_distance(positions: Floats, cell: Floats, pbc: NDArray[np.bool_]) -> float:
    """Median over atoms of the distance to the nearest other atom, Angstrom."""
    some = np.linspace(0, len(positions) - 1, min(len(positions), 64)).astype(int)
    lengths = [
        np.delete(distances_from(positions, atom, cell, pbc), atom).min() for atom in set(some)
    ]
    return float(np.median(lengths))


def distances_from(positions: Floats, atom: int, cell: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """Distances (N,) of all atoms from one, to the nearest image."""
    vectors = positions - positions[atom]
    if np.any(pbc):
        fractional = vectors @ np.linalg.inv(cell)
        base = vectors - np.where(pbc, np.round(fractional), 0.0) @ cell
        shifts = [np.arange(-1, 2) if flag else np.zeros(1) for flag in pbc]
        images = np.stack(np.meshgrid(*shifts, indexing="ij"), axis=-1).reshape(-1, 3) @ cell
        # In a skewed cell the nearest image is not always that of the rounded fractions.
        found = np.full(len(positions), np.inf)
        for image in images:
            found = np.minimum(found, np.linalg.norm(base + image, axis=1))
        return found
    return np.asarray(np.linalg.norm(vectors, axis=1))


class ReferenceAlone(Validation):
    """The reference's part of a validation, without a model: its equilibration."""

    def __init__(
        self,
        config: FitConfig,
        runs: SurveyRuns,
        inspected: Inspected,
        *,
        timestep: float,
        equilibration: float,
        initial_temperature: float,
        rounds: int,
    ) -> None:
        """timestep: fs. equilibration: ps, of the first round. initial_temperature: K."""
        # No super().__init__(): it reads a model file.
        self.config = ValidationConfig(
            name=config.name,
            model=Path("none"),
            system=config.system,
            elements=config.elements,
            temperature=config.temperature,
            thermostat=config.thermostat_in(runs.time_unit, inspected.isolated),
            seed=4928 + config.seed,
            reference=Reference(
                timestep=timestep, initial_temperature=initial_temperature, rounds=rounds
            ),
            lengths={
                "short": Lengths.model_validate(
                    {"equilibration": equilibration, "production": 1e3 * timestep, "nve": timestep}
                )
            },
            tolerances=config.tolerances,
        )
        self.length = "short"
        self.model = Model(Path("none"), "", timestep, 0.0, inspected.isolated)
        self.system = runs.system
        self.plan = RunSchedule.make(self.config.lengths["short"], timestep, timestep)
        species = Species.from_types(config.elements, config.masses or inspected.masses)
        self.reader = TrajectoryReader(species, runs.system.units)  # type: ignore[arg-type]
        self.reading = RunReader(self.reader, self.plan)
        self.runner = runs.runner
        self.content = runs.content
