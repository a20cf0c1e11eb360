"""The one place that decides what runs the network of a model with torch.

Importing this imports torch, so :func:`open_backend` does it only where it is needed.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from lammps_trajcast.kernels.network import MAX_ORDER
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.backend import Backend
from lammps_trajcast.runtime.kernel_backend import KernelBackend
from lammps_trajcast.runtime.shared_kernels import kernels_of

_DTYPES = {"single": torch.float32, "double": torch.float64, "tf32": torch.float32}


def make_backend(
    model: ModelFile,
    precision: str,
    device: torch.device,
    kernels: str,
    tolerance: float | None = None,
) -> Backend:
    """Return what runs the network of a model.

    Args:
        model: it is not changed.
        precision: of the backend, "single" or "double", or "tf32" for "fused" on a CUDA device.
        device: where it runs.
        kernels: "fused" for the compiled kernels on a CPU and the Triton kernels on a CUDA device,
            "plain" for e3nn's operations throughout.
        tolerance: largest error of the tabulated path weights of "fused", relative to the largest
            weight, on a CPU; None: what suits the precision.

    Raises:
        TableError: the path weights vary too fast for "fused".
        MemoryError: there is no room for the tables of "fused".
        ImportError: the Triton kernels are wanted and Triton is not installed.
    """
    on_cpu = kernels == "fused" and device.type == "cpu"
    if on_cpu and model.metadata.architecture.max_rotation_order <= MAX_ORDER:
        return KernelBackend(kernels_of(model, precision, tolerance))
    # They import e3nn, which takes seconds and which the prediction kernels do without.
    from lammps_trajcast.model.codegen import without_optimized_einsums
    from lammps_trajcast.runtime.module_backend import FusedBackend, FusedTrajCast, PlainBackend

    with without_optimized_einsums() if on_cpu else nullcontext():
        network = model.build()
    network = network.to(device=device, dtype=_DTYPES[precision])
    if kernels == "plain":
        return PlainBackend(network)
    if on_cpu:
        return FusedBackend(FusedTrajCast(network), network)
    # Triton comes with CUDA builds of torch; it need not be there on a machine without a GPU.
    from lammps_trajcast.runtime.triton_backend import TritonBackend

    return TritonBackend(network, tf32=precision == "tf32")
