"""Strained cells: what a network has to see to know the stress of its system."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lammps_trajcast.lammps_runs.errors import FailedRunError
from lammps_trajcast.lammps_runs.session import LammpsSession

ASK = (
    'print "TRAJCAST_BOX $(xlo:%.17g) $(xhi:%.17g) $(ylo:%.17g) $(yhi:%.17g) $(zlo:%.17g) '
    '$(zhi:%.17g) $(xy:%.17g) $(xz:%.17g) $(yz:%.17g)"'
)


@dataclass(frozen=True)
class Box:
    """A simulation box.

    Attributes:
        low, high: corners, in the units of the run.
        tilts: xy, xz, yz.
        periodic: along x, y and z.
        triclinic: whether LAMMPS can change the tilts.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    tilts: tuple[float, float, float]
    periodic: tuple[bool, bool, bool]
    triclinic: bool

    @classmethod
    def of(cls, session: LammpsSession) -> Box:
        """Ask LAMMPS for its box.

        Raises:
            FailedRunError: it does not say.
        """
        text = "\n".join(session.run(["info system", ASK]))
        numbers = re.search(r"^TRAJCAST_BOX (.+)$", text, re.MULTILINE)
        boundaries = re.search(r"^Boundaries\s*=\s*(\S+) (\S+) (\S+)", text, re.MULTILINE)
        if numbers is None or boundaries is None:
            raise FailedRunError("LAMMPS does not tell its simulation box")
        xlo, xhi, ylo, yhi, zlo, zhi, xy, xz, yz = map(float, numbers[1].split())
        x, y, z = (flags == "p,p" for flags in boundaries.groups())
        return cls(
            low=(xlo, ylo, zlo),
            high=(xhi, yhi, zhi),
            tilts=(xy, xz, yz),
            periodic=(x, y, z),
            triclinic=re.search(r"^Triclinic box", text, re.MULTILINE) is not None,
        )

    @classmethod
    def from_json(cls, text: str) -> Box:
        """Return what :meth:`as_json` has written."""
        given: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            name: tuple(x) if isinstance(x, list) else x for name, x in given.items()
        }
        return cls(**values)

    def as_json(self) -> str:
        """In one line, with all digits."""
        return json.dumps(asdict(self))

    def strained(self, strains: tuple[float, float, float, float, float, float]) -> Box:
        """Return the box with edges that are multiplied by one plus a strain.

        Args:
            strains: xx, yy, zz, xy, xz, yz: the upper triangle of the deformation gradient but for
                its one. Those along directions that are not periodic, and shears of a box that has
                no tilts, are left out.
        """
        ex, ey, ez = (
            strain if periodic else 0.0
            for strain, periodic in zip(strains[:3], self.periodic, strict=True)
        )
        px, py, pz = self.periodic
        exy, exz, eyz = (
            strain if self.triclinic and both else 0.0
            for strain, both in zip(strains[3:], (px and py, px and pz, py and pz), strict=True)
        )
        lx, ly, lz = (high - low for low, high in zip(self.low, self.high, strict=True))
        xy, xz, yz = self.tilts
        edges = (lx * (1.0 + ex), ly * (1.0 + ey), lz * (1.0 + ez))
        return Box(
            low=self.low,
            high=(self.low[0] + edges[0], self.low[1] + edges[1], self.low[2] + edges[2]),
            tilts=(
                xy * (1.0 + ex) + ly * exy,
                xz * (1.0 + ex) + yz * exy + lz * exz,
                yz * (1.0 + ey) + lz * eyz,
            ),
            periodic=self.periodic,
            triclinic=self.triclinic,
        )

    def command(self) -> str:
        """The command that gives LAMMPS this box, and moves atoms with it."""
        words = [
            f"{name} final {low:.17g} {high:.17g}"
            for name, low, high, periodic in zip(
                "xyz", self.low, self.high, self.periodic, strict=True
            )
            if periodic
        ]
        if self.triclinic:
            pairs = ((0, 1), (0, 2), (1, 2))
            words += [
                f"{name} final {tilt:.17g}"
                for name, tilt, (i, j) in zip(("xy", "xz", "yz"), self.tilts, pairs, strict=True)
                if self.periodic[i] and self.periodic[j]
            ]
        return f"change_box all {' '.join(words)} remap units box"


def draw_strains(largest: float, seed: int) -> tuple[float, float, float, float, float, float]:
    """Return six strains between plus and minus the largest one."""
    xx, yy, zz, xy, xz, yz = np.random.default_rng(seed).uniform(-largest, largest, 6).tolist()
    return xx, yy, zz, xy, xz, yz
