"""The linear maps of a layer in TF32, single precision with ten bits of mantissa, on a CUDA device.

Features are rounded, by the GPU. Weights are not: a weight is the sum of two numbers of TF32. The
same rounding of weights in every step would change the energy in one direction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedInteraction, GroupedLinear, SpeciesLinear

BITS = 10
"""Of the mantissa, which has 23 in single precision."""


def rounded(values: Tensor, bits: int = BITS) -> Tensor:
    """Return float32 values with so many bits of mantissa, rounded to nearest, ties to even."""
    dropped = 23 - bits
    number = values.contiguous().view(torch.int32)
    half = (1 << (dropped - 1)) - 1 + ((number >> dropped) & 1)
    return ((number + half) >> dropped << dropped).view(torch.float32)


@torch.library.custom_op("lammps_trajcast::tf32_product", mutates_args=(), device_types="cpu")
def tf32_product(rows: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    """Return rows (..., inputs) times weights (inputs, outputs), the sum of two; float32.

    On a CPU what a GPU does to its operands is done to them first; sums are in single precision
    on both.

    Args:
        rows: any float32.
        coarse: what TF32 holds of the weights.
        fine: the rest.
    """
    return _product(rounded(rows), coarse, rounded(fine))


@tf32_product.register_kernel("cuda")
def _tf32_product_cuda(rows: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return _product(rows, coarse, fine)
    finally:
        torch.set_float32_matmul_precision(before)


def _product(rows: Tensor, coarse: Tensor, fine: Tensor) -> Tensor:
    flat = rows.reshape(-1, rows.size(-1))
    product = torch.addmm(flat @ fine, flat, coarse)
    return product.view(rows.size(0), rows.size(1), coarse.size(1))


class SplitWeights:
    """Weights as sums of two numbers of TF32."""

    def __init__(self, weights: list[Tensor]) -> None:
        """Split weights (inputs, outputs) each, float32."""
        weights = [weight.detach() for weight in weights]
        self.coarse = [rounded(weight) for weight in weights]
        self.fine = [w - c for w, c in zip(weights, self.coarse, strict=True)]


class Tf32GroupedLinear(torch.nn.Module):
    """A :class:`GroupedLinear` in TF32; it has no gradients."""

    def __init__(self, plain: GroupedLinear) -> None:
        """Take over a map in single precision."""
        super().__init__()
        self.cuts, self.taken = plain.cuts, plain.taken
        self.dims: list[int] = [dim for _, dim, _, _ in plain.blocks]
        weights = torch.split_with_sizes(plain.weight, plain.weight_cuts)
        split = SplitWeights(
            [
                weight.view(inputs, outputs) / math.sqrt(inputs)
                for weight, (_, _, inputs, outputs) in zip(weights, plain.blocks, strict=True)
            ]
        )
        self.coarse, self.fine = split.coarse, split.fine

    def forward(self, pooled: Tensor) -> list[Tensor]:
        """Map (N, rows, channels) to one (N, 2l+1, outputs) per irrep."""
        out: list[Tensor] = []
        rows = torch.split_with_sizes(pooled, self.cuts, 1)
        for k, coarse in enumerate(self.coarse):
            block = rows[self.taken[k]].reshape(-1, self.dims[k], coarse.size(0))
            out.append(torch.ops.lammps_trajcast.tf32_product(block, coarse, self.fine[k]))
        return out


class Tf32SpeciesLinear(torch.nn.Module):
    """A :class:`SpeciesLinear` in TF32; it has no gradients."""

    def __init__(self, plain: SpeciesLinear) -> None:
        """Take over a map in single precision."""
        super().__init__()
        self.num_species, self.channels = plain.num_species, plain.channels
        self.cuts, self.taken = plain.cuts, plain.taken
        self.dims: list[int] = [dim for _, dim in plain.blocks]
        size = plain.num_species * plain.channels
        weights = plain.weight.view(-1, plain.channels, size) / math.sqrt(size)
        split = SplitWeights(list(weights.unbind()))
        self.coarse, self.fine = split.coarse, split.fine

    def forward(self, features: Tensor, one_hot: Tensor) -> list[Tensor]:
        """Map (N, components, channels) to one (N, 2l+1, channels) per irrep."""
        rows = torch.split_with_sizes(features, self.cuts, 1)
        atoms = one_hot.unsqueeze(1).unsqueeze(3)
        out: list[Tensor] = []
        for k, coarse in enumerate(self.coarse):
            block = torch.ops.lammps_trajcast.tf32_product(
                rows[self.taken[k]], coarse, self.fine[k]
            ).view(-1, self.dims[k], self.num_species, self.channels)
            out.append((block * atoms).sum(dim=2))
        return out


def in_tf32(layer: FusedInteraction) -> None:
    """Let a layer's linear maps be in TF32; the layer then has no gradients."""
    layer.contraction = Tf32GroupedLinear(layer.contraction)  # type: ignore[assignment]
    layer.updates = Tf32GroupedLinear(layer.updates)  # type: ignore[assignment]
    layer.residual = Tf32SpeciesLinear(layer.residual)  # type: ignore[assignment]


def is_cut_on(device: torch.device) -> bool:
    """Return whether a device cuts features down to TF32, where they should be rounded."""
    # Libraries choose the code of a product by its sizes.
    for size in (16, 32, 64, 128):
        above_half = torch.full((1024, 1, size), 1.0 + 0.75 * 2.0**-BITS, device=device)
        one = torch.eye(size, device=device)
        product = torch.ops.lammps_trajcast.tf32_product(above_half, one, torch.zeros_like(one))
        if bool((product < above_half).any()):
            return True
    return False
