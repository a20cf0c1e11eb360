"""The last linear map of a trained network, solved for instead of trained."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.training.batches import Batch, without_drift
from lammps_trajcast.training.module import TrainingModule

# Relative to the largest eigenvalue of the normal equations; channels may depend on each other.
RIDGE = 1e-12
# Times the median of the losses.
OUTLIER = 100.0


def fit_read_out(module: TrainingModule, batches: Iterable[Batch]) -> None:
    """Replace the read-out by the one with the smallest loss on some pairs.

    The read-out maps the vectors of the last layer to displacement and velocity, linearly, and so
    does the conservation of linear momentum after it: the best weights solve linear equations. What
    is left of the errors is then uncorrelated with the prediction. Training comes close to that,
    but a network whose velocities are a thousandth too small on average, which the loss hardly
    sees, takes energy out of the system at every step.

    Batches with a loss far above the median are left out: a single prediction that explodes would
    decide the result.

    Angular momentum, where it is conserved, is left out of the equations. Where training weighed
    the way back from a prediction, so do the equations, with the predictions before.

    Args:
        module: the trained network; changed in place.
        batches: pairs of states; gone through twice.
    """
    network = FusedTrajCast(module.network)
    read_out = network.read_out
    kept: list[Tensor] = []
    hook = read_out.register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0][:, read_out.row : read_out.row + 3])
    )
    channels = read_out.channels
    matrix = torch.zeros(2, channels, channels, dtype=torch.float64)
    right = torch.zeros(2, channels, dtype=torch.float64)
    try:
        with torch.no_grad():
            for batch, weight in _with_ways_back(module, batches):
                single = batch.to_dtype(module.real)
                kept.clear()
                network.predict(
                    single.species,
                    single.velocities,
                    single.edge_vectors,
                    single.receivers,
                    single.senders,
                )
                inputs = without_drift(kept[0].double(), batch)
                targets = torch.stack([batch.displacement, batch.velocity_after]).double()
                scales = module.loss_scales.double()[batch.species]
                for k in range(2):
                    weighted = weight**0.5 * inputs / scales[:, k, None, None]
                    wanted = weight**0.5 * targets[k] / scales[:, k, None]
                    matrix[k] += torch.einsum("nxc,nxd->cd", weighted, weighted).cpu()
                    right[k] += torch.einsum("nxc,nx->c", weighted, wanted).cpu()
    finally:
        hook.remove()
    solutions = []
    for k, rms in enumerate(module.rms_targets):
        ridge = RIDGE * float(torch.linalg.eigvalsh(matrix[k])[-1])
        regular = matrix[k] + ridge * torch.eye(channels, dtype=torch.float64)
        solutions.append(torch.linalg.solve(regular, right[k]) / rms)
    plain = module.network.read_out
    hidden = read_out.hidden
    compression = torch.zeros(channels, hidden, dtype=torch.float64)
    compression[:, :2] = torch.stack(solutions, dim=1) * math.sqrt(channels)
    combination = torch.zeros(hidden, 2, dtype=torch.float64)
    combination[:2] = torch.eye(2) * math.sqrt(hidden)
    with torch.no_grad():
        plain.compression.weight.copy_(compression.flatten())
        plain.read_out.weight.copy_(combination.flatten())


def _trusted(module: TrainingModule, batches: Iterable[Batch]) -> list[bool]:
    """Say of each batch whether its loss is not far above the median."""
    with torch.no_grad():
        losses = [float(module.loss(batch, *module.errors(batch))) for batch in batches]
    limit = OUTLIER * statistics.median(losses)
    # Comparisons with values that are not a number are false: hence this form.
    return [loss <= limit for loss in losses]


def _with_ways_back(
    module: TrainingModule, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, float]]:
    """Yield each trusted batch and what follows from it for the loss, with their weights."""
    weight = module.options.reversibility_weight
    for batch, trusted in zip(batches, _trusted(module, batches), strict=True):
        if not trusted:
            continue
        yield batch, 1.0
        back = module.way_back(batch, module.predict(batch)) if weight else None
        if back is not None:
            yield back, weight
