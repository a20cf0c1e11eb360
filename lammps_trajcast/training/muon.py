"""The optimizer Muon for networks whose matrices lie side by side in flat parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from e3nn import o3
from torch import Tensor

# Coefficients of the iteration that brings singular values near one, and the number of its steps
# (Jordan et al., "Muon", 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Decay rates of the two means of Adam, which updates the parameters that are not matrices.
ADAM_BETAS = (0.9, 0.99)
EPSILON = 1e-8


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return matrices (B, m, n) with the same singular vectors and singular values of 0.7 to 1.2.

    A quintic polynomial applied again and again, after Jordan et al. (2024); a matrix of zeros
    stays one.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.mT if matrices.size(1) > matrices.size(2) else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * (gram @ gram)) @ wide
    return wide.mT if matrices.size(1) > matrices.size(2) else wide


def matrices_of(network: torch.nn.Module) -> dict[torch.nn.Parameter, list[Tensor]]:
    """Return for each parameter made of matrices where in it (flattened) their elements lie.

    What acts on radial functions of a distance or a speed is left out, and so is what follows on
    those of a speed: some are zero for nearly all atoms. The gradient of a rare fast one would move
    their weights for hundreds of steps, since however far its mean has decayed, it is brought back
    to the same size; and the network would be wild at speeds that a long run reaches.

    Each entry is a (m, n) int64 tensor of places. e3nn keeps the matrices of a linear map, one for
    each pair of irreps, in one flat parameter; those that lead to the same irrep are one matrix
    here, as they act together. The residual tensor product has one matrix for each species.
    """
    found: dict[torch.nn.Parameter, list[Tensor]] = {}
    for name, module in network.named_modules():
        if name.endswith("element_tp"):
            continue
        if isinstance(module, o3.Linear) and module.weight_numel:
            shapes = [instruction.path_shape for instruction in module.instructions]
            outputs = [instruction.i_out for instruction in module.instructions]
            found[module.weight] = _joined(_places(shapes), outputs)
        elif isinstance(module, o3.TensorProduct) and module.internal_weights:
            places = _places([path.path_shape for path in module.instructions if path.has_weight])
            found[module.weight] = [
                place[:, species] for place in places for species in range(place.size(1))
            ]
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2 and "vel_mlp" not in name and "mlp.layer0" not in name:
            found[parameter] = [torch.arange(parameter.numel()).view(parameter.shape)]
    return found


def _places(shapes: Iterable[tuple[int, ...]]) -> list[Tensor]:
    places, first = [], 0
    for shape in shapes:
        size = math.prod(shape)
        places.append(torch.arange(first, first + size).view(shape))
        first += size
    return places


def _joined(places: list[Tensor], outputs: list[int]) -> list[Tensor]:
    """Return the matrices with the same output, one below the other."""
    return [
        torch.cat([place for place, k in zip(places, outputs, strict=True) if k == output])
        for output in sorted(set(outputs))
    ]


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal matrix by matrix (Jordan et al., 2024); Adam for the rest.

    A step changes the elements of a matrix by about the learning rate (in the root mean square), as
    a step of Adam does, but all its singular directions by the same amount.

    Args:
        network: whose parameters are to be changed.
        learning_rate: of both kinds of parameters.
        momentum: decay rate of the mean gradient of matrices.
    """

    def __init__(
        self, network: torch.nn.Module, learning_rate: float, momentum: float = 0.95
    ) -> None:
        places = matrices_of(network)
        matrices = [p for p in network.parameters() if p in places]
        others = [p for p in network.parameters() if p not in places]
        groups: list[dict[str, Any]] = [{"params": matrices, "momentum": momentum}]
        if others:
            groups.append({"params": others, "momentum": None})
        super().__init__(groups, {"lr": learning_rate})
        # Matrices of the same shape are worked on together: (their number, m, n) places in all
        # parameters of the first group, one after the other.
        alike: dict[tuple[int, ...], list[Tensor]] = {}
        first = 0
        for parameter in matrices:
            for place in places[parameter]:
                alike.setdefault(tuple(place.shape), []).append(place + first)
            first += parameter.numel()
        self._places = [torch.stack(place) for place in alike.values()]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the parameters; ``closure``, if given, works out the loss and the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["momentum"] is None:
                self._adam(group)
            else:
                self._orthogonal(group)
        return loss

    def _orthogonal(self, group: dict[str, Any]) -> None:
        parameters, momentum = group["params"], group["momentum"]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["mean_gradient"] = torch.zeros_like(parameter)
        means = {p: self.state[p]["mean_gradient"] for p in parameters}
        moved = [p for p in parameters if p.grad is not None]
        if not moved:
            return
        torch._foreach_lerp_([means[p] for p in moved], [p.grad for p in moved], 1.0 - momentum)
        # Half a step ahead of the mean, as in Nesterov's method.
        ahead_of = torch._foreach_lerp(
            [means[p] for p in moved], [p.grad for p in moved], 1.0 - momentum
        )
        means |= dict(zip(moved, ahead_of, strict=True))
        ahead = torch.cat([mean.flatten() for mean in means.values()])
        change = torch.zeros_like(ahead)
        self._places = [places.to(ahead.device) for places in self._places]
        for places in self._places:
            scale = math.sqrt(max(places.shape[1:]))
            change[places] = scale * orthogonalized(ahead[places])
        parts = change.split([p.numel() for p in parameters])
        shaped = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
        torch._foreach_add_(parameters, shaped, alpha=-group["lr"])

    def _adam(self, group: dict[str, Any]) -> None:
        slow, slower = ADAM_BETAS
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["mean_gradient"] = torch.zeros_like(parameter)
                state["mean_square"] = torch.zeros_like(parameter)
            state["step"] += 1
        gradients = [p.grad for p in parameters]
        states = [self.state[p] for p in parameters]
        means = [state["mean_gradient"] for state in states]
        squares = [state["mean_square"] for state in states]
        torch._foreach_lerp_(means, gradients, 1.0 - slow)
        torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1.0 - slower)
        mean = torch._foreach_div(means, [1.0 - slow ** state["step"] for state in states])
        square = torch._foreach_div(squares, [1.0 - slower ** state["step"] for state in states])
        root = torch._foreach_sqrt(square)
        torch._foreach_add_(root, EPSILON)
        torch._foreach_add_(parameters, torch._foreach_div(mean, root), alpha=-group["lr"])
