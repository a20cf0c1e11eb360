"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor


class ParameterAveraging(pl.Callback):
    """Average the parameters after every step; validate with the average.

    Lightning's own callback also copies buffers, pairing those of the network with those of a
    copy by position; a copied e3nn module lists its buffers (constants) in another order.

    The decay rate rises to the one given, as (1 + n) / (10 + n) in step n: the average never
    reaches back further than a tenth of the way, so that the random weights of the start do not
    weigh on it.

    Args:
        decay: rate that is kept from one step to the next.
        limit: returns an upper bound of it for the step at hand.

    The average is part of every checkpoint, under ``callbacks``; see :meth:`from_checkpoint`.
    """

    def __init__(self, decay: float, limit: Callable[[], float] = lambda: 1.0) -> None:
        self._decay = decay
        self._limit = limit
        self._mean: dict[str, Tensor] = {}

    @property
    def state_key(self) -> str:
        """The name under which checkpoints keep the average."""
        return "ParameterAveraging"

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
        """Return the averaged parameters by name."""
        return checkpoint["callbacks"]["ParameterAveraging"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint brought an average."""
        if not self._mean:
            self._mean = {k: p.detach().clone() for k, p in pl_module.named_parameters()}
        # A checkpoint is read into main memory, whatever the device.
        self._mean = {name: mean.to(pl_module.device) for name, mean in self._mean.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Add the weights of this step."""
        current = [p.detach() for p in pl_module.parameters()]
        rise = (1.0 + trainer.global_step) / (10.0 + trainer.global_step)
        decay = min(self._decay, rise, self._limit())
        torch._foreach_lerp_(list(self._mean.values()), current, 1.0 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the network's place."""
        self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights that are being trained back."""
        self._swap(pl_module)

    def _swap(self, pl_module: pl.LightningModule) -> None:
        if not self._mean:
            return
        with torch.no_grad():
            for name, current in pl_module.named_parameters():
                kept = current.clone()
                current.copy_(self._mean[name])
                self._mean[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of the average for a checkpoint."""
        return {name: mean.clone() for name, mean in self._mean.items()}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take the average from a checkpoint."""
        self._mean = {name: mean.clone() for name, mean in state_dict.items()}
