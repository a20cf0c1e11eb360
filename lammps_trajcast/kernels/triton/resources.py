"""What the Triton kernels ask of a Hopper GPU, found without one.

``python -m lammps_trajcast.kernels.triton.resources`` compiles them ahead of time and prints a
table of registers, spilled bytes and shared memory.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from typing import NamedTuple

import torch
import triton
from e3nn import o3
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lammps_trajcast.kernels.edge_convolution import PathTable
from lammps_trajcast.kernels.triton.convolution import (
    INTERPRETED,
    block_shape,
    compile_kernel,
    kernels_of,
)
from lammps_trajcast.model.interaction import DepthwiseTensorProduct
from lammps_trajcast.model.irreps import full_feature_irreps

KINDS = ("forward", "tabulated", "weight_gradient", "feature_gradient")

_INTEGERS = ("first_edge", "senders", "receivers", "edges")
_NUMBERS = ("num_nodes", "intervals")


class Resources(NamedTuple):
    """One compiled kernel."""

    kind: str
    registers: int  # a thread
    stack: int  # bytes a thread; spilled registers go there
    shared: int  # bytes a program


def resources(
    table: PathTable, kind: str, dtype: torch.dtype, capability: int = 90
) -> list[Resources]:
    """Compile the kernels of one operation for a compute capability, 90 for an H100 or H200.

    Args:
        table: the tensor product.
        kind: one of ``KINDS``.
        dtype: float32 or float64.
        capability: ten times the compute capability.

    Raises:
        RuntimeError: in Triton's interpreter, which compiles nothing.
    """
    if INTERPRETED:
        raise RuntimeError("Triton compiles nothing while TRITON_INTERPRET is set: unset it")
    number = {torch.float32: "fp32", torch.float64: "fp64"}[dtype]
    width, lanes = block_shape(table.channels)
    constants = {"CHANNELS": table.channels, "WIDTH": width, "LANES": lanes}
    found = []
    for text in kernels_of(table).sources(kind, dtype.itemsize):
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


def example_table(lmax: int, channels: int) -> PathTable:
    """Return the table of all layers but the first, of a network of this size."""
    direction = o3.Irreps.spherical_harmonics(lmax)
    return PathTable(
        DepthwiseTensorProduct(full_feature_irreps(channels, lmax), direction, lmax).tp
    )


def main() -> None:
    """Print a Markdown table."""
    print("| lmax | channels | dtype | kernel | registers | stack, bytes | shared memory, bytes |")
    print("|---|---|---|---|---|---|---|")
    for lmax in (1, 2, 3):
        for channels in (16, 64):
            table = example_table(lmax, channels)
            for dtype in (torch.float32, torch.float64):
                for kind in KINDS:
                    kernels = resources(table, kind, dtype)
                    columns = [
                        ", ".join(str(getattr(kernel, name)) for kernel in kernels)
                        for name in ("registers", "stack", "shared")
                    ]
                    name = str(dtype).removeprefix("torch.")
                    print(f"| {lmax} | {channels} | {name} | `{kind}` | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
