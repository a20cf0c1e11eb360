"""Models for tests."""

from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from locations import TESTS

from lammps_trajcast.kernels.network import NetworkKernels
from lammps_trajcast.kernels.operators import PredictionNetwork
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelMetadata, as_arrays, weights_of
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import compile_network

# For crystals of quartz, as that of the examples, in a fraction of the time and less accurate: for
# tests whose claim holds for any model that keeps a crystal together.
LIGHT_QUARTZ = TESTS / "data" / "quartz_light" / "quartz_light.safetensors"


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


def model_of(network: TrajCast, arch: Architecture) -> ModelFile:
    """The weights of a network as a model file, of elements 1, 2, ..."""
    count = arch.num_chem_elements
    data = ModelMetadata(
        architecture=arch,
        timestep=1.0,
        units="real",
        species=chemical_symbols[1 : count + 1],
        masses=[1.0] * count,
        rms_displacement=0.05,
        rms_velocity=0.01,
        precision="double",
    )
    return ModelFile(data, weights_of(network))


def first_edge(receivers: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    """Of edges sorted by receiver, see StepGraph."""
    degrees = torch.bincount(receivers, minlength=len(atoms))
    return torch.nn.functional.pad(degrees.cumsum(0), (1, 0))


def kernels_of(
    network: TrajCast, arch: Architecture, dtype: torch.dtype, **options: Any
) -> NetworkKernels:
    """The prediction kernels of a network's weights."""
    precision = {torch.float32: "single", torch.float64: "double"}[dtype]
    return NetworkKernels(arch, as_arrays(weights_of(network)), precision, **options)


def predict(kernels: NetworkKernels, *inputs: torch.Tensor) -> torch.Tensor:
    """Raw targets (N, 6) of inputs in double precision, edges sorted by receiver.

    Compiled by TorchScript, as in the fix.
    """
    species, velocities, vectors, receivers, senders = (x.detach() for x in inputs)
    run = compile_network(PredictionNetwork(kernels))
    dtype = torch.float64 if kernels.dtype == np.float64 else torch.float32
    graph = StepGraph(
        species, velocities.to(dtype), vectors, first_edge(receivers, species), senders
    )
    targets: torch.Tensor = run(graph)
    return targets
