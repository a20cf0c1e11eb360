"""The edges of a batch found on the device that it is on, by looking at all pairs of atoms.

For systems as small as those that networks are trained on, whose frames would otherwise go to the
CPU and back wherever training builds graphs of predicted states.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Distances that are looked at at once; 16 bytes of device memory each, several times.
MAX_DISTANCES = 40_000_000


def bruteforce_edges(
    positions: Tensor, system: Tensor, cells: Tensor, pbc: Tensor, cutoff: float
) -> dict[str, Tensor] | None:
    """Return receivers, senders and edge vectors (sender - receiver + lattice shift).

    The edges are those of :func:`lammps_trajcast.runtime.graph.build_graph` for every frame,
    sorted by receiver.

    Args:
        positions: (N, 3) float64, Angstrom, wrapped or not, the atoms of a frame next to each
            other.
        system: (N,) int64, frame of each atom, ascending from 0.
        cells: (frames, 3, 3) Angstrom, rows are the lattice vectors.
        pbc: (frames, 3) bool.
        cutoff: Angstrom; may exceed half the cell.

    Returns:
        None if there are too many pairs, or if a frame is periodic in some directions only.
    """
    frames = len(cells)
    periodic = pbc.all(dim=1)
    if not bool((periodic == pbc.any(dim=1)).all()):
        return None
    counts = torch.bincount(system, minlength=frames)
    size = int(counts.max())
    lattice = torch.where(periodic[:, None, None], cells, torch.eye(3).to(cells))
    inverse = torch.linalg.inv(lattice)
    # Distance between opposite faces: over that many images the cutoff reaches, beyond the nearest.
    heights = 1.0 / inverse.norm(dim=1)
    reach = torch.floor(cutoff / heights + 0.5) * periodic[:, None]
    along = [torch.arange(-k, k + 1) for k in reach.amax(dim=0).long().tolist()]
    images = torch.cartesian_prod(*along).to(positions)
    if frames * size**2 * len(images) > MAX_DISTANCES:
        return None
    first = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(positions), device=positions.device) - first[system]
    padded = positions.new_full((frames, size, 3), float("nan"))
    padded[system, place] = positions
    # [frame, receiver, sender]; not a number beside atoms that are not there.
    vectors = padded[:, None] - padded[:, :, None]
    wraps = torch.round(vectors @ inverse[:, None]) * periodic[:, None, None, None]
    nearest = vectors - wraps @ lattice[:, None]
    # [frame, receiver, sender, image]; frames without boundaries have the first image alone.
    shifts = (images @ lattice)[:, None, None]
    all_vectors = nearest.unsqueeze(3) + shifts
    close = all_vectors.square().sum(dim=4) < cutoff**2
    at_home = (images == 0.0).all(dim=1)
    close &= periodic[:, None, None, None] | at_home
    itself = torch.eye(size, dtype=torch.bool, device=positions.device)
    close &= ~(itself[None, :, :, None] & at_home)
    frame, receiver, sender, image = torch.nonzero(close, as_tuple=True)
    return {
        "receivers": first[frame] + receiver,
        "senders": first[frame] + sender,
        "edge_vectors": all_vectors[frame, receiver, sender, image],
    }
