"""Radial distribution functions that LAMMPS averaged with `compute rdf` and `fix ave/time`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RDFError(Exception):
    """A file that holds no radial distribution functions; the message says what to change."""


@dataclass(frozen=True)
class RadialDistribution:
    """g(r) of several pairs of elements.

    r:      (B,) Angstrom, centers of the bins.
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


def relative_deviation(
    rdf: RadialDistribution, reference: RadialDistribution, start: float, stop: float
) -> dict[str, float]:
    """Sum of |g - g_ref| over that of |g_ref - 1| in a range of distances, for each pair.

    Only bins that hold atoms in one of the two count: the empty space within the first shell is in
    any model, and would make every deviation look small.

    start, stop: Angstrom.

    Raises RDFError if the reference reaches further, or holds nothing in the range.
    """
    found = {}
    inside = (reference.r >= start) & (reference.r < stop)
    for pair, expected in zip(reference.pairs, reference.g, strict=True):
        g = _at(reference.r, rdf, pair)
        counted = inside & ((g > 0.0) | (expected > 0.0))
        structure = float(np.abs(expected[counted] - 1.0).sum())
        if structure == 0.0:
            raise RDFError(f"the reference has no {pair} from {start:g} to {stop:g} Angstrom")
        found[pair] = float(np.abs(g - expected)[counted].sum()) / structure
    return found


def _at(r: NDArray[np.float64], rdf: RadialDistribution, pair: str) -> NDArray[np.float64]:
    """Interpolate g(r) of a pair at other distances."""
    # The bins of the two may be shifted by half of one.
    if rdf.r[-1] + (rdf.r[-1] - rdf.r[-2]) < r[-1]:
        raise RDFError(
            f"g(r) of the run ends at {rdf.r[-1]:.3g} Angstrom, that of the reference at "
            f"{r[-1]:.3g}; give compute rdf 'cutoff {r[-1]:.3g}'"
        )
    return np.interp(r, rdf.r, rdf.g[rdf.pairs.index(pair)])


def plot_rdf(
    panels: Sequence[Axes], rdf: RadialDistribution, reference: RadialDistribution, label: str
) -> None:
    """Draw each pair into a panel of its own: the run as a line, the reference as a shade."""
    for axes, pair, expected in zip(panels, reference.pairs, reference.g, strict=True):
        axes.fill_between(reference.r, expected, color="0.75", label="Vashishta, 1 fs")
        axes.plot(rdf.r, rdf.g[rdf.pairs.index(pair)], color="C3", linewidth=1.2, label=label)
        axes.set(title=pair, xlabel="r / Å", xlim=(1.0, reference.r[-1]))
        axes.set_ylim(bottom=0.0)
    panels[0].set_ylabel("g(r)")
    panels[-2 if len(panels) > 1 else 0].legend(frameon=False)
