"""A step on a GPU, through `lmp`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.child import in_child
from benchmarks.lammps import last_loop, network_input, run_lammps

STEPS = 50
TIMESTEP = 30.0  # fs


def find_gpu() -> str | None:
    """Return the name of the GPU that torch sees, None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def save_model(name: str, path: Path) -> None:
    """Write a model of :func:`benchmarks.systems.load_model` to a file."""
    from benchmarks.systems import load_model

    load_model(name).save(path)


def measure_gpu(replicate: tuple[int, int, int]) -> dict[str, Any]:
    """Run quartz with the 64-channel model on the GPU; return ns/day and ms of a step."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "wide.safetensors"
        in_child(save_model, "wide", model)
        script = network_input(
            " ".join(map(str, replicate)),
            threads=1,
            steps=STEPS,
            warm_up=10,
            model=model,
            cutoff=5.0,
            options="device cuda",
        )
        loop = last_loop(run_lammps(script, 1))
    return {"ns_per_day": TIMESTEP * 1e-6 / loop.step_seconds * 86400.0, "step": loop.step_seconds}
