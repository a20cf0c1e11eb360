"""Energies of atoms by `fix_src/kernels/energy.h`, NumPy in and out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.energy.model import EnergyModel
from lammps_trajcast.kernels.library import ffi, load_library


class AtomEnergies(NamedTuple):
    """Of N atoms with E edges, in the unit of the model.

    Attributes:
        energies: (N,).
        virials: (N, 6) xx, yy, zz, xy, xz, yz; None if not asked for.
        gradients: (E, 3) derivatives of the energy of the atom that receives by the edge vectors,
            per Angstrom; None if not asked for.
    """

    energies: NDArray[np.float64]
    virials: NDArray[np.float64] | None
    gradients: NDArray[np.float64] | None


class EnergyKernel:
    """A model of the energy, ready to be evaluated."""

    def __init__(self, model: EnergyModel) -> None:
        """Take the coefficients; later changes of them do not show."""
        basis = model.basis
        self._library = load_library()
        self._arrays = {
            name: np.array(model.arrays[name], dtype=np.float64, order="C").reshape(shape)
            for name, shape in basis.shapes().items()
        }
        self._model = ffi.new(
            "trajcast_energy_model *",
            {
                "num_species": basis.num_species,
                "num_pair": basis.num_pair,
                "num_radial": basis.num_radial,
                "max_order": basis.max_order,
                "cutoff": basis.cutoff,
                "skew": basis.skew,
                **{
                    name: ffi.from_buffer("double[]", array) for name, array in self._arrays.items()
                },
            },
        )

    def __call__(
        self,
        species: NDArray[np.int64],
        first_edge: NDArray[np.int64],
        senders: NDArray[np.int64],
        edge_vectors: NDArray[np.float64],
        wants_virials: bool = False,
        wants_gradients: bool = False,
        num_threads: int = 1,
    ) -> AtomEnergies:
        """Return the energies of N atoms.

        Args:
            species: (at least N,) of them, then of atoms that only send.
            first_edge: (N + 1,) edges of atom i are first_edge[i] … first_edge[i + 1] - 1.
            senders: (E,) index into species.
            edge_vectors: (E, 3) Angstrom, from receiver to sender.
            wants_virials: whether to return them.
            wants_gradients: whether to return them.
            num_threads: for this call.

        Raises:
            MemoryError: there is not enough of it.
        """
        count, edges = len(first_edge) - 1, len(senders)
        species = np.ascontiguousarray(species, np.int64)
        first_edge = np.ascontiguousarray(first_edge, np.int64)
        senders = np.ascontiguousarray(senders, np.int64)
        vectors = np.ascontiguousarray(edge_vectors, np.float64)
        if len(species) < count or vectors.shape != (edges, 3) or first_edge[-1] > edges:
            raise ValueError(
                f"energy kernel: {count} atoms of {len(species)} species, {edges} senders, vectors "
                f"{vectors.shape}"
            )
        found = AtomEnergies(
            np.empty(count),
            np.empty((count, 6)) if wants_virials else None,
            np.empty((edges, 3)) if wants_gradients else None,
        )

        def pointer(array: NDArray[np.float64] | None) -> object:
            return ffi.NULL if array is None else ffi.from_buffer("double[]", array)

        status = self._library.trajcast_energy(
            self._model,
            count,
            ffi.from_buffer("int64_t[]", species),
            ffi.from_buffer("int64_t[]", first_edge),
            ffi.from_buffer("int64_t[]", senders),
            ffi.from_buffer("double[]", vectors),
            *(pointer(array) for array in found),
            num_threads,
        )
        if status:
            raise MemoryError("energy kernel: no memory for the edges of an atom")
        return found
