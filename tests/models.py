"""Models for tests."""

from typing import Any

import numpy as np
import torch

from lammps_trajcast.kernels.network import NetworkKernels
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelMetadata, as_arrays, weights_of
from lammps_trajcast.model.network import TrajCast


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


def kernels_of(
    network: TrajCast, arch: Architecture, dtype: torch.dtype, **options: Any
) -> NetworkKernels:
    """The prediction kernels of a network's weights."""
    precision = {torch.float32: "single", torch.float64: "double"}[dtype]
    return NetworkKernels(arch, as_arrays(weights_of(network)), precision, **options)


def predict(kernels: NetworkKernels, *inputs: torch.Tensor) -> torch.Tensor:
    """Raw targets (N, 6) of inputs in double precision, edges sorted by receiver."""
    species, velocities, vectors, receivers, senders = (x.detach().numpy() for x in inputs)
    velocities, threads = velocities.astype(kernels.dtype), torch.get_num_threads()
    count = len(species)
    first_edge = np.searchsorted(receivers, np.arange(count + 1))
    edges = kernels.edges(vectors, threads)
    features = kernels.first(species, velocities, threads)
    for k, width in enumerate(kernels.widths[1:]):
        out = np.empty((count, width), kernels.dtype)
        graph = (edges, first_edge, senders, species, velocities)
        kernels.layer(k, features, *graph, None, out, threads)
        features = out
    return torch.from_numpy(kernels.read_out(features, count, threads))
