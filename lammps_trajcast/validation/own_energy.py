"""Section of the potential energy that a model file has: beside that of the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.analysis.uncertainty import deviation_error
from lammps_trajcast.energy.model import EnergyModel
from lammps_trajcast.kernels.energy import EnergyKernel
from lammps_trajcast.lammps_runs.trajectory import Trajectory
from lammps_trajcast.units import ENERGY_IN_KCAL
from lammps_trajcast.validation.compare import Check, ReportSection
from lammps_trajcast.validation.comparison import Production
from lammps_trajcast.validation.config import Tolerances

# Frames of a run whose energies are compared, at most.
MOST_FRAMES = 400


def own_energy_part(
    energy: EnergyModel,
    species: Sequence[str],
    reference: Sequence[Production],
    units: str,
    tolerances: Tolerances,
) -> ReportSection:
    """Compare the energies of frames of the reference, and repeat what the file says of pressures.

    Args:
        energy: of the model file.
        species: of the model file, in its order.
        reference: runs of the reference in equilibrium.
        units: of the runs.
        tolerances: own_energy and own_pressure are used.
    """
    kernel, ratio = EnergyKernel(energy), ENERGY_IN_KCAL[units]
    known, found = [], []
    for run in reference:
        total = sum(len(block) for block in run.frames)
        every = -(-total // MOST_FRAMES)
        chosen = [(block, k) for block in run.frames for k in range(len(block))][::every]
        values = [
            energy_of_frame(kernel, energy.basis.cutoff, species, block, k) / ratio
            for block, k in chosen
        ]
        found.append(np.array(values))
        known.append(run.energy[:total:every])
    fluctuation = float(np.concatenate(known).std())
    differences = [one - other for one, other in zip(found, known, strict=True)]
    error = float(np.sqrt(np.mean(np.concatenate(differences) ** 2)))
    blocks = max(2, min(5, len(differences[0]) // 4))
    spread = deviation_error(differences, blocks)
    atoms = len(reference[0].frames[0].species)
    value = error / fluctuation
    checks = [
        Check(
            "potential energy of the model, error over fluctuation",
            value=value,
            limit=tolerances.own_energy,
            reference=f"fluctuates by {fluctuation / atoms:.3g} per atom",
            model=f"error {error / atoms:.3g} per atom",
            error=value * spread.size,
            freedom=spread.freedom,
        )
    ]
    errors = energy.errors
    if errors is not None and errors.pressure is not None:
        checks.append(
            Check(
                "pressure of the model, error over fluctuation",
                value=errors.pressure,
                limit=tolerances.own_pressure,
                reference="segments of the data set that took no part",
            )
        )
    return ReportSection(
        "Potential energy of the model",
        "What 'fix_modify energy yes virial yes' adds to energy and pressure, for the positions of "
        "the reference; without the kinetic part.",
        checks,
    )


def energy_of_frame(
    kernel: EnergyKernel, cutoff: float, species: Sequence[str], frames: Trajectory, number: int
) -> float:
    """Return the energy of one frame, kcal/mol."""
    from lammps_trajcast.runtime.graph import build_graph

    graph = build_graph(frames.positions[number], frames.cell, frames.pbc, cutoff)
    receivers: NDArray[np.int64] = graph.receivers.numpy()
    index = np.array([list(species).index(element) for element in frames.elements])
    found = kernel(
        index[frames.species],
        np.searchsorted(receivers, np.arange(len(frames.species) + 1)),
        graph.senders.numpy(),
        graph.edge_vectors.numpy(),
    )
    return float(found.energies.sum())
