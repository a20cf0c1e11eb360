"""Checkpoints that are whole or not there."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO


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
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        content = io.BytesIO()  # torch hides what the operating system says about its own files
        torch.save(checkpoint, content)
        try:
            with partial.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
