"""How far forces reach: an atom is displaced, and the forces on the others change."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.data.frames import TrajectoryError
from lammps_trajcast.fit.config import FitError
from lammps_trajcast.fit.reference import Inspected, SurveyRuns, distances_from, forces_of
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.lammps_runs.script import READ
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader

Floats = NDArray[np.float64]

# Atoms of each type that are displaced, by so many Angstrom to both sides in every direction.
ATOMS_OF_A_TYPE, DISPLACEMENT = 2, 0.02
# Cutoffs to choose from, Angstrom, and what the response beyond may be of all, rms.
CUTOFFS = tuple(np.arange(3.5, 7.01, 0.25))
BEYOND = 0.03


class ForceRange(NamedTuple):
    """How far the forces reach.

    Attributes:
        cutoff: Angstrom.
        beyond: rms response of the forces beyond it over that of all.
        reached: whether what is beyond it is less than is asked for.
    """

    cutoff: float
    beyond: float
    reached: bool


def measure_range(
    runs: SurveyRuns, inspected: Inspected, start: FinishedRun, reader: TrajectoryReader
) -> ForceRange:
    """Displace some atoms of each type of an equilibrated state.

    Raises:
        FitError: LAMMPS stops.
    """
    path = start.directory / "state.dump"
    try:
        state = reader.read_states(path, 1.0)
    except TrajectoryError as error:
        raise FitError(f"{path}: {error}") from None
    chosen: list[int] = []
    for index in range(len(state.elements)):
        of_type = np.flatnonzero(state.species == index)
        places = np.linspace(0, len(of_type) - 1, min(len(of_type), ATOMS_OF_A_TYPE)).astype(int)
        chosen += [int(of_type[place]) for place in dict.fromkeys(places)]
    done = runs.run("range", _input(runs, chosen), start)
    distances, squares = [], []
    for atom in chosen:
        away = distances_from(state.positions[0], atom, state.cell, state.pbc)
        for direction in "xyz":
            names = [done.directory / f"{atom + 1}{direction}{sign}.dump" for sign in "+-"]
            plus, minus = (forces_of(name) for name in names)
            others = np.arange(len(away)) != atom
            distances.append(away[others])
            squares.append(np.sum((plus - minus) ** 2, axis=1)[others])
    return choose_cutoff(np.concatenate(distances), np.concatenate(squares))


def choose_cutoff(distances: Floats, squares: Floats) -> ForceRange:
    """The smallest cutoff that leaves a small part of the response beyond it.

    distances: (M,) Angstrom. squares: (M,) squared change of force.
    """
    total = float(squares.sum())
    if total <= 0.0:
        raise FitError(
            "no force changes if an atom is displaced: the system defines no interactions; add "
            "pair_style and pair_coeff to it"
        )
    beyond = 0.0
    for cutoff in CUTOFFS:
        beyond = float(np.sqrt(squares[distances > cutoff].sum() / total))
        if beyond < BEYOND:
            return ForceRange(float(cutoff), beyond, True)
    return ForceRange(float(CUTOFFS[-1]), beyond, False)


def _input(runs: SurveyRuns, atoms: list[int]) -> str:
    box = "yes" if runs.system.box else "no"
    lines = [
        f"# {runs.config.name}: how far forces reach. Written by lammps-trajcast fit.",
        f"include         {runs.system.include}",
        "fix             integrate all nve",
        f"read_dump       ${{start}} 0 {READ} box {box}",
        "thermo          1",
        "run             0",
    ]
    for atom in atoms:
        lines.append(f"group           moved id {atom + 1}")
        for direction in range(3):
            letter = "xyz"[direction]
            at = 0.0
            for sign, place in (("+", DISPLACEMENT), ("-", -DISPLACEMENT), ("", 0.0)):
                vector = ["0", "0", "0"]
                vector[direction] = f"{place - at:.12g}"
                lines.append(f"displace_atoms  moved move {' '.join(vector)} units box")
                at = place
                if sign:
                    lines.append("run             0 post no")
                    lines.append(
                        f"write_dump      all custom ${{out}}/{atom + 1}{letter}{sign}.dump "
                        "id type fx fy fz modify sort id format float %.17g"
                    )
        lines.append("group           moved delete")
    return "\n".join(lines) + "\n"
