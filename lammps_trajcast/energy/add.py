"""A potential energy for a model file that has none, or another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lammps_trajcast
from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.energy.regression import fit_energy
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.progress import ProgressReporter


def with_energy(
    model: ModelFile,
    dataset: Sequence[Path],
    reporter: ProgressReporter,
    cutoff: float | None = None,
) -> ModelFile:
    """Return a model with an energy that is fitted to a data set.

    Args:
        model: any; an energy that it has is replaced.
        dataset: with energies and forces.
        reporter: hears of the progress.
        cutoff: Angstrom; None: that of the network.

    Raises:
        DatasetError: the data set does not serve, or the cutoff is longer than the network's.
    """
    reach = model.metadata.architecture.edge_cutoff
    if cutoff is not None and cutoff > reach:
        raise DatasetError(
            f"--cutoff {cutoff:g} is longer than that of the network, {reach:g} Angstrom, which is "
            "as far as a run sees: write a shorter one"
        )
    energy = fit_energy(list(dataset), model.metadata.species, cutoff or reach, reporter)
    energy = energy._replace(
        provenance={
            "command": "lammps-trajcast add-energy",
            "dataset": " ".join(path.name for path in dataset),
            "lammps_trajcast": lammps_trajcast.__version__,
        }
    )
    return ModelFile(model.metadata, model.state_dict, energy)
