"""Irreducible representations of the features, and the paths of the depthwise tensor products.

Everything here follows the published TrajCast network, in which the order of paths, and so of the
weights in a checkpoint, is fixed by :func:`depthwise_instructions`.
"""

from __future__ import annotations

from e3nn import o3

Instruction = tuple[int, int, int, str, bool]


def is_natural(ir: o3.Irrep) -> bool:
    """Whether the parity is that of the spherical harmonics, (-1)^l."""
    return bool(ir.p == (-1) ** ir.l)


def full_feature_irreps(channels: int, lmax: int, natural: bool = False) -> o3.Irreps:
    """Return ``channels`` copies of all orders 0..lmax, in e3nn's sorted order.

    Of both parities, or of the natural one alone.
    """
    irreps = o3.Irreps([(channels, (order, p)) for order in range(lmax + 1) for p in (1, -1)])
    wanted = [(mul, ir) for mul, ir in irreps if is_natural(ir) or not natural]
    return o3.Irreps(wanted).sort().irreps.simplify()


def occurring(wanted: o3.Irreps, present: o3.Irreps) -> o3.Irreps:
    """Return the entries of ``wanted`` whose irrep occurs in ``present``."""
    return o3.Irreps([(mul, ir) for mul, ir in wanted if ir in present])


def depthwise_instructions(
    irreps_node: o3.Irreps, irreps_direction: o3.Irreps, lmax: int, natural: bool = False
) -> tuple[o3.Irreps, list[Instruction]]:
    """Return output irreps and "uvu" paths of a depthwise tensor product.

    Each path couples one block of ``irreps_node`` with one order of ``irreps_direction`` (spherical
    harmonics, multiplicity 1) to one product irrep of order at most ``lmax``, and with ``natural``
    of natural parity. The output lists one block per path, sorted; the instructions are ordered by
    output block.
    """
    outputs: list[tuple[int, o3.Irrep]] = []
    paths: list[tuple[int, int]] = []
    for i, (mul, ir_node) in enumerate(irreps_node):
        for j, (_, ir_direction) in enumerate(irreps_direction):
            for ir_out in ir_node * ir_direction:
                if ir_out.l <= lmax and (is_natural(ir_out) or not natural):
                    outputs.append((mul, ir_out))
                    paths.append((i, j))
    irreps_out, permutation, _ = o3.Irreps(outputs).sort()
    instructions: list[Instruction] = [
        (i, j, permutation[k], "uvu", True) for k, (i, j) in enumerate(paths)
    ]
    return irreps_out, sorted(instructions, key=lambda path: path[2])
