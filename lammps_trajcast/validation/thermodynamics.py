"""Sections of thermodynamics: temperatures and potential energy, and their fluctuations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.thermal import (
    canonical_fluctuation,
    fluctuation_error,
    kinetic_temperatures,
)
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    Check,
    Own,
    Part,
    Plot,
    own_halves,
    with_error,
)
from lammps_trajcast.validation.comparison import BOLTZMANN, Comparison, Production, pooled
from lammps_trajcast.validation.trajectory import Trajectory

Floats = NDArray[np.float64]


def temperatures(both: Comparison) -> Part:
    """Mean temperature and its fluctuation, of all atoms and of each element."""
    target = both.temperature
    known, found = (
        pooled([run.temperature for run in side], both.plan.blocks)
        for side in (both.reference, both.model)
    )
    of_reference, samples = (
        np.concatenate([run.temperature for run in side]) for side in (both.reference, both.model)
    )
    expected = canonical_fluctuation(target, both.shares)
    itself = _own_fluctuation(both)
    thermostat = "beside the thermostat's"
    checks = [
        Check(
            "temperature",
            value=abs(float(found.mean) / target - 1.0),
            unit="%",
            limit=both.tolerances.temperature,
            reference=with_error(known, "K"),
            model=with_error(found, "K"),
            noise=float(found.error) / target,
            own=Own(
                abs(float(known.mean) / target - 1.0),
                thermostat,
                noise=float(known.error) / target,
            ),
        ),
        Check(
            "temperature, fluctuation against the canonical",
            value=abs(float(samples.std()) / expected - 1.0),
            unit="%",
            limit=both.tolerances.fluctuation,
            reference=f"{of_reference.std():.3g} K, canonical {expected:.3g} K",
            model=f"{samples.std():.3g} K",
            noise=fluctuation_noise(both.model),
            own=itself,
        ),
    ]
    lines = {"all": (of_reference, samples)}
    for element, atoms in both.groups(both.first).items():
        if element == "all":
            continue

        def of(block: Trajectory, atoms: NDArray[np.int64] = atoms) -> Floats:
            return kinetic_temperatures(
                block.velocities[:, atoms], block.masses[atoms], both.shares[atoms]
            )

        sides = [[of(block) for block in side] for side in both.blocks()]
        means = [Blocks(np.array([each.mean() for each in side])) for side in sides]
        checks.append(
            Check(
                f"temperature of {element}",
                value=abs(float(means[1].mean) / target - 1.0),
                unit="%",
                limit=both.tolerances.element_temperature,
                reference=with_error(means[0], "K"),
                model=with_error(means[1], "K"),
                noise=float(means[1].error) / target,
                own=Own(
                    abs(float(means[0].mean) / target - 1.0),
                    thermostat,
                    noise=float(means[0].error) / target,
                ),
            )
        )
        lines[element] = (np.concatenate(sides[0]), np.concatenate(sides[1]))
    figure = plots.distributions(lines, "temperature / K", dict.fromkeys(lines, target))
    return Part(
        "Temperature",
        f"Thermostat at {target:g} K. Equipartition: each element with its share in "
        "the degrees of freedom that the fixed momentum leaves.",
        checks,
        [Plot("temperature", figure, "distribution of the kinetic temperature")],
    )


def _own_fluctuation(both: Comparison) -> Own:
    """The fluctuation of the reference's temperature beside the canonical one."""
    samples = np.concatenate([run.temperature for run in both.reference])
    expected = canonical_fluctuation(both.temperature, both.shares)
    return Own(
        abs(float(samples.std()) / expected - 1.0),
        "temperature beside the canonical",
        noise=fluctuation_noise(both.reference),
    )


def _own_energy_fluctuation(both: Comparison) -> Own:
    """What is known of the fluctuation of the reference's potential energy: that its halves
    agree, and that what it exchanges energy with, the kinetic energy, fluctuates as it should.
    """
    parts = np.array(
        [
            part.var()
            for run in both.reference
            for part in np.array_split(run.energy, both.plan.blocks)
        ]
    )
    halves = own_halves(Blocks(np.sqrt(parts)), both.splits, float(np.sqrt(parts.mean())))
    return max(
        [_own_fluctuation(both), *([halves] if halves else [])],
        key=lambda own: (not own.by_chance, own.value),
    )


def energy(both: Comparison) -> Part:
    """Potential energy of the frames, evaluated with the reference."""
    atoms = len(both.first.species)
    thermal = BOLTZMANN[both.units] * both.temperature
    of_reference, runs = (
        [run.energy / atoms for run in side] for side in (both.reference, both.model)
    )
    known, found = (pooled(side, both.plan.blocks) for side in (of_reference, runs))
    known_fluctuation, found_fluctuation = (
        float(np.sqrt(np.mean([run.energy.var() for run in side])))
        for side in (both.reference, both.model)
    )
    checks = [
        Check(
            "mean potential energy per atom",
            value=abs(float(found.mean - known.mean)) / thermal,
            unit="kT",
            limit=both.tolerances.energy,
            reference=f"{float(known.mean):.6g}",
            model=f"{float(found.mean):.6g} ({float(found.mean - known.mean) / thermal:+.3g} kT)",
            noise=float(np.hypot(known.error, found.error)) / thermal,
            own=own_halves(known, both.splits, thermal),
        ),
        Check(
            "fluctuation of the potential energy",
            value=abs(found_fluctuation / known_fluctuation - 1.0)
            if known_fluctuation > 0.0
            else float("inf"),
            unit="%",
            limit=both.tolerances.fluctuation,
            reference=f"{known_fluctuation / thermal:.4g} kT",
            model=f"{found_fluctuation / thermal:.4g} kT",
            own=_own_energy_fluctuation(both),
        ),
    ]
    spacing = both.plan.every * both.plan.horizon * 1e-3

    def curve(values: Floats) -> tuple[Floats, Floats]:
        times: Floats = spacing * np.arange(1.0, len(values) + 1.0)
        return times, (values - float(known.mean)) / thermal

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
    return Part(
        "Potential energy",
        "Frames of both, evaluated with the reference potential by LAMMPS's rerun.",
        checks,
        [
            Plot("energy_time", over_time, "potential energy over time"),
            Plot("energy_distribution", histogram, "its distribution"),
        ],
    )


def fluctuation_noise(runs: Sequence[Production]) -> float:
    """Of the standard deviation of the temperature of several runs, relative to it."""
    errors = [fluctuation_error(run.temperature) for run in runs]
    return float(np.sqrt(np.mean(np.square(errors)) / len(errors)))
