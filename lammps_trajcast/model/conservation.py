"""Conservation of momentum: the last layer, which every prediction passes through.

The layer is written as local sums over atoms, a function of the summed values, and a local
correction. A parallel run adds the local sums of all ranks between the two; a training batch sums
each system by itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.torchscript import exported


class Prediction(NamedTuple):
    """What the network says of the step, N atoms."""

    displacement: Tensor  # (N, 3) Angstrom
    velocity: Tensor  # (N, 3) at t + dt, in the velocity unit of the model


def _per_system(values: Tensor, system: Tensor, num_systems: int) -> Tensor:
    if num_systems == 1:
        return values.sum(dim=0, keepdim=True)
    out = torch.zeros((num_systems, values.size(1)), dtype=values.dtype, device=values.device)
    return out.index_add(0, system, values)


class Conservation(torch.nn.Module):
    """Make a prediction keep linear and, if asked for, angular momentum.

    Linear: v' += (P* - P(v')) / M; if P* is exactly zero the mass-weighted mean displacement is
    removed too. Angular (isolated molecules, unwrapped coordinates): v' += omega x x' about the
    center of mass of x' = x + d, with I(x') omega = L* - L(x', v'). P* and L* are those of the
    input unless the architecture fixes them. After Thiemann et al., Nature Machine Intelligence 8,
    764 (2026).

    All tensors have one dtype; use double precision when it matters.
    """

    rms: Tensor
    net_lin_mom: Tensor
    net_ang_mom: Tensor

    def __init__(self, arch: Architecture, rms_targets: tuple[float, float]) -> None:
        super().__init__()
        self.conserve_angular = arch.conserve_ang_mom
        self.fixed_linear = arch.net_lin_mom is not None
        self.fixed_angular = arch.net_ang_mom is not None
        rms = torch.tensor([rms_targets[0]] * 3 + [rms_targets[1]] * 3, dtype=torch.float64)
        self.register_buffer("rms", rms, persistent=False)
        for name in ("net_lin_mom", "net_ang_mom"):
            momentum = torch.tensor(getattr(arch, name) or (0.0, 0.0, 0.0), dtype=torch.float64)
            self.register_buffer(name, momentum, persistent=False)

    @exported
    def scale(self, target: Tensor) -> Prediction:
        """Turn targets (N, 6) into a displacement and a velocity, nothing conserved."""
        scaled = target * self.rms
        return Prediction(displacement=scaled[:, :3], velocity=scaled[:, 3:])

    @exported
    def linear_sums(
        self,
        prediction: Prediction,
        velocities: Tensor,
        masses: Tensor,
        system: Tensor,
        num_systems: int,
    ) -> Tensor:
        """Return (num_systems, 10): mass, input momentum, predicted momentum, sum of m d."""
        m = masses.unsqueeze(1)
        columns = [m, m * velocities, m * prediction.velocity, m * prediction.displacement]
        return _per_system(torch.cat(columns, dim=1), system, num_systems)

    @exported
    def apply_linear(self, prediction: Prediction, sums: Tensor, system: Tensor) -> Prediction:
        """Correct a prediction so that each system has its momentum; ``sums`` over all ranks."""
        mass = sums[:, 0:1]
        wanted = self.net_lin_mom.expand(sums.size(0), 3) if self.fixed_linear else sums[:, 1:4]
        velocity_shift = (wanted - sums[:, 4:7]) / mass
        at_rest = (wanted == 0.0).all(dim=1, keepdim=True)
        drift = torch.where(at_rest, sums[:, 7:10] / mass, torch.zeros_like(wanted))
        return Prediction(
            displacement=prediction.displacement - drift[system],
            velocity=prediction.velocity + velocity_shift[system],
        )

    @exported
    def center_sums(
        self,
        prediction: Prediction,
        positions: Tensor,
        masses: Tensor,
        system: Tensor,
        num_systems: int,
    ) -> Tensor:
        """Return (num_systems, 7): mass, sum of m x, sum of m x' with x' = x + d."""
        m = masses.unsqueeze(1)
        columns = [m, m * positions, m * (positions + prediction.displacement)]
        return _per_system(torch.cat(columns, dim=1), system, num_systems)

    @exported
    def angular_sums(
        self,
        prediction: Prediction,
        positions: Tensor,
        velocities: Tensor,
        masses: Tensor,
        centers: Tensor,
        system: Tensor,
        num_systems: int,
    ) -> Tensor:
        """Return (num_systems, 15): input L, predicted L, inertia tensor, about the centers.

        ``centers`` are the :meth:`center_sums` over all ranks.
        """
        before, after = self._about_center(prediction, positions, centers, system)
        m = masses.unsqueeze(1)
        l_in = torch.linalg.cross(before, m * velocities)
        l_out = torch.linalg.cross(after, m * prediction.velocity)
        square = (after * after).sum(dim=1, keepdim=True).unsqueeze(2)
        eye = torch.eye(3, dtype=after.dtype, device=after.device)
        inertia = m.unsqueeze(2) * (square * eye - after.unsqueeze(2) * after.unsqueeze(1))
        columns = [l_in, l_out, inertia.reshape(-1, 9)]
        return _per_system(torch.cat(columns, dim=1), system, num_systems)

    @exported
    def apply_angular(
        self,
        prediction: Prediction,
        positions: Tensor,
        centers: Tensor,
        sums: Tensor,
        system: Tensor,
    ) -> Prediction:
        """Correct a prediction so that each system has its angular momentum."""
        wanted = self.net_ang_mom.expand(sums.size(0), 3) if self.fixed_angular else sums[:, :3]
        inertia = sums[:, 6:].reshape(-1, 3, 3)
        # A pseudo-inverse, because a single atom or a linear molecule has no inertia about an axis.
        omega = (torch.linalg.pinv(inertia) @ (wanted - sums[:, 3:6]).unsqueeze(2)).squeeze(2)
        _, after = self._about_center(prediction, positions, centers, system)
        spin = torch.linalg.cross(omega[system], after)
        return Prediction(prediction.displacement, prediction.velocity + spin)

    def _about_center(
        self, prediction: Prediction, positions: Tensor, centers: Tensor, system: Tensor
    ) -> tuple[Tensor, Tensor]:
        mass = centers[:, 0:1]
        before = positions - (centers[:, 1:4] / mass)[system]
        after = positions + prediction.displacement - (centers[:, 4:7] / mass)[system]
        return before, after

    def forward(
        self,
        target: Tensor,
        positions: Tensor,
        velocities: Tensor,
        masses: Tensor,
        system: Tensor,
        num_systems: int,
    ) -> Prediction:
        """Return the conserving prediction of targets (N, 6).

        Args:
            target: (N, 6) output of the read-out.
            positions: (N, 3) Angstrom; unwrapped where angular momentum is conserved.
            velocities: (N, 3) at time t, in the velocity unit of the model.
            masses: (N,) g/mol.
            system: (N,) int64, which of the ``num_systems`` systems an atom belongs to.
            num_systems: number of independent systems.
        """
        prediction = self.scale(target)
        sums = self.linear_sums(prediction, velocities, masses, system, num_systems)
        prediction = self.apply_linear(prediction, sums, system)
        if self.conserve_angular:
            centers = self.center_sums(prediction, positions, masses, system, num_systems)
            spins = self.angular_sums(
                prediction, positions, velocities, masses, centers, system, num_systems
            )
            prediction = self.apply_angular(prediction, positions, centers, spins, system)
        return prediction
