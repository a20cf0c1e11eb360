"""The systems and networks that are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lammps_trajcast.data.dataset import Pair
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelMetadata, weights_of
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.runtime.predictor import Frame
from lammps_trajcast.training.batches import Batch, Sample, collate

QUARTZ = Path(__file__).resolve().parent.parent / "examples" / "quartz"
SHIPPED_MODEL = QUARTZ / "quartz.safetensors"
ELEMENTS = ["Si", "O"]
MASSES = np.array([28.085, 15.999])
TEMPERATURE = 300.0
BOLTZMANN = 0.8314462618  # (Angstrom/ps)^2 g/mol per K
DISPLACEMENT = 0.08  # Angstrom, rms of an atom about its site in quartz at 300 K


class Crystal:
    """Quartz at about 300 K: every atom off its site, with a velocity. Fixed seed.

    Attributes:
        types: (N,) int32, 1 is Si and 2 is O.
        positions: (N, 3) Angstrom.
        velocities: (N, 3) Angstrom/ps.
        masses: (N,) g/mol.
        cell: (3, 3) Angstrom, rows are the lattice vectors.
    """

    def __init__(self, replicate: tuple[int, int, int], seed: int = 1) -> None:
        from ase.io import read

        atoms = read(QUARTZ / "quartz.data", format="lammps-data", atom_style="atomic") * replicate
        generator = np.random.default_rng(seed)
        self.types = np.where(atoms.numbers == 14, 1, 2).astype(np.int32)
        self.masses: NDArray[np.float64] = MASSES[self.types - 1]
        self.cell: NDArray[np.float64] = np.array(atoms.cell)
        self.positions = atoms.positions + generator.normal(
            scale=DISPLACEMENT / np.sqrt(3.0), size=atoms.positions.shape
        )
        speed = np.sqrt(BOLTZMANN * TEMPERATURE / self.masses)[:, None]
        self.velocities = speed * generator.normal(size=atoms.positions.shape)

    def frame(self, cutoff: float) -> Frame:
        """Return what the fix would hand to the predictor, units metal."""
        graph = build_graph(self.positions, self.cell, [True] * 3, cutoff)
        return Frame(
            types=self.types,
            positions=self.positions,
            velocities=self.velocities,
            masses=self.masses,
            first_edge=np.searchsorted(graph.receivers.numpy(), np.arange(len(self.types) + 1)),
            senders=graph.senders.numpy(),
            edge_vectors=graph.edge_vectors.numpy(),
        )

    def pair(self) -> Pair:
        """Return a pair of a data set that starts here; what follows is random."""
        generator = torch.Generator().manual_seed(2)
        velocities = torch.from_numpy(self.velocities) * 1e-3
        return Pair(
            species=torch.from_numpy(self.types - 1).long(),
            positions=torch.from_numpy(self.positions),
            velocities=velocities,
            cell=torch.from_numpy(self.cell),
            pbc=torch.tensor([True] * 3),
            displacement=0.07 * torch.randn(velocities.shape, generator=generator).double(),
            velocity_after=velocities.flip(0),
            masses=torch.from_numpy(self.masses),
        )


def mini_batch(cutoff: float, frames: int = 2) -> Batch:
    """Return a mini-batch of as many atoms as in examples/quartz/train.yaml: frames of 162."""
    samples = []
    for seed in range(frames):
        pair = Crystal((3, 3, 2), seed).pair()
        graph = build_graph(pair.positions, pair.cell, pair.pbc, cutoff)
        samples.append(Sample(pair, graph, []))
    return collate(samples)


def random_model(
    channels: int = 64, lmax: int = 2, layers: int = 5, cutoff: float = 5.0, seed: int = 0
) -> ModelFile:
    """Return a model of quartz with random weights, otherwise as the published ones."""
    crystal = Crystal((2, 2, 2))
    edges = len(build_graph(crystal.positions, crystal.cell, [True] * 3, cutoff).receivers)
    architecture = Architecture(
        num_chem_elements=2,
        edge_cutoff=cutoff,
        vel_max=0.03,
        max_rotation_order=lmax,
        num_hidden_channels=channels,
        num_mp_layers=layers,
        avg_num_neighbors=round(edges / len(crystal.types), 3),
    )
    torch.manual_seed(seed)
    return ModelFile(
        ModelMetadata(
            architecture=architecture,
            species=tuple(ELEMENTS),
            masses=tuple(MASSES),
            timestep=30.0,
            units="real",
            rms_displacement=0.068,
            rms_velocity=0.0037,
        ),
        weights_of(TrajCast(architecture)),
    )


def load_model(name: str) -> ModelFile:
    """Return a model of quartz by its name.

    Args:
        name: "shipped", that of examples/quartz; or one with random weights: "wide", 64 channels, 5
            layers, 5 Angstrom; "small", 16 channels, 4 layers, 4 Angstrom.
    """
    if name == "shipped":
        return ModelFile.load(SHIPPED_MODEL)
    return random_model() if name == "wide" else random_model(channels=16, layers=4, cutoff=4.0)
