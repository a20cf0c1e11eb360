"""Networks of random weights and their inputs, and the parity cases as models."""

from pathlib import Path

import ase.io
import numpy as np
import torch
from locations import PARITY

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.checkpoint import convert_checkpoint
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.runtime.graph import build_graph


def random_inputs(arch: Architecture, dtype: torch.dtype, atoms: int = 23):
    """A random graph: sorted receivers, some atoms without edges."""
    generator = torch.Generator().manual_seed(5)
    edges = atoms * 7 + 3
    receivers = torch.randint(0, atoms - 2, (edges,), generator=generator).sort().values
    senders = torch.randint(0, atoms, (edges,), generator=generator)
    vectors = torch.randn(edges, 3, generator=generator, dtype=dtype)
    species = torch.randint(0, arch.num_chem_elements, (atoms,), generator=generator)
    velocities = 0.05 * torch.randn(atoms, 3, generator=generator, dtype=dtype)
    return species, velocities, vectors, receivers, senders


def architecture(lmax: int, channels: int) -> Architecture:
    return Architecture(
        num_chem_elements=3,
        edge_cutoff=4.0,
        vel_max=0.11,
        max_rotation_order=lmax,
        num_hidden_channels=channels,
        num_mp_layers=3,
        avg_num_neighbors=7.0,
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


class Case:
    """A parity case: network, inputs and the authors' outputs."""

    def __init__(self, name: str) -> None:
        folder: Path = PARITY / name
        self.expected = np.load(folder / "expected.npz")
        self.frame = ase.io.read(folder / "frame.extxyz")
        numbers, types = self.expected["numbers"], self.expected["types"]
        symbol = dict(zip(types.tolist(), self.frame.get_chemical_symbols(), strict=True))
        assert len(numbers) == len(types)
        species = [symbol[k] for k in sorted(symbol)]
        self.model = convert_checkpoint(
            folder / "config.yaml", folder / "state_dict.pt", species, None, 30.0, "real"
        )
        self.cutoff = self.model.metadata.architecture.edge_cutoff

    def inputs(self, positions=None, velocities=None, cell=None, order=None):
        """Arguments of the network, of the case or of changed positions, velocities and cell."""
        e = self.expected
        positions = e["positions"] if positions is None else positions
        velocities = e["velocities"] if velocities is None else velocities
        cell = e["cell"] if cell is None else cell
        order = np.arange(len(e["types"])) if order is None else order
        graph = build_graph(positions, cell, [True] * 3, self.cutoff)
        return [
            torch.from_numpy(e["types"][order]),
            torch.from_numpy(np.ascontiguousarray(positions)),
            torch.from_numpy(np.ascontiguousarray(velocities)),
            torch.from_numpy(e["masses"][order]),
            graph.edge_vectors,
            graph.receivers,
            graph.senders,
        ]

    def predict(self, **changes) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            out = self.model.build(torch.float64)(*self.inputs(**changes))
        return out.displacement.numpy(), out.velocity.numpy()


def network(arch: Architecture, seed: int = 0) -> TrajCast:
    torch.manual_seed(seed)
    return TrajCast(arch)
