"""The frames of a data set with their energies, virials and forces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.data.layout import (
    DatasetSource,
    Split,
    one_line_for_damage,
    open_dataset,
    segments_of,
)
from lammps_trajcast.units import BOLTZMANN_PER_MASS


class LabeledFrame(NamedTuple):
    """A frame of N atoms.

    Attributes:
        species: (N,) index into the elements of the data set.
        cell: (3, 3) Angstrom, rows are the lattice vectors.
        pbc: (3,) bool.
        positions: (N, 3) Angstrom.
        energy: kcal/mol.
        forces: (N, 3) kcal/mol/Angstrom; None if they are not known.
        virial: (6,) kcal/mol, see :mod:`lammps_trajcast.data.labels`; None if it is not known.
        file: number of the file that it comes from: what was recorded in one bath.
    """

    species: NDArray[np.int64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    positions: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64] | None
    virial: NDArray[np.float64] | None
    file: int


class SegmentLabels(NamedTuple):
    """Energies and virials of the F frames of a segment.

    Attributes:
        file: number of its file.
        cell: (3, 3) Angstrom.
        pbc: (3,) bool.
        energies: (F,) kcal/mol.
        virials: (F, 6) kcal/mol; not a number where they are not known.
    """

    file: int
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energies: NDArray[np.float64]
    virials: NDArray[np.float64]


class LabeledFrames:
    """All frames of a split that have an energy; they are kept in memory.

    Attributes:
        elements: symbols.
        temperatures: mean kinetic temperature of each file, K.
        num_segments: of the split, those without energies included.
    """

    def __init__(self, source: DatasetSource, split: Split) -> None:
        """Read them.

        Args:
            source: of the data set.
            split: of its segments.

        Raises:
            DatasetError: it is not a data set, or damaged.
        """
        self._segments: list[tuple[dict[str, NDArray[np.float64]], int]] = []
        self._places: list[tuple[int, int]] = []  # segment, frame
        kinetic: dict[str, list[float]] = {}
        with open_dataset(source) as file, one_line_for_damage(source):
            self.elements = [str(element) for element in file.attrs["elements"]]
            masses = np.asarray(file.attrs["masses"], dtype=np.float64)
            names = segments_of(file, split)
            self.num_segments = len(names)
            for name in names:
                segment = file[name]
                if "energy" not in segment:
                    continue
                wanted = ("species", "cell", "pbc", "positions", "energy", "virial", "forces")
                arrays = {key: segment[key][:] for key in wanted if key in segment}
                files = list(kinetic)
                where = str(segment.file.filename)
                if where not in kinetic:
                    files.append(where)
                    kinetic[where] = []
                kinetic[where].append(_temperature(segment["velocities"][:], masses, arrays))
                number = len(self._segments)
                self._segments.append((arrays, files.index(where)))
                self._places += [(number, k) for k in range(len(arrays["energy"]))]
        self.temperatures = [float(np.mean(values)) for values in kinetic.values()]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> LabeledFrame:
        """Return one frame, 0, 1, … len - 1."""
        segment, k = self._places[index]
        arrays, file = self._segments[segment]
        return LabeledFrame(
            species=arrays["species"].astype(np.int64),
            cell=arrays["cell"],
            pbc=arrays["pbc"].astype(bool),
            positions=arrays["positions"][k],
            energy=float(arrays["energy"][k]),
            forces=arrays["forces"][k].astype(np.float64) if "forces" in arrays else None,
            virial=arrays["virial"][k].astype(np.float64) if "virial" in arrays else None,
            file=file,
        )

    def labels_of_segments(self) -> list[SegmentLabels]:
        """Return what is known of each segment, in their order."""
        return [
            SegmentLabels(
                file=file,
                cell=arrays["cell"].astype(np.float64),
                pbc=arrays["pbc"].astype(bool),
                energies=arrays["energy"].astype(np.float64),
                virials=arrays.get("virial", np.full((len(arrays["energy"]), 6), np.nan)),
            )
            for arrays, file in self._segments
        ]


def _temperature(
    velocities: NDArray[np.float64],
    masses: NDArray[np.float64],
    arrays: dict[str, NDArray[np.float64]],
) -> float:
    mass = masses[arrays["species"].astype(np.int64)]
    twice = float(np.mean(np.einsum("i,fik,fik->f", mass, velocities, velocities)))
    return twice / (3.0 * len(mass) * BOLTZMANN_PER_MASS)
