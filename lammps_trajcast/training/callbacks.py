"""What follows each step and each validation: the schedule, messages to users, the curve."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lammps_trajcast.data.baseline import Comparison
from lammps_trajcast.training.progress import ProgressReporter, describe_errors, duration
from lammps_trajcast.training.schedule import UNTYPICAL_STEPS, Schedule

# Folder of the logs that metrics.csv is joined from.
LOGS = "logs"
# Seconds, for the time that a training takes.
clock = time.monotonic


class LearningCurve(pl.Callback):
    """Bring metrics.csv and its picture up to date after every validation and at the end."""

    def __init__(self, directory: Path, baseline: Comparison | None) -> None:
        self.directory = directory
        self.baseline = baseline

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Set the step that logs name right.

        The training library counts one too many for each time that it goes on from a checkpoint;
        a row would then seem to be of the start after it, and be dropped.
        """
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write metrics.csv and draw the curve, on the first process alone."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        from lammps_trajcast.training.curve import draw_learning_curve, join_logs

        join_logs(self.directory / LOGS, self.directory / "metrics.csv")
        draw_learning_curve(self.directory, self.baseline)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the logs and bring the files up to date for the last time."""
        # What was logged after the last validation.
        for logger in trainer.loggers:
            logger.save()
        self.on_validation_end(trainer, pl_module)


class Pace(pl.Callback):
    """Let the schedule know what happens, end the training when it says so, and report progress."""

    def __init__(self, schedule: Schedule, reporter: ProgressReporter) -> None:
        self._schedule = schedule
        self._teller = reporter
        self._before = 0.0
        self._steps = 0  # in this start
        self._validations = 0

    @property
    def state_key(self) -> str:
        """The name under which checkpoints keep the schedule."""
        return "Schedule"

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        return self._schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._schedule.load_state_dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock and tell that the network is being compiled."""
        self._before = clock()
        self._tell(trainer, stage="compiling the network, for the first step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Count the step and its time, tell of it, and stop the training where it ends."""
        schedule, step = self._schedule, trainer.global_step
        now = clock()
        passed, self._before = now - self._before, now
        if trainer.world_size > 1 and schedule.options.max_hours is not None:
            # All processes come to the same decision.
            slowest = trainer.strategy.reduce(
                torch.tensor(passed, device=pl_module.device), reduce_op="max"
            )
            passed = float(slowest)
        fell = schedule.decaying
        schedule.passed(step, passed)
        self._tell(trainer, stage="training", done=0, total=0)
        self._say_where_it_falls(fell, step)
        self._steps += 1
        if self._steps == UNTYPICAL_STEPS + 10:
            self._say_how_long()
        if schedule.end is not None and step >= schedule.end:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the batches of a validation anew."""
        self._validations = 0

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Tell how many batches of the validation are done."""
        self._validations += 1
        (batches,) = trainer.num_val_batches
        self._teller.tell(stage="validating", done=self._validations, total=int(batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the schedule judge the validation loss, and tell of the errors."""
        metrics, step = trainer.callback_metrics, trainer.global_step
        fell = self._schedule.decaying
        self._schedule.validated(step, float(metrics["validation_loss"]) ** 0.5)
        names = ("displacement", "velocity")
        errors = {
            name: float(metrics[f"validation_{name}_error"])
            for name in names
            if f"validation_{name}_error" in metrics
        }
        self._tell(trainer, stage="training", done=0, total=0, errors=errors)
        baseline = self._teller.status.baseline
        compared = ""
        if baseline and all(baseline[name] > 0.0 for name in errors):
            parts = " and ".join(f"{errors[name] / baseline[name]:.3g}" for name in errors)
            compared = f" ({parts} of the baseline's)"
        left = self._teller.status.seconds_left
        about = self._teller.status.last_step_is
        time_left = (
            ""
            if left is None
            else f", {about + ' ' if about != 'exact' else ''}{duration(left)} left"
        )
        self._teller.line(f"step {step:,}: errors {describe_errors(errors)}{compared}{time_left}")
        self._say_where_it_falls(fell, step)

    def _say_where_it_falls(self, fell: bool, step: int) -> None:
        if self._schedule.decaying and not fell:
            why = {
                "converged": "the error has stopped falling",
                "steps": "to end by optimization.steps",
                "max_hours": "to end by optimization.max_hours",
            }[self._schedule.reason or "steps"]
            self._teller.line(
                f"step {step:,}: {why}; the learning rate goes down until step "
                f"{self._schedule.end:,}"
            )

    def _say_how_long(self) -> None:
        status = self._teller.status
        if status.seconds_per_step is None or status.seconds_left is None:
            return
        about = "" if status.last_step_is == "exact" else f"{status.last_step_is} "
        self._teller.line(
            f"{status.seconds_per_step:.2g} s per step; {about}{status.last_step:,} steps, "
            f"{about}{duration(status.seconds_left)} left"
        )

    def _tell(self, trainer: pl.Trainer, **changes: Any) -> None:
        schedule, step = self._schedule, trainer.global_step
        last_step, known = schedule.last_step(step)
        self._teller.tell(
            **{"step": step, "last_step": last_step, "last_step_is": known},
            **{"learning_rate_falls": schedule.decaying and schedule.options.schedule == "plateau"},
            **{"seconds": schedule.seconds, "seconds_per_step": schedule.seconds_per_step},
            **changes,
        )
