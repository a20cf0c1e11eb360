"""Mini-batches, read ahead by worker processes."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from lammps_trajcast.child_processes import PARENT_VARIABLE, end_with_creator
from lammps_trajcast.training.batches import GraphPairs, collate


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
