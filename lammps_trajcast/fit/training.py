"""The training of a round, in the time that there is."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lammps_trajcast.fit.config import FitConfig, write_whole
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.progress import Status

# Steps that are timed, after one that is not; and those below which a training is not worth it.
TIMED, LEAST = 3, 200
# Steps between validations: so many in the time that there is, within bounds.
VALIDATIONS, EPOCHS = 40, (10, 500)
# Learning rates, from random weights and from those of a model.
RATE, RATE_AGAIN = 0.012, 0.004
# What may differ between two calls that go on with one training.
LENGTH_KEYS = {"steps", "max_hours", "epoch_steps", "ema_decay", "warmup_steps"}


def training_config(
    config: FitConfig,
    *,
    dataset: Sequence[Path],
    output: Path,
    directory: Path,
    network: dict[str, Any],
    batch_size: int,
    epoch_steps: int,
    steps: int | None,
    hours: float | None,
    start_from: Path | None,
) -> TrainingConfig:
    """Write the YAML file of a training beside its directory, and read it.

    Raises:
        TrainingError: the file or what it names is at fault.
    """
    optimization: dict[str, Any] = {
        "schedule": "plateau",
        "epoch_steps": epoch_steps,
        "batch_size": batch_size,
        "learning_rate": RATE_AGAIN if start_from else RATE,
        "warmup_steps": max(min(100, epoch_steps), 1),
        # The average covers a small part of the training, however short that is.
        "ema_decay": round(1.0 - 1.0 / max(min(epoch_steps, 500), 10), 4),
        "time_reversal": True,
        "validation_pairs": 64,
        **config.optimization,
    }
    if steps is not None:
        optimization["steps"] = steps
    if hours is not None:
        optimization["max_hours"] = hours
    content: dict[str, Any] = {
        "dataset": [str(path) for path in dataset],
        "output": str(output),
        "directory": str(directory),
        "seed": config.seed,
        "network": network,
        "optimization": optimization,
    }
    if start_from is not None:
        content["start_from"] = str(start_from)
    path = directory.with_name(f"{directory.name}.yaml")
    _forget_other(path, directory, content)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
    if not path.is_file() or path.read_text() != text:
        write_whole(path, text)
    return TrainingConfig.load(path)


def _forget_other(path: Path, directory: Path, content: dict[str, Any]) -> None:
    """Delete checkpoints of a training that differs in more than its length."""
    if not path.is_file():
        return
    before = yaml.safe_load(path.read_text())

    def compared(of: dict[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in of["optimization"].items() if k not in LENGTH_KEYS}
        # Earlier releases had no other unit, and did not name it.
        return {**of, "optimization": kept, "network": {"speed_units": "all"} | of["network"]}

    if compared(before) != compared(content):
        shutil.rmtree(directory, ignore_errors=True)


def seconds_a_step(config: TrainingConfig) -> float:
    """Wall time of a step of the optimizer, measured on a few mini-batches."""
    import torch

    from lammps_trajcast.data.dataset import TrajectoryPairs
    from lammps_trajcast.data.statistics import dataset_statistics
    from lammps_trajcast.training.batches import GraphPairs
    from lammps_trajcast.training.loaders import make_loader
    from lammps_trajcast.training.module import TrainingModule
    from lammps_trajcast.training.preparation import make_architecture, spread

    pairs = TrajectoryPairs(config.dataset, "train")
    statistics = dataset_statistics(config.dataset, "train")
    architecture = make_architecture(config, pairs, statistics)
    rms = (statistics.rms_displacement, statistics.rms_velocity)
    module = TrainingModule(
        architecture, rms, config.optimization, config.precision, config.kernels
    )
    size = config.optimization.batch_size
    few = GraphPairs(pairs, architecture.edge_cutoff, spread(len(pairs), size * (TIMED + 1)))
    begun = time.monotonic()
    counted = 0
    for number, batch in enumerate(make_loader(few, size)):
        if number == 1:
            begun = time.monotonic()
        errors = module.errors(batch)
        parts = [(e**2).mean() / scale**2 for e, scale in zip(errors, rms, strict=True)]
        loss = torch.stack(parts).sum()
        loss.backward()
        counted = number
    return (time.monotonic() - begun) / max(counted, 1)


def epoch_steps(seconds: float, a_step: float) -> int:
    """Steps between validations in a training of so many seconds."""
    return max(EPOCHS[0], min(EPOCHS[1], 10 * int(seconds / a_step / VALIDATIONS / 10)))


def end_of(directory: Path) -> tuple[bool, int, str]:
    """Whether a finished training has converged, its steps, and its end in words."""
    summary = json.loads((directory / "summary.json").read_text())
    return bool(summary["converged"]), int(summary["steps"]), str(summary["outcome"])


class Watch:
    """Keeps what a training tells, for the display."""

    def __init__(self) -> None:
        self._status = Status()

    def observe(self, status: Status) -> None:
        """Called by the training."""
        self._status = status

    def look(self) -> tuple[float, str]:
        """How much is done, and that in words."""
        status = self._status
        if not status.step:
            return 0.0, status.stage
        words = f"step {status.step}"
        if status.last_step:
            words += f" of {'' if status.last_step_is == 'exact' else f'{status.last_step_is} '}"
            words += f"{status.last_step}"
        if "velocity" in status.errors:
            words += f", error of velocities {status.errors['velocity']:.3f}"
        return status.step / status.last_step if status.last_step else 0.0, words
