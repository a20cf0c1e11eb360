"""Limits of the training data for model files that have none yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lammps_trajcast.data.layout import UNITS, DatasetError, open_dataset
from lammps_trajcast.data.statistics import dataset_statistics
from lammps_trajcast.model.file import ModelFile


def with_limits(model: ModelFile, files: Sequence[Path]) -> ModelFile:
    """Return a model with the limits of the training split of a data set.

    Args:
        model: one with or without limits.
        files: of the data set that it was trained on.

    Raises:
        DatasetError: the files are not a data set, or not of the model's elements and time step.
    """
    data = model.metadata
    dataset = " ".join(map(str, files))
    with open_dataset(files) as file:
        horizon = float(file.attrs["horizon"])
        elements = [str(element) for element in file.attrs["elements"]]
    if abs(horizon - data.timestep) > 1e-6 * data.timestep:
        raise DatasetError(
            f"{dataset}: its pairs are {horizon:g} fs apart, but the model advances by "
            f"{data.timestep:g} fs: give the data set that it was trained on"
        )
    missing = [element for element in data.species if element not in elements]
    if missing:
        raise DatasetError(
            f"{dataset}: has no {missing[0]}, which the model knows: give the data set that it was "
            "trained on"
        )
    try:
        limits = dataset_statistics(files).limits
    except ValueError as error:
        raise DatasetError(f"{error}; give the data set that the model was trained on") from None
    limits = limits.of_species([elements.index(element) for element in data.species])
    limits = limits.converted(UNITS, data.units)
    return ModelFile(data.model_copy(update={"limits": limits}), model.state_dict, model.energy)
