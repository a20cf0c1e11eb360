"""What the drivers of benchmarks.peers share; they run in environments of other packages.

A driver reads a frame, prepares its program, and then answers each number of steps that stands on a
line of its input with one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms


def read_frame(path: str) -> Atoms:
    """Return the frame that benchmarks.peers has written, periodic, with velocities."""
    from ase import Atoms, units

    content = np.load(path)
    atoms = Atoms(
        numbers=content["numbers"],
        positions=content["positions"],
        cell=content["cell"],
        pbc=True,
        masses=content["masses"],
    )
    atoms.set_velocities(content["velocities"] / units.fs)
    return atoms


def one_thread() -> None:
    """Have torch use one thread, for operations and between them."""
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def peak_memory() -> int:
    """Return the largest resident set of this process so far, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def serve(prepare: Callable[[], tuple[Callable[[int], None], float]], packages: list[str]) -> None:
    """Prepare a program, then run as many steps as each line of the input says.

    What the program itself prints goes to the error stream.

    Args:
        prepare: returns a function that makes so many steps, and the time step, fs.
        packages: whose versions are told.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    one_thread()
    run, timestep = prepare()
    versions = {name: metadata.version(name) for name in packages}
    print(json.dumps({"timestep": timestep, "versions": versions}), file=answers, flush=True)
    for line in sys.stdin:
        steps = int(line)
        began = time.process_time()
        run(steps)
        seconds = time.process_time() - began
        found = {"seconds": seconds / steps, "steps": steps, "memory": peak_memory()}
        print(json.dumps(found), file=answers, flush=True)
