"""A cost model of a step on many MPI ranks, for sizes that no machine here can hold.

    t(n, p) = fixed + own n + remote m(n) + exchange + sums

with n own atoms on each of p equal ranks, m(n) remote atoms within the cutoff of a cube of n atoms,
    exchange = (layers - 1) (neighbors latency + m row / bandwidth) + states and masks likewise,
    sums = 2 log2(p) latency.
Nothing is assumed to be hidden behind computation, and no rank to have more atoms than others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STATE_BYTES = 48 + 1  # position and velocity, and the byte that asks for the features
NEIGHBORS = 26  # ranks around a cube


def shell_volume(side: float, reach: float) -> float:
    """Return the volume (Angstrom^3) of all points outside of a cube and within reach of it."""
    faces = 6.0 * side**2 * reach
    edges = 3.0 * math.pi * side * reach**2
    corners = 4.0 / 3.0 * math.pi * reach**3
    return faces + edges + corners


def remote_atoms(own: float, total: float, density: float, reach: float) -> float:
    """Return the atoms within reach of a cube of ``own`` atoms, of ``total`` in all.

    density: atoms in a cubic Angstrom; reach: Angstrom.
    """
    side = (own / density) ** (1.0 / 3.0)
    return min(density * shell_volume(side, reach), total - own)


@dataclass(frozen=True)
class Network:
    """What connects the ranks; one rank has a link to itself.

    latency: s for a message.
    bandwidth: bytes/s of one rank.
    """

    latency: float = 2e-6
    bandwidth: float = 3e9


@dataclass(frozen=True)
class CostModel:
    """Fitted to runs on one and two ranks.

    fixed: s of a step whatever the number of atoms.
    own: s for an own atom.
    remote: s for a remote atom.
    row_bytes: features of an atom in one exchange.
    layers: of the network.
    cutoff: Angstrom.
    density: atoms in a cubic Angstrom.
    """

    fixed: float
    own: float
    remote: float
    row_bytes: float
    layers: int
    cutoff: float
    density: float

    def remote_atoms(self, atoms: float, ranks: int) -> float:
        """Return remote atoms of a rank."""
        return remote_atoms(atoms / ranks, atoms, self.density, self.cutoff)

    def ghost_ratio(self, atoms: float, ranks: int, wide: bool = False) -> float:
        """Return remote over own atoms; ``wide``: of ghosts that reach as far as all layers see."""
        reach = self.cutoff * (self.layers if wide else 1)
        return remote_atoms(atoms / ranks, atoms, self.density, reach) / (atoms / ranks)

    def step(self, atoms: float, ranks: int, network: Network) -> float:
        """Return the seconds of a step."""
        compute = self.fixed + self.own * atoms / ranks
        if ranks == 1:
            return compute
        remote = self.remote_atoms(atoms, ranks)
        neighbors = min(NEIGHBORS, ranks - 1)
        exchanges = self.layers - 1
        moved = remote * (exchanges * self.row_bytes + STATE_BYTES)
        messages = (exchanges + 2) * neighbors
        talk = messages * network.latency + moved / network.bandwidth
        sums = 2.0 * math.log2(ranks) * network.latency
        return compute + self.remote * remote + talk + sums

    def wide_ghost_step(self, atoms: float, ranks: int, network: Network) -> float:
        """Return the seconds of a step that computes all ghosts it needs instead of asking.

        Layer k of L has to be computed for all atoms within (L - k) cutoffs.
        """
        own = atoms / ranks
        computed = sum(
            own + (remote_atoms(own, atoms, self.density, k * self.cutoff) if k else 0.0)
            for k in range(self.layers)
        )
        far = remote_atoms(own, atoms, self.density, self.layers * self.cutoff)
        talk = 2.0 * min(NEIGHBORS, ranks - 1) * network.latency
        talk += far * STATE_BYTES / network.bandwidth
        return self.fixed + self.own * computed / self.layers + talk

    def efficiency(self, atoms: float, ranks: int, network: Network) -> float:
        """Return the share of ideal speed-up over one rank that is left."""
        return self.step(atoms, 1, network) / (ranks * self.step(atoms, ranks, network))


def fit(
    serial: dict[int, float],
    parallel: tuple[int, float, float],
    row_bytes: float,
    layers: int,
    cutoff: float,
    density: float,
) -> CostModel:
    """Fit the model.

    Args:
        serial: seconds of a step on one rank, by number of atoms; at least two.
        parallel: own atoms, remote atoms and seconds without exchange and sums of one of two ranks.
        row_bytes: see :class:`CostModel`.
        layers: see :class:`CostModel`.
        cutoff: see :class:`CostModel`.
        density: see :class:`CostModel`.
    """
    atoms = np.array(list(serial), dtype=float)
    seconds = np.array(list(serial.values()))
    # Weights that make relative deviations count.
    design = np.stack([1.0 / seconds, atoms / seconds], axis=1)
    (fixed, own), *_ = np.linalg.lstsq(design, np.ones_like(seconds), rcond=None)
    if fixed < 0.0:
        fixed, own = 0.0, float(np.mean(seconds / atoms))
    mine, remote_count, busy = parallel
    remote = max(0.0, (busy - fixed - own * mine) / remote_count)
    return CostModel(float(fixed), float(own), remote, row_bytes, layers, cutoff, density)


def table(model: CostModel, network: Network) -> list[dict[str, float]]:
    """Return what the model says of 10^4 to 10^8 atoms on 1 to 10,000 ranks.

    Rows with fewer than ten atoms on a rank are left out.
    """
    lines = []
    for atoms in (10**k for k in range(4, 9)):
        for ranks in (1, 10, 100, 1000, 10_000):
            if atoms < 10 * ranks:
                continue
            several = ranks > 1
            step = model.step(atoms, ranks, network)
            lines.append(
                {
                    "atoms": atoms,
                    "ranks": ranks,
                    "ms": 1e3 * step,
                    "efficiency": model.efficiency(atoms, ranks, network),
                    "ghosts": model.ghost_ratio(atoms, ranks) if several else 0.0,
                    "wide ghosts": model.ghost_ratio(atoms, ranks, wide=True) if several else 0.0,
                    "wide ms": 1e3
                    * (model.wide_ghost_step(atoms, ranks, network) if several else step),
                }
            )
    return lines
