"""The paths of an edge convolution, for its kernels on the CPU and on a CUDA device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from e3nn import o3
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.kernels.library import ffi, load_library


class PathTable:
    """The non-zero coefficients of a depthwise ("uvu") tensor product, for the kernels.

    The kernels keep features component by component, (N, components, channels), where a component
    is one m of one irrep. The rows of the result are grouped by irrep, sorted as
    ``tensor_product.irreps_out`` is; within an irrep of P paths, row ``m * P + k`` is component m
    of its k-th path, so that the rows of an irrep are a (2l+1, P * channels) matrix ready for a
    linear map.

    Args:
        tensor_product: the e3nn module whose instructions, coefficients and normalization to take.
    """

    def __init__(self, tensor_product: o3.TensorProduct) -> None:
        irreps_in, irreps_sh = tensor_product.irreps_in1, tensor_product.irreps_in2
        irreps_out = tensor_product.irreps_out
        self.channels = irreps_in[0].mul
        in_row = np.cumsum([0] + [ir.dim for _, ir in irreps_in])
        sh_row = np.cumsum([0] + [ir.dim for _, ir in irreps_sh])
        self.groups: list[tuple[o3.Irrep, int]] = []  # (irrep, number of paths), in row order
        for _, ir in irreps_out:
            if self.groups and self.groups[-1][0] == ir:
                self.groups[-1] = (ir, self.groups[-1][1] + 1)
            else:
                self.groups.append((ir, 1))
        group_of = [g for g, (_, count) in enumerate(self.groups) for _ in range(count)]
        group_path = [k for _, count in self.groups for k in range(count)]
        out_row = np.cumsum([0] + [ir.dim * count for ir, count in self.groups])

        entries: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
        orders: list[tuple[int, int, int]] = []
        first_rows: list[tuple[int, int, int]] = []
        for p, path in enumerate(tensor_product.instructions):
            ir1, ir2 = irreps_in[path.i_in1].ir, irreps_sh[path.i_in2].ir
            ir3 = irreps_out[path.i_out].ir
            w3j = o3.wigner_3j(ir1.l, ir2.l, ir3.l, dtype=torch.float64) * path.path_weight
            group = group_of[path.i_out]
            first_row, stride = out_row[group] + group_path[path.i_out], self.groups[group][1]
            orders.append((ir1.l, ir2.l, ir3.l))
            first_rows.append((int(in_row[path.i_in1]), int(first_row), stride))
            for a, b, c in torch.nonzero(w3j.abs() > 1e-12).tolist():
                row = first_row + c * stride
                key = (p, int(in_row[path.i_in1]) + a, int(row))
                entries.setdefault(key, []).append(
                    (int(sh_row[path.i_in2]) + b, float(w3j[a, b, c]))
                )
        keys = sorted(entries)
        terms = [entries[key] for key in keys]
        self._arrays: dict[str, NDArray[Any]] = {
            "path": np.array([k[0] for k in keys], dtype=np.int32),
            "input": np.array([k[1] for k in keys], dtype=np.int32),
            "output": np.array([k[2] for k in keys], dtype=np.int32),
            "first": np.cumsum([0] + [len(t) for t in terms]).astype(np.int32),
            "harmonic": np.array([b for t in terms for b, _ in t], dtype=np.int32),
            "value": np.array([v for t in terms for _, v in t], dtype=np.float64),
            "order": np.array(orders, dtype=np.int32),
            "first_row": np.array(first_rows, dtype=np.int32),
            "factor": np.array(
                [path.path_weight for path in tensor_product.instructions], dtype=np.float64
            ),
        }
        self.num_outputs = int(out_row[-1])
        self.num_paths = len(tensor_product.instructions)
        self.num_inputs = int(in_row[-1])
        self.num_harmonics = int(sh_row[-1])
        load_library()
        self.struct = ffi.new(
            "trajcast_paths *",
            {
                "num_paths": self.num_paths,
                "num_harmonics": self.num_harmonics,
                "num_inputs": self.num_inputs,
                "num_outputs": self.num_outputs,
                "num_entries": len(keys),
                **{
                    name: ffi.cast(
                        "double *" if a.dtype == np.float64 else "int32_t *", a.ctypes.data
                    )
                    for name, a in self._arrays.items()
                },
            },
        )

    def entries(self) -> list[tuple[int, int, int, tuple[tuple[int, float], ...]]]:
        """Return (path, input row, output row, coupling) of each entry.

        A coupling is a sum over harmonics, given as pairs (harmonic, coefficient).
        """
        numbers = {name: array.tolist() for name, array in self._arrays.items()}
        terms = list(zip(numbers["harmonic"], numbers["value"], strict=True))
        first = numbers["first"]
        couplings = [tuple(terms[a:b]) for a, b in zip(first, first[1:], strict=False)]
        places = zip(numbers["path"], numbers["input"], numbers["output"], strict=True)
        return [(*place, terms) for place, terms in zip(places, couplings, strict=True)]


# The dispatcher passes tensors and numbers only, so an operation names its table by number. Tables
# are few and small (one per layer and network), and live as long as the process.
_tables: list[PathTable] = []


def register_table(table: PathTable) -> int:
    """Keep a table for :func:`edge_convolution`; return the number it goes by."""
    _tables.append(table)
    return len(_tables) - 1


def path_table(number: int) -> PathTable:
    """Return the table that goes by this number."""
    return _tables[number]


def check_graph(features: Tensor, harmonics: Tensor, senders: Tensor, table: PathTable) -> None:
    """Raise ValueError if features or harmonics do not have the shape that a table asks for."""
    num_edges, channels = senders.numel(), features.size(2)
    if features.size(1) != table.num_inputs or channels != table.channels:
        raise ValueError(
            f"edge convolution: features have shape {tuple(features.shape)}, expected "
            f"(N, {table.num_inputs}, {table.channels})"
        )
    if tuple(harmonics.shape) != (num_edges, table.num_harmonics):
        raise ValueError(
            f"edge convolution: harmonics have shape {tuple(harmonics.shape)}, expected "
            f"{(num_edges, table.num_harmonics)}"
        )


def pointer(tensor: Tensor) -> Any:
    """Return the C pointer to a tensor's values; the tensor must outlive its use."""
    kind = {torch.float32: "float *", torch.float64: "double *", torch.int64: "int64_t *"}
    return ffi.cast(kind[tensor.dtype], tensor.data_ptr())
