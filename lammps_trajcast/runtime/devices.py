"""Which device of torch a rank uses."""

from __future__ import annotations

import importlib.util

import torch

from lammps_trajcast.runtime.errors import NO_TF32, PredictorError


def find_device(name: str, node_rank: int = 0) -> torch.device:
    """Return the device of the given name for one of the MPI ranks on a machine.

    Args:
        name: "auto" (a GPU if torch sees one), "cpu" or "cuda".
        node_rank: number of the rank on its machine; ranks take GPUs in turns.

    Raises:
        PredictorError: for a GPU that is not there, or an unknown name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise PredictorError(
            "device cuda: torch finds no CUDA GPU on this machine: write 'device cpu' or "
            "'device auto', or install a torch that was built for CUDA"
        )
    if name not in ("cpu", "cuda"):
        raise PredictorError(f"unknown device {name}: write auto, cpu or cuda")
    if name == "cuda":
        return torch.device("cuda", node_rank % torch.cuda.device_count())
    return torch.device(name)


def check_triton() -> None:
    """Check that the kernels of a GPU can be compiled.

    Raises:
        PredictorError: they cannot.
    """
    if importlib.util.find_spec("triton") is None:
        raise PredictorError(
            "kernels fused: on a GPU they need Triton, which is not installed: write 'kernels "
            "plain' or 'device cpu', or run 'pip install triton'"
        )


def check_tf32(device: torch.device, kernels: str) -> None:
    """Check that a device multiplies matrices in TF32 as a step needs it.

    Raises:
        PredictorError: it does not, or the kernels do not let it.
    """
    if device.type != "cuda" or kernels != "fused" or torch.version.cuda is None:
        raise PredictorError(NO_TF32)
    # It imports e3nn, which takes seconds.
    from lammps_trajcast.kernels.triton.tf32 import is_cut_on

    reason = ""
    if torch.cuda.get_device_capability(device) < (8, 0):
        reason = "has no TF32, which begins with compute capability 8.0 (A100)"
    elif is_cut_on(device):
        reason = "cuts numbers off in place of rounding them, which takes energy from every step"
    if reason:
        name = torch.cuda.get_device_name(device)
        raise PredictorError(f"precision tf32: the GPU {name} {reason}: write 'precision single'")


def shares_gpu(device: torch.device, node_ranks: int) -> bool:
    """Return whether so many ranks on this machine have to share GPUs."""
    return device.type == "cuda" and node_ranks > torch.cuda.device_count()
