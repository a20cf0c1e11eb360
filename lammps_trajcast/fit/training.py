"""The training of a round, in the time that there is."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lammps_trajcast.fit.config import FitConfig, write_whole
from lammps_trajcast.training.config import TrainingConfig

# Steps that are timed, after one that is not; and the least and the most that a round takes.
TIMED, LEAST, MOST = 3, 200, 20_000
# What may differ between two calls that go on with one training.
LENGTH_KEYS = {"steps", "epoch_steps", "ema_decay", "warmup_steps"}
# Validations in a training.
VALIDATIONS = 25
# Learning rates, from random weights and from those of a model.
RATE, RATE_AGAIN = 0.012, 0.004
# A training has converged if the last part of it took less than this share off the error.
LAST_PART, STILL_FALLING = 0.2, 0.03


def training_config(
    config: FitConfig,
    *,
    dataset: Sequence[Path],
    output: Path,
    directory: Path,
    network: dict[str, Any],
    batch_size: int,
    steps: int,
    start_from: Path | None,
) -> TrainingConfig:
    """Write the YAML file of a training beside its directory, and read it.

    Raises TrainingError.
    """
    epoch = max(steps // VALIDATIONS, 5)
    optimization: dict[str, Any] = {
        "optimizer": "muon",
        "normalization": "element",
        "steps": steps,
        "epoch_steps": epoch,
        "batch_size": batch_size,
        "learning_rate": RATE_AGAIN if start_from else RATE,
        "warmup_steps": max(min(100, steps // 10), 1),
        # The average covers a small part of the training, however short that is.
        "ema_decay": round(min(0.998, max(1.0 - 25.0 / steps, 0.5)), 4),
        "time_reversal": True,
        "validation_pairs": 64,
        **config.optimization,
    }
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
        return {**of, "optimization": kept}

    if compared(before) != compared(content):
        shutil.rmtree(directory, ignore_errors=True)


def seconds_a_step(config: TrainingConfig) -> float:
    """Wall time of a step of the optimizer, measured on a few mini-batches."""
    import torch

    from lammps_trajcast.data.dataset import TrajectoryPairs
    from lammps_trajcast.data.statistics import dataset_statistics
    from lammps_trajcast.training.batches import GraphPairs
    from lammps_trajcast.training.module import TrainingModule
    from lammps_trajcast.training.train import make_architecture, make_loader, spread

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


def steps_in(seconds: float, a_step: float) -> int:
    """How many steps fit into a time, validations included; at least a few hundred."""
    steps = int(seconds / (1.15 * a_step))
    rounded = 50 * (steps // 50)
    return max(LEAST, min(MOST, rounded))


def falling(directory: Path) -> float | None:
    """By what share the validation error fell in the last part of a training; None if unknown."""
    table = directory / "metrics.csv"
    if not table.is_file():
        return None
    points = []
    with table.open() as file:
        for row in csv.DictReader(file):
            errors = [float(row[name]) for name in row if name.endswith("_error") and row[name]]
            if errors:
                points.append((int(row["step"]), sum(errors)))
    if len(points) < 5:
        return None
    last = points[-1][0]
    before = [error for step, error in points if step <= (1.0 - LAST_PART) * last]
    if not before:
        return None
    best = min(error for _, error in points)
    share = 1.0 - best / min(before)
    return share if math.isfinite(share) else None


def progress_of(directory: Path, steps: int, begun: float, a_step: float) -> tuple[float, str]:
    """How much of a training is done, by its table and the time since; and in words."""
    last, error = 0, ""
    table = directory / "metrics.csv"
    if table.is_file():
        try:
            with table.open() as file:
                for row in csv.DictReader(file):
                    if row.get("validation_velocity_error"):
                        last = int(row["step"])
                        error = f", error {float(row['validation_velocity_error']):.3f}"
        except (ValueError, KeyError, OSError):
            return 0.0, ""
    return min(last / steps, 1.0), f"step {last} of {steps}{error}"
