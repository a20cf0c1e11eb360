"""A model file in words: everything needed to write the input script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lammps_trajcast.energy.model import EnergyModel
from lammps_trajcast.lammps_runs.paths import is_plain
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile

NOT_PLAIN = (
    "LAMMPS commands cannot hold this path: rename the file, or link to it, so that the path has "
    "only ASCII letters, digits and _ . -"
)
VELOCITY_UNIT = {"real": "Angstrom/fs", "metal": "Angstrom/ps"}


def describe_model(path: Path, model: ModelFile) -> str:
    """Text for `lammps-trajcast info`: a table, then the lines of an input script."""
    data = model.metadata
    network = data.architecture
    velocity = VELOCITY_UNIT[data.units]
    conserved = ["linear momentum"]
    if network.net_lin_mom is not None:
        target = " ".join(f"{component:g}" for component in network.net_lin_mom)
        conserved = [f"linear momentum ({target})"]
    if network.conserve_ang_mom:
        conserved.append("angular momentum (isolated molecules only)")
    weights = sum(tensor.numel() for tensor in model.state_dict.values())
    rows: list[tuple[str, str]] = [
        ("species", " ".join(data.species)),
        ("masses", " ".join(f"{mass:g}" for mass in data.masses) + " g/mol"),
        ("time step", f"{data.timestep:g} fs"),
        ("cutoff", f"{network.edge_cutoff:g} Angstrom"),
        ("trained in units", f"{data.units} (velocities in {velocity})"),
        ("precision", data.precision),
        (
            "network",
            f"{network.num_mp_layers} layers, {network.num_hidden_channels} channels, "
            f"l up to {network.max_rotation_order}, {weights} weights",
        ),
        ("variant", _variant(network)),
        ("conserves", ", ".join(conserved)),
        ("rms of targets", f"{data.rms_displacement:g} Angstrom, {data.rms_velocity:g} {velocity}"),
        ("format version", f"{data.format_version}"),
    ]
    parts = [f"{path}", _table(rows)]
    if data.statistics:
        parts += ["", "Training data (Angstrom, fs, K):", _table(_entries(data.statistics))]
    if data.limits:
        parts += ["", describe_limits(model)]
    if model.energy is not None:
        parts += ["", describe_energy(model.energy)]
    if data.provenance:
        parts += ["", "Provenance:", _table(_entries(data.provenance))]
    return "\n".join([*parts, "", input_lines(path, model)])


def describe_energy(energy: EnergyModel) -> str:
    """How large the potential energy is that goes with the steps, and how good."""
    basis, errors = energy.basis, energy.errors
    rows = [
        ("cutoff", f"{basis.cutoff:g} Angstrom"),
        (
            "functions",
            f"{basis.num_pair} of a distance, {basis.num_radial} in terms of three bodies, "
            f"angles up to order {basis.max_order}: {basis.num_features} coefficients",
        ),
    ]
    if errors is not None:
        rows.append(("fitted to", f"{errors.frames} frames, {_range(errors.temperatures)} K"))
        for name, value in (
            ("energy", errors.energy),
            ("pressure", errors.pressure),
            ("stress", errors.stress),
        ):
            if value is not None:
                rows.append((f"error of {name}", f"{value:.3f} of its thermal fluctuation"))
        rows.append(("error of forces", f"{errors.forces:.3f} of their root mean square"))
    heading = "Potential energy, for 'fix_modify ID energy yes virial yes':"
    return "\n".join([heading, _table(rows)])


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.0f}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _variant(network: Architecture) -> str:
    """What sets the network apart from the published one."""
    differences = [
        f"{name} {value}"
        for name, value in (
            ("velocity_harmonics", network.velocity_harmonics),
            ("message_features", network.message_features),
            ("feature_parity", network.feature_parity),
            ("speed_limit", network.speed_limit),
            ("speed_factors", network.speed_factors),
        )
        if value != Architecture.model_fields[name].default
    ]
    return ", ".join(differences) or "none, as published"


def describe_limits(model: ModelFile) -> str:
    """How far the training data of a model with limits went."""
    data = model.metadata
    limits = data.limits
    assert limits is not None
    rows: list[tuple[str, str]] = []
    for name, largest, rms, unit in (
        ("displacement", limits.max_displacement, limits.rms_displacement, "Angstrom"),
        ("speed", limits.max_speed, limits.rms_speed, VELOCITY_UNIT[data.units]),
    ):
        for species, most, usual in zip(data.species, largest, rms, strict=True):
            if most is not None and usual is not None:
                rows.append((f"{name} of {species}", f"{most:.4g}, rms {usual:.4g} {unit}"))
    for k, species in enumerate(data.species):
        if not limits.has_seen(k):
            rows.append((f"no atom of {species}", "the model was never trained on it"))
    for i, row in enumerate(limits.min_distance):
        for j, distance in enumerate(row[: i + 1]):
            if distance is not None:
                pair = f"{data.species[j]}-{data.species[i]}"
                rows.append((f"distance {pair}", f"{distance:.4g} Angstrom"))
    for species, most in zip(data.species, limits.max_nearest_distance or (), strict=False):
        if most is not None:
            rows.append((f"nearest neighbor of {species}", f"within {most:.4g} Angstrom"))
    low, mean, high = limits.min_temperature, limits.mean_temperature, limits.max_temperature
    rows.append(("temperature", f"{low:.4g} to {high:.4g} K, mean {mean:.4g} K"))
    return "\n".join(["Extremes of the training data, for the guards of the fix:", _table(rows)])


def input_lines(path: Path, model: ModelFile) -> str:
    """The lines that a LAMMPS input script needs for this model."""
    data = model.metadata
    energies = energy_keywords(model)
    awkward = [] if is_plain(path) else [f"  # {NOT_PLAIN}"]
    return "\n".join(
        [
            "In a LAMMPS input, with one element for each atom type, in the order of the types:",
            "",
            f"  timestep        {data.timestep * 1e-3:.12g}    # units metal"
            f" (units real: timestep {data.timestep:.12g})",
            f"  pair_style      zero {reach(model):.12g} full",
            "  pair_coeff      * *",
            f"  fix             1 all python/trajcast {path} {' '.join(data.species)}",
            *([f"  fix_modify      1 {energies}"] if energies else []),
            *awkward,
        ]
    )


def reach(model: ModelFile) -> float:
    """How far a neighbor list has to reach, Angstrom."""
    own = model.metadata.architecture.edge_cutoff
    return own if model.energy is None else max(own, model.energy.basis.cutoff)


def energy_keywords(model: ModelFile) -> str:
    """What follows `fix_modify ID` for energy and, where it is known, virial of the model."""
    if model.energy is None:
        return ""
    errors = model.energy.errors
    return "energy yes" + (" virial yes" if errors is not None and errors.pressure else "")


def _table(rows: list[tuple[str, str]]) -> str:
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _entries(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Key and text of the entries that are set; whole configurations would bury the rest."""
    return [
        (key.replace("_", " "), f"{entry:.6g}" if isinstance(entry, float) else f"{entry}")
        for key, entry in mapping.items()
        if entry is not None and not isinstance(entry, dict)
    ]
