"""How far forces reach: an atom is displaced, and the forces on the others change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import vesin
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lammps_trajcast.data.frames import TrajectoryError
from lammps_trajcast.fit.config import FitError
from lammps_trajcast.fit.reference import SurveyRuns, distances_from, forces_of
from lammps_trajcast.lammps_runs.runner import FinishedRun
from lammps_trajcast.lammps_runs.script import READ
from lammps_trajcast.lammps_runs.trajectory import TrajectoryReader

Floats = NDArray[np.float64]

# Atoms are bonded if they are nearer than so many times the sum of their covalent radii.
BONDED = 1.25
# Atoms of each element that are displaced, at least and at most, by so many Angstrom to both sides
# in every direction.
ATOMS_OF_AN_ELEMENT, DISPLACEMENT = (2, 12), 0.02
# Cutoffs to choose from, Angstrom, and what the response beyond may be of all, rms.
CUTOFFS = tuple(np.arange(3.5, 7.01, 0.25))
BEYOND = 0.03
# What it may be of the response to one element alone, and of that of other molecules: bonds are so
# stiff that forces between molecules are a small part of all. In water 4.5 Å, with which the
# shipped model passes its checks, leave 13 %, and 3.5 Å leave 20 %: there errors of a step
# converged to 0.014 and 0.025 instead of 0.009 and 0.016. Coulomb forces do not end: for a part no
# cutoff is longer than PART_LONGEST, Angstrom.
BEYOND_OF_PART, PART_LONGEST = 0.14, 5.0


class ForceRange(NamedTuple):
    """How far the forces reach.

    Attributes:
        cutoff: Angstrom.
        beyond: rms response of the forces beyond it over that of all.
        reached: whether what is beyond it is less than is asked for.
        between: the same of the response of other molecules; 0 if there is one molecule, or none.
    """

    cutoff: float
    beyond: float
    reached: bool
    between: float = 0.0


class Response(NamedTuple):
    """How the forces on other atoms change.

    Attributes:
        distances: (M,) from the displaced atom, Angstrom.
        squares: (M,) squared change of the force.
        elements: (M,) index of the displaced element.
        between: (M,) whether the atoms are of different molecules.
    """

    distances: Floats
    squares: Floats
    elements: NDArray[np.int64]
    between: NDArray[np.bool_]

    def beyond(self, cutoff: float, part: NDArray[np.bool_] | None = None) -> float:
        """What is beyond a cutoff, rms over that of all or of a part; 0 without any response."""
        squares = self.squares if part is None else np.where(part, self.squares, 0.0)
        total = float(squares.sum())
        return float(np.sqrt(squares[self.distances > cutoff].sum() / total)) if total else 0.0


def measure_range(
    runs: SurveyRuns,
    step_seconds: float,
    start: FinishedRun,
    reader: TrajectoryReader,
    seconds: float,
) -> ForceRange:
    """Displace some atoms of each element of an equilibrated state.

    Args:
        runs: of the reference.
        step_seconds: wall time of one evaluation of its forces.
        start: an equilibration.
        reader: of its state.
        seconds: wall time to spend, about; some atoms are displaced in any case.

    Raises:
        FitError: LAMMPS stops.
    """
    path = start.directory / "state.dump"
    try:
        state = reader.read_states(path, 1.0)
    except TrajectoryError as error:
        raise FitError(f"{path}: {error}") from None
    chosen: list[int] = []
    fits = seconds / (6.0 * step_seconds * len(state.elements))
    number = int(np.clip(fits, *ATOMS_OF_AN_ELEMENT))
    for index in range(len(state.elements)):
        of_element = np.flatnonzero(state.species == index)
        places = np.linspace(0, len(of_element) - 1, min(len(of_element), number)).astype(int)
        chosen += [int(of_element[place]) for place in dict.fromkeys(places)]
    done = runs.run("range", _input(runs, chosen), start)
    molecules = find_molecules(
        state.species, state.elements, state.positions[0], state.cell, state.pbc
    )
    found = []
    for atom in chosen:
        away = distances_from(state.positions[0], atom, state.cell, state.pbc)
        others = np.arange(len(away)) != atom
        for direction in "xyz":
            names = [done.directory / f"{atom + 1}{direction}{sign}.dump" for sign in "+-"]
            plus, minus = (forces_of(name) for name in names)
            found.append(
                Response(
                    away[others],
                    np.sum((plus - minus) ** 2, axis=1)[others],
                    np.full(len(away) - 1, state.species[atom]),
                    (molecules != molecules[atom])[others],
                )
            )
    return choose_cutoff(Response(*map(np.concatenate, zip(*found, strict=True))))


def find_molecules(
    species: NDArray[np.integer],
    elements: Sequence[str],
    positions: Floats,
    cell: Floats,
    pbc: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Number of the molecule that each atom belongs to: of those connected by lengths of bonds.

    A crystal is mostly a single one, and in a liquid of atoms each is one.

    Args:
        species: (N,) indices of the elements.
        elements: their symbols.
        positions: (N, 3) Angstrom.
        cell: (3, 3) Angstrom.
        pbc: (3,) directions that are periodic.
    """
    radii = np.array([covalent_radii[atomic_numbers[element]] for element in elements])[species]
    neighbors = vesin.NeighborList(cutoff=float(2.0 * BONDED * radii.max()), full_list=False)
    i, j, away = neighbors.compute(positions, cell, periodic=pbc, quantities="ijd")
    bonded = away < BONDED * (radii[i] + radii[j])
    size = (len(positions), len(positions))
    bonds = coo_array((np.ones(int(bonded.sum())), (i[bonded], j[bonded])), size)
    return np.asarray(connected_components(bonds, directed=False)[1], dtype=np.int64)


def choose_cutoff(found: Response) -> ForceRange:
    """The smallest cutoff that leaves a small part of the response beyond it.

    Of all, of that to each element, and of that between molecules.
    """
    if not found.squares.sum() > 0.0:
        raise FitError(
            "no force changes if an atom is displaced: the system defines no interactions; add "
            "pair_style and pair_coeff to it"
        )
    of_elements = [found.elements == element for element in np.unique(found.elements)]
    for cutoff in map(float, CUTOFFS):
        beyond, between = found.beyond(cutoff), found.beyond(cutoff, found.between)
        parts = [between, *(found.beyond(cutoff, part) for part in of_elements)]
        enough = cutoff >= PART_LONGEST or max(parts) < BEYOND_OF_PART
        if beyond < BEYOND and enough:
            return ForceRange(cutoff, beyond, True, between)
    return ForceRange(cutoff, beyond, False, between)


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
