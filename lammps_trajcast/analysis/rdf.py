"""Radial distribution functions that LAMMPS averaged with `compute rdf` and `fix ave/time`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RDFError(Exception):
    """A file that holds no radial distribution functions; the message says what to change."""


@dataclass(frozen=True)
class RadialDistribution:
    """g(r) of several pairs of elements.

    r:      (B,) Angstrom, centres of the bins.
    pairs:  names of the pairs, e.g. "Si-O".
    g:      (P, B), one row for each pair.
    """

    r: NDArray[np.float64]
    pairs: tuple[str, ...]
    g: NDArray[np.float64]


def read_lammps_rdf(path: Path, pairs: tuple[str, ...]) -> RadialDistribution:
    """The last average in a file of `fix ave/time ... c_rdf[*] mode vector`.

    pairs: what the pairs of types given to `compute rdf` stand for, in their order.

    Raises RDFError.
    """
    if not path.is_file():
        raise RDFError(f"{path}: no such file; did the run get as far?")
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    if not lines:
        raise RDFError(f"{path}: holds no average; was the run shorter than one?")
    start, rows = 0, 0
    while start < len(lines):
        rows = int(lines[start].split()[1])
        if start + 1 + rows >= len(lines):
            break
        start += 1 + rows
    table = np.loadtxt(lines[start + 1 : start + 1 + rows], ndmin=2)
    # Row, r, then g(r) and the running coordination number of every pair.
    if table.shape[1] != 2 + 2 * len(pairs):
        raise RDFError(
            f"{path}: {table.shape[1]} columns, but {2 + 2 * len(pairs)} for pairs "
            f"{' '.join(pairs)}; give compute rdf these pairs of types"
        )
    return RadialDistribution(r=table[:, 1], pairs=pairs, g=table[:, 2::2].T)


def write_csv(path: Path, rdf: RadialDistribution) -> None:
    """Write columns r, then one for each pair."""
    np.savetxt(
        path,
        np.column_stack([rdf.r, rdf.g.T]),
        delimiter=",",
        fmt="%.6g",
        header=",".join(["r", *rdf.pairs]),
        comments="",
    )


def read_csv(path: Path) -> RadialDistribution:
    """What `write_csv` wrote. Raises RDFError."""
    if not path.is_file():
        raise RDFError(f"{path}: no such file")
    with path.open() as lines:
        names = lines.readline().strip().split(",")
        table = np.loadtxt(lines, delimiter=",", ndmin=2)
    if names[0] != "r" or table.shape[1] != len(names):
        raise RDFError(f"{path}: expected columns r and one for each pair of elements")
    return RadialDistribution(r=table[:, 0], pairs=tuple(names[1:]), g=table[:, 1:].T)


def deviation(rdf: RadialDistribution, reference: RadialDistribution) -> dict[str, float]:
    """Root mean square of g(r) - g_ref(r) over the reference's bins, for each pair."""
    return {
        pair: float(
            np.sqrt(np.mean((np.interp(reference.r, rdf.r, rdf.g[rdf.pairs.index(pair)]) - g) ** 2))
        )
        for pair, g in zip(reference.pairs, reference.g, strict=True)
    }


def plot_rdf(rdf: RadialDistribution, reference: RadialDistribution, label: str) -> Figure:
    """A figure with one panel for each pair: the run as a line, the reference as a shade."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, pair in zip(
        np.atleast_1d(figure.subplots(1, len(reference.pairs))), reference.pairs, strict=True
    ):
        g_reference = reference.g[reference.pairs.index(pair)]
        axes.fill_between(reference.r, g_reference, color="0.75", label="Vashishta, 1 fs")
        axes.plot(rdf.r, rdf.g[rdf.pairs.index(pair)], color="C3", linewidth=1.2, label=label)
        axes.set(title=pair, xlabel="r / Å", xlim=(1.0, reference.r[-1]))
        axes.set_ylim(bottom=0.0)
    figure.axes[0].set_ylabel("g(r)")
    figure.axes[-2 if len(reference.pairs) > 1 else 0].legend(frameon=False)
    return figure
