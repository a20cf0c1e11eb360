"""The network in Python, the reference for LAMMPS: eager, in double, other neighbor lists."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from systems import System

from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.graph import build_graph


class Reference:
    """A model file, stepped by the plain network."""

    def __init__(self, path: Path) -> None:
        self.data = ModelFile.load(path).metadata
        self.network = ModelFile.load(path).build(dtype=torch.float64)

    def num_edges(self, system: System) -> int:
        return len(self._graph(system).receivers)

    def step(
        self, system: System, conserve: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Displacements and new velocities of all atoms, Angstrom and Angstrom/fs."""
        index = np.array([self.data.species.index(element) for element in system.elements])
        species = torch.tensor(index[system.types - 1])
        velocities = torch.tensor(system.velocities)
        graph = self._graph(system)
        with torch.no_grad():
            target = self.network.predict(
                species,
                velocities,
                torch.as_tensor(graph.edge_vectors),
                torch.as_tensor(graph.receivers),
                torch.as_tensor(graph.senders),
            )
            if conserve:
                after = self.network.conservation(
                    target,
                    torch.tensor(system.positions),
                    velocities,
                    torch.tensor(system.atom_masses),
                    torch.zeros_like(species),
                    1,
                )
            else:
                after = self.network.conservation.scale(target)
        return after.displacement.numpy(), after.velocity.numpy()

    def run(self, system: System, steps: int) -> System:
        """The system some steps later."""
        for _ in range(steps):
            displacement, velocity = self.step(system)
            system = replace(system, positions=system.positions + displacement, velocities=velocity)
        return system

    def _graph(self, system: System):
        cutoff = self.data.architecture.edge_cutoff
        return build_graph(system.positions, system.cell, np.array(system.pbc), cutoff)


def assert_close(actual, expected, tolerance: float, scale: float | None = None) -> None:
    """Largest deviation, in units of `scale` or else of the largest expected value."""
    scale = np.abs(expected).max() if scale is None else scale
    deviation = np.abs(actual - expected).max() / scale
    assert deviation < tolerance, f"deviation {deviation:.3g}, allowed {tolerance:.3g}"
