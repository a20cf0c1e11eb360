"""Where the time of a step goes: parts of the plain network, operations of the fused one."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.systems import ELEMENTS, Crystal, load_model
from lammps_trajcast.runtime.predictor import Predictor

# Modules of an interaction of the plain network, in the order of a step.
PARTS = {
    "edge_mlp": "radial network",
    "dtp_edge": "tensor product with edges",
    "linear_contraction": "contraction",
    "vel_mlp": "speed network",
    "dtp_vel": "tensor product with velocities",
    "linear_updates": "update",
    "gate": "gate",
    "tp_resnet": "residual",
}
REST = "gather, sum, embeddings, read-out"


class _Stopwatch:
    """Adds up the time between the two hooks of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.seconds = 0.0
        self._begin = 0.0
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._begin = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._begin


def profile_plain(model: str, replicate: tuple[int, int, int], steps: int) -> dict[str, float]:
    """Return seconds of a step by part of the plain network, on one thread."""
    torch.set_num_threads(1)
    file = load_model(model)
    network = file.build(torch.float32)
    frame = Crystal(replicate).frame(file.metadata.architecture.edge_cutoff)
    inputs = (
        torch.from_numpy(frame.types).long() - 1,
        torch.from_numpy(frame.velocities).float() * 1e-3,
        torch.from_numpy(frame.edge_vectors).float(),
        torch.arange(len(frame.types)).repeat_interleave(torch.from_numpy(frame.first_edge).diff()),
        torch.from_numpy(frame.senders),
    )
    with torch.inference_mode():
        network.predict(*inputs)
        watches = {
            part: [_Stopwatch(getattr(layer, part)) for layer in network.interactions]
            for part in PARTS
        }
        begin = time.perf_counter()
        for _ in range(steps):
            network.predict(*inputs)
        total = time.perf_counter() - begin
    seconds = {
        label: sum(watch.seconds for watch in watches[part]) / steps
        for part, label in PARTS.items()
    }
    return {**seconds, REST: total / steps - sum(seconds.values())}


def profile_fused(model: str, replicate: tuple[int, int, int], steps: int) -> dict[str, float]:
    """Return seconds of a step by operation of torch on the fused kernels, on one thread."""
    predictor = Predictor(
        load_model(model), ELEMENTS, units="metal", device="cpu", num_threads=1, kernels="fused"
    )
    frame = Crystal(replicate).frame(predictor.cutoff)
    predictor.step(frame)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            predictor.step(frame)
    seconds = {
        event.key: event.self_cpu_time_total * 1e-6 / steps for event in profiler.key_averages()
    }
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
