"""Conservation at run time against the layer of training, on one system, several, and ranks."""

import numpy as np
import pytest
import torch

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.conservation import Conservation
from lammps_trajcast.runtime.momentum import MomentumLayer, Motion, Start

ANGULAR = {
    "linear": {},
    "at rest": {"net_lin_mom": (0.0, 0.0, 0.0)},
    "moving": {"net_lin_mom": (3.0, -1.0, 2.0)},
    "angular": {"conserve_ang_mom": True},
    "turning": {"conserve_ang_mom": True, "net_ang_mom": (0.5, 0.0, -2.0)},
}


def architecture(**options: object) -> Architecture:
    sizes = {"max_rotation_order": 1, "num_hidden_channels": 4, "num_mp_layers": 1}
    edges = {"edge_cutoff": 3.0, "vel_max": 0.03, "avg_num_neighbors": 5.0}
    return Architecture(num_chem_elements=2, **sizes, **edges, **options)


def restored(layer: MomentumLayer, parts: list[tuple[Motion, Start]]) -> list[Motion]:
    """The motions of the parts after all rounds; sums over the parts as over ranks."""
    motions = [motion for motion, _ in parts]
    starts = [start for _, start in parts]

    def both(function, *arguments):
        return sum(function(m, s, *arguments) for m, s in zip(motions, starts, strict=True))

    sums = both(layer.linear_sums)
    motions = [layer.apply_linear(m, s, sums) for m, s in zip(motions, starts, strict=True)]
    if layer.conserves_angular:
        centers = both(layer.center_sums)
        sums = both(layer.angular_sums, centers)
        motions = [
            layer.apply_angular(m, s, centers, sums) for m, s in zip(motions, starts, strict=True)
        ]
    return motions


@pytest.mark.parametrize("kind", ANGULAR)
@pytest.mark.parametrize("systems", [1, 3])
@pytest.mark.parametrize("ranks", [1, 2])
def test_layer_is_that_of_training(kind: str, systems: int, ranks: int) -> None:
    arch = architecture(**ANGULAR[kind])
    generator = np.random.default_rng(5)
    count = 30
    targets = generator.normal(size=(count, 6))
    positions = 5.0 * generator.normal(size=(count, 3))
    velocities = 0.01 * generator.normal(size=(count, 3)) + 0.003
    masses = generator.choice([12.0, 1.0], count)
    system = generator.integers(0, systems, count)
    system[0] = systems - 1
    if systems > 1:  # one atom alone, which has no inertia
        system[system == 1] = 0
        system[7] = 1

    layer = Conservation(arch, (0.07, 0.004))
    expected = layer(
        *map(torch.from_numpy, (targets, positions, velocities, masses, system)), systems
    )
    motion = targets * np.repeat([0.07, 0.004], 3)
    parts = []
    for rank in range(ranks):
        own = slice(rank, None, ranks)
        parts.append(
            (
                Motion(motion[own, :3], motion[own, 3:]),
                Start(
                    positions[own],
                    velocities[own],
                    masses[own],
                    system[own] if systems > 1 else None,
                    systems,
                ),
            )
        )
    found = restored(MomentumLayer(arch), parts)
    for rank, after in enumerate(found):
        for field in ("displacement", "velocity"):
            wanted = getattr(expected, field).numpy()[rank::ranks]
            # As far as an inertia that is nearly singular lets them agree.
            error = np.abs(getattr(after, field) - wanted).max()
            assert error < 1e-12 * np.abs(wanted).max()


def test_sums_of_many_atoms_lose_no_digits() -> None:
    """Of a million equal terms, whose sum is known."""
    count = 1_000_000
    ones = np.full((count, 3), 0.1)
    start = Start(ones, ones, np.full(count, 0.1), None, 1)
    sums = MomentumLayer(architecture()).linear_sums(Motion(ones, ones), start)
    assert np.abs(sums[0, 1:] / (count * 0.1 * 0.1) - 1.0).max() < 1e-13
