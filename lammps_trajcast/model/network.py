"""The TrajCast network: one class for training, serial and parallel runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.codegen import remembered_code
from lammps_trajcast.model.conservation import Conservation, Prediction
from lammps_trajcast.model.embedding import EdgeEmbeddingLayer, NodeEmbeddingLayer
from lammps_trajcast.model.interaction import Interaction
from lammps_trajcast.model.readout import ReadOut
from lammps_trajcast.model.torchscript import exported, scripted


@contextmanager
def _double_default() -> Iterator[None]:
    # e3nn stores Clebsch-Gordan coefficients and normalizations in the default dtype when a module
    # is made; built in single precision, a later .double() could not give the digits back.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@scripted
class TrajCast(torch.nn.Module):
    """Predict each atom's displacement and velocity one time step ahead.

    The architecture of Thiemann et al., Nature Machine Intelligence 8, 764 (2026). The layers can
    be called one at a time, ``embedding``, ``edge_embedding``, ``interactions[k]``, ``read_out``
    and ``conservation``, so that a parallel run can exchange features between them.

    The network is made in double precision; ``.float()`` gives the single-precision one.
    """

    def __init__(self, arch: Architecture, rms_targets: tuple[float, float] = (1.0, 1.0)) -> None:
        """Make a network with random weights (torch's global generator).

        Args:
            arch: the hyperparameters.
            rms_targets: rms displacement (Angstrom) and rms velocity (model unit) of the training
                data, the units of the read-out.
        """
        super().__init__()
        with _double_default(), remembered_code():
            self.embedding = NodeEmbeddingLayer(arch)
            self.edge_embedding = EdgeEmbeddingLayer(arch)
            irreps = self.embedding.irreps_out
            layers = []
            for _ in range(arch.num_mp_layers):
                layer = Interaction(arch, irreps)
                irreps = layer.irreps_out
                layers.append(layer)
            self.interactions = torch.nn.ModuleList(layers)
            self.read_out = ReadOut(irreps, arch.num_hidden_channels)
            self.conservation = Conservation(arch, rms_targets)

    @exported
    def predict(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return raw targets (N, 6): displacement and velocity in units of their rms.

        Args:
            species: (N,) int64 index of each atom's element.
            velocities: (N, 3) in the velocity unit of the model.
            edge_vectors: (E, 3) Angstrom, r_sender - r_receiver, shorter than the cutoff.
            receivers: (E,) int64.
            senders: (E,) int64.
        """
        nodes = self.embedding(species, velocities)
        edges = self.edge_embedding(edge_vectors)
        features = nodes.features
        for layer in self.interactions:
            features = layer(features, nodes, edges, receivers, senders, species.size(0))
        return self.read_out(features)

    def forward(
        self,
        species: Tensor,
        positions: Tensor,
        velocities: Tensor,
        masses: Tensor,
        edge_vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
        system: Tensor | None = None,
        num_systems: int = 1,
    ) -> Prediction:
        """Return displacement (N, 3) in Angstrom and velocity (N, 3) in the model's unit.

        Args:
            species: (N,) int64 index of each atom's element.
            positions: (N, 3) Angstrom; unwrapped where angular momentum is conserved.
            velocities: (N, 3) in the velocity unit of the model.
            masses: (N,) g/mol.
            edge_vectors: (E, 3) Angstrom, r_sender - r_receiver, shorter than the cutoff.
            receivers: (E,) int64.
            senders: (E,) int64.
            system: (N,) int64, the system of each atom in a batch of ``num_systems``; one by
                default.
            num_systems: number of independent systems.
        """
        target = self.predict(species, velocities, edge_vectors, receivers, senders)
        if system is None:
            system = torch.zeros_like(species)
        return self.conservation(target, positions, velocities, masses, system, num_systems)
