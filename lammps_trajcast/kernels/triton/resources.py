"""What the Triton kernels ask of a Hopper GPU, found without one.

``python -m lammps_trajcast.kernels.triton.resources`` compiles them ahead of time and prints a
table of registers, spilled bytes and shared memory.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from typing import NamedTuple

import torch
import triton
from e3nn import o3
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lammps_trajcast.kernels.path_table import PathTable
from lammps_trajcast.kernels.tables import ORDER
from lammps_trajcast.kernels.triton import edges, source
from lammps_trajcast.kernels.triton.convolution import (
    INTERPRETED,
    block_shape,
    compile_kernel,
    kernels_of,
)
from lammps_trajcast.model.interaction import DepthwiseTensorProduct
from lammps_trajcast.model.irreps import full_feature_irreps

KINDS = ("forward", "tabulated", "weight_gradient", "feature_gradient", "gate")

_INTEGERS = ("first_edge", "begins", "ends", "senders", "receivers", "edges")
_NUMBERS = ("num_nodes", "intervals")


class Resources(NamedTuple):
    """One compiled kernel."""

    kind: str
    registers: int  # a thread
    stack: int  # bytes a thread; spilled registers go there
    shared: int  # bytes a program


def resources(
    kind: str, lmax: int, channels: int, dtype: torch.dtype, capability: int = 90
) -> list[Resources]:
    """Compile the kernels of one operation for a compute capability, 90 for an H100 or H200.

    Args:
        kind: one of ``KINDS``.
        lmax: highest order of the features; the operation is that of a layer after the first.
        channels: number of channels.
        dtype: float32 or float64.
        capability: ten times the compute capability.

    Raises:
        RuntimeError: in Triton's interpreter, which compiles nothing.
    """
    if INTERPRETED:
        raise RuntimeError("Triton compiles nothing while TRITON_INTERPRET is set: unset it")
    if kind == "gate":
        texts = [_gate(lmax)]
    else:
        order = (
            ORDER["double" if dtype == torch.float64 else "single"] if kind == "tabulated" else 0
        )
        own = kind == "tabulated"  # receivers add to messages by default
        texts = kernels_of(_table(lmax, channels)).sources(kind, dtype, order, own)
    number = {torch.float32: "fp32", torch.float64: "fp64"}[dtype]
    width, lanes = block_shape(channels)
    constants = {"CHANNELS": channels, "WIDTH": width, "LANES": lanes}
    found = []
    for text in texts:
        kernel = compile_kernel(text)
        signature = dict.fromkeys(kernel.arg_names, f"*{number}")
        signature |= {name: "*i64" for name in _INTEGERS if name in signature}
        signature |= {name: "i32" for name in _NUMBERS if name in signature}
        signature |= dict.fromkeys(constants, "constexpr")
        compiled = triton.compile(
            ASTSource(kernel, signature, constexprs=constants),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": lanes // 32},
        )
        registers, stack = _usage(compiled.asm["cubin"])
        found.append(Resources(kind, registers, stack, compiled.metadata.shared))
    return found


def edge_resources(dtype: torch.dtype, capability: int = 90) -> list[Resources]:
    """Compile the kernels that find and judge edges, as :func:`resources` does.

    Args:
        dtype: of edge vectors, float32 or float64.
        capability: ten times the compute capability.

    Raises:
        RuntimeError: in Triton's interpreter, which compiles nothing.
    """
    if INTERPRETED:
        raise RuntimeError("Triton compiles nothing while TRITON_INTERPRET is set: unset it")
    kinds = {
        **dict.fromkeys(("first", "first_edge", "senders", "counts", "kinds"), "*i64"),
        **{"pairs": "*i32", "room": "i32", "num_kinds": "i32", "moved": "*u8", "size": "constexpr"},
        "vectors": {torch.float32: "*fp32", torch.float64: "*fp64"}[dtype],
    }
    found = []
    for name, kernel in edges.KERNELS.items():
        compiled = triton.compile(
            ASTSource(
                kernel,
                {argument: kinds.get(argument, "*fp64") for argument in kernel.arg_names},
                constexprs={"size": edges.BLOCK},
            ),
            target=GPUTarget("cuda", capability, 32),
            options=edges.OPTIONS,
        )
        found.append(Resources(name, *_usage(compiled.asm["cubin"]), compiled.metadata.shared))
    return found


@functools.cache
def _table(lmax: int, channels: int) -> PathTable:
    direction = o3.Irreps.spherical_harmonics(lmax)
    features = full_feature_irreps(channels, lmax)
    return PathTable(DepthwiseTensorProduct(features, direction, lmax).tp)


def _gate(lmax: int) -> str:
    """Return the source of a gate of both parities, with residuals; even scalars come second."""
    blocks = [
        source.GatedBlock(k, k, 2 * (k // 2) + 1, k - 2 if k > 1 else -1, "silu", 1.0)
        for k in range(2 * lmax + 2)
    ]
    return source.gate(blocks, 1, len(blocks), len(blocks))


def _usage(cubin: bytes) -> tuple[int, int]:
    """Return registers and bytes of stack of a thread, from the machine code itself."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    registers, stack, local = (
        int(re.search(rf"\b{name}:(\d+)", report)[1])  # type: ignore[index]
        for name in ("REG", "STACK", "LOCAL")
    )
    return registers, stack + local


def main() -> None:
    """Print a Markdown table."""
    print("| lmax | channels | dtype | kernel | registers | stack, bytes | shared memory, bytes |")
    print("|---|---|---|---|---|---|---|")
    for lmax in (1, 2, 3):
        for channels in (16, 64):
            for dtype in (torch.float32, torch.float64):
                for kind in KINDS:
                    kernels = resources(kind, lmax, channels, dtype)
                    columns = [
                        ", ".join(str(getattr(kernel, name)) for kernel in kernels)
                        for name in ("registers", "stack", "shared")
                    ]
                    name = str(dtype).removeprefix("torch.")
                    print(f"| {lmax} | {channels} | {name} | `{kind}` | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
