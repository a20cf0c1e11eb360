"""Sections of thermodynamics: temperatures and potential energy, and their fluctuations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.thermal import (
    canonical_fluctuation,
    kinetic_temperatures,
    long_waves,
    wave_temperatures,
)
from lammps_trajcast.analysis.uncertainty import Error, combined, deviation_error, mean_error
from lammps_trajcast.units import BOLTZMANN
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    CHANCE,
    Check,
    Plot,
    ReferenceSelfCheck,
    ReportSection,
    own_halves,
)
from lammps_trajcast.validation.comparison import Comparison, Production, curve_data

Floats = NDArray[np.float64]

# Waves are long that are longer than so much of the longest.
LONG_WAVES = 0.5


def temperatures(both: Comparison) -> ReportSection:
    """Mean temperature and its fluctuation, of all atoms and of each element."""
    target = both.temperature
    of_reference, samples = (
        np.concatenate([run.temperature for run in side]) for side in (both.reference, both.model)
    )
    expected = canonical_fluctuation(target, both.shares)
    ratio = float(samples.std()) / expected
    error = deviation_error([run.temperature for run in both.model], both.num_blocks)
    checks = [
        _temperature_check(
            "temperature",
            [[run.temperature for run in side] for side in (both.reference, both.model)],
            both,
            both.tolerances.temperature,
        ),
        Check(
            "temperature, fluctuation against the canonical",
            value=abs(ratio - 1.0),
            unit="%",
            limit=both.tolerances.fluctuation,
            reference=f"{of_reference.std():.3g} K, canonical {expected:.3g} K",
            model=f"{samples.std():.3g} K",
            error=ratio * error.size,
            freedom=error.freedom,
            own=_own_fluctuation(both),
        ),
    ]
    lines = {"all": (of_reference, samples)}
    for element, atoms in both.groups(both.first).items():
        if element == "all":
            continue

        def of(run: Production, atoms: NDArray[np.int64] = atoms) -> Floats:
            blocks = [
                kinetic_temperatures(
                    block.velocities[:, atoms], block.masses[atoms], both.shares[atoms]
                )
                for block in run.frames
            ]
            return np.concatenate(blocks)

        sides = [[of(run) for run in side] for side in (both.reference, both.model)]
        checks.append(
            _temperature_check(
                f"temperature of {element}", sides, both, both.tolerances.element_temperature
            )
        )
        lines[element] = (np.concatenate(sides[0]), np.concatenate(sides[1]))
    figure = plots.distributions(lines, "temperature / K", dict.fromkeys(lines, target))
    return ReportSection(
        "Temperature",
        f"Thermostat at {target:g} K. Equipartition: each element with its share in "
        "the degrees of freedom that the fixed momentum leaves.",
        checks,
        [Plot("temperature", figure, "Distribution of the kinetic temperature")],
        limits=both.independent([run.temperature for run in both.model]),
    )


def waves(both: Comparison) -> ReportSection:
    """Temperature of the longest waves that the cell holds."""
    first = both.first
    multiples, lengths = long_waves(first.cell, LONG_WAVES)
    # Waves of one length, within what the cell of a crystal deviates from its symmetry.
    shells = np.flatnonzero(np.diff(lengths, prepend=np.inf) < -0.01 * lengths[0])

    def of(run: Production) -> tuple[Floats, list[Floats]]:
        """Temperature of all these waves in each frame, and of each shell in each block."""
        frames, blocks = [], []
        for block in run.frames:
            kinetic, share = wave_temperatures(
                block.positions, block.velocities, block.masses, block.cell, multiples
            )
            frames.append(kinetic.sum(axis=1) / share.sum(axis=1))
            of_waves = [np.add.reduceat(each.sum(axis=0), shells) for each in (kinetic, share)]
            blocks.append(of_waves[0] / of_waves[1])
        return np.concatenate(frames), blocks

    runs = [[of(run) for run in side] for side in (both.reference, both.model)]
    sides = [[frames for frames, _ in side] for side in runs]
    of_shells = [Blocks(np.array([block for _, run in side for block in run])) for side in runs]
    check = _wave_check(
        f"temperature of waves longer than {LONG_WAVES * lengths[0]:.3g} Å",
        sides,
        both,
        # Three directions of each wave, as sine and cosine; half of the fluctuation is slow.
        persistent=float(np.sqrt(1.0 / (6.0 * len(multiples)))),
    )
    name = "by wave vector"
    x = 1.0 / lengths[shells]
    figure = plots.curves(
        {name: (x, of_shells[0], of_shells[1])}, "1 / wavelength / Å⁻¹", "temperature / K"
    )
    return ReportSection(
        "Long waves",
        f"Equipartition by wave vector: |Σ m v exp(ikr)|² of the {len(lengths)} wave vectors ±k "
        f"whose waves are longer than half the longest, {lengths[0]:.3g} Å. Pairs of atoms within "
        "the cutoff do not see them.",
        [check],
        [Plot("waves", figure, "Temperature of waves of one length; gray band: spread of blocks")],
        curve_data({name: x}, {name: of_shells[0]}, {name: of_shells[1]}),
        limits=both.independent(sides[1]),
    )


def _means(
    sides: Sequence[Sequence[Floats]], both: Comparison
) -> tuple[tuple[float, Error], tuple[float, Error]]:
    """Mean of the series (L,) of all runs of reference and model, with its error."""
    known, found = (
        (float(np.concatenate(side).mean()), mean_error(side, both.num_blocks)) for side in sides
    )
    return known, found


def _temperature_check(
    name: str, sides: Sequence[Sequence[Floats]], both: Comparison, limit: float | None
) -> Check:
    """Mean of series (L,) of runs of reference and model, K, beside the thermostat's."""
    target = both.temperature
    known, found = _means(sides, both)
    return Check(
        name,
        value=abs(found[0] / target - 1.0),
        unit="%",
        limit=limit,
        reference=f"{known[0]:.4g} ± {known[1].size:.2g} K",
        model=f"{found[0]:.4g} ± {found[1].size:.2g} K",
        error=found[1].size / target,
        freedom=found[1].freedom,
        own=ReferenceSelfCheck(
            abs(known[0] / target - 1.0),
            "beside the thermostat's",
            error=known[1].half_width / CHANCE / target,
        ),
    )


def _wave_check(
    name: str, sides: Sequence[Sequence[Floats]], both: Comparison, persistent: float
) -> Check:
    """Mean temperature of waves beside that of the reference, from the same start.

    Waves of a crystal keep what a start gave them for tens or hundreds of picoseconds. It is off by
    chance, in the reference and in the model alike, however long such a run seems to be by its
    autocorrelation. What counts is whether the model takes or gives more than the reference.

    persistent: standard deviation, relative, of what a start gives them.
    """
    target = both.temperature
    known, found = _means(sides, both)
    error = combined([known[1], found[1]])
    of_reference = known[1].half_width / CHANCE / target
    return Check(
        name,
        value=abs(found[0] - known[0]) / target,
        unit="%",
        limit=both.tolerances.wave_temperature,
        reference=f"{known[0]:.4g} ± {known[1].size:.2g} K",
        model=f"{found[0]:.4g} ± {found[1].size:.2g} K",
        error=error.size / target,
        freedom=error.freedom,
        own=ReferenceSelfCheck(
            abs(known[0] / target - 1.0),
            "beside the thermostat's",
            error=float(np.hypot(of_reference, persistent)),
        ),
    )


def _own_fluctuation(both: Comparison) -> ReferenceSelfCheck:
    """The fluctuation of the reference's temperature beside the canonical one."""
    samples = np.concatenate([run.temperature for run in both.reference])
    expected = canonical_fluctuation(both.temperature, both.shares)
    error = deviation_error([run.temperature for run in both.reference], both.num_blocks)
    return ReferenceSelfCheck(
        abs(float(samples.std()) / expected - 1.0),
        "temperature beside the canonical",
        error=error.half_width / CHANCE,
    )


def _own_energy_fluctuation(both: Comparison) -> ReferenceSelfCheck:
    """What is known of the fluctuation of the reference's potential energy.

    Its halves agree, and the kinetic energy, with which it exchanges energy, fluctuates as it
    should.
    """
    parts = np.array(
        [
            part.var()
            for run in both.reference
            for part in np.array_split(run.energy, len(run.frames))
        ]
    )
    halves = own_halves(Blocks(np.sqrt(parts)), both.splits, float(np.sqrt(parts.mean())))
    return max(
        [_own_fluctuation(both), *([halves] if halves else [])],
        key=lambda own: (not own.by_chance, own.value),
    )


def energy(both: Comparison) -> ReportSection:
    """Potential energy of the frames, evaluated with the reference."""
    atoms = len(both.first.species)
    thermal = BOLTZMANN[both.units] * both.temperature
    energies = [[run.energy for run in side] for side in (both.reference, both.model)]
    of_reference, runs = ([series / atoms for series in side] for side in energies)
    known, found = (float(np.concatenate(side).mean()) for side in (of_reference, runs))
    error = combined([mean_error(side, both.num_blocks) for side in (of_reference, runs)])
    fluctuation = combined([deviation_error(side, both.num_blocks) for side in energies])
    number = both.num_blocks
    parts = [part.mean() for run in of_reference for part in np.array_split(run, number)]
    known_fluctuation, found_fluctuation = (
        float(np.sqrt(np.mean([series.var() for series in side]))) for side in energies
    )
    ratio = found_fluctuation / known_fluctuation if known_fluctuation > 0.0 else float("inf")
    checks = [
        Check(
            "mean potential energy per atom",
            value=abs(found - known) / thermal,
            unit="kT",
            limit=both.tolerances.energy,
            reference=f"{known:.6g}",
            model=f"{found:.6g} ({(found - known) / thermal:+.3g} kT)",
            error=error.size / thermal,
            freedom=error.freedom,
            own=own_halves(Blocks(np.array(parts)), both.splits, thermal),
        ),
        Check(
            "fluctuation of the potential energy",
            value=abs(ratio - 1.0),
            unit="%",
            limit=both.tolerances.fluctuation,
            reference=f"{known_fluctuation / thermal:.4g} kT",
            model=f"{found_fluctuation / thermal:.4g} kT",
            error=ratio * fluctuation.size,
            freedom=fluctuation.freedom,
            own=_own_energy_fluctuation(both),
        ),
    ]
    spacing = both.plan.every * both.plan.horizon * 1e-3

    def curve(values: Floats) -> tuple[Floats, Floats]:
        times: Floats = spacing * np.arange(1.0, len(values) + 1.0)
        return times, (values - known) / thermal

    over_time = plots.series(
        {
            "over time": [
                ("reference", *curve(of_reference[0])),
                *((f"model, run {k + 1}", *curve(run)) for k, run in enumerate(runs)),
            ]
        },
        "time / ps",
        "(E − mean of the reference) / (N kT)",
    )
    two = (curve(np.concatenate(of_reference))[1], curve(np.concatenate(runs))[1])
    histogram = plots.distributions({"distribution": two}, "(E − E_ref) / (N kT)", {})
    return ReportSection(
        "Potential energy",
        "Frames of both, evaluated with the reference potential by LAMMPS's rerun.",
        checks,
        [
            Plot("energy_time", over_time, "Potential energy over time"),
            Plot("energy_distribution", histogram, "Distribution of the potential energy"),
        ],
        limits=both.independent(runs),
    )
