"""Which of the fixes that a script has left on belong to which part of a recording."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.lammps_runs.state import Fix

# Styles that integrate and keep a temperature or pressure, or only the latter.
INTEGRATING_BATHS = {"nvt", "npt", "nph", "gld"}
BATHS = {
    "langevin", "gle", "momentum", "press/berendsen", "recenter", "temp/berendsen", "temp/csld",
    "temp/csvr", "temp/rescale",
}  # fmt: skip
NO_THERMOSTATS = {"momentum", "press/berendsen", "recenter"}
# Thermostats that give every atom noise of its own; the others scale all velocities alike.
LOCAL_BATHS = {"langevin", "gle", "gld", "temp/csld"}
# Place of the seed among the words after the style.
SEEDS = {"langevin": 3, "temp/csvr": 3, "temp/csld": 3, "gle": 3, "gld": 3}
# Constraints: on all the time, and defined after what moves the atoms.
CONSTRAINTS = {"shake", "rattle"}
# Part of the force field, or of how atoms are described.
FORCE_FIELD = {
    "cmap", "drude", "property/atom", "store/state",
}  # fmt: skip
# The same: they equilibrate charges.
CHARGES = ("acks2/", "qeq/", "qtpie/")
# Output only.
OUTPUT = {"print", "vector"}

ACCELERATORS = re.compile(r"/(omp|opt|intel|kk|gpu)(/(host|device))?$")


def plain_style(style: str) -> str:
    """Return the style without the suffix of an accelerator package."""
    return ACCELERATORS.sub("", style)


def with_seed(command: str, number: int) -> str:
    """Return a fix command with a random seed of its own for the segment of this number.

    With one seed for all, every segment would get the same noise, which draws trajectories
    toward each other.
    """
    words = command.split()
    place = SEEDS.get(plain_style(words[3]))
    if words[0] != "fix" or place is None:
        return command
    place += 4
    seed = int(words[place]) + 7919 * number
    words[place] = str((seed - 1) % 900_000_000 + 1)
    return " ".join(words)


@dataclass(frozen=True)
class Ensemble:
    """The fixes of a script, sorted.

    Attributes:
        moving: what moves atoms between segments, with its baths and constraints, in their order.
        output: what only prints.
    """

    moving: list[Fix]
    output: list[Fix]

    @property
    def global_bath(self) -> Fix | None:
        """A thermostat that scales all velocities alike, if there is no other kind.

        It leaves the modes of a crystal in the phases, and with the shares of the energy, that they
        started with: segments with it between them are not independent.
        """
        baths = [
            fix
            for fix in self.moving
            if plain_style(fix.style) in INTEGRATING_BATHS | BATHS - NO_THERMOSTATS
        ]
        if any(plain_style(fix.style) in LOCAL_BATHS for fix in baths):
            return None
        return baths[0] if baths else None

    @property
    def barostat(self) -> Fix | None:
        """What changes the cell, if something does."""
        styles = {"npt", "nph", "press/berendsen"}
        return next((fix for fix in self.moving if plain_style(fix.style) in styles), None)

    def start(self) -> list[str]:
        """Commands that leave only what belongs to the force field."""
        return [f"unfix {fix.name}" for fix in [*self.output, *reversed(self.moving)]]

    def bath_on(self, number: int) -> list[str]:
        """Commands that bring back the script's own fixes, for the segment of this number."""
        return [with_seed(line, number) for fix in self.moving for line in fix.commands]

    def bath_off(self) -> list[str]:
        """Commands that take them away again."""
        return [f"unfix {fix.name}" for fix in reversed(self.moving)]

    def nve_on(self) -> list[str]:
        """Commands for constant energy, with the constraints."""
        constraints = [line for fix in self._constraints for line in fix.commands]
        return ["fix trajcast_record_nve all nve", *constraints]

    def nve_off(self) -> list[str]:
        """Commands that end it."""
        constraints = [f"unfix {fix.name}" for fix in reversed(self._constraints)]
        return [*constraints, "unfix trajcast_record_nve"]

    @property
    def _constraints(self) -> list[Fix]:
        return [fix for fix in self.moving if plain_style(fix.style) in CONSTRAINTS]


def sort_fixes(fixes: list[Fix], keep: list[str]) -> Ensemble:
    """Tell thermostats, integrators, constraints and output from each other.

    Args:
        fixes: all that the script has left on.
        keep: names of those that stay on all the time although their style is none that belongs to
            the force field.

    Raises:
        DatasetError: a fix is of no known kind, or nothing keeps the temperature.
    """
    moving: list[Fix] = []
    output: list[Fix] = []
    bath = integrates = False
    for fix in fixes:
        style = plain_style(fix.style)
        if fix.name in keep or style in FORCE_FIELD or style.startswith(CHARGES):
            continue
        if style.startswith("ave/") or style in OUTPUT:
            output.append(fix)
            continue
        if style not in {"nve", *INTEGRATING_BATHS, *BATHS, *CONSTRAINTS}:
            raise DatasetError(
                f"fix {fix.name} ({fix.style}) is neither a thermostat, nor a barostat, nor part "
                "of the force field: what it does to the atoms would be learned. End the script "
                f"with 'unfix {fix.name}', or write --keep {fix.name} to leave it on"
            )
        if not fix.commands:
            raise DatasetError(
                f"the command of fix {fix.name} is not in the output of LAMMPS; leave 'echo' out "
                "of the script"
            )
        moving.append(fix)
        bath |= style in INTEGRATING_BATHS | BATHS - {"momentum", "recenter"}
        integrates |= style in {"nve", *INTEGRATING_BATHS} and fix.group == "all"
    absent = sorted(set(keep) - {fix.name for fix in fixes})
    if absent:
        raise DatasetError(
            f"--keep {absent[0]}: the script leaves no fix of that name on; write the ID of a fix "
            "that is on at its end, or leave --keep out"
        )
    if not integrates:
        raise DatasetError(
            "the script leaves no integrator on for all atoms; a network moves all of them: end "
            "it with fix nve (and a thermostat) or fix nvt for group all"
        )
    if not bath:
        raise DatasetError(
            "the script leaves no thermostat on, but one has to run between the segments to make "
            "them independent; end the script with fix langevin"
        )
    return Ensemble(moving, output)
