"""Checkpoints and logs that are whole or as they were."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.plugins import TorchCheckpointIO

from lammps_trajcast.atomic_file import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside the one it replaces, and put it in its place when it is complete.

    The training library moves files there from the directory for temporary files, which may be
    another disk: a kill, or a full disk, would leave half of it in place of the one before.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `path`.

        Raises:
            OSError: it cannot be written; an earlier file of that name is left as it was.
        """
        path = Path(path)
        content = io.BytesIO()  # torch hides what the operating system says about its own files
        torch.save(checkpoint, content)
        with replacing(path) as partial:
            partial.write_bytes(content.getbuffer())


class AtomicCSVWriter(ExperimentWriter):
    """Rewrite a log with a new column without a moment at which its rows are nowhere.

    The training library empties the file before it writes the rows again. It does so after the
    first epoch of each start, when the checkpoint is there already: rows that a kill loses then
    would not be logged again.
    """

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with replacing(path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames)
            writer.writeheader()
            writer.writerows(rows)


class AtomicCSVLogger(CSVLogger):
    """The training library's CSV log, by :class:`AtomicCSVWriter`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; it makes the directory, and empties the log of a start at the same step."""
        if self._experiment is None:
            self._experiment = AtomicCSVWriter(self.log_dir)
        return self._experiment
