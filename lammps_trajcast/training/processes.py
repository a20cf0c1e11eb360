"""Which process of a training this is. The environment of a job tells, or misleads.

Batch systems and launchers (Slurm, torchrun, mpirun, LSF) leave variables that the training library
takes for orders: in a job with four tasks for LAMMPS it would wait for three more processes. A
training with one device is one process, whatever the job; with several devices it starts its own
processes unless a launcher has started exactly that many.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    MPIEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lammps_trajcast.training.config import TrainingError

# What the training library, torch.distributed or MPI read of a job.
JOB_VARIABLES = re.compile(
    r"(LOCAL_|GROUP_|NODE_|ROLE_)?RANK|(LOCAL_|ROLE_)?WORLD_SIZE|MASTER_(ADDR|PORT)"
    r"|(TORCHELASTIC|SLURM|SLURMD|PMI|PMI2|PMIX|OMPI_COMM_WORLD|MPI|HYDI|LSB|JSM|KUBERNETES"
    r"|PL_TRAINER)_.*"
)


class Launcher(NamedTuple):
    """A program that starts several processes, and the variables in which it says so."""

    name: str
    size: str
    rank: str  # on this machine


LAUNCHERS = (
    Launcher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    Launcher("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    Launcher("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    Launcher("mpirun", "PMI_SIZE", "MPI_LOCALRANKID"),
)


class TrainingProcess(NamedTuple):
    """Which process this is.

    Attributes:
        rank: from 0; the first prepares and writes all files.
        launcher: what has started this and the other processes: "torchrun", "srun", "jsrun",
            "mpirun", "train" (the first process), or None where this process is alone or starts
            the others.
    """

    rank: int
    launcher: str | None


def find_process(devices: int, environment: Mapping[str, str] = os.environ) -> TrainingProcess:
    """Return which of the processes of a training with so many devices this is.

    Raises:
        TrainingError: a launcher has started another number of processes.
    """
    if devices == 1:
        return TrainingProcess(0, None)
    if "TORCHELASTIC_RUN_ID" in environment:
        found = Launcher("torchrun", "WORLD_SIZE", "LOCAL_RANK")
    else:
        several = (x for x in LAUNCHERS if int(environment.get(x.size, "1")) > 1)
        found = next(several, Launcher("train", "WORLD_SIZE", "LOCAL_RANK"))
    size = int(environment.get(found.size, "1"))
    if found.rank in environment and size == devices:
        return TrainingProcess(int(environment[found.rank]), found.name)
    if size > 1 and found.name != "train":
        raise TrainingError(
            f"devices: {devices}, but {found.name} has started {size} processes; start one, which "
            f"starts the others, or write devices: {size}"
        )
    return TrainingProcess(0, None)


@contextmanager
def job_hidden(process: TrainingProcess) -> Iterator[ClusterEnvironment]:
    """Meanwhile the environment says nothing of a job but what is true of the training.

    Yields what the training library has to know of the other processes.
    """
    before = {name: value for name, value in os.environ.items() if JOB_VARIABLES.fullmatch(name)}
    rank_zero_only.rank = process.rank  # type: ignore[attr-defined]
    try:
        if process.launcher is None or process.launcher in ("srun", "jsrun"):
            for name in before:
                del os.environ[name]
        if process.launcher in ("srun", "jsrun"):
            # The number of the job is what its processes have in common.
            job = int(before.get("SLURM_JOB_ID") or before.get("LSB_JOBID") or "0")
            os.environ["LOCAL_RANK"] = str(process.rank)
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            os.environ["MASTER_PORT"] = before.get("MASTER_PORT", str(15000 + job % 10000))
        yield _environment(process)
    finally:
        for name in [name for name in os.environ if JOB_VARIABLES.fullmatch(name)]:
            del os.environ[name]
        os.environ.update(before)


def _environment(process: TrainingProcess) -> ClusterEnvironment:
    if process.launcher == "torchrun":
        return TorchElasticEnvironment()
    if process.launcher == "mpirun":
        return MPIEnvironment()
    return LightningEnvironment()
