"""A potential energy for a model file that has none, or another one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import lammps_trajcast
from lammps_trajcast.energy.model import EnergyModel
from lammps_trajcast.energy.regression import fit_energy
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.progress import ProgressReporter

# Angstrom, tried one after the other where the network's own is not enough.
_CUTOFFS = (5.0, 6.5, 8.0)
# Error of energy and pressure, relative to their fluctuations, that is good enough.
_GOOD = 0.07
# A longer cutoff has to lower the error to so much of it: all neighbor lists reach as far.
_PAYS = 0.8


def _worst(energy: EnergyModel) -> float:
    assert energy.errors is not None
    return max(energy.errors.energy, energy.errors.pressure or 0.0)


def with_energy(
    model: ModelFile,
    dataset: Sequence[Path],
    reporter: ProgressReporter,
    cutoff: float | None = None,
    seconds: float = math.inf,
) -> ModelFile:
    """Return a model with an energy that is fitted to a data set.

    Args:
        model: any; an energy that it has is replaced.
        dataset: with energies and forces.
        reporter: hears of the progress.
        cutoff: Angstrom; None: that of the network, or a longer one if that is not enough.
        seconds: about how long to look for a better one.

    Raises:
        DatasetError: the data set does not serve.
    """
    reach = model.metadata.architecture.edge_cutoff
    longer = [other for other in _CUTOFFS if other > reach]
    best: EnergyModel | None = None
    began = time.monotonic()
    for each in [cutoff] if cutoff is not None else [reach, *longer]:
        left = seconds - (time.monotonic() - began)
        if best is not None and left <= 0.0:
            break
        energy = fit_energy(list(dataset), model.metadata.species, each, reporter, seconds=left)
        if best is None or _worst(energy) < _PAYS * _worst(best):
            best = energy
        if _worst(best) <= _GOOD:
            break
    assert best is not None
    energy = best
    energy = energy._replace(
        provenance={
            "command": "lammps-trajcast add-energy",
            "dataset": " ".join(path.name for path in dataset),
            "lammps_trajcast": lammps_trajcast.__version__,
        }
    )
    return ModelFile(model.metadata, model.state_dict, energy)
