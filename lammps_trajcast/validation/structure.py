"""Sections of structure: g(r), bonds and the angles between them, dihedral angles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.dynamics import first_peak
from lammps_trajcast.analysis.structure import (
    Histogram,
    bond_distributions,
    dihedral_distribution,
    find_bonds,
    radial_distributions,
)
from lammps_trajcast.analysis.uncertainty import jackknife
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    Check,
    Plot,
    ReportSection,
    compare_curves,
    own_halves,
)
from lammps_trajcast.validation.comparison import Comparison, curve_blocks, curve_data, visible

Floats = NDArray[np.float64]


def radial(both: Comparison) -> ReportSection:
    """g(r) of every pair of elements."""
    settings = both.config.rdf
    assert settings is not None

    def of(block: Trajectory) -> dict[str, Histogram]:
        return radial_distributions(
            block.positions,
            block.cell,
            block.species,
            block.elements,
            settings.r_max,
            settings.bin_width,
        )

    x, reference, model = curve_blocks(*[[of(block) for block in side] for side in both.blocks()])
    checks = [
        compare_curves(
            f"g(r) {pair}",
            reference[pair],
            model[pair],
            lambda g: float(np.abs(g - 1.0).sum()),
            both.tolerances.rdf,
            both.splits,
        )
        for pair in reference
    ]
    checks += [
        _peak(pair, x[pair], reference[pair], model[pair], both)
        for pair in reference
        if reference[pair].mean.max() > 0.0
    ]
    figure = plots.curves(
        {pair: visible(x[pair], reference[pair], model[pair]) for pair in reference},
        "r / Å",
        "g(r)",
    )
    return ReportSection(
        "Radial distribution functions",
        f"Integrated |g − g_ref| over the integral of |g_ref − 1|, up to {settings.r_max:g} Å.",
        checks,
        [Plot("rdf", figure, "Radial distribution functions; gray band: spread of blocks")],
        curve_data(x, reference, model),
        limits=both.independent([run.energy for run in both.model]),
    )


def _peak(
    pair: str, x: NDArray[np.float64], reference: Blocks, model: Blocks, both: Comparison
) -> Check:
    """The position of the first peak."""

    def shift(known: NDArray[np.float64], found: NDArray[np.float64]) -> float:
        return first_peak(x, found) - first_peak(x, known)

    known, found = first_peak(x, reference.mean), first_peak(x, model.mean)
    error = jackknife(shift, reference.values, model.values)
    each = Blocks(np.array([first_peak(x, g) for g in reference.values]))
    return Check(
        f"g(r) {pair}, first peak",
        value=abs(found - known),
        unit="Å",
        limit=both.tolerances.rdf_peak,
        reference=f"{known:.4f} Å",
        model=f"{found:.4f} Å",
        error=error.size,
        freedom=error.freedom,
        own=own_halves(each, both.splits, 1.0),
    )


def bonds(both: Comparison) -> list[ReportSection]:
    """Bond lengths, angles between bonds, and whether bonds changed."""
    cutoffs = both.config.bond_cutoffs
    start = _degrees(both, both.first.positions[0])
    lengths: list[list[dict[str, Histogram]]] = [[], []]
    angles: list[list[dict[str, Histogram]]] = [[], []]
    faults: list[list[int]] = [[], []]
    frames: list[list[int]] = [[], []]
    for side, blocks in enumerate(both.blocks()):
        for block in blocks:
            found = [
                find_bonds(x, block.cell, block.pbc, block.species, cutoffs)
                for x in block.positions
            ]
            atoms = len(block.species)
            faults[side].append(sum(not np.array_equal(b.degrees(atoms), start) for b in found))
            frames[side].append(len(found))
            of_block = bond_distributions(found, block.species, block.elements, cutoffs)
            lengths[side].append(of_block[0])
            angles[side].append(of_block[1])
    parts = [
        _densities(both, "Bond lengths", "bonds", "length / Å", *lengths),
        _densities(both, "Angles between bonds", "angles", "angle / degrees", *angles),
    ]
    if both.config.permanent_bonds:
        parts[0].checks.append(_faults(faults, frames, both.tolerances.faulty_frames))
    return parts


def _faults(faults: list[list[int]], frames: list[list[int]], limit: float | None) -> Check:
    """Frames with changed bonds; faults, frames: numbers in each block, of reference and model.

    Where the bonds of the reference never change, a single change is a fault, not chance.
    """
    shares = [np.divide(*side) for side in zip(faults, frames, strict=True)]
    known, found = (
        sum(fault) / max(sum(count), 1) for fault, count in zip(faults, frames, strict=True)
    )
    error = None
    if known > 0.0:
        error = jackknife(lambda of_reference, of_model: float(of_model - of_reference), *shares)
    return Check(
        "frames in which an atom has another number of bonds",
        value=found,
        unit="%",
        limit=None if limit is None else limit + known,
        reference=f"{sum(faults[0])} of {sum(frames[0])}",
        model=f"{sum(faults[1])} of {sum(frames[1])}",
        error=error.size if error else None,
        freedom=error.freedom if error else float("inf"),
    )


def _degrees(both: Comparison, positions: Floats) -> NDArray[np.int64]:
    first = both.first
    bonds = find_bonds(positions, first.cell, first.pbc, first.species, both.config.bond_cutoffs)
    return bonds.degrees(len(first.species))


def dihedrals(both: Comparison) -> ReportSection:
    """Distributions of the dihedral angles that the configuration names."""

    def of(block: Trajectory) -> dict[str, Histogram]:
        return {
            name: dihedral_distribution(
                block.positions,
                block.cell,
                block.pbc,
                tuple(atom - 1 for atom in atoms),  # type: ignore[arg-type]
            )
            for name, atoms in both.config.dihedrals.items()
        }

    sides = [[of(block) for block in side] for side in both.blocks()]
    return _densities(both, "Dihedral angles", "dihedrals", "angle / degrees", *sides)


def _densities(
    both: Comparison,
    title: str,
    slug: str,
    x_label: str,
    of_reference: list[dict[str, Histogram]],
    of_model: list[dict[str, Histogram]],
) -> ReportSection:
    x, reference, model = curve_blocks(of_reference, of_model)
    checks = [
        compare_curves(
            f"{title.lower()}, {name}",
            reference[name],
            model[name],
            # Half of the integral: the share of the density that lies elsewhere.
            lambda _, width=float(x[name][1] - x[name][0]): 2.0 / width,  # type: ignore[misc]
            both.tolerances.distribution,
            both.splits,
        )
        for name in reference
    ]
    shown = {name: visible(x[name], reference[name], model[name]) for name in reference}
    figure = plots.curves(shown, x_label, "density")
    return ReportSection(
        title,
        "Half of the integrated |p − p_ref|: the share of the density that lies elsewhere.",
        checks,
        [Plot(slug, figure, f"{title}; gray band: spread from block to block")],
        curve_data(x, reference, model),
        limits=both.independent([run.energy for run in both.model]),
    )
