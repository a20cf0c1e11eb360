"""`lammps-trajcast train`: from a data set and a YAML file to a model file."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment

from lammps_trajcast.child_processes import PARENT_VARIABLE, end_with_parent
from lammps_trajcast.data.baseline import cheap_comparison
from lammps_trajcast.data.check import check_dataset
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.statistics import dataset_statistics, unseen_elements
from lammps_trajcast.lock import InUseError, alone_in
from lammps_trajcast.training.averaging import ParameterAveraging
from lammps_trajcast.training.batches import Augmentation, GraphPairs
from lammps_trajcast.training.config import TrainingConfig, TrainingError
from lammps_trajcast.training.finishing import TEST_PAIRS, measure_errors, write_summary
from lammps_trajcast.training.loaders import make_loader
from lammps_trajcast.training.loop import fit
from lammps_trajcast.training.module import TrainingModule
from lammps_trajcast.training.preparation import (
    check_devices,
    check_momenta,
    load_start,
    make_architecture,
    rms_of_elements,
    spread,
    training_indices,
)
from lammps_trajcast.training.processes import TrainingProcess, find_process, job_hidden
from lammps_trajcast.training.progress import (
    Console,
    Counted,
    Observer,
    ProgressReporter,
    describe_errors,
)
from lammps_trajcast.training.readout_fit import fit_read_out


@contextmanager
def _alone(config: TrainingConfig, process: TrainingProcess) -> Iterator[None]:
    """The only training in a directory, which is made; the first process answers for all.

    Raises:
        TrainingError: another one runs there, or nothing can be written.
    """
    if process.rank > 0:
        first = os.environ.get(PARENT_VARIABLE)
        if process.launcher == "train" and first is not None:
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
    process = find_process(config.devices)
    with ExitStack() as stack:
        environment = stack.enter_context(job_hidden(process))
        stack.enter_context(_alone(config, process))
        observers = [] if observer is None or process.rank else [observer]
        if progress and process.rank == 0:
            console = Console()
            stack.enter_context(console.alive())
            observers.append(console)
        return _train(config, process, environment, fresh, ProgressReporter(observers))


def _train(
    config: TrainingConfig,
    process: TrainingProcess,
    environment: ClusterEnvironment,
    fresh: bool,
    reporter: ProgressReporter,
) -> dict[str, float] | None:
    options = config.optimization
    pl.seed_everything(config.seed, verbose=False)
    if process.rank == 0:
        reporter.stage("checking the data set, segments")
        check_dataset(config.dataset, reporter.part)
    reporter.stage("averaging over the data set, segments")
    splits = {
        name: TrajectoryPairs(config.dataset, name) for name in ("train", "validation", "test")
    }  # type: ignore[arg-type]
    for name, split in splits.items():
        if not len(split):
            raise TrainingError(
                f"{split.files[0]}: the split '{name}' is empty; make the data set of more segments"
            )
    statistics = dataset_statistics(config.dataset, "train", reporter.part)
    for element in unseen_elements(statistics, splits["train"].elements):
        logging.getLogger(__name__).warning(
            "%s: the split 'train' holds no atom of %s: the model will refuse this element",
            *(splits["train"].files[0], element),
        )
    reporter.stage("counting neighbors and making the network")
    architecture = make_architecture(config, splits["train"], statistics)
    rms = (statistics.rms_displacement, statistics.rms_velocity)
    start = None if config.start_from is None else load_start(config, splits["train"])
    if start is not None:
        architecture = start.metadata.architecture
    check_momenta(architecture, splits["train"])
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
        training_indices(len(splits["train"]), config),
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
    check_devices(config, len(validation))
    weights = sum(parameter.numel() for parameter in module.network.parameters())
    atoms = len(splits["train"][0].species)
    reporter.line(
        f"{weights:,} weights; {len(training):,} pairs to train on, {len(validation):,} to "
        f"validate; {atoms:,} atoms in the first, with {architecture.avg_num_neighbors:.3g} "
        f"neighbors within {cutoff:g} Angstrom on average"
    )
    baseline = None
    if process.rank == 0:
        reporter.stage("looking for what to beat: a linear map, straight flight")
        baseline = cheap_comparison(config.dataset, atoms, len(splits["train"]))
        to_beat = {"displacement": baseline.displacement, "velocity": baseline.velocity}
        reporter.tell(baseline=to_beat)
        reporter.line(f"what to beat, {baseline.kind}: errors {describe_errors(to_beat)}")
    if config.devices == 1 and baseline is not None:  # all processes log the same
        module.baseline = (baseline.displacement, baseline.velocity)
    try:
        checkpoint = fit(
            *(config, process, environment, module, training, validation, fresh, reporter, baseline)
        )
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"optimization.batch_size: {options.batch_size} frames do not fit into the memory of "
            f"the GPU ({str(error).partition('.')[0]}); write fewer, or a smaller network"
        ) from None
    except OSError as error:
        raise TrainingError(
            f"{config.directory}: {error.strerror or error}; the checkpoints there are whole: free "
            "space or repair the disk, and the same command goes on from the newest"
        ) from None
    if checkpoint is None:
        return None
    module.load_state_dict(ParameterAveraging.from_checkpoint(checkpoint), strict=False)
    if options.read_out_pairs:
        part = spread(len(splits["train"]), options.read_out_pairs)
        loader = make_loader(GraphPairs(splits["train"], cutoff, part), options.batch_size)
        reporter.stage("solving for the read-out, mini-batches")
        fit_read_out(module, Counted(loader, reporter))
    reporter.stage("measuring the errors on the test split, mini-batches")
    test = GraphPairs(splits["test"], cutoff, spread(len(splits["test"]), TEST_PAIRS))
    errors = measure_errors(module, test, options.batch_size, reporter)
    reporter.stage("writing the model file")
    steps = int(module.trainer.global_step)
    outcome = module.schedule.outcome(steps)
    export_model(config, metadata, module.network, splits["train"], errors, checkpoint, outcome)
    write_summary(config, module.schedule, steps, errors, baseline, weights)
    reporter.tell(outcome=outcome)
    reporter.line(outcome)
    return errors
