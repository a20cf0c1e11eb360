"""What a validation has to know of its system and its model to write LAMMPS inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lammps_trajcast.lammps_runs.paths import is_plain
from lammps_trajcast.lammps_runs.script import commands_in
from lammps_trajcast.recording.ensemble import (
    BATHS,
    CHARGES,
    CONSTRAINTS,
    INTEGRATING_BATHS,
    plain_style,
)
from lammps_trajcast.units import TIME_IN_FS
from lammps_trajcast.validation.config import SetupError

# Styles of fixes that have no place in a system, and what those begin with that have many kinds.
MOVES = INTEGRATING_BATHS | BATHS | {"deform"}
MOVING_KINDS = {"nve", "nvt", "npt", "nph", "rigid"}
# Variables of the inputs that include a system.
RESERVED = re.compile(r"out|start|model|pair|state|lower|tilted|frames\d+")


@dataclass(frozen=True)
class System:
    """What the include file of a system says, with the files that it includes.

    Attributes:
        units: "metal" or "real".
        molecular: styles of bonded interactions that it sets ("bond", "angle", …).
        kspace: whether it sets a long-range solver.
        charges: IDs of the fixes that equilibrate charges for its pair style.
        box: whether frames have to bring their box along: it follows the atoms.
        files: all files that it names and that exist, itself first.
        variables: names of those that it defines.
    """

    path: Path
    units: str
    molecular: tuple[str, ...]
    kspace: bool
    charges: tuple[str, ...]
    box: bool
    files: tuple[Path, ...]
    variables: tuple[str, ...] = ()

    @property
    def include(self) -> str:
        """Its name for an include command: from the variable `system` if no command can hold it."""
        return self.path.name if is_plain(Path(self.path.name)) else "${system}"

    @classmethod
    def read(cls, path: Path) -> System:
        """Read an include file.

        Raises:
            SetupError: the file is absent, or its units are not supported.
        """
        if not path.is_file():
            raise SetupError(
                f"{path}: no such file; name the LAMMPS input that defines units, atoms and the "
                "reference potential"
            )
        inputs, others = [path], list[Path]()
        lines: list[list[str]] = []
        for file in inputs:
            for words in commands_in(file.read_text(errors="replace")):
                named = [path.parent / word for word in words[1:] if (path.parent / word).is_file()]
                is_include = words[:1] == ["include"]
                (inputs if is_include else others).extend(
                    name for name in named if name not in inputs
                )
                lines.append(words)
        _check_that_nothing_moves(path, lines)
        variables = tuple(
            words[1]
            for words in lines
            if words[0] == "variable" and words[2:] and words[2] != "delete"
        )
        given = set() if is_plain(Path(path.name)) else {"system"}
        for name in variables:
            if RESERVED.fullmatch(name) or name in given:
                raise SetupError(
                    f"{path}: defines the variable '{name}', which the inputs that include it "
                    "have, too: give it another name"
                )
        commands = {words[0]: words[1:] for words in lines}
        units = " ".join(commands.get("units", ["lj"]))
        if "$" in units:
            raise SetupError(
                f"{path}: 'units {units}' is read without LAMMPS: write 'units metal' or 'units "
                "real'"
            )
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
                if words[:1] == ["fix"] and words[3:] and words[3].startswith(CHARGES)
            ),
            box=set("".join(commands.get("boundary", ["p"]))) != {"p"},
            files=tuple(dict.fromkeys([*inputs, *others])),
            variables=variables,
        )


def _check_that_nothing_moves(path: Path, lines: list[list[str]]) -> None:
    """Raise SetupError for what would act beside the integrator and the thermostat of the runs."""
    for words in lines:
        line = " ".join(words)
        if words[:1] in (["run"], ["minimize"]) and words[1:2] != ["0"]:
            raise SetupError(
                f"{path}: has the line '{line}'; it is to define units, atoms and the reference "
                "potential and no more: remove it"
            )
        if words[:1] == ["log"]:
            raise SetupError(f"{path}: has the line '{line}'; every run has its own log: remove it")
        style = plain_style(words[3]) if words[:1] == ["fix"] and len(words) > 3 else ""
        if style in CONSTRAINTS:
            raise SetupError(
                f"{path}: has the line '{line}'; a network cannot keep constraints: make the "
                "molecules flexible, and remove it"
            )
        if style in MOVES or style.partition("/")[0] in MOVING_KINDS:
            raise SetupError(
                f"{path}: has the line '{line}'; integrator and thermostat are added where they "
                "are needed: remove it"
            )


@dataclass(frozen=True)
class Model:
    """What the inputs have to know of a model file.

    Attributes:
        timestep: fs.
        cutoff: Angstrom.
        angular: whether it keeps the angular momentum.
    """

    path: Path
    fingerprint: str
    timestep: float
    cutoff: float
    angular: bool
