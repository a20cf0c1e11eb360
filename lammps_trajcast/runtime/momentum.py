"""Conservation of momentum after a prediction: the layer of training, in NumPy.

:class:`~lammps_trajcast.model.conservation.Conservation` is the same layer with gradients. It says
what is conserved; here the sums are those that ranks add up, and nothing of torch is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.model.architecture import Architecture

Array = NDArray[np.float64]


class Motion(NamedTuple):
    """What is predicted for N atoms."""

    displacement: Array  # (N, 3) Angstrom
    velocity: Array  # (N, 3) at t + dt, in the velocity unit of the model


class Start(NamedTuple):
    """The state of N atoms that a prediction begins from, and the system each belongs to."""

    positions: Array  # (N, 3) Angstrom; unwrapped where angular momentum is conserved
    velocities: Array  # (N, 3) in the velocity unit of the model
    masses: Array  # (N,) g/mol
    system: NDArray[np.int64] | None  # (N,) from 0; None: all are one
    num_systems: int


class MomentumLayer:
    """Local sums over atoms, and what the sums over all ranks correct."""

    def __init__(self, arch: Architecture) -> None:
        """Conserve what a network does, or give it the momentum that the network says."""
        self.conserves_angular = arch.conserve_ang_mom
        self._linear = arch.net_lin_mom
        self._angular = arch.net_ang_mom

    def linear_sums(self, motion: Motion, start: Start) -> Array:
        """Return (num_systems, 10): mass, input momentum, predicted momentum, sum of m d."""
        m = start.masses
        columns = (start.velocities, motion.velocity, motion.displacement)
        return _per_system([m, *(m * column for each in columns for column in each.T)], start)

    def apply_linear(self, motion: Motion, start: Start, sums: Array) -> Motion:
        """Correct a prediction so that each system has its momentum; ``sums`` over all ranks."""
        mass = sums[:, 0:1]
        wanted = sums[:, 1:4]
        if self._linear is not None:
            wanted = np.broadcast_to(np.array(self._linear), wanted.shape)
        shift = (wanted - sums[:, 4:7]) / mass
        at_rest = (wanted == 0.0).all(axis=1, keepdims=True)
        drift = np.where(at_rest, sums[:, 7:10] / mass, 0.0)
        return Motion(
            motion.displacement - _of_atoms(drift, start), motion.velocity + _of_atoms(shift, start)
        )

    def center_sums(self, motion: Motion, start: Start) -> Array:
        """Return (num_systems, 7): mass, sum of m x, sum of m x' with x' = x + d."""
        m = start.masses
        columns = (start.positions, start.positions + motion.displacement)
        return _per_system([m, *(m * column for each in columns for column in each.T)], start)

    def angular_sums(self, motion: Motion, start: Start, centers: Array) -> Array:
        """Return (num_systems, 15): input L, predicted L, inertia tensor, about the centers.

        ``centers`` are the :meth:`center_sums` over all ranks.
        """
        before, after = _about_center(motion, start, centers)
        m = start.masses
        spins = (
            m[:, None] * np.cross(before, start.velocities),
            m[:, None] * np.cross(after, motion.velocity),
        )
        square = (after * after).sum(axis=1)
        inertia = [
            m * ((square if a == b else 0.0) - after[:, a] * after[:, b])
            for a in range(3)
            for b in range(3)
        ]
        return _per_system([*(column for each in spins for column in each.T), *inertia], start)

    def apply_angular(self, motion: Motion, start: Start, centers: Array, sums: Array) -> Motion:
        """Correct a prediction so that each system has its angular momentum."""
        wanted = sums[:, :3] if self._angular is None else np.array(self._angular)
        inertia = sums[:, 6:].reshape(-1, 3, 3)
        # A pseudo-inverse, because a single atom or a linear molecule has no inertia about an axis.
        inverse = np.linalg.pinv(inertia, rcond=3.0 * np.finfo(np.float64).eps)
        omega = np.einsum("sab,sb->sa", inverse, wanted - sums[:, 3:6])
        _, after = _about_center(motion, start, centers)
        return motion._replace(velocity=motion.velocity + np.cross(_of_atoms(omega, start), after))


def _about_center(motion: Motion, start: Start, centers: Array) -> tuple[Array, Array]:
    mass = centers[:, 0:1]
    before = start.positions - _of_atoms(centers[:, 1:4] / mass, start)
    after = start.positions + motion.displacement - _of_atoms(centers[:, 4:7] / mass, start)
    return before, after


def _of_atoms(values: Array, start: Start) -> Array:
    """Values (num_systems, 3) of the system of each atom, (N, 3) or as good as that."""
    return values if start.system is None else values[start.system]


def _per_system(columns: list[Array], start: Start) -> Array:
    """Sums (num_systems, C) of C columns (N,)."""
    if start.system is None:
        # Of contiguous columns: NumPy then adds in pairs, and a million atoms lose no digits.
        return np.array([[np.ascontiguousarray(column).sum() for column in columns]])
    number = start.num_systems
    return np.stack([np.bincount(start.system, column, number) for column in columns], axis=1)
