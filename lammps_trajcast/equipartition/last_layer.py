"""The weights of the last layer that a prediction is linear in."""

from __future__ import annotations

import math
from typing import Any

import torch
from e3nn import o3
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.training.batches import Batch, per_frame, without_drift


class LastLayer:
    """Predictions as a linear function of weights of the last layer.

    These are the map of the messages to vectors, before the gates, and, for each element, what the
    residual path adds to displacement and to velocity. The change of them is one vector:
    (inputs * channels) weights of the map, then (channels * elements) each for displacement and
    velocity. Predictions are those after the conservation of linear momentum.

    Args:
        network: in any precision; :meth:`add` changes it in place.
        rms_targets: rms displacement (Angstrom) and velocity (Angstrom/fs), units of its targets.
    """

    def __init__(self, network: TrajCast, rms_targets: tuple[float, float]) -> None:
        self.network, self.rms_targets = network, rms_targets
        self.fused = FusedTrajCast(network)
        last: Any = self.fused.interactions[-1]
        vector = last.updates.irreps.index(o3.Irrep(1, -1))
        self._row, _, self.inputs, self.channels = last.updates.blocks[vector]
        self._rows = 3 * self.inputs // last.updates.channels
        self._first = sum(block[2] * block[3] for block in last.updates.blocks[:vector])
        source = next(source for source in last.gate.sources if source[0] == vector)
        self._gate, self._shortcut = source[1:]
        self._residual_row = last.residual.blocks[self._shortcut][0]
        self.elements: int = last.residual.num_species
        self.map_size = self.inputs * self.channels
        self.shortcut_size = self.channels * self.elements
        self.size = self.map_size + 2 * self.shortcut_size
        self._last = last
        self._seen: dict[str, Tensor] = {}
        last.updates.register_forward_hook(self._see_updates)
        last.residual.register_forward_hook(self._see_residual)

    def _see_updates(
        self, _: torch.nn.Module, inputs: tuple[Tensor, ...], out: list[Tensor]
    ) -> None:
        self._seen["messages"] = inputs[0]
        self._seen["scalars"] = out[self._last.gate.even_block]

    def _see_residual(self, _: torch.nn.Module, inputs: tuple[Tensor, ...], out: object) -> None:
        self._seen["features"], self._seen["one_hot"] = inputs

    @property
    def _read_out(self) -> Tensor:
        """What the read-out makes of a channel: (channels, 2)."""
        read_out: Any = self.fused.read_out
        compression = read_out.compression.view(read_out.channels, read_out.hidden)
        weights = compression @ read_out.read_out.view(read_out.hidden, 2)
        return weights.detach().double() / math.sqrt(read_out.channels * read_out.hidden)

    @property
    def _reached(self) -> Tensor:
        """What displacement and velocity take from changes meant for either: (2, 2).

        One for itself and nothing from the other, unless the read-out has a single hidden channel.
        """
        return torch.linalg.pinv(self._read_out) @ self._read_out

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return displacement and velocity (N, 3) and keep what :meth:`pull` needs."""
        real = batch.to_dtype(next(self.network.parameters()).dtype)
        with torch.no_grad():
            targets = self.fused.predict(
                real.species, real.velocities, real.edge_vectors, real.receivers, real.senders
            ).double()
        return (
            without_drift(targets[:, :3] * self.rms_targets[0], batch),
            without_drift(targets[:, 3:] * self.rms_targets[1], batch),
        )

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Messages (N, 3, inputs), gates (N, channels), features (N, 3, channels), one-hot."""
        seen = {name: value.detach() for name, value in self._seen.items()}
        count, channels = len(seen["messages"]), self.channels
        messages = seen["messages"][:, self._row : self._row + self._rows]
        gates = self._last.gate.gate_act(seen["scalars"][:, 0, self._last.gate.channels :])
        features = seen["features"][:count, self._residual_row : self._residual_row + 3]
        return (
            messages.reshape(count, 3, self.inputs).double() / math.sqrt(2.0 * self.inputs),
            gates[:, self._gate * channels : (self._gate + 1) * channels].double(),
            features.double() / math.sqrt(2.0 * channels * self.elements),
            seen["one_hot"].double(),
        )

    def derivative(self, batch: Batch, target: int) -> Tensor:
        """Return the derivative (3 N, size) of the last prediction by the weights.

        Args:
            batch: N atoms.
            target: 0 for displacement, 1 for velocity.
        """
        messages, gates, features, one_hot = self._parts()
        count, rms = len(messages), self.rms_targets[target]
        gates = gates * self._read_out[:, target] * rms
        out = messages.new_zeros(count, 3, self.size)
        by_map = messages[:, :, :, None] * gates[:, None, None, :]
        out[:, :, : self.map_size] = by_map.reshape(count, 3, -1)
        by_shortcut = features[:, :, :, None] * one_hot[:, None, None, :] * rms
        for part, share in enumerate(self._reached[:, target]):
            out[:, :, self._shortcut_part(part)] = share * by_shortcut.reshape(count, 3, -1)
        return without_drift(out, batch).reshape(3 * count, self.size)

    def pull(self, batch: Batch, target: int, directions: Tensor) -> Tensor:
        """Return the derivatives (K, size) of sums of the last prediction times given vectors.

        This is the product with :meth:`derivative`, without the large matrix in memory.

        Args:
            batch: N atoms.
            target: 0 for displacement, 1 for velocity.
            directions: (K, N, 3) the vectors.
        """
        messages, gates, features, one_hot = self._parts()
        mass = batch.masses.double()
        # The transpose of without_drift.
        share = mass / per_frame(mass, batch)[batch.system]
        sums = directions.new_zeros(len(directions), batch.num_systems, 3)
        sums.index_add_(1, batch.system, directions)
        directions = directions - share[:, None] * sums[:, batch.system]
        rms = self.rms_targets[target]
        gates = gates * self._read_out[:, target] * rms
        by_map = torch.einsum("knx,nxm->knm", directions, messages)
        by_map = torch.einsum("knm,nc->kmc", by_map, gates)
        by_shortcut = torch.einsum("knx,nxc,ns->kcs", directions, features * rms, one_hot)
        out = directions.new_zeros(len(directions), self.size)
        out[:, : self.map_size] = by_map.flatten(1)
        for part, share in enumerate(self._reached[:, target]):
            out[:, self._shortcut_part(part)] = share * by_shortcut.flatten(1)
        return out

    def _shortcut_part(self, target: int) -> slice:
        first = self.map_size + target * self.shortcut_size
        return slice(first, first + self.shortcut_size)

    def add(self, change: Tensor) -> None:
        """Add a change (size,) to the weights of the network."""
        plain: Any = self.network.interactions[-1]
        shortcut = torch.stack([change[self._shortcut_part(k)] for k in range(2)], dim=1)
        shortcut = shortcut.view(self.channels, self.elements, 2)
        # The smallest weights that add this to what is read out.
        weights = torch.einsum("cek,kd->ced", shortcut, torch.linalg.pinv(self._read_out))
        first = self._shortcut * weights.numel()
        with torch.no_grad():
            updates, residual = plain.linear_updates.weight, plain.tp_resnet.weight
            part = change[: self.map_size]
            updates[self._first : self._first + self.map_size] += part.to(updates.dtype)
            residual[first : first + weights.numel()] += weights.flatten().to(residual.dtype)
