"""Comparison at equilibrium: from the dumps and logs of both to the chapters of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.blocks import Blocks
from lammps_trajcast.analysis.dynamics import (
    cosine_similarity,
    diffusion_constant,
    first_peak,
    linear_drift,
    mean_square_displacement,
    spectral_peaks,
    vibrational_spectrum,
)
from lammps_trajcast.analysis.structure import (
    Histogram,
    bond_distributions,
    dihedral_distribution,
    find_bonds,
    radial_distributions,
)
from lammps_trajcast.analysis.thermal import (
    canonical_fluctuation,
    degrees_of_freedom,
    fluctuation_error,
    kinetic_temperatures,
)
from lammps_trajcast.validation import plots
from lammps_trajcast.validation.compare import (
    HALF,
    Check,
    Own,
    Part,
    Plot,
    Split,
    compare_curves,
    own_halves,
    relative,
    with_error,
)
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.runner import Loop
from lammps_trajcast.validation.scripts import Plan
from lammps_trajcast.validation.trajectory import Trajectory

Floats = NDArray[np.float64]

# Boltzmann's constant and 1 meV in LAMMPS's unit of energy: eV (metal), kcal/mol (real).
BOLTZMANN = {"metal": 8.617333262e-5, "real": 1.987204259e-3}
MILLI_EV = {"metal": 1e-3, "real": 0.0230605478}
# Frames from which the shares of a rotating molecule in the degrees of freedom are averaged.
SHARE_FRAMES = 50
# Least prominence of a peak of the model's spectrum, as a share of the highest.
FAINT_PEAK = 0.03


@dataclass(frozen=True)
class Production:
    """One run with a thermostat, in blocks of equal length.

    frames:   of each block.
    spectra:  the part of each block in which every horizon was kept.
    temperature, energy: (L,) K, unit of the run; potential energy by the reference, of the frames.
    loops:    its `run` commands.
    """

    frames: list[Trajectory]
    spectra: list[Trajectory]
    temperature: Floats
    energy: Floats
    loops: list[Loop]


@dataclass(frozen=True)
class Nve:
    """A run without thermostat. times: (L,) ps; energy, temperature: (L,) total, unit of run; K."""

    times: Floats
    energy: Floats
    temperature: Floats


@dataclass(frozen=True)
class SameCost:
    """The reference's integrator without thermostat, as fast as the model.

    timestep: fs. run: None if LAMMPS ended it, and error says why.
    """

    timestep: float
    run: Nve | None
    error: str


@dataclass(frozen=True)
class SingleSteps:
    """Pairs of states one horizon apart, and what the model predicts; each (P, N, 3).

    Displacements in Angstrom, velocities in Angstrom/fs.
    """

    displacement: Floats
    velocity: Floats
    predicted_displacement: Floats
    predicted_velocity: Floats
    velocity_before: Floats
    horizon: float
    species: NDArray[np.int64]
    elements: list[str]


class Equilibrium:
    """The chapters, one method each. All runs of a side count alike."""

    def __init__(
        self,
        config: ValidationConfig,
        units: str,
        angular: bool,
        plan: Plan,
        temperature: float,
        reference: Sequence[Production],
        model: Sequence[Production],
    ) -> None:
        self.config = config
        self.tolerances = config.tolerances
        self.units = units
        self.plan = plan
        self.temperature = temperature
        self.reference = list(reference)
        self.model = list(model)
        first = self.reference[0].frames[0]
        self.first = first
        self.splits = splits_of(len(self.reference), plan.blocks)
        self.periodic = bool(first.pbc.all())
        positions = first.positions[:: max(len(first) // SHARE_FRAMES, 1)] if angular else None
        self.shares = (
            degrees_of_freedom(first.masses)
            if positions is None
            else np.mean([degrees_of_freedom(first.masses, x) for x in positions], axis=0)
        )

    def parts(self) -> list[Part]:
        """Every chapter that applies to the system."""
        config = self.config
        chapters = [self.radial()] if config.rdf and self.periodic else []
        chapters += self.bonds() if config.bonds else []
        chapters += [self.dihedrals()] if config.dihedrals else []
        return [*chapters, self.spectrum(), self.displacement(), self.temperatures(), self.energy()]

    def _blocks(self) -> tuple[list[Trajectory], list[Trajectory]]:
        reference, model = (
            [block for run in side for block in run.frames] for side in (self.reference, self.model)
        )
        return reference, model

    # ---- structure -------------------------------------------------------------------------------

    def radial(self) -> Part:
        """g(r) of every pair of elements."""
        settings = self.config.rdf
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

        x, reference, model = _curves(*[[of(block) for block in side] for side in self._blocks()])
        checks = []
        for pair in reference:
            scale = float(np.abs(reference[pair].mean - 1.0).sum())
            checks.append(
                compare_curves(
                    f"g(r) {pair}",
                    reference[pair],
                    model[pair],
                    scale,
                    self.tolerances.rdf,
                    self.tolerances.spreads,
                    self.splits,
                )
            )
        for pair in reference:
            if reference[pair].mean.max() <= 0.0:
                continue
            known = first_peak(x[pair], reference[pair].mean)
            found = first_peak(x[pair], model[pair].mean)
            each = Blocks(np.array([first_peak(x[pair], g) for g in reference[pair].values]))
            checks.append(
                Check(
                    f"g(r) {pair}, first peak",
                    value=abs(found - known),
                    unit="Å",
                    limit=self.tolerances.rdf_peak,
                    reference=f"{known:.4f} Å",
                    model=f"{found:.4f} Å",
                    noise=float(each.error),
                    own=own_halves(each, self.splits, 1.0),
                )
            )
        figure = plots.curves(
            {pair: _shown(x[pair], reference[pair], model[pair]) for pair in reference},
            "r / Å",
            "g(r)",
        )
        return Part(
            "Radial distribution functions",
            f"Integrated |g − g_ref| over the integral of |g_ref − 1|, up to {settings.r_max:g} Å.",
            checks,
            [Plot("rdf", figure, "g(r); grey band: spread from block to block")],
            _curve_data(x, reference, model),
        )

    def bonds(self) -> list[Part]:
        """Bond lengths, angles between bonds, and whether bonds changed."""
        cutoffs = self.config.bond_cutoffs
        start = self._degrees(self.first.positions[0])
        lengths: list[list[dict[str, Histogram]]] = [[], []]
        angles: list[list[dict[str, Histogram]]] = [[], []]
        faults = [0, 0]
        frames = [0, 0]
        for side, blocks in enumerate(self._blocks()):
            for block in blocks:
                found = [
                    find_bonds(x, block.cell, block.pbc, block.species, cutoffs)
                    for x in block.positions
                ]
                atoms = len(block.species)
                faults[side] += sum(not np.array_equal(b.degrees(atoms), start) for b in found)
                frames[side] += len(found)
                of_block = bond_distributions(found, block.species, block.elements, cutoffs)
                lengths[side].append(of_block[0])
                angles[side].append(of_block[1])
        parts = [
            self._densities("Bond lengths", "bonds", "length / Å", *lengths),
            self._densities("Angles between bonds", "angles", "angle / degrees", *angles),
        ]
        if self.config.permanent_bonds:
            shares = [fault / max(count, 1) for fault, count in zip(faults, frames, strict=True)]
            limit = self.tolerances.faulty_frames
            parts[0].checks.append(
                Check(
                    "frames in which an atom has another number of bonds",
                    value=shares[1],
                    unit="%",
                    limit=None if limit is None else limit + shares[0],
                    reference=f"{faults[0]} of {frames[0]}",
                    model=f"{faults[1]} of {frames[1]}",
                )
            )
        return parts

    def _degrees(self, positions: Floats) -> NDArray[np.int64]:
        first = self.first
        bonds = find_bonds(
            positions, first.cell, first.pbc, first.species, self.config.bond_cutoffs
        )
        return bonds.degrees(len(first.species))

    def dihedrals(self) -> Part:
        """Distributions of the dihedral angles that the configuration names."""

        def of(block: Trajectory) -> dict[str, Histogram]:
            return {
                name: dihedral_distribution(
                    block.positions,
                    block.cell,
                    block.pbc,
                    tuple(atom - 1 for atom in atoms),  # type: ignore[arg-type]
                )
                for name, atoms in self.config.dihedrals.items()
            }

        sides = [[of(block) for block in side] for side in self._blocks()]
        return self._densities("Dihedral angles", "dihedrals", "angle / degrees", *sides)

    def _densities(
        self,
        title: str,
        slug: str,
        x_label: str,
        of_reference: list[dict[str, Histogram]],
        of_model: list[dict[str, Histogram]],
    ) -> Part:
        x, reference, model = _curves(of_reference, of_model)
        checks = [
            compare_curves(
                f"{title.lower()}, {name}",
                reference[name],
                model[name],
                # Half of the integral: the share of the density that lies elsewhere.
                2.0 / (x[name][1] - x[name][0]),
                self.tolerances.distribution,
                self.tolerances.spreads,
                self.splits,
            )
            for name in reference
        ]
        shown = {name: _shown(x[name], reference[name], model[name]) for name in reference}
        figure = plots.curves(shown, x_label, "density")
        return Part(
            title,
            "Half of the integrated |p − p_ref|: the share of the density that lies elsewhere.",
            checks,
            [Plot(slug, figure, f"{title}; grey band: spread from block to block")],
            _curve_data(x, reference, model),
        )

    # ---- dynamics --------------------------------------------------------------------------------

    def spectrum(self) -> Part:
        """Vibrational density of states, of all atoms and of each element."""
        settings = self.config.spectrum

        def of(window: Trajectory) -> dict[str, Histogram]:
            result = {}
            for name, atoms in self._groups(window).items():
                result[name] = Histogram(
                    *vibrational_spectrum(
                        window.velocities[:, atoms],
                        window.masses[atoms],
                        self.plan.horizon,
                        settings.resolution,
                    )
                )
            return result

        x, reference, model = _curves(
            *(
                [of(window) for run in side for window in run.spectra]
                for side in (self.reference, self.model)
            )
        )
        known, found = reference["all"], model["all"]
        blocks = [cosine_similarity(each, known.mean) for each in known.values]
        frequencies = x["all"]
        peaks = spectral_peaks(frequencies, known.mean, settings.prominence)
        candidates = spectral_peaks(frequencies, found.mean, FAINT_PEAK)
        halves = [known.values[list(half)].mean(axis=0) for split in self.splits for half in split]

        def farthest_shift(candidates: Floats) -> float:
            shifts = [
                float(np.abs(candidates - peak).min()) if len(candidates) else float("inf")
                for peak in peaks
            ]
            return max(shifts, default=float("inf"))

        resolution = float(frequencies[1] - frequencies[0])
        nearest = [
            candidates[np.abs(candidates - peak).argmin()] for peak in peaks if len(candidates)
        ]
        checks = [
            Check(
                "spectrum, cosine similarity",
                value=cosine_similarity(found.mean, known.mean),
                limit=self.tolerances.spectrum_similarity,
                at_least=True,
                reference=f"block with the mean of all {np.mean(blocks):.4f}",
                own=Own(min(cosine_similarity(half, known.mean) for half in halves), HALF),
            ),
            Check(
                "spectrum, farthest shift of a main peak",
                value=farthest_shift(candidates),
                unit="THz",
                limit=self.tolerances.spectrum_peak,
                reference=" ".join(f"{peak:.1f}" for peak in peaks) + " THz",
                model=" ".join(f"{peak:.1f}" for peak in nearest) + " THz",
                noise=0.5 * resolution,
                own=Own(
                    max(
                        farthest_shift(spectral_peaks(frequencies, half, FAINT_PEAK))
                        for half in halves
                    ),
                    HALF,
                    noise=0.5 * resolution,
                ),
            ),
        ]
        nyquist = 500.0 / self.plan.horizon
        figure = plots.curves(
            {name: (x[name], reference[name], model[name]) for name in reference},
            "frequency / THz",
            "density / (1/THz)",
        )
        return Part(
            "Vibrational spectrum",
            "Mass-weighted power spectrum of the velocities, the Fourier transform of their "
            f"autocorrelation, both sampled every {self.plan.horizon:g} fs, the time step of the "
            f"model: what vibrates faster than {nyquist:.1f} THz appears folded back below it, in "
            f"both alike. Points are {resolution:.2g} THz apart.",
            checks,
            [Plot("spectrum", figure, "vibrational density of states")],
            _curve_data(x, reference, model),
        )

    def displacement(self) -> Part:
        """Mean-square displacement of each element, and diffusion constants."""

        def of(block: Trajectory) -> dict[str, Histogram]:
            lags = block.times - block.times[0]
            result = {}
            for name, atoms in self._groups(block).items():
                msd = mean_square_displacement(block.positions[:, atoms])
                result[name] = Histogram(lags[: len(msd)], msd)
            return result

        x, reference, model = _curves(*[[of(block) for block in side] for side in self._blocks()])
        checks = [
            compare_curves(
                f"mean-square displacement, {name}",
                reference[name],
                model[name],
                float(reference[name].mean.sum()),
                self.tolerances.displacement,
                self.tolerances.spreads,
                self.splits,
            )
            for name in reference
        ]
        settings = self.config.diffusion
        if settings is not None:
            longest = x["all"][-1] * 1e-3
            for name in reference:
                try:
                    constants = [
                        Blocks(
                            np.array(
                                [diffusion_constant(x[name], msd, settings.fit) for msd in side]
                            )
                        )
                        for side in (reference[name].values, model[name].values)
                    ]
                except ValueError:
                    checks.append(
                        Check(
                            f"diffusion constant, {name}",
                            value=float("nan"),
                            reference=f"needs lags up to {settings.fit[1]:g} ps, blocks give "
                            f"{longest:.2g} ps",
                        )
                    )
                    continue
                checks.append(
                    relative(
                        f"diffusion constant, {name}",
                        constants[0],
                        constants[1],
                        "1e-9 m²/s",
                        self.tolerances.diffusion,
                        self.splits,
                    )
                )
        figure = plots.curves(
            {name: (x[name] * 1e-3, reference[name], model[name]) for name in reference},
            "time / ps",
            "Å²",
        )
        return Part(
            "Mean-square displacement",
            "Integrated difference over the integral of the reference's, up to half a block.",
            checks,
            [Plot("msd", figure, "mean-square displacement")],
            _curve_data(x, reference, model),
        )

    def _groups(self, frames: Trajectory) -> dict[str, NDArray[np.int64]]:
        groups = {"all": np.arange(len(frames.species))}
        if len(frames.elements) > 1:
            for index, element in enumerate(frames.elements):
                groups[element] = np.flatnonzero(frames.species == index)
        return groups

    # ---- energy ----------------------------------------------------------------------------------

    def temperatures(self) -> Part:
        """Mean temperature and its fluctuation, of all atoms and of each element."""
        target = self.temperature
        known, found = (
            _pooled([run.temperature for run in side], self.plan.blocks)
            for side in (self.reference, self.model)
        )
        of_reference, samples = (
            np.concatenate([run.temperature for run in side])
            for side in (self.reference, self.model)
        )
        expected = canonical_fluctuation(target, self.shares)
        itself = self._own_fluctuation()
        thermostat = "beside the thermostat's"
        checks = [
            Check(
                "temperature",
                value=abs(float(found.mean) / target - 1.0),
                unit="%",
                limit=self.tolerances.temperature,
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
                limit=self.tolerances.fluctuation,
                reference=f"{of_reference.std():.3g} K, canonical {expected:.3g} K",
                model=f"{samples.std():.3g} K",
                noise=_fluctuation_noise(self.model),
                own=itself,
            ),
        ]
        lines = {"all": (of_reference, samples)}
        for element, atoms in self._groups(self.first).items():
            if element == "all":
                continue

            def of(block: Trajectory, atoms: NDArray[np.int64] = atoms) -> Floats:
                return kinetic_temperatures(
                    block.velocities[:, atoms], block.masses[atoms], self.shares[atoms]
                )

            sides = [[of(block) for block in side] for side in self._blocks()]
            means = [Blocks(np.array([each.mean() for each in side])) for side in sides]
            checks.append(
                Check(
                    f"temperature of {element}",
                    value=abs(float(means[1].mean) / target - 1.0),
                    unit="%",
                    limit=self.tolerances.element_temperature,
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

    def _own_fluctuation(self) -> Own:
        """The fluctuation of the reference's temperature beside the canonical one."""
        samples = np.concatenate([run.temperature for run in self.reference])
        expected = canonical_fluctuation(self.temperature, self.shares)
        return Own(
            abs(float(samples.std()) / expected - 1.0),
            "temperature beside the canonical",
            noise=_fluctuation_noise(self.reference),
        )

    def _own_energy_fluctuation(self) -> Own:
        """What is known of the fluctuation of the reference's potential energy: that its halves
        agree, and that what it exchanges energy with, the kinetic energy, fluctuates as it should.
        """
        parts = np.array(
            [
                part.var()
                for run in self.reference
                for part in np.array_split(run.energy, self.plan.blocks)
            ]
        )
        halves = own_halves(Blocks(np.sqrt(parts)), self.splits, float(np.sqrt(parts.mean())))
        return max(
            [self._own_fluctuation(), *([halves] if halves else [])],
            key=lambda own: (not own.by_chance, own.value),
        )

    def energy(self) -> Part:
        """Potential energy of the frames, evaluated with the reference."""
        atoms = len(self.first.species)
        thermal = BOLTZMANN[self.units] * self.temperature
        of_reference, runs = (
            [run.energy / atoms for run in side] for side in (self.reference, self.model)
        )
        known, found = (_pooled(side, self.plan.blocks) for side in (of_reference, runs))
        known_fluctuation, found_fluctuation = (
            float(np.sqrt(np.mean([run.energy.var() for run in side])))
            for side in (self.reference, self.model)
        )
        checks = [
            Check(
                "mean potential energy per atom",
                value=abs(float(found.mean - known.mean)) / thermal,
                unit="kT",
                limit=self.tolerances.energy,
                reference=f"{float(known.mean):.6g}",
                model=f"{float(found.mean):.6g} "
                f"({float(found.mean - known.mean) / thermal:+.3g} kT)",
                noise=float(np.hypot(known.error, found.error)) / thermal,
                own=own_halves(known, self.splits, thermal),
            ),
            Check(
                "fluctuation of the potential energy",
                value=abs(found_fluctuation / known_fluctuation - 1.0)
                if known_fluctuation > 0.0
                else float("inf"),
                unit="%",
                limit=self.tolerances.fluctuation,
                reference=f"{known_fluctuation / thermal:.4g} kT",
                model=f"{found_fluctuation / thermal:.4g} kT",
                own=self._own_energy_fluctuation(),
            ),
        ]
        spacing = self.plan.every * self.plan.horizon * 1e-3

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
        both = (curve(np.concatenate(of_reference))[1], curve(np.concatenate(runs))[1])
        histogram = plots.distributions({"distribution": both}, "(E − E_ref) / (N kT)", {})
        return Part(
            "Potential energy",
            "Frames of both, evaluated with the reference potential by LAMMPS's rerun.",
            checks,
            [
                Plot("energy_time", over_time, "potential energy over time"),
                Plot("energy_distribution", histogram, "its distribution"),
            ],
        )


def nve_part(
    reference: Nve,
    model: Nve | None,
    same_cost: SameCost | None,
    atoms: int,
    units: str,
    limit: float | None,
    failure: str,
) -> Part:
    """Drift of the total energy without a thermostat; `failure` says why there is no model."""

    def per_atom(run: Nve) -> Floats:
        change: Floats = (run.energy - run.energy[0]) / atoms / MILLI_EV[units]
        return change

    def drift(run: Nve | None) -> float:
        return linear_drift(run.times, per_atom(run)) if run else float("nan")

    of_reference, of_model = drift(reference), drift(model)
    checks = [
        Check(
            "failures without a thermostat",
            value=0.0 if model else 1.0,
            limit=0.0,
            model="" if model else failure,
        ),
        Check(
            "drift of the total energy",
            value=abs(of_model),
            unit="meV/atom/ps",
            limit=limit,
            reference=f"{of_reference:+.3g} meV/atom/ps",
            model=f"{of_model:+.3g} meV/atom/ps" if model else "",
            own=Own(abs(of_reference), "from its own start"),
        ),
    ]
    if same_cost:
        slope = drift(same_cost.run)
        checks.append(
            Check(
                "drift of the reference, as fast as the model",
                value=abs(slope),
                unit="meV/atom/ps",
                reference=f"{slope:+.3g} meV/atom/ps with {same_cost.timestep:g} fs"
                if same_cost.run
                else f"with {same_cost.timestep:g} fs: {same_cost.error}",
            )
        )
    shown = [(name, run) for name, run in (("reference", reference), ("model", model)) if run]
    figure = plots.series(
        {
            "total energy − start, meV/atom": [
                (name, run.times, per_atom(run)) for name, run in shown
            ],
            "temperature, K": [(name, run.times, run.temperature) for name, run in shown],
        },
        "time / ps",
        "",
    )
    return Part(
        "Constant energy",
        "Without a thermostat; the potential energy is that of the reference for both. Last, the "
        "reference's integrator with a time step with which it is as fast as the model.",
        checks,
        [Plot("nve", figure, "total energy and temperature without a thermostat")],
    )


def single_steps_part(
    steps: SingleSteps, of_displacement: float | None, of_velocity: float | None
) -> Part:
    """RMSE over rms of the predictions from states of the reference."""
    ballistic = steps.velocity_before * steps.horizon

    def error(predicted: Floats, true: Floats) -> float:
        return float(np.sqrt(np.sum((predicted - true) ** 2) / np.sum(true**2)))

    checks = []
    groups = {"": slice(None)} | {
        f" of {element}": np.flatnonzero(steps.species == index)
        for index, element in enumerate(steps.elements)
        if len(steps.elements) > 1
    }
    for name, atoms in groups.items():
        for what, predicted, true, trivial, limit in (
            (
                "displacement",
                steps.predicted_displacement,
                steps.displacement,
                ballistic,
                of_displacement,
            ),
            (
                "velocity",
                steps.predicted_velocity,
                steps.velocity,
                steps.velocity_before,
                of_velocity,
            ),
        ):
            checks.append(
                Check(
                    f"{what}{name}, one step",
                    value=error(predicted[:, atoms], true[:, atoms]),
                    unit="%",
                    limit=limit if not name else None,
                    model="at constant velocity "
                    f"{100.0 * error(trivial[:, atoms], true[:, atoms]):.3g} %",
                )
            )
    figure, (left, right) = plots.panels(2, width=4.2, height=3.6)
    for axes, predicted, true, label in (
        (left, steps.predicted_displacement, steps.displacement, "displacement / Å"),
        (right, steps.predicted_velocity, steps.velocity, "velocity / (Å/fs)"),
    ):
        axes.hexbin(true.ravel(), predicted.ravel(), gridsize=60, bins="log", cmap="Greys")
        axes.axline((0.0, 0.0), slope=1.0, color=plots.MODEL, linewidth=0.8)
        axes.set(title=label, xlabel="reference", ylabel="predicted")
    return Part(
        "Single steps",
        f"From {len(steps.displacement)} states of the reference without thermostat, one step of "
        f"{steps.horizon:g} fs in LAMMPS: RMSE over rms of all components.",
        checks,
        [Plot("one_step", figure, "components, predicted against reference")],
    )


def splits_of(runs: int, blocks: int) -> list[Split]:
    """Halves of the blocks of several runs, one after the other: in time, and by run."""
    numbers = np.arange(runs * blocks).reshape(runs, blocks)
    halves = [np.array_split(numbers, 2, axis=1)]
    if runs > 1:
        halves.append(np.array_split(numbers, 2, axis=0))
    return [(first.ravel().tolist(), second.ravel().tolist()) for first, second in halves]


def _fluctuation_noise(runs: Sequence[Production]) -> float:
    """Of the standard deviation of the temperature of several runs, relative to it."""
    errors = [fluctuation_error(run.temperature) for run in runs]
    return float(np.sqrt(np.mean(np.square(errors)) / len(errors)))


def _pooled(runs: list[Floats], blocks: int) -> Blocks:
    """Means of equal parts of the series of every run."""
    parts = [part for run in runs for part in np.array_split(run, blocks)]
    return Blocks(np.array([part.mean() for part in parts]))


def _curves(
    reference: list[dict[str, Histogram]], model: list[dict[str, Histogram]]
) -> tuple[dict[str, Floats], dict[str, Blocks], dict[str, Blocks]]:
    """By name: x, and the blocks of both. What a block lacks counts as zero there."""
    names = list(dict.fromkeys(name for block in [*reference, *model] for name in block))
    x: dict[str, Floats] = {}
    sides: list[dict[str, Blocks]] = [{}, {}]
    for name in names:
        some = next(block[name] for block in [*reference, *model] if name in block)
        x[name] = some.x
        nothing = np.zeros_like(some.y)
        for side, blocks in zip(sides, (reference, model), strict=True):
            side[name] = Blocks(
                np.array([block[name].y if name in block else nothing for block in blocks])
            )
    return x, sides[0], sides[1]


def _shown(x: Floats, reference: Blocks, model: Blocks) -> tuple[Floats, Blocks, Blocks]:
    """The part of two curves between the first and the last point where one is not zero."""
    inside = np.flatnonzero((reference.mean > 0.0) | (model.mean > 0.0))
    window = slice(max(inside[0] - 1, 0), inside[-1] + 2) if len(inside) else slice(None)
    return x[window], Blocks(reference.values[:, window]), Blocks(model.values[:, window])


def _curve_data(
    x: dict[str, Floats], reference: dict[str, Blocks], model: dict[str, Blocks]
) -> dict[str, dict[str, list[float]]]:
    """For JSON: enough digits for a plot."""

    def digits(values: Floats) -> list[float]:
        return [float(f"{value:.5g}") for value in values]

    return {
        name: {
            "x": digits(x[name]),
            "reference": digits(reference[name].mean),
            "spread": digits(reference[name].spread),
            "model": digits(model[name].mean),
        }
        for name in reference
    }
