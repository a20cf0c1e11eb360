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

# Share of the power of an element's spectrum that lies below its highest frequency. The spectrum of
# a liquid falls off slowly. In a solid it ends with a band; what is beyond are overtones, which no
# step has to resolve: of quartz 0.6 % beyond its band at 40 THz, up to 75 THz, of SiC 0.8 %.
LIQUID_POWER, SOLID_POWER = 0.998, 0.99
# A line beyond that, a bond of its own kind: it has this share of the power, more than a sharp
# overtone, and stands out so many times from the median within a fifth of its frequency around it.
# It ends where it has fallen to this share of its height.
LINE_POWER, LINE_HEIGHT, LINE_SURROUNDINGS, LINE_EDGE = 2e-3, 4.0, 0.2, 0.25
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
    liquid = leaves_its_places(seen.positions, inspected.nearest)
    # A molecule in vacuum leaves its place as it turns, and has no more than its own lines.
    elements = highest_frequencies(seen, timestep * every, liquid and not inspected.isolated)
    highest = max(elements.values())
    return Motion(
        highest=highest,
        period=1e3 / highest,
        elements=elements,
        liquid=liquid,
        step_seconds=loop.seconds / loop.steps,
    )


def highest_frequencies(seen: Trajectory, interval: float, liquid: bool) -> dict[str, float]:
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
        found[element] = highest_frequency(frequencies, density, liquid)
    return found


def highest_frequency(frequencies: Floats, density: Floats, liquid: bool = False) -> float:
    """Where the cumulative power reaches the share, between the points of the spectrum.

    In a solid, or the highest line beyond that. A window widens every line by about a point to
    each side; the power of its skirt is what is beyond the highest line.
    """
    power = np.cumsum(density)
    if power[-1] <= 0.0:
        raise FitError(
            "the atoms of the reference do not move; remove what holds them from the system, and "
            "check the temperature"
        )
    share = LIQUID_POWER if liquid else SOLID_POWER
    highest = float(np.interp(share, power / power[-1], frequencies))
    return highest if liquid else max([highest, *_lines(frequencies, density / power[-1], highest)])


def _lines(frequencies: Floats, shares: Floats, above: float) -> list[float]:
    """The lines that stand out of a spectrum above a frequency, THz.

    shares: of the power, at each frequency.
    """
    found = []
    beyond = frequencies > above
    for i in range(1, len(shares) - 1):
        if not beyond[i] or shares[i] < max(shares[i - 1], shares[i + 1]):
            continue
        distance = np.abs(frequencies - frequencies[i])
        around = np.median(shares[(distance <= LINE_SURROUNDINGS * frequencies[i]) & beyond])
        if shares[i] <= LINE_HEIGHT * around:
            continue
        low = ~beyond | (shares <= LINE_EDGE * shares[i])
        first = np.flatnonzero(low[:i])[-1] + 1
        last = i + np.flatnonzero(low[i:])[0] if low[i:].any() else len(shares)
        if np.sum(shares[first:last] - around) > LINE_POWER:
            found.append(float(frequencies[i]))
    return found


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
