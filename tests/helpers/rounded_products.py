"""Matrix products of a GPU's short formats on a CPU: operands are rounded, sums are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.kernels.triton.tf32 import in_tf32, rounded
from lammps_trajcast.model.conservation import Prediction
from lammps_trajcast.model.file import ModelFile

TF32, BF16 = 10, 7
"""Bits of mantissa; float32 has 23, and both have its exponent."""

_ATEN = torch.ops.aten
# The place of the first operand; the second follows it.
_PRODUCTS = {
    **dict.fromkeys((_ATEN.mm, _ATEN.bmm, _ATEN.mv, _ATEN.dot, _ATEN.matmul, _ATEN.linear), 0),
    **dict.fromkeys((_ATEN.addmm, _ATEN.baddbmm, _ATEN.addmv), 1),
}


class RoundedProducts(TorchDispatchMode):
    """Within this context the operands of all products of float32 matrices are shortened.

    Networks must not be compiled, or their products are not seen.

    Attributes:
        count: of the products so far.
    """

    def __init__(self, bits: int) -> None:
        """Keep so many bits of mantissa, rounded to nearest."""
        super().__init__()
        self._bits = bits
        self.count = 0

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        first = _PRODUCTS.get(func.overloadpacket)
        if first is not None and args[first].dtype == torch.float32:
            self.count += 1
            short = [rounded(each, self._bits) for each in args[first : first + 2]]
            args = (*args[:first], *short, *args[first + 2 :])
        return func(*args, **(kwargs or {}))


class _Tabulated(torch.nn.Module):
    """A radial network in double precision, as the tables of a GPU hold it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, length: Tensor) -> Tensor:
        weights: Tensor = self.network(length.double())
        return weights.to(length.dtype)


class Steps:
    """A model's steps with the matrix products that a GPU makes; radial networks are exact.

    Momentum is restored in double precision.
    """

    def __init__(self, model: ModelFile, precision: str) -> None:
        """Use a model's weights; precision "single", "double" or "tf32"."""
        self._dtype = torch.float64 if precision == "double" else torch.float32
        self._network = FusedTrajCast(model.build(self._dtype))
        for layer in self._network.interactions:
            layer.edge_mlp = _Tabulated(layer.edge_mlp)  # type: ignore[arg-type]
            if precision == "tf32":
                in_tf32(layer)  # type: ignore[arg-type]
        self._conservation = model.build(torch.float64).conservation

    @torch.no_grad()
    def __call__(
        self,
        species: Tensor,
        positions: Tensor,
        velocities: Tensor,
        masses: Tensor,
        edge_vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
    ) -> Prediction:
        """Predict displacement and velocity (N, 3) from a state in double precision."""
        target = self._network.predict(
            species, velocities.to(self._dtype), edge_vectors.to(self._dtype), receivers, senders
        )
        system = torch.zeros_like(species)
        prediction: Prediction = self._conservation(
            target.double(), positions, velocities, masses, system, 1
        )
        return prediction
