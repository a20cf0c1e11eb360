"""What runs the network of a model: with torch, or without it."""

from __future__ import annotations

import sys

from lammps_trajcast.kernels.network import MAX_ORDER
from lammps_trajcast.kernels.tables import TableError
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.backend import Backend
from lammps_trajcast.runtime.errors import NO_TF32, PredictorError
from lammps_trajcast.runtime.imports import few_look_ups


def open_backend(
    model: ModelFile,
    precision: str,
    device: str,
    kernels: str,
    num_threads: int | None,
    node: tuple[int, int],
) -> tuple[Backend, bool]:
    """Return what runs the network of a model, and whether other ranks use the same GPU.

    Args:
        model: it is not changed.
        precision: "single", "double" or "tf32".
        device: "auto" (a GPU if torch sees one), "cpu" or "cuda".
        kernels: "fused", "direct" or "plain", see :class:`Predictor`.
        num_threads: of the CPU, while it is made; None leaves them as they are.
        node: number of this rank on its machine, and how many there are.

    Raises:
        PredictorError: an unknown word, or what is impossible with this model or machine.
    """
    try:
        if kernels == "direct":
            return _without_torch(model, precision, device, num_threads), False
        if kernels in ("fused", "plain"):
            return _with_torch(model, precision, device, kernels, num_threads, node)
    except TableError as error:
        raise PredictorError(str(error)) from error
    raise PredictorError(f"unknown kernels {kernels}: write fused, direct or plain")


def _without_torch(
    model: ModelFile, precision: str, device: str, num_threads: int | None
) -> Backend:
    from lammps_trajcast.runtime.direct_backend import DirectBackend
    from lammps_trajcast.runtime.shared_kernels import kernels_of

    if precision == "tf32":
        raise PredictorError(NO_TF32)
    if device == "cuda":
        raise PredictorError(
            "kernels direct run on the CPU, not with device cuda: write 'device cpu' or 'kernels "
            "fused'"
        )
    if device not in ("auto", "cpu"):
        raise PredictorError(f"unknown device {device}: write auto, cpu or cuda")
    order = model.metadata.architecture.max_rotation_order
    if order > MAX_ORDER:
        raise PredictorError(
            f"kernels direct: rotation orders end at {MAX_ORDER}, those of this model at {order}: "
            "write 'kernels fused'"
        )
    return DirectBackend(kernels_of(model, precision, None), num_threads)


def _with_torch(
    model: ModelFile,
    precision: str,
    device_name: str,
    kernels: str,
    num_threads: int | None,
    node: tuple[int, int],
) -> tuple[Backend, bool]:
    # Here, so that a step without torch need not import it.
    try:
        with few_look_ups():
            from lammps_trajcast.runtime.devices import (
                check_tf32,
                check_triton,
                find_device,
                shares_gpu,
            )
            from lammps_trajcast.runtime.make_backend import make_backend
            from lammps_trajcast.runtime.torch_settings import own_torch_settings
    except Exception as error:  # an old or a broken torch fails in many ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise PredictorError(
            f"cannot use the torch of the Python {sys.executable} ({reason}): pip install "
            "lammps-trajcast, from its source tree or its wheel, in that environment, or write "
            "'kernels direct', which does without torch"
        ) from error
    rank, ranks = node
    with own_torch_settings(num_threads):
        device = find_device(device_name, rank)
        if precision == "tf32":
            check_tf32(device, kernels)
        if kernels == "fused" and device.type == "cuda":
            check_triton()
        return make_backend(model, precision, device, kernels), shares_gpu(device, ranks)
