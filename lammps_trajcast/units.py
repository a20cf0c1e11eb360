"""Units and constants, of LAMMPS's unit styles metal and real and of this package.

Inside the package lengths are in Angstrom, times in fs, masses in g/mol.
"""

from __future__ import annotations

from typing import Literal

Units = Literal["metal", "real"]

TIME_IN_FS: dict[str, float] = {"metal": 1000.0, "real": 1.0}
"""One unit of time (metal: ps) in fs."""

VELOCITY_IN_ANGSTROM_PER_FS: dict[str, float] = {"metal": 1e-3, "real": 1.0}
"""One unit of velocity (metal: Angstrom/ps) in Angstrom/fs."""

ASE_VELOCITY = 0.09822694788464063
"""ASE's unit of velocity, Angstrom sqrt(eV/u), in Angstrom/fs."""

BOLTZMANN: dict[str, float] = {"metal": 8.617333262e-5, "real": 1.987204259e-3}
"""Boltzmann's constant in one unit of energy (metal: eV, real: kcal/mol) per K."""

BOLTZMANN_PER_MASS = 8.31446261815324e-7
"""Boltzmann's constant over 1 g/mol, in (Angstrom/fs)^2 per K."""

KCAL_PER_EV = 23.060547830619026
"""One eV in kcal/mol."""

MILLI_EV: dict[str, float] = {"metal": 1e-3, "real": 1e-3 * KCAL_PER_EV}
"""One meV in one unit of energy."""

LAMMPS_ORDER = [0, 1, 2, 5, 4, 3]
"""Of an ASE stress xx, yy, zz, yz, xz, xy: places of xx, yy, zz, xy, xz, yz."""

ENERGY_IN_KCAL: dict[str, float] = {"metal": KCAL_PER_EV, "real": 1.0}
"""One unit of energy in kcal/mol."""

PRESSURE_TIMES_VOLUME: dict[str, float] = {"metal": 1.6021765e6, "real": 68568.415}
"""LAMMPS's unit of energy over Angstrom^3 in its unit of pressure (metal: bar, real: atm)."""
