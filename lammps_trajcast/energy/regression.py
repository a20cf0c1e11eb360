"""Coefficients of an energy from the labels of a data set: linear least squares."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.data.labeled import LabeledFrame, LabeledFrames, SegmentLabels
from lammps_trajcast.data.layout import DatasetError, DatasetSource
from lammps_trajcast.energy.features import Features
from lammps_trajcast.energy.model import EnergyBasis, EnergyErrors, EnergyModel
from lammps_trajcast.kernels.energy import EnergyKernel
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.training.progress import ProgressReporter

# Weights of the equations of a frame: its energy and its virial are 1 and 6 numbers beside 3 N
# forces, whose squared errors count as one altogether.
_ENERGY_WEIGHT, _VIRIAL_WEIGHT = 3.0, 0.5
# What is added to the diagonal of the normal equations, relative to it: the best of these, or what
# is ten times smaller or larger. Few frames, and forces from beyond the cutoff, take large ones.
_RIDGES = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
# Training goes on with twice as many frames as long as that lowers the error by so much.
_GAIN = 0.05
_FIRST_FRAMES = 32
# Equations per coefficient below which no solution is tried.
_LEAST_EQUATIONS = 1.5
# Coefficients at most: the normal equations of so many take 200 MB and half a minute to solve.
_MOST_FEATURES = 5200
# Frames that decide between solutions, and that the final errors are of.
_JUDGES, _EXAMINERS = 48, 400

# Cells that differ by less have the same.
_NO_STRAIN = 1e-6


class Fluctuations(NamedTuple):
    """Standard deviations in a bath, of a frame; zero what is not known.

    Attributes:
        energy: kcal/mol.
        pressure: of the mean of the diagonal of the virial, kcal/mol.
        stress: root mean square over the components of the virial, kcal/mol.
        forces: root mean square force, kcal/mol/Angstrom.
    """

    energy: float
    pressure: float
    stress: float
    forces: float


def choose_basis(num_species: int, cutoff: float) -> EnergyBasis:
    """Return the functions that measurement recommends, fewer of them for many species."""
    for order, radial in [*((3, n) for n in range(10, 1, -1)), (2, 2), (2, 1), (1, 1), (0, 1)]:
        basis = EnergyBasis(
            num_species=num_species,
            cutoff=cutoff,
            num_pair=20,
            num_radial=radial,
            max_order=order,
            skew=3.0,
        )
        if basis.num_features <= _MOST_FEATURES:
            break
    return basis


def fit_energy(
    source: DatasetSource,
    elements: Sequence[str],
    cutoff: float,
    reporter: ProgressReporter,
    seed: int = 0,
    seconds: float = math.inf,
) -> EnergyModel:
    """Fit an energy to the frames of a data set that have energies and forces.

    Args:
        source: of the data set.
        elements: of the model, in the order of its species.
        cutoff: Angstrom.
        reporter: hears of the progress.
        seed: of the order in which frames are taken.
        seconds: after so many no more frames are taken than a solution needs.

    Raises:
        DatasetError: the data set has no labels or too few, or lacks an element.
    """
    splits = {
        name: LabeledFrames(source, name)  # type: ignore[arg-type]
        for name in ("train", "validation", "test")
    }
    train = splits["train"]
    names = ", ".join(map(str, [source] if isinstance(source, str) else source))  # type: ignore[arg-type]
    if not train.num_segments:
        raise DatasetError(f"{names}: has no segments for training: give all files of the data set")
    if not len(train) or train[0].forces is None:
        raise DatasetError(
            f"{names}: its frames have no energies and forces: add them with 'lammps-trajcast "
            "label', or record the data set anew"
        )
    missing = [element for element in elements if element not in train.elements]
    if missing:
        raise DatasetError(
            f"{names}: has no {missing[0]}, which the model knows; give the data set that the "
            "model was trained on"
        )
    units = fluctuations(train)
    if not (units.energy > 0.0 and units.forces > 0.0):
        raise DatasetError(
            f"{names}: its frames do not differ, so nothing can be fitted: record moving atoms, "
            "several frames in a file"
        )
    basis = choose_basis(len(elements), cutoff)
    index = [elements.index(element) for element in train.elements]
    task = _Task(basis, index, splits, units, seed)
    return task.solve(reporter, seconds)


def fluctuations(frames: LabeledFrames) -> Fluctuations:
    """Return how much the frames of a data set differ, those of each file among themselves.

    What follows a strain of the cell is no fluctuation: segments of other cells are compared after
    what is linear in the strain has been taken from them.
    """
    segments = frames.labels_of_segments()
    counts = np.array([len(segment.energies) for segment in segments])
    files = np.array([segment.file for segment in segments])
    labels = [
        np.column_stack([segment.energies, segment.virials[:, :3].mean(1), segment.virials])
        for segment in segments
    ]
    # Within segments, and means of segments among those of a file.
    within = [values - values.mean(axis=0) for values in labels]
    means = np.array([values.mean(axis=0) for values in labels])
    means -= _file_means(means, files, counts)
    strains = _strains(segments)
    if strains is not None:
        seen = strains - _file_means(strains, files, counts)
        usable = np.isfinite(means).all(axis=0)
        response, _, rank, _ = np.linalg.lstsq(seen, means[:, usable], rcond=1e-6)
        free = len(segments) - len(set(files.tolist()))
        if free > 2 * rank:
            means[:, usable] -= seen @ response
            # The response has taken a part of the fluctuations for its own.
            means *= math.sqrt(free / (free - rank))
    squares = np.mean(np.concatenate(within) ** 2, axis=0)
    squares += np.average(means**2, axis=0, weights=counts)
    energy, pressure, stress = squares[0], squares[1], squares[2:].mean()
    some = range(0, len(frames), max(1, len(frames) // 50))
    forces = [frames[k].forces for k in some]
    square = float(np.mean([np.mean(f**2) for f in forces if f is not None]))
    known = np.isfinite(pressure)
    return Fluctuations(
        math.sqrt(energy),
        math.sqrt(pressure) if known else 0.0,
        math.sqrt(stress) if known else 0.0,
        math.sqrt(square),
    )


def _strains(segments: Sequence[SegmentLabels]) -> NDArray[np.float64] | None:
    """Return the strains (S, any) of cells to their mean; None if all have the same.

    A component that is zero in all cells has no column, nor has one of a direction that is not
    periodic, in which a box means nothing.
    """
    cells = np.array([segment.cell for segment in segments])
    mean = np.mean(cells, axis=0)
    pbc = np.all([segment.pbc for segment in segments], axis=0)
    if abs(np.linalg.det(mean)) < 1e-9:
        return None  # a molecule in no cell
    gradients = np.linalg.solve(mean, cells) - np.eye(3)
    symmetric = 0.5 * (gradients + gradients.transpose(0, 2, 1))
    columns = [
        symmetric[:, i, j]
        for i in range(3)
        for j in range(i, 3)
        if pbc[i] and pbc[j] and np.abs(symmetric[:, i, j]).max() > _NO_STRAIN
    ]
    return np.column_stack(columns) if columns else None


def _file_means(
    values: NDArray[np.float64], files: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return, in each row, the mean of the rows of its file; counts: weights of the rows."""
    _, where = np.unique(files, return_inverse=True)
    sums = np.zeros((where.max() + 1, values.shape[1]))
    np.add.at(sums, where, counts[:, None] * values)
    return (sums / np.bincount(where, weights=counts)[:, None])[where]


class _Task:
    """The equations, frame by frame, and their solutions."""

    def __init__(
        self,
        basis: EnergyBasis,
        index: list[int],
        splits: dict[str, LabeledFrames],
        units: Fluctuations,
        seed: int,
    ) -> None:
        self._index = np.array(index)
        train = splits["train"]
        self._order = np.random.default_rng(seed).permutation(len(train))
        self._train, self._units = train, units
        self._judges = self._some(splits["validation"], _JUDGES)
        self._examiners = self._some(splits["test"], _EXAMINERS) or self._judges
        if not self._judges:
            self._judges = self._examiners
        if not self._judges:
            raise DatasetError(
                "the data set has no segments for validation and test; give all of its files, or "
                "make it anew without --split, which sets aside a tenth of them for each"
            )
        self._offset = float(
            np.mean([self._frame(k).energy / self._size(k) for k in range(len(train))])
        )
        distances = [
            np.linalg.norm(
                build_graph(f.positions, f.cell, f.pbc, basis.cutoff).edge_vectors.numpy(), axis=1
            )
            for f in (self._frame(k) for k in self._order[:20])
        ]
        self._features = Features(basis, np.concatenate(distances))
        size = basis.num_features
        self._matrix = torch.zeros(size, size, dtype=torch.float64)
        self._right = torch.zeros(size, dtype=torch.float64)
        self._equations = 0

    def _some(self, frames: LabeledFrames, most: int) -> list[LabeledFrame]:
        step = max(1, len(frames) // most)
        return [self._mapped(frames[k]) for k in range(0, len(frames), step)][:most]

    def _frame(self, k: int) -> LabeledFrame:
        return self._mapped(self._train[int(k)])

    def _mapped(self, frame: LabeledFrame) -> LabeledFrame:
        return frame._replace(species=self._index[frame.species])

    def _size(self, k: int) -> int:
        return len(self._frame(k).species)

    def solve(self, reporter: ProgressReporter, seconds: float) -> EnergyModel:
        """Return the energy of as many frames as help."""
        began = time.monotonic()
        total = len(self._order)
        best: tuple[float, EnergyModel] | None = None
        last, grew_worse = math.inf, False
        target = min(_FIRST_FRAMES, total)
        reporter.stage("energies, frames")
        for done, k in enumerate(self._order, 1):
            self._add(self._frame(k))
            reporter.part(done, total)
            enough = self._equations >= _LEAST_EQUATIONS * len(self._right)
            late = time.monotonic() - began > seconds
            if done < total and (not enough or (done < target and not late)):
                continue
            target = 2 * done
            error, model = self._best(done)
            if best is None or error < best[0]:
                best = error, model
            reporter.line(f"energies from {done} frames: {describe_errors(model.errors)}")
            # More frames that make it worse were too few: the rare ones among them weigh too much.
            worse = error > last and not grew_worse
            if late or (error > (1.0 - _GAIN) * last and not worse):
                break
            last, grew_worse = error, worse
        assert best is not None
        model = best[1]
        assert model.errors is not None
        return model._replace(errors=self._errors(model, self._examiners, model.errors.frames))

    def _add(self, frame: LabeledFrame) -> None:
        rows, units, count = self._features.rows(frame), self._units, len(frame.species)
        assert frame.forces is not None
        # In a frame of another size the errors of atoms add up to others.
        scale = _ENERGY_WEIGHT / (units.energy * math.sqrt(count / self._size(0)))
        left = [rows.energy[None] * scale]
        right = [torch.tensor([(frame.energy - self._offset * count) * scale], dtype=torch.float64)]
        if frame.virial is not None and units.stress > 0.0:
            scale = _VIRIAL_WEIGHT / (units.stress * math.sqrt(count / self._size(0)))
            left.append(rows.virial * scale)
            right.append(torch.from_numpy(frame.virial * scale))
        scale = 1.0 / (units.forces * math.sqrt(3 * count))
        left.append(rows.forces.flatten(0, 1) * scale)
        right.append(torch.from_numpy(frame.forces.reshape(-1) * scale))
        equations, values = torch.cat(left), torch.cat(right)
        self._matrix.addmm_(equations.T, equations)
        self._right.addmv_(equations.T, values)
        self._equations += len(values)

    def _best(self, frames: int) -> tuple[float, EnergyModel]:
        """Return the solution with the smallest error, of several ridges, and that error."""
        scale = self._matrix.diagonal().sqrt()
        scale[scale == 0.0] = 1.0
        matrix = self._matrix / scale[:, None] / scale
        found: dict[float, tuple[float, EnergyModel]] = {}

        def attempt(ridge: float) -> None:
            shifted = matrix.clone()
            shifted.diagonal().add_(ridge)
            solution = torch.linalg.solve(shifted, self._right / scale) / scale
            if not torch.isfinite(solution).all():
                return
            model = EnergyModel(
                self._features.basis, arrays_of(self._features, solution, self._offset)
            )
            errors = self._errors(model, self._judges, frames)
            parts = (errors.energy, errors.stress or 0.0, errors.forces)
            error = math.sqrt(sum(x**2 for x in parts))
            found[ridge] = error, model._replace(errors=errors)

        for ridge in _RIDGES:
            attempt(ridge)
        if found:
            best = min(found, key=lambda ridge: found[ridge][0])
            attempt(0.1 * best)
            attempt(10.0 * best)
        if not found:
            raise DatasetError("the energies of the data set cannot be fitted: check its labels")
        return min(found.values(), key=lambda pair: pair[0])

    def _errors(self, model: EnergyModel, frames: list[LabeledFrame], number: int) -> EnergyErrors:
        kernel = EnergyKernel(model)
        energies, virials, forces, sizes = [], [], [], []
        for frame in frames:
            energy, virial, force = evaluate(kernel, model.basis.cutoff, frame)
            sizes.append(len(frame.species))
            energies.append(energy - frame.energy)
            assert frame.forces is not None
            forces.append(float(np.mean((force - frame.forces) ** 2)))
            if frame.virial is not None and self._units.stress > 0.0:
                virials.append(virial - frame.virial)
        units = self._units
        pressure = stress = None
        if virials:
            differences = np.stack(virials)
            pressure = math.sqrt(np.mean(differences[:, :3].mean(1) ** 2)) / units.pressure
            stress = math.sqrt(np.mean(differences**2)) / units.stress
        energy_error = math.sqrt(np.mean(np.square(energies)))
        return EnergyErrors(
            energy=energy_error / units.energy,
            pressure=pressure,
            stress=stress,
            forces=math.sqrt(np.mean(forces)) / units.forces,
            energy_per_atom=energy_error / float(np.mean(sizes)),
            frames=number,
            temperatures=(min(self._train.temperatures), max(self._train.temperatures)),
        )


def evaluate(
    kernel: EnergyKernel, cutoff: float, frame: LabeledFrame
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return energy, virial (6,) and forces (N, 3) of a frame, in the units of the model."""
    graph = build_graph(frame.positions, frame.cell, frame.pbc, cutoff)
    count = len(frame.species)
    receivers, senders = graph.receivers.numpy(), graph.senders.numpy()
    first = np.searchsorted(receivers, np.arange(count + 1))
    found = kernel(
        frame.species,
        first,
        senders,
        graph.edge_vectors.numpy(),
        wants_virials=True,
        wants_gradients=True,
        num_threads=torch.get_num_threads(),
    )
    assert found.virials is not None
    assert found.gradients is not None
    forces = np.zeros((count, 3))
    np.add.at(forces, receivers, found.gradients)
    np.add.at(forces, senders, -found.gradients)
    return float(found.energies.sum()), found.virials.sum(0), forces


def arrays_of(
    features: Features, solution: Tensor, offset: float
) -> dict[str, NDArray[np.float64]]:
    """Return the arrays of a model from the coefficients of its features.

    Args:
        features: what they multiply.
        solution: (F,) for each species of a receiver: constant, terms of two bodies by species of
            the sender, terms of three bodies by order and pair of radial functions.
        offset: what is added to the energy of each atom.
    """
    basis = features.basis
    species, width, orders = basis.num_species, basis.width, basis.max_order + 1
    rows = solution.reshape(species, -1).numpy()
    end = 1 + species * basis.num_pair
    pairs = rows[:, 1:end].reshape(species, species, basis.num_pair)
    upper = np.triu_indices(width)
    products = np.zeros((species, orders, width, width))
    products[:, :, upper[0], upper[1]] = rows[:, end:].reshape(species, orders, -1)
    products = (products + products.transpose(0, 1, 3, 2)) / 2.0
    return {
        "constants": rows[:, 0] + offset,
        "pairs": pairs @ features.pair_mixing.numpy().T,
        "radial": features.radial_mixing.numpy().copy(),
        "products": np.einsum("alkj,lp->apkj", products, features.to_powers),
    }


def describe_errors(errors: EnergyErrors | None) -> str:
    """Return the errors in words, relative to the thermal fluctuation."""
    if errors is None:
        return "errors not known"
    parts = [f"error of the energy {errors.energy:.3f}"]
    if errors.pressure is not None:
        parts.append(f"of the pressure {errors.pressure:.3f}")
    return ", ".join([*parts, f"of forces {errors.forces:.3f}"])
