"""The steps of a training: from the newest checkpoint to the best one."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lammps_trajcast.data.baseline import Comparison
from lammps_trajcast.training.averaging import ParameterAveraging
from lammps_trajcast.training.batches import EpochSampler, GraphPairs, ProcessShard, ShardedSampler
from lammps_trajcast.training.callbacks import LOGS, LearningCurve, Pace
from lammps_trajcast.training.config import OptimizationConfig, TrainingConfig, TrainingError
from lammps_trajcast.training.loaders import make_loader
from lammps_trajcast.training.module import TrainingModule
from lammps_trajcast.training.processes import TrainingProcess
from lammps_trajcast.training.progress import ProgressReporter
from lammps_trajcast.training.saving import AtomicCheckpointIO, AtomicCSVLogger
from lammps_trajcast.training.schedule import Schedule


class _Checkpoint(NamedTuple):
    path: Path
    content: dict[str, Any]


def _checkpoint_to_resume(directory: Path) -> _Checkpoint | None:
    """Return the newest whole checkpoint, if there is one.

    A kill while writing may have left a broken one behind.
    """
    for path in sorted(directory.glob("step*.ckpt"), key=lambda p: p.stat().st_mtime)[::-1]:
        try:
            content = torch.load(path, map_location="cpu", weights_only=False)
            content["global_step"]
        except Exception:
            logging.getLogger(__name__).warning("%s is not whole, left out", path)
            continue
        return _Checkpoint(path, content)
    return None


def _ended(checkpoint: dict[str, Any], options: OptimizationConfig) -> bool:
    """Whether the run that wrote this checkpoint came to its end before its last step."""
    state = checkpoint["callbacks"].get("Schedule")
    if options.schedule == "plateau":
        schedule = Schedule(options)
        if state is not None:
            schedule.load_state_dict(state)
        return schedule.end is not None and int(checkpoint["global_step"]) >= schedule.end
    return any(
        name.startswith("EarlyStopping") and state["wait_count"] >= state["patience"]
        for name, state in checkpoint["callbacks"].items()
    )


def _check_speed_factors(
    checkpoint: dict[str, Any], module: TrainingModule, config: TrainingConfig
) -> None:
    """Check that the network sees speeds as the one of the checkpoint did.

    Raises:
        TrainingError: it does not.
    """
    # Earlier releases had none.
    before = checkpoint.get("speed_factors")
    if before == module.speed_factors:
        return
    units = "all" if before is None else "element"
    raise TrainingError(
        f"{config.directory}: holds a training of a network with other speed_units: write "
        f"'speed_units: {units}' under network to go on with it, or begin anew with --fresh"
    )


def _loggers(config: TrainingConfig, first_step: int) -> list[Logger]:
    # One log for each start: the logger empties the file that it is given.
    start = f"from_step_{first_step:08d}"
    loggers: list[Logger] = [AtomicCSVLogger(config.directory, LOGS, version=start)]
    if config.tensorboard:
        try:
            board = TensorBoardLogger(
                config.directory, "tensorboard", version="", purge_step=first_step
            )
        except ModuleNotFoundError:
            raise TrainingError(
                "tensorboard: true needs TensorBoard; pip install tensorboard, or leave it out"
            ) from None
        loggers.append(board)
    return loggers


def fit(
    config: TrainingConfig,
    process: TrainingProcess,
    environment: ClusterEnvironment,
    module: TrainingModule,
    training: GraphPairs,
    validation: GraphPairs,
    fresh: bool,
    reporter: ProgressReporter,
    baseline: Comparison | None,
) -> dict[str, Any] | None:
    """Optimize the weights.

    Returns:
        The best checkpoint; None in all processes but the first.
    """
    options = config.optimization
    resume = None if fresh else _checkpoint_to_resume(config.directory)
    if resume is not None:
        _check_speed_factors(resume.content, module, config)
    resumed_at = 0 if resume is None else int(resume.content["global_step"])
    last_step = options.steps
    if resume is not None and _ended(resume.content, options):
        last_step = resumed_at
    if resume is None and process.rank == 0:
        for name in (LOGS, "tensorboard"):
            shutil.rmtree(config.directory / name, ignore_errors=True)
    newest = ModelCheckpoint(
        config.directory, "step{step:08d}", monitor="step", mode="max", save_top_k=2,
        auto_insert_metric_name=False, enable_version_counter=False, save_on_train_epoch_end=True,
    )  # fmt: skip
    best = ModelCheckpoint(
        config.directory, "best", monitor="validation_loss", save_top_k=1,
        enable_version_counter=False, save_on_train_epoch_end=False,
    )  # fmt: skip
    callbacks: list[pl.Callback] = [
        ParameterAveraging(options.ema_decay, module.schedule.longest_memory),
        newest,
        best,
        LearningCurve(config.directory, baseline),
        Pace(module.schedule, reporter),
    ]
    if options.early_stopping is not None:
        callbacks.append(EarlyStopping("validation_loss", patience=options.early_stopping))
    # Messages about hardware and other loggers do not help the user.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning's hints about worker processes and directories that exist do not apply here.
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        trainer = pl.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy="auto" if config.devices == 1 else "ddp",
            max_steps=-1 if last_step is None else last_step,
            max_epochs=-1,
            gradient_clip_val=options.gradient_clip,
            callbacks=callbacks,
            logger=_loggers(config, resumed_at),
            plugins=[AtomicCheckpointIO(), environment],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=options.epoch_steps,
            use_distributed_sampler=False,
            # The last epoch may be shorter.
            reload_dataloaders_every_n_epochs=1,
        )

        def epoch() -> tuple[int, int]:
            return trainer.global_step, module.schedule.next_stop(trainer.global_step)

        def share() -> ProcessShard:
            return ProcessShard(trainer.global_rank, trainer.world_size)

        sampler = EpochSampler(len(training), options.batch_size, config.seed, epoch, share)
        part = options.batch_size // trainer.world_size
        try:
            trainer.fit(
                module,
                make_loader(training, part, sampler, config.workers),
                make_loader(validation, part, ShardedSampler(len(validation), share)),
                ckpt_path=None if resume is None else resume.path,
                weights_only=False,
            )
        except SystemExit:  # so the training library ends on SIGTERM and on Ctrl-C
            raise TrainingError(
                f"interrupted at step {trainer.global_step}; the same command goes on from the "
                "last checkpoint before it"
            ) from None
    if not trainer.is_global_zero:
        return None
    if not Path(best.best_model_path).is_file():
        raise TrainingError(f"{config.directory}: holds no best.ckpt; start anew with --fresh")
    return torch.load(best.best_model_path, map_location="cpu", weights_only=False)
