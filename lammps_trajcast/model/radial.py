"""Formulas of the embeddings of distance and speed, for the network and for its tables.

Numbers only, without torch: the kernels are built from them at the start of a run.
"""

from __future__ import annotations

import math

from lammps_trajcast.model.normalization import GAUSSIAN_NORM

SHIFT = 1e-5
"""Added to a distance, in Angstrom, before one is divided by it."""


def bessel_factor(cutoff: float) -> float:
    """Return the factor of sin(w_n r/rc) / (r + SHIFT), after Gasteiger et al., ICLR 2020, eq. 7.

    Args:
        cutoff: rc, Angstrom.
    """
    return 2.0 / cutoff


def envelope_terms(exponent: float) -> tuple[tuple[float, float], ...]:
    """Return (power, factor) of the terms of the envelope besides 1, after eq. 8 there.

    The envelope is 1 plus the sum of factor * (r/rc)^power for r < rc, and zero beyond; its value
    and its first two derivatives vanish at the cutoff rc.

    Args:
        exponent: p, the lowest of the powers.
    """
    p = float(exponent)
    return (
        (p, -(p + 1.0) * (p + 2.0) / 2.0),
        (p + 1.0, p * (p + 2.0)),
        (p + 2.0, -p * (p + 1.0) / 2.0),
    )


def gaussian_spacing(vel_max: float, size: int) -> float:
    """Return the distance between the centers of the Gaussians of the speed; their width too.

    The k-th center, from 1, is k times this; as in e3nn's ``soft_one_hot_linspace`` with
    ``cutoff=True``, the ends of the range, 0 and ``vel_max``, have none.

    Args:
        vel_max: in the velocity unit of the model.
        size: number of Gaussians.
    """
    return vel_max / (size + 1)


def gaussian_factor(size: int) -> float:
    """Return the factor of exp(-((speed - center) / spacing)^2)."""
    return math.sqrt(size) / GAUSSIAN_NORM
