"""How the reference moves: its shortest period, and whether its atoms diffuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.dynamics import mean_square_displacement, vibrational_spectrum
from lammps_trajcast.data.frames import TrajectoryError
from lammps_trajcast.fit.config import FitConfig, FitError
from lammps_trajcast.fit.reference import Inspected, SurveyRuns
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.lammps_runs.script import DUMP, READ
from lammps_trajcast.lammps_runs.trajectory import Trajectory, TrajectoryReader

Floats = NDArray[np.float64]

# Share of the power of an element's spectrum that lies below its highest frequency. What is beyond
# are overtones, which no step has to resolve: silicon has vibrations up to 18 THz, 0.15 % of its
# power above that, and 0.1 % above 22 THz.
POWER = 0.998
# THz between the points of the spectrum; fs between its frames, at most.
RESOLUTION, SAMPLING = 0.5, 2.0
# Atoms whose motion is looked at.
WATCHED = 400
# An atom that has gone so far, in distances of nearest neighbors, has left its place; the
# mean-square displacement of a solid no longer grows.
LEFT, GROWS = 0.3, 1.25


class Motion(NamedTuple):
    """How the atoms of the reference move.

    Attributes:
        highest: THz.
        period: fs, the shortest.
        elements: THz, the highest frequency of each.
        liquid: whether atoms leave their places.
        step_seconds: wall time of an MD step.
    """

    highest: float
    period: float
    elements: dict[str, float]
    liquid: bool
    step_seconds: float


@dataclass(frozen=True)
class _Plan:
    steps: int
    every: int


def measure_motion(
    runs: SurveyRuns,
    inspected: Inspected,
    start: FinishedRun,
    reader: TrajectoryReader,
    timestep: float,
    duration: float,
) -> Motion:
    """Run the reference without a thermostat from an equilibrated state and look at it.

    timestep: fs. duration: ps. Raises FitError if LAMMPS stops.
    """
    every = max(int(SAMPLING / timestep), 1)
    plan = _Plan(every * max(round(duration * 1e3 / timestep / every), 40), every)
    watched = _watched(start, reader, inspected.atoms)
    done = runs.run("motion", _input(runs, watched, timestep, plan), start)
    path = done.directory / "motion.dump"
    try:
        seen = reader.read(path, timestep)
    except TrajectoryError as error:
        raise FitError(f"{path}: {error}") from None
    (loop,) = done.loops()[-1:]
    elements = highest_frequencies(seen, timestep * every)
    highest = max(elements.values())
    return Motion(
        highest=highest,
        period=1e3 / highest,
        elements=elements,
        liquid=leaves_its_places(seen.positions, inspected.nearest),
        step_seconds=loop.seconds / loop.steps,
    )


def highest_frequencies(seen: Trajectory, interval: float) -> dict[str, float]:
    """The frequency of each element below which nearly all of its power lies, THz.

    interval: fs between frames.
    """
    found = {}
    for index, element in enumerate(seen.elements):
        atoms = seen.species == index
        if not np.any(atoms):
            continue
        frequencies, density = vibrational_spectrum(
            seen.velocities[:, atoms], seen.masses[atoms], interval, RESOLUTION
        )
        found[element] = highest_frequency(frequencies, density)
    return found


def highest_frequency(frequencies: Floats, density: Floats) -> float:
    """Where the cumulative power reaches the share, between the points of the spectrum.

    A window widens every line by about a point to each side; the power of its skirt is what is
    beyond the highest line.
    """
    power = np.cumsum(density)
    if power[-1] <= 0.0:
        raise FitError(
            "the atoms of the reference do not move; remove what holds them from the system, and "
            "check the temperature"
        )
    return float(np.interp(POWER, power / power[-1], frequencies))


def leaves_its_places(positions: Floats, nearest: float) -> bool:
    """Whether atoms diffuse: their mean-square displacement goes on growing, and it is large.

    positions: (F, N, 3) Angstrom, continuous. nearest: Angstrom.
    """
    msd = mean_square_displacement(positions)
    last = len(msd) - 1
    quarter, half = float(msd[last // 2]), float(msd[last])
    return bool(half > GROWS * quarter and half > (LEFT * nearest) ** 2 / 3.0)


def _watched(start: FinishedRun, reader: TrajectoryReader, atoms: int) -> list[str]:
    """Ranges of IDs for a group command: all atoms, or of each element as many as of any other.

    Raises FitError if the state cannot be read.
    """
    if atoms < 2 * WATCHED:
        return [f"1:{atoms}:1"]
    path = start.directory / "state.dump"
    try:
        species = reader.read_states(path, 1.0).species
    except TrajectoryError as error:
        raise FitError(f"{path}: {error}") from None
    return [str(atom + 1) for atom in some_of_each(species, WATCHED)]


def some_of_each(species: NDArray[np.integer], number: int) -> NDArray[np.int64]:
    """Indices of about so many atoms, of each element the same share, or all that there are.

    Atoms of a file follow each other in a pattern: they are drawn at random.
    """
    random = np.random.default_rng(1)
    kinds = np.unique(species)
    found = []
    for kind in kinds:
        of_kind = np.flatnonzero(species == kind)
        count = min(len(of_kind), -(-number // len(kinds)))
        found.append(random.choice(of_kind, count, replace=False))
    return np.sort(np.concatenate(found)).astype(np.int64)


def _input(runs: SurveyRuns, watched: list[str], timestep: float, plan: _Plan) -> str:
    config: FitConfig = runs.config
    box = "yes" if runs.system.box else "no"
    # Short lines: LAMMPS adds to a group that is there.
    pieces = [watched[k : k + 20] for k in range(0, len(watched), 20)]
    group = "\n".join(f"group           watched id {' '.join(piece)}" for piece in pieces)
    return f"""\
# {config.name}: the reference without a thermostat. Written by lammps-trajcast fit.
include         {runs.system.include}
timestep        {timestep / runs.time_unit:.12g}
fix             integrate all nve
read_dump       ${{start}} 0 {READ} box {box}
{group}
thermo          {max(plan.steps // 100, 1)}
thermo_style    custom step temp pe ke etotal
dump            motion watched custom {plan.every} ${{out}}/motion.dump {DUMP}
dump_modify     motion sort id format float %.10g
run             {plan.steps}
"""
