"""The sections of the report that compare both at equilibrium."""

from __future__ import annotations

from lammps_trajcast.validation.compare import ReportSection
from lammps_trajcast.validation.comparison import Comparison
from lammps_trajcast.validation.dynamics import displacement, spectrum
from lammps_trajcast.validation.structure import bonds, dihedrals, radial
from lammps_trajcast.validation.thermodynamics import energy, temperatures


def equilibrium_parts(both: Comparison) -> list[ReportSection]:
    """Every section that applies to the system."""
    config = both.config
    sections = [radial(both)] if config.rdf and both.periodic else []
    sections += bonds(both) if config.bonds else []
    sections += [dihedrals(both)] if config.dihedrals else []
    return [*sections, spectrum(both), displacement(both), temperatures(both), energy(both)]
