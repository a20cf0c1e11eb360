"""The gate and the residual sum of a layer in one pass, on a CUDA device."""

import torch
from torch import Tensor

from lammps_trajcast.kernels.fused import FusedGate
from lammps_trajcast.kernels.triton import source
from lammps_trajcast.kernels.triton.convolution import launch

# As for the tables of paths: operations refer by number to arguments that are not tensors.
_gates: list[tuple[str, int]] = []  # source, rows of the result


@torch.library.custom_op("lammps_trajcast::gate", mutates_args=())
def gate(update: list[Tensor], residual: list[Tensor], channels: int, number: int) -> Tensor:
    """Return the gated update plus the residual, over root 2: (N, components, channels).

    Args:
        update: (N, 2l+1, channels) for each irrep, the even scalars followed by the gates.
        residual: (N, 2l+1, channels) for each irrep that has one.
        channels: number of channels.
        number: of the gate, from :class:`TritonGate`.
    """
    text, rows = _gates[number]
    nodes = update[0].size(0)
    out = update[0].new_empty((nodes, rows, channels))
    launch(text, nodes, channels, *(block.contiguous() for block in (*update, *residual)), out)
    return out


class TritonGate(torch.nn.Module):
    """A :class:`FusedGate` in one pass; it has no gradients."""

    def __init__(self, plain: FusedGate, num_updates: int, num_residuals: int) -> None:
        """Take over a gate of so many blocks of update and residual."""
        super().__init__()
        self.channels = plain.channels
        blocks = []
        for (update, kind, residual), dim in zip(plain.sources, plain.dims, strict=True):
            act = {-1: plain.even_act, -2: plain.odd_act}.get(kind, plain.gate_act)
            # e3nn scales an activation to mean square 1 for normally distributed input.
            one = torch.ones(1, dtype=torch.float64)
            gain = float(act(one) / act.f(one))
            blocks.append(
                source.GatedBlock(update, residual, dim, max(kind, -1), act.f.__name__, gain)
            )
        text = source.gate(blocks, plain.even_block, num_updates, num_residuals)
        _gates.append((text, sum(plain.dims)))
        self.number: int = len(_gates) - 1

    def forward(self, update: list[Tensor], residual: list[Tensor]) -> Tensor:
        """Return features (N, components, channels), as :meth:`FusedGate.forward` does."""
        return torch.ops.lammps_trajcast.gate(update, residual, self.channels, self.number)
