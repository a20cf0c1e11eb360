"""The shape of every weight of a network, found without building it.

A model file is checked against this before anything of its size is allocated.
"""

from __future__ import annotations

from e3nn import o3

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.irreps import depthwise_instructions, full_feature_irreps, occurring


def _linear_size(irreps_in: o3.Irreps, irreps_out: o3.Irreps) -> int:
    return sum(a * b for a, i in irreps_in for b, o in irreps_out if i == o)


def _mlp_shapes(prefix: str, sizes: list[int]) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.layer{n}.weight": (a, b)
        for n, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
    }


def weight_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Return {name of a parameter of TrajCast(arch): its shape}."""
    lmax, channels, num_species = (
        arch.max_rotation_order,
        arch.num_hidden_channels,
        arch.num_chem_elements,
    )
    direction = o3.Irreps.spherical_harmonics(lmax)
    natural = arch.feature_parity == "natural"
    full = full_feature_irreps(channels, lmax, natural)
    shapes: dict[str, tuple[int, ...]] = {
        "edge_embedding.radial_basis.bessel_roots": (arch.num_edge_rbf,),
        "embedding.element_tp.weight": (num_species * arch.num_vel_rbf**2,),
        "embedding.linear.weight": ((num_species + arch.num_vel_rbf + lmax) * channels,),
    }
    irreps = o3.Irreps([(channels, ir) for _, ir in direction])
    for k in range(arch.num_mp_layers):
        prefix = f"interactions.{k}"
        messages, paths = depthwise_instructions(irreps, direction, lmax, natural)
        contracted = occurring(full, messages)
        conditioned, vel_paths = depthwise_instructions(contracted, direction, lmax, natural)
        out = occurring(full, conditioned)
        if arch.message_features == "both":
            shapes[f"{prefix}.own_share.weight"] = (irreps.num_irreps,)
        num_gates = sum(mul for mul, ir in out if ir.l > 0)
        updates = (o3.Irreps([(num_gates, (0, 1))]) + out).sort().irreps.simplify()
        shapes |= _mlp_shapes(
            f"{prefix}.edge_mlp",
            [arch.num_edge_rbf, *arch.edge_mlp_kwargs.n_neurons, channels * len(paths)],
        )
        shapes |= _mlp_shapes(
            f"{prefix}.vel_mlp",
            [arch.num_vel_rbf, *arch.vel_mlp_kwargs.n_neurons, channels * len(vel_paths)],
        )
        shapes[f"{prefix}.linear_contraction.weight"] = (_linear_size(messages, contracted),)
        shapes[f"{prefix}.linear_updates.weight"] = (_linear_size(conditioned, updates),)
        shapes[f"{prefix}.tp_resnet.weight"] = (num_species * _linear_size(irreps, out),)
        irreps = out
    hidden = channels // 4
    shapes["read_out.compression.weight"] = (channels * hidden,)
    shapes["read_out.read_out.weight"] = (2 * hidden,)
    return shapes
