"""Checkpoints that are whole or not there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from lammps_trajcast.atomic_file import replacing


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside the one it replaces, and put it in its place when it is complete.

    The training library moves files there from the directory for temporary files, which may be
    another disk: a kill, or a full disk, would leave half of it in place of the one before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `path`.

        Raises OSError, with the file of that name as it was.
        """
        path = Path(path)
        content = io.BytesIO()  # torch hides what the operating system says about its own files
        torch.save(checkpoint, content)
        with replacing(path) as partial:
            partial.write_bytes(content.getbuffer())
