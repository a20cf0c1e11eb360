"""Time of a step in Python, plain against fused in turns, and the machine's matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.systems import ELEMENTS, Crystal, load_model, mini_batch
from lammps_trajcast.runtime.predictor import Predictor
from lammps_trajcast.training.config import OptimizationConfig
from lammps_trajcast.training.module import TrainingModule

KERNELS = ("plain", "fused")
# A plain step is so much slower that one in a round is as well known as these fused ones.
FUSED_REPEATS = 5
MATRIX_SIZES = (1024, 2048)


class StepTimes(NamedTuple):
    """Samples, by number of threads.

    plain, fused: s for each step.
    peak: float32 operations a second of a matrix product.
    """

    atoms: int
    neighbors: float
    plain: dict[int, list[float]]
    fused: dict[int, list[float]]
    peak: dict[int, list[float]]


def timed(work: Callable[[], Any]) -> float:
    """Return the wall time of a call, s."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def matrix_product_rate() -> float:
    """Return float32 operations a second of torch's matrix product, the best of some sizes."""
    rates = []
    for size in MATRIX_SIZES:
        a, b = torch.rand(size, size), torch.rand(size, size)
        out = torch.empty(size, size)
        rates.append(2.0 * size**3 / timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)))
    return max(rates)


def measure_steps(
    model: str, replicate: tuple[int, int, int], threads: tuple[int, ...], rounds: int
) -> StepTimes:
    """Time steps of one frame of quartz, plain and fused kernels and matrix products in turns."""
    crystal = Crystal(replicate)
    file = load_model(model)
    predictors = {
        kernels: Predictor(file, ELEMENTS, units="metal", device="cpu", kernels=kernels)
        for kernels in KERNELS
    }
    frame = crystal.frame(predictors["fused"].cutoff)
    samples: dict[str, dict[int, list[float]]] = {
        name: {number: [] for number in threads} for name in (*KERNELS, "peak")
    }
    for number in threads:
        torch.set_num_threads(number)
        for predictor in predictors.values():
            predictor.step(frame)
        matrix_product_rate()
    for _ in range(rounds):
        for number in threads:
            torch.set_num_threads(number)
            samples["peak"][number].append(matrix_product_rate())
            for kernels, predictor in predictors.items():
                for _ in range(FUSED_REPEATS if kernels == "fused" else 1):
                    samples[kernels][number].append(timed(lambda p=predictor: p.step(frame)))
    neighbors = len(frame.senders) / len(frame.types)
    return StepTimes(len(frame.types), neighbors, **samples)


def measure_training(threads: tuple[int, ...], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Time training steps (forward, backward, optimizer) of the shipped model's size, in turns."""
    file = load_model("shipped")
    architecture = file.metadata.architecture
    batch = mini_batch(architecture.edge_cutoff).to_dtype(torch.float32)
    steps = {kernels: _training_step(architecture, kernels, batch) for kernels in KERNELS}
    samples: dict[str, dict[int, list[float]]] = {
        kernels: {number: [] for number in threads} for kernels in KERNELS
    }
    for number in threads:
        torch.set_num_threads(number)
        for _ in range(2):
            for step in steps.values():
                step()
    for _ in range(rounds):
        for number in threads:
            torch.set_num_threads(number)
            for kernels, step in steps.items():
                for _ in range(FUSED_REPEATS if kernels == "fused" else 1):
                    samples[kernels][number].append(timed(step))
    return samples


def _training_step(architecture: Any, kernels: str, batch: Any) -> Callable[[], None]:
    torch.manual_seed(0)
    options = OptimizationConfig(steps=1, schedule="cosine")
    module = TrainingModule(architecture, (1.0, 1.0), options, "single", kernels).train()
    network = module.network
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, amsgrad=True)

    def step() -> None:
        prediction = module.predict(batch)
        loss = (prediction.displacement - batch.displacement).square().mean()
        loss = loss + (prediction.velocity - batch.velocity_after).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()

    return step
