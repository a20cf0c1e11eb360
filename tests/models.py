"""Models for tests."""

from pathlib import Path
from typing import Any

import torch

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelMetadata, weights_of
from lammps_trajcast.model.network import TrajCast

# For crystals of quartz, as that of the examples, in a fraction of the time and less accurate: for
# tests whose claim holds for any model that keeps a crystal together.
LIGHT_QUARTZ = Path(__file__).parent / "data" / "quartz_light.safetensors"


def tiny_model(
    *, architecture: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
) -> ModelFile:
    """A model of random weights for Si and O and steps of 30 fs, as small as models get.

    ``architecture`` and ``metadata`` replace or add single fields of the two.
    """
    torch.manual_seed(0)
    fields = {
        **{"num_chem_elements": 2, "edge_cutoff": 3.5, "vel_max": 0.1, "avg_num_neighbors": 9.0},
        **{"max_rotation_order": 1, "num_hidden_channels": 4, "num_mp_layers": 1},
        **(architecture or {}),
    }
    arch = Architecture(**fields)
    described = {
        **{"species": ("Si", "O"), "masses": (28.085, 15.999), "timestep": 30.0, "units": "real"},
        **{"rms_displacement": 0.07, "rms_velocity": 0.004},
        **(metadata or {}),
    }
    data = ModelMetadata(architecture=arch, **described)
    return ModelFile(data, weights_of(TrajCast(arch)))
