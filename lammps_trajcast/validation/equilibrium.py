"""The sections of the report that compare both at equilibrium."""

from __future__ import annotations

from lammps_trajcast.validation.compare import ReportSection
from lammps_trajcast.validation.comparison import Comparison
from lammps_trajcast.validation.dynamics import displacement, spectrum
from lammps_trajcast.validation.structure import bonds, dihedrals, radial
from lammps_trajcast.validation.thermodynamics import energy, temperatures, waves


def equilibrium_parts(both: Comparison) -> list[ReportSection]:
    """Every section that applies to the system."""
    config = both.config
    sections = [radial(both)] if config.rdf and both.periodic else []
    sections += bonds(both) if config.bonds else []
    sections += [dihedrals(both)] if config.dihedrals else []
    sections += [spectrum(both), displacement(both), temperatures(both)]
    # The momentum of a wave says nothing of a molecule whose angular momentum is fixed.
    sections += [waves(both)] if both.periodic and not both.angular else []
    return [*sections, energy(both)]
