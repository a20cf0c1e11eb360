"""A speed limit for a network that was trained without one."""

from __future__ import annotations

import math

from lammps_trajcast.model.file import ModelFile


def with_speed_limit(model: ModelFile, factor: float) -> ModelFile:
    """Return a model whose radial functions see speeds up to about ``factor`` rms speeds only.

    Weights on radial functions of speeds that were rare in training are whatever the optimizer
    left there, and a single fast atom can make a prediction explode. Where the network does not
    depend on speeds near the limit nothing else changes: atoms slower than three quarters of it
    are embedded within 2 percent of their speed, those slower than half within 0.1 percent.

    Args:
        model: any model.
        factor: the limit in units of the rms speed of the training data.
    """
    data = model.metadata
    limit = round(factor * math.sqrt(3.0) * data.rms_velocity, 9)
    changes = {
        "architecture": data.architecture.model_copy(update={"speed_limit": limit}),
        "provenance": {
            **data.provenance,
            "speed_limit": f"{factor:g} rms speeds, after training",
        },
    }
    return ModelFile(data.model_copy(update=changes), model.state_dict, model.energy)
