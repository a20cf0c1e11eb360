"""The read-out: from features to a normalized displacement and a normalized new velocity."""

import torch
from e3nn import o3
from torch import Tensor


class ReadOut(torch.nn.Module):
    """Two linear maps to two vectors per atom."""

    def __init__(self, irreps_in: o3.Irreps, channels: int) -> None:
        super().__init__()
        hidden = o3.Irreps([(channels // 4, (1, -1))])
        self.compression = o3.Linear(irreps_in, hidden)
        self.read_out = o3.Linear(hidden, o3.Irreps([(2, (1, -1))]))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, irreps_in.dim) to targets (N, 6).

        Columns 0-2 are the displacement over rms_displacement, 3-5 the new velocity over
        rms_velocity.
        """
        return self.read_out(self.compression(features))
