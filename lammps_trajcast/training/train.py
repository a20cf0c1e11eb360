"""`lammps-trajcast train`: from a data set and a YAML file to a model file."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from pydantic import ValidationError
from torch.utils.data import DataLoader, Sampler

from lammps_trajcast.data.baseline import Comparison, cheap_comparison
from lammps_trajcast.data.check import check_dataset
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.statistics import Statistics, dataset_statistics, unseen_elements
from lammps_trajcast.launch import PARENT_VARIABLE, end_with_creator, end_with_parent
from lammps_trajcast.lock import InUseError, alone_in
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelFileError, explain
from lammps_trajcast.training.averaging import ParameterAveraging
from lammps_trajcast.training.batches import (
    Augmentation,
    Batch,
    EpochSampler,
    GraphPairs,
    Share,
    ShareSampler,
    collate,
)
from lammps_trajcast.training.config import OptimizationConfig, TrainingConfig, TrainingError
from lammps_trajcast.training.module import TrainingModule
from lammps_trajcast.training.polish import fit_read_out
from lammps_trajcast.training.processes import Place, job_hidden, place_in_job
from lammps_trajcast.training.progress import (
    Console,
    Counted,
    Observer,
    Teller,
    describe_errors,
    duration,
)
from lammps_trajcast.training.saving import WholeCheckpoints, WholeLogs
from lammps_trajcast.training.schedule import UNTYPICAL_STEPS, Schedule

# Frames over which the mean number of neighbors is taken; it hardly varies.
NEIGHBOUR_FRAMES = 20
# Folder of the logs that metrics.csv is joined from.
LOGS = "logs"
# Pairs of the test split on which the finished model is judged.
TEST_PAIRS = 500
# Seconds, for the time that a training takes.
clock = time.monotonic


def spread(size: int, wanted: int) -> list[int]:
    """Return at most so many indices below ``size``, evenly spread."""
    return np.unique(np.linspace(0, size - 1, min(size, wanted)).astype(int)).tolist()


def make_architecture(
    config: TrainingConfig, pairs: TrajectoryPairs, statistics: Statistics
) -> Architecture:
    """Return the network's hyperparameters: those of the YAML file and what the data set says.

    Raises TrainingError if there is no such network.
    """
    cutoff = config.network.edge_cutoff
    frames = GraphPairs(pairs, cutoff, spread(len(pairs), NEIGHBOUR_FRAMES))
    samples = (frames[k] for k in range(len(frames)))
    solid = config.network.velocity_harmonics == "solid"
    # rms of the speed: polynomials of the velocity stay of the order of one.
    rms_speed = 3**0.5 * statistics.rms_velocity
    # The speed basis must cover what a thermostat may bring, not only what was sampled.
    fastest, limit = 1.2 * statistics.max_speed, None
    if config.network.speed_limit_rms is not None:
        limit = round(config.network.speed_limit_rms * rms_speed, 6)
        fastest = 1.2 * limit
    counts = [len(sample.graph.receivers) / len(sample.pair.species) for sample in samples]
    neighbors = round(float(np.mean(counts)), 3)
    if neighbors == 0.0:
        closest = "no atom of the data has another one near it"
        if np.isfinite(statistics.min_distance):
            closest = f"the smallest distance in the data is {statistics.min_distance:.3g} Angstrom"
        raise TrainingError(
            f"network.edge_cutoff: {cutoff:g} Angstrom leave the atoms without neighbors; "
            f"{closest}: write a larger cutoff"
        )
    if round(rms_speed, 6) == 0.0 or statistics.rms_displacement == 0.0:
        raise TrainingError(
            f"dataset: its atoms hardly move (rms speed {rms_speed:.3g} Angstrom/fs, rms "
            f"displacement {statistics.rms_displacement:.3g} Angstrom); there is nothing to learn"
        )
    try:
        return Architecture(
            num_chem_elements=len(pairs.elements),
            vel_max=round(fastest, 6),
            speed_limit=limit,
            avg_num_neighbors=neighbors,
            velocity_scale=round(rms_speed, 6) if solid else None,
            **config.network.architecture_fields(),
        )
    except ValidationError as error:
        raise TrainingError(
            f"network: there is none with this data set: {explain(error)}"
        ) from None


def rms_of_elements(statistics: Statistics) -> torch.Tensor:
    """Return rms displacement and velocity of each element (elements, 2), per component.

    Those of all atoms for an element that does not move or of which there are no atoms.
    """
    limits, rms = statistics.limits, (statistics.rms_displacement, statistics.rms_velocity)
    lengths = zip(limits.rms_displacement, limits.rms_speed, strict=True)
    return torch.tensor(
        [
            [rms[k] if length is None else length / 3**0.5 for k, length in enumerate(both)]
            for both in lengths
        ]
    )


def _load_start(config: TrainingConfig, pairs: TrajectoryPairs) -> ModelFile:
    """Return the model that training begins with, if it is for the same elements."""
    assert config.start_from is not None
    try:
        start = ModelFile.load(config.start_from)
    except ModelFileError as error:
        raise TrainingError(f"start_from: {error}") from None
    data = start.metadata
    if list(data.species) != pairs.elements:
        raise TrainingError(
            f"start_from: {config.start_from} is for {' '.join(data.species)}, the data set for "
            f"{' '.join(pairs.elements)}; take a model and a data set that fit"
        )
    # The scales come from the data set that the model was first trained on. What the file does not
    # say is as in the model.
    wanted = config.network.architecture_fields(asked_for=True)
    found = data.architecture.model_dump(include=set(wanted))
    different = [name for name in wanted if wanted[name] != found[name]]
    factor, limit = config.network.speed_limit_rms, data.architecture.speed_limit
    if "speed_limit_rms" not in config.network.model_fields_set:
        factor = None
    has = (limit or 0.0) / (3**0.5 * data.rms_velocity)
    if factor is not None and abs(has - factor) > 0.01 * factor:
        what = f"a speed limit of {has:.3g} rms speeds" if limit else "no speed limit"
        raise TrainingError(
            f"start_from: {config.start_from} has {what}, but network.speed_limit_rms is "
            f"{factor:g}; set it with 'lammps-trajcast clamp-speed', or leave the key out"
        )
    if different:
        raise TrainingError(
            f"start_from: {config.start_from} has another {', '.join(different)}; write its values "
            "under network (see 'lammps-trajcast info')"
        )
    return start


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


class _LearningCurve(pl.Callback):
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
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        from lammps_trajcast.training.curve import draw_learning_curve, join_logs

        join_logs(self.directory / LOGS, self.directory / "metrics.csv")
        draw_learning_curve(self.directory, self.baseline)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # What was logged after the last validation.
        for logger in trainer.loggers:
            logger.save()
        self.on_validation_end(trainer, pl_module)


class _Pace(pl.Callback):
    """Let the schedule know what happens, end the training when it says so, and tell the world."""

    def __init__(self, schedule: Schedule, teller: Teller) -> None:
        self._schedule = schedule
        self._teller = teller
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
        self._before = clock()
        self._tell(trainer, stage="compiling the network, for the first step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
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
        self._validations = 0

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self._validations += 1
        (batches,) = trainer.num_val_batches
        self._teller.tell(stage="validating", done=self._validations, total=int(batches))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
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


def make_loader(
    pairs: GraphPairs, batch_size: int, sampler: Sampler[Any] | None = None, workers: int = 0
) -> DataLoader[Any]:
    """Return mini-batches of pairs, read ahead by so many worker processes."""
    return DataLoader(
        pairs,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        # Graphs do not need more, and all of them together no more than there are cores.
        worker_init_fn=_begin_worker if workers else None,
        prefetch_factor=4 if workers else None,
        # Copies of a process that uses a GPU end when they free what is on it.
        multiprocessing_context=_fork_server() if workers else None,
    )


def _fork_server() -> BaseContext:
    """A process from which workers are copied: one that has imported what they need, no more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lammps_trajcast.training.worker"])
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # see worker.py
    return context


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    end_with_creator()


def measure_errors(
    module: TrainingModule, pairs: GraphPairs, batch_size: int, teller: Teller | None = None
) -> dict[str, float]:
    """Return RMSE over rms of displacement and velocity, the rms that of the same pairs."""
    error, square = np.zeros(2), np.zeros(2)
    loader = make_loader(pairs, batch_size)
    with torch.no_grad():
        for batch in (teller or Teller(())).counted(loader, len(loader)):
            assert isinstance(batch, Batch)
            displacement, velocity = module.errors(batch)
            error += [float(x.double().square().sum()) for x in (displacement, velocity)]
            square += [float((batch.displacement**2).sum()), float((batch.velocity_after**2).sum())]
    relative = np.sqrt(error / square)
    return {"displacement": float(relative[0]), "velocity": float(relative[1]), "pairs": len(pairs)}


def _training_indices(number: int, config: TrainingConfig) -> list[int] | None:
    """Return which of the pairs are trained on: a random part of them, or None for all."""
    wanted = config.optimization.training_pairs
    if wanted is None:
        return None
    if wanted > number:
        raise TrainingError(
            f"optimization.training_pairs: {wanted}, but the data set has {number} pairs for "
            "training; write at most that, or record more"
        )
    return np.random.default_rng(config.seed).permutation(number)[:wanted].tolist()


@contextmanager
def _alone(config: TrainingConfig, place: Place) -> Iterator[None]:
    """The only training in a directory, which is made; the first process answers for all.

    Raises TrainingError if another one runs there, or nothing can be written.
    """
    if place.rank > 0:
        first = os.environ.get(PARENT_VARIABLE)
        if place.launcher == "train" and first is not None:
            # The first writes all files: there is nothing that another could bring in order.
            end_with_parent(int(first), signal.SIGKILL)
        else:
            end_with_parent()
        yield
        return
    if config.devices > 1:
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    with ExitStack() as stack:
        try:
            config.directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_in(config.directory, "write another directory"))
        except InUseError as error:
            raise TrainingError(f"directory: {error}") from None
        except OSError as error:
            raise TrainingError(
                f"directory: {config.directory} cannot be written ({error.strerror}); write another"
            ) from None
        try:
            tempfile.TemporaryFile(dir=config.output.parent).close()
        except OSError as error:
            raise TrainingError(
                f"output: {config.output} cannot be written ({error.strerror}); write another"
            ) from None
        yield


def _check_devices(config: TrainingConfig, validation_pairs: int) -> None:
    """Raises TrainingError if mini-batches cannot be shared out or the hardware is not there."""
    if config.optimization.batch_size % config.devices:
        raise TrainingError(
            f"optimization.batch_size: {config.optimization.batch_size} frames cannot be shared "
            f"equally by {config.devices} devices; write a multiple of {config.devices}"
        )
    if validation_pairs < config.devices:
        raise TrainingError(
            f"devices: {config.devices}, but only {validation_pairs} pairs to validate on; write "
            "fewer devices"
        )
    found = torch.cuda.device_count()
    if config.accelerator == "gpu" and found < config.devices:
        raise TrainingError(
            f"accelerator: gpu with devices: {config.devices}, but this machine has {found} that "
            "torch can use; write accelerator: cpu, or fewer devices"
        )


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


def _loggers(config: TrainingConfig, first_step: int) -> list[Logger]:
    # One log for each start: the logger empties the file that it is given.
    start = f"from_step_{first_step:08d}"
    loggers: list[Logger] = [WholeLogs(config.directory, LOGS, version=start)]
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


def train(
    config: TrainingConfig,
    fresh: bool = False,
    progress: bool = True,
    observer: Observer | None = None,
) -> dict[str, float] | None:
    """Train a network and write its model file; resume if the directory holds a checkpoint.

    Args:
        config: see :class:`TrainingConfig`.
        fresh: start anew although there are checkpoints.
        progress: tell on standard error what is done.
        observer: called with a :class:`lammps_trajcast.training.progress.Status` each time anything
            changes, at least once a step; in the first process only.

    Returns:
        RMSE over rms of displacement and velocity on the test split; None in processes that only
        help the first one.

    Raises:
        TrainingError: the data set does not fit, or the disk is full.
        DatasetError: the data set cannot be read or holds a faulty frame.
    """
    place = place_in_job(config.devices)
    with ExitStack() as stack:
        environment = stack.enter_context(job_hidden(place))
        stack.enter_context(_alone(config, place))
        observers = [] if observer is None or place.rank else [observer]
        if progress and place.rank == 0:
            console = Console()
            stack.enter_context(console.alive())
            observers.append(console)
        return _train(config, place, environment, fresh, Teller(observers))


def _train(
    config: TrainingConfig,
    place: Place,
    environment: ClusterEnvironment,
    fresh: bool,
    teller: Teller,
) -> dict[str, float] | None:
    options = config.optimization
    pl.seed_everything(config.seed, verbose=False)
    if place.rank == 0:
        teller.stage("checking the data set, segments")
        check_dataset(config.dataset, teller.part)
    teller.stage("averaging over the data set, segments")
    splits = {
        name: TrajectoryPairs(config.dataset, name) for name in ("train", "validation", "test")
    }  # type: ignore[arg-type]
    for name, split in splits.items():
        if not len(split):
            raise TrainingError(
                f"{split.files[0]}: the split '{name}' is empty; make the data set of more segments"
            )
    statistics = dataset_statistics(config.dataset, "train", teller.part)
    for element in unseen_elements(statistics, splits["train"].elements):
        logging.getLogger(__name__).warning(
            "%s: the split 'train' holds no atom of %s: the model will refuse this element",
            *(splits["train"].files[0], element),
        )
    teller.stage("counting neighbors and making the network")
    architecture = make_architecture(config, splits["train"], statistics)
    rms = (statistics.rms_displacement, statistics.rms_velocity)
    start = None if config.start_from is None else _load_start(config, splits["train"])
    if start is not None:
        architecture = start.metadata.architecture
    # In a longer step atoms go farther: in units of their rms it is much the same.
    if start is not None and start.metadata.timestep == splits["train"].horizon:
        rms = (start.metadata.rms_displacement, start.metadata.rms_velocity)
    from lammps_trajcast.training.export import export_model, model_metadata

    # Before the training, not after it.
    metadata = model_metadata(config, architecture, rms, splits["train"], statistics)
    module = TrainingModule(
        *(architecture, rms, options, config.precision, config.kernels),
        rms_of_elements=rms_of_elements(statistics),
    )
    if start is not None:
        module.network.load_state_dict(start.state_dict, strict=False)

    cutoff = architecture.edge_cutoff
    training = GraphPairs(
        splits["train"],
        cutoff,
        _training_indices(len(splits["train"]), config),
        num_later=options.pushforward_steps,
        augmentation=Augmentation(
            config.seed,
            options.time_reversal,
            config.experimental.input_noise * rms[0],
            config.experimental.input_noise * rms[1],
        ),
    )
    validation = GraphPairs(
        splits["validation"],
        cutoff,
        spread(len(splits["validation"]), options.validation_pairs),
        num_later=options.pushforward_steps,
    )
    _check_devices(config, len(validation))
    weights = sum(parameter.numel() for parameter in module.network.parameters())
    atoms = len(splits["train"][0].species)
    teller.line(
        f"{weights:,} weights; {len(training):,} pairs to train on, {len(validation):,} to "
        f"validate; {atoms:,} atoms in the first, with {architecture.avg_num_neighbors:.3g} "
        f"neighbors within {cutoff:g} Angstrom on average"
    )
    baseline = None
    if place.rank == 0:
        teller.stage("looking for what to beat: a linear map, straight flight")
        baseline = cheap_comparison(config.dataset, atoms, len(splits["train"]))
        to_beat = {"displacement": baseline.displacement, "velocity": baseline.velocity}
        teller.tell(baseline=to_beat)
        teller.line(f"what to beat, {baseline.kind}: errors {describe_errors(to_beat)}")
    if config.devices == 1 and baseline is not None:  # all processes log the same
        module.baseline = (baseline.displacement, baseline.velocity)
    try:
        checkpoint = _fit(
            *(config, place, environment, module, training, validation, fresh, teller, baseline)
        )
    except OSError as error:
        raise TrainingError(
            f"{config.directory}: {error.strerror or error}; the checkpoints there are whole: make "
            "room or mend the disk, and the same command goes on from the newest"
        ) from None
    if checkpoint is None:
        return None
    module.load_state_dict(ParameterAveraging.from_checkpoint(checkpoint), strict=False)
    if options.read_out_pairs:
        part = spread(len(splits["train"]), options.read_out_pairs)
        loader = make_loader(GraphPairs(splits["train"], cutoff, part), options.batch_size)
        teller.stage("solving for the read-out, mini-batches")
        fit_read_out(module, Counted(loader, teller))
    teller.stage("measuring the errors on the test split, mini-batches")
    test = GraphPairs(splits["test"], cutoff, spread(len(splits["test"]), TEST_PAIRS))
    errors = measure_errors(module, test, options.batch_size, teller)
    teller.stage("writing the model file")
    steps = int(module.trainer.global_step)
    outcome = module.schedule.outcome(steps)
    export_model(config, metadata, module.network, splits["train"], errors, checkpoint, outcome)
    _write_summary(config, module.schedule, steps, errors, baseline, weights)
    teller.tell(outcome=outcome)
    teller.line(outcome)
    return errors


def _write_summary(
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


def _fit(
    config: TrainingConfig,
    place: Place,
    environment: ClusterEnvironment,
    module: TrainingModule,
    training: GraphPairs,
    validation: GraphPairs,
    fresh: bool,
    teller: Teller,
    baseline: Comparison | None,
) -> dict[str, Any] | None:
    """Optimize the weights; returns the best checkpoint, or None in all processes but the first."""
    options = config.optimization
    resume = None if fresh else _checkpoint_to_resume(config.directory)
    resumed_at = 0 if resume is None else int(resume.content["global_step"])
    last_step = options.steps
    if resume is not None and _ended(resume.content, options):
        last_step = resumed_at
    if resume is None and place.rank == 0:
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
        _LearningCurve(config.directory, baseline),
        _Pace(module.schedule, teller),
    ]
    if options.early_stopping is not None:
        callbacks.append(EarlyStopping("validation_loss", patience=options.early_stopping))
    # What hardware there is and how to log elsewhere is no news to whoever started the training.
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
            plugins=[WholeCheckpoints(), environment],
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

        def share() -> Share:
            return Share(trainer.global_rank, trainer.world_size)

        sampler = EpochSampler(len(training), options.batch_size, config.seed, epoch, share)
        part = options.batch_size // trainer.world_size
        try:
            trainer.fit(
                module,
                make_loader(training, part, sampler, config.workers),
                make_loader(validation, part, ShareSampler(len(validation), share)),
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
