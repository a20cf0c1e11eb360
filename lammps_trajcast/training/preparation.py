"""What a data set and a YAML file say of a training before it begins."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import ValidationError

from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.statistics import Statistics
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.conservation import Conservation, Prediction
from lammps_trajcast.model.file import ModelFile, ModelFileError, explain
from lammps_trajcast.training.batches import GraphPairs
from lammps_trajcast.training.config import TrainingConfig, TrainingError

# Frames over which the mean number of neighbors is taken; it hardly varies.
NEIGHBOR_FRAMES = 20
# Frames whose momenta are looked at, and the share of the rms speed that may be due to them: a
# tenth of a small error of a step.
MOMENTUM_FRAMES, MOMENTUM_SHARE = 50, 1e-3
# An element with a smaller rms speed, in that of all atoms, does not move.
AT_REST = 1e-3


def spread(size: int, wanted: int) -> list[int]:
    """Return at most so many indices below ``size``, evenly spread."""
    return np.unique(np.linspace(0, size - 1, min(size, wanted)).astype(int)).tolist()


def make_architecture(
    config: TrainingConfig, pairs: TrajectoryPairs, statistics: Statistics
) -> Architecture:
    """Return the network's hyperparameters: those of the YAML file and what the data set says.

    Raises:
        TrainingError: there is no such network.
    """
    cutoff = config.network.edge_cutoff
    frames = GraphPairs(pairs, cutoff, spread(len(pairs), NEIGHBOR_FRAMES))
    samples = (frames[k] for k in range(len(frames)))
    solid = config.network.velocity_harmonics == "solid"
    # rms of the speed: polynomials of the velocity stay of the order of one.
    rms_speed = 3**0.5 * statistics.rms_velocity
    # The speed basis must cover what a thermostat may bring, not only what was sampled.
    factors, max_speed = None, statistics.max_speed
    if config.network.speed_units == "element":
        factors, max_speed = speed_factors(statistics)
    fastest, limit = 1.2 * max_speed, None
    if config.network.speed_limit_rms is not None:
        limit = round(config.network.speed_limit_rms * rms_speed, 6)
        fastest = 1.2 * limit
    counts = [len(sample.graph.receivers) / len(sample.pair.species) for sample in samples]
    neighbors = round(float(np.mean(counts)), 3)
    if neighbors == 0.0:
        closest = "no atom of the data has another one near it"
        if np.isfinite(statistics.min_distance):
            closest = f"the smallest distance in the data is {statistics.min_distance:.3g} Angstrom"
        raise TrainingError(
            f"network.edge_cutoff: {cutoff:g} Angstrom leave the atoms without neighbors; "
            f"{closest}: write a larger cutoff"
        )
    if round(rms_speed, 6) == 0.0 or statistics.rms_displacement == 0.0:
        raise TrainingError(
            f"dataset: its atoms hardly move (rms speed {rms_speed:.3g} Angstrom/fs, rms "
            f"displacement {statistics.rms_displacement:.3g} Angstrom); there is nothing to learn"
        )
    try:
        return Architecture(
            num_chem_elements=len(pairs.elements),
            vel_max=round(fastest, 6),
            speed_limit=limit,
            avg_num_neighbors=neighbors,
            velocity_scale=round(rms_speed, 6) if solid else None,
            speed_factors=factors,
            **config.network.architecture_fields(),
        )
    except ValidationError as error:
        raise TrainingError(
            f"network: these values do not fit the data set: {explain(error)}"
        ) from None


def speed_factors(statistics: Statistics) -> tuple[tuple[float, ...], float]:
    """Return what makes the rms speed of each element that of all atoms.

    Returns:
        A factor for each element, 1 for one that hardly moves or of which there are no atoms; and
        the highest speed times the factor of its element, Angstrom/fs.
    """
    rms_speed = 3**0.5 * statistics.rms_velocity
    factors = tuple(
        round(rms_speed / rms, 6) if rms and rms > AT_REST * rms_speed else 1.0
        for rms in statistics.limits.rms_speed
    )
    highest = zip(factors, statistics.limits.max_speed, strict=True)
    return factors, max(factor * (speed or 0.0) for factor, speed in highest)


def check_momenta(network: Architecture, pairs: TrajectoryPairs) -> None:
    """Check that the states of the data set have the net momenta that the network will give them.

    Args:
        network: its hyperparameters.
        pairs: of the data set.

    Raises:
        TrainingError: they have others, which the network could not learn.
    """
    angular = network.conserve_ang_mom and network.net_ang_mom is not None
    layer = Conservation(network, (1.0, 1.0))
    moves, turns, square = [], [], []
    for index in spread(len(pairs), MOMENTUM_FRAMES):
        pair = pairs[index]
        positions, masses = pair.positions, pair.masses
        system = torch.zeros_like(pair.species)
        true = Prediction(pair.displacement, pair.velocity_after)
        sums = layer.linear_sums(true, pair.velocities, masses, system, 1)
        at_rest = layer.apply_linear(true, sums, system)
        square.append(float(true.velocity.square().mean()))
        moves.append(float((at_rest.velocity - true.velocity).square().mean()))
        if angular:
            centers = layer.center_sums(at_rest, positions, masses, system, 1)
            spins = layer.angular_sums(
                *(at_rest, positions, pair.velocities, masses, centers, system, 1)
            )
            still = layer.apply_angular(at_rest, positions, centers, spins, system)
            turns.append(float((still.velocity - at_rest.velocity).square().mean()))
    for found, fixed, key, what, remedy in (
        (moves, network.net_lin_mom is not None, "net_lin_mom", "drift", "linear"),
        (turns, angular, "net_ang_mom", "turn", "angular"),
    ):
        share = (np.mean(found) / np.mean(square)) ** 0.5 if fixed else 0.0
        if share > MOMENTUM_SHARE:
            value = list(getattr(network, key))
            raise TrainingError(
                f"network.{key}: is {value}, but the systems of the data set {what} as a whole, "
                f"with {100 * share:.2g} % of the rms speed; write '{key}: null' for a network "
                "that keeps the momentum of each system, or record states without it "
                f"('velocity all zero {remedy}', 'fix momentum')"
            )


def rms_of_elements(statistics: Statistics) -> torch.Tensor:
    """Return rms displacement and velocity of each element (elements, 2), per component.

    Those of all atoms for an element that does not move or of which there are no atoms.
    """
    limits, rms = statistics.limits, (statistics.rms_displacement, statistics.rms_velocity)
    lengths = zip(limits.rms_displacement, limits.rms_speed, strict=True)
    return torch.tensor(
        [
            [rms[k] if length is None else length / 3**0.5 for k, length in enumerate(both)]
            for both in lengths
        ]
    )


def load_start(config: TrainingConfig, pairs: TrajectoryPairs) -> ModelFile:
    """Return the model that training begins with, if it is for the same elements."""
    assert config.start_from is not None
    try:
        start = ModelFile.load(config.start_from)
    except ModelFileError as error:
        raise TrainingError(f"start_from: {error}") from None
    data = start.metadata
    if list(data.species) != pairs.elements:
        raise TrainingError(
            f"start_from: {config.start_from} is for {' '.join(data.species)}, the data set for "
            f"{' '.join(pairs.elements)}; take a model and a data set that fit"
        )
    # The scales come from the data set that the model was first trained on. What the file does not
    # say is as in the model.
    wanted = config.network.architecture_fields(asked_for=True)
    found = data.architecture.model_dump(include=set(wanted))
    different = [name for name in wanted if wanted[name] != found[name]]
    if "speed_units" in config.network.model_fields_set:
        units = "all" if data.architecture.speed_factors is None else "element"
        if units != config.network.speed_units:
            different.append("speed_units")
    factor, limit = config.network.speed_limit_rms, data.architecture.speed_limit
    if "speed_limit_rms" not in config.network.model_fields_set:
        factor = None
    has = (limit or 0.0) / (3**0.5 * data.rms_velocity)
    if factor is not None and abs(has - factor) > 0.01 * factor:
        what = f"a speed limit of {has:.3g} rms speeds" if limit else "no speed limit"
        raise TrainingError(
            f"start_from: {config.start_from} has {what}, but network.speed_limit_rms is "
            f"{factor:g}; set it with 'lammps-trajcast clamp-speed', or leave the key out"
        )
    if different:
        raise TrainingError(
            f"start_from: {config.start_from} has another {', '.join(different)}; leave these keys "
            "out under network, which takes them from the model, or write the model's values"
        )
    return start


def training_indices(number: int, config: TrainingConfig) -> list[int] | None:
    """Return which of the pairs are trained on: a random part of them, or None for all."""
    wanted = config.optimization.training_pairs
    if wanted is None:
        return None
    if wanted > number:
        raise TrainingError(
            f"optimization.training_pairs: {wanted}, but the data set has {number} pairs for "
            "training; write at most that, or record more"
        )
    return np.random.default_rng(config.seed).permutation(number)[:wanted].tolist()


def check_devices(config: TrainingConfig, validation_pairs: int) -> None:
    """Check that the processes can share the mini-batches.

    Args:
        config: of the training.
        validation_pairs: number of pairs in the validation split.

    Raises:
        TrainingError: the mini-batches cannot be shared out, or the hardware is missing.
    """
    if config.optimization.batch_size % config.devices:
        raise TrainingError(
            f"optimization.batch_size: {config.optimization.batch_size} frames cannot be shared "
            f"equally by {config.devices} devices; write a multiple of {config.devices}"
        )
    if validation_pairs < config.devices:
        raise TrainingError(
            f"devices: {config.devices}, but only {validation_pairs} pairs to validate on; write "
            "fewer devices"
        )
    found = torch.cuda.device_count()
    if config.accelerator == "gpu" and found < config.devices:
        raise TrainingError(
            f"accelerator: gpu with devices: {config.devices}, but this machine has {found} that "
            "torch can use; write accelerator: cpu, or fewer devices"
        )
