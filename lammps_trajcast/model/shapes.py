"""The shape of every weight of a network, found without building it.

A model file is checked against this before anything of its size is allocated.
"""

from __future__ import annotations

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.irreps import Irreps, layers, num_copies


def _linear_size(irreps_in: Irreps, irreps_out: Irreps) -> int:
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
    shapes: dict[str, tuple[int, ...]] = {
        "edge_embedding.radial_basis.bessel_roots": (arch.num_edge_rbf,),
        "embedding.element_tp.weight": (num_species * arch.num_vel_rbf**2,),
        "embedding.linear.weight": ((num_species + arch.num_vel_rbf + lmax) * channels,),
    }
    for k, layer in enumerate(layers(arch)):
        prefix = f"interactions.{k}"
        if arch.message_features == "both":
            shapes[f"{prefix}.own_share.weight"] = (num_copies(layer.inputs),)
        shapes |= _mlp_shapes(
            f"{prefix}.edge_mlp",
            [
                arch.num_edge_rbf,
                *arch.edge_mlp_kwargs.n_neurons,
                channels * len(layer.message_paths),
            ],
        )
        shapes |= _mlp_shapes(
            f"{prefix}.vel_mlp",
            [
                arch.num_vel_rbf,
                *arch.vel_mlp_kwargs.n_neurons,
                channels * len(layer.velocity_paths),
            ],
        )
        sizes = {
            "linear_contraction": _linear_size(layer.messages, layer.contracted),
            "linear_updates": _linear_size(layer.conditioned, layer.updates),
            "tp_resnet": num_species * _linear_size(layer.inputs, layer.outputs),
        }
        shapes |= {f"{prefix}.{name}.weight": (size,) for name, size in sizes.items()}
    hidden = channels // 4
    shapes["read_out.compression.weight"] = (channels * hidden,)
    shapes["read_out.read_out.weight"] = (2 * hidden,)
    return shapes
