"""The end of a training: its errors on pairs that it has not seen, and its summary."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from lammps_trajcast.data.baseline import Comparison
from lammps_trajcast.training.batches import Batch, GraphPairs
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.loaders import make_loader
from lammps_trajcast.training.module import TrainingModule
from lammps_trajcast.training.progress import ProgressReporter
from lammps_trajcast.training.schedule import Schedule

# Pairs of the test split on which the finished model is judged.
TEST_PAIRS = 500


def measure_errors(
    module: TrainingModule,
    pairs: GraphPairs,
    batch_size: int,
    reporter: ProgressReporter | None = None,
) -> dict[str, float]:
    """Return RMSE over rms of displacement and velocity, the rms that of the same pairs."""
    error, square = np.zeros(2), np.zeros(2)
    loader = make_loader(pairs, batch_size)
    with torch.no_grad():
        for batch in (reporter or ProgressReporter(())).counted(loader, len(loader)):
            assert isinstance(batch, Batch)
            displacement, velocity = module.errors(batch)
            error += [float(x.double().square().sum()) for x in (displacement, velocity)]
            square += [float((batch.displacement**2).sum()), float((batch.velocity_after**2).sum())]
    relative = np.sqrt(error / square)
    return {"displacement": float(relative[0]), "velocity": float(relative[1]), "pairs": len(pairs)}


def write_summary(
    config: TrainingConfig,
    schedule: Schedule,
    steps: int,
    errors: dict[str, float],
    baseline: Comparison | None,
    weights: int,
) -> None:
    """Write summary.json: how the training ended, and what came of it."""
    summary: dict[str, Any] = {
        "outcome": schedule.outcome(steps),
        "converged": schedule.reason == "converged",
        "steps": steps,
        "hours": round(schedule.seconds / 3600.0, 4),
        "weights": weights,
        "test_errors": errors,
    }
    if baseline is not None:
        summary["baseline"] = to_beat = baseline._asdict()
        summary["errors_over_baseline"] = {
            name: errors[name] / to_beat[name]
            for name in ("displacement", "velocity")
            if to_beat[name] > 0.0
        }
    (config.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
