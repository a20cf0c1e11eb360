"""The potential energy of a model: its kernel, its derivatives, its file, and its regression."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from energies import energy_by_definition, random_energy
from models import tiny_model
from numpy.typing import NDArray
from recordings import OPTIONS, SCRIPT
from safetensors.numpy import load_file, save_file
from scipy.spatial.transform import Rotation
from torch import Tensor

from lammps_trajcast.data.labeled import LabeledFrame, LabeledFrames, SegmentLabels
from lammps_trajcast.data.labels import VOIGT
from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.energy import regression
from lammps_trajcast.energy.add import with_energy
from lammps_trajcast.energy.features import Features, chebyshev
from lammps_trajcast.energy.model import EnergyBasis, EnergyModel
from lammps_trajcast.energy.regression import (
    arrays_of,
    choose_basis,
    evaluate,
    fluctuations,
)
from lammps_trajcast.kernels.energy import EnergyKernel
from lammps_trajcast.model.file import ENERGY_KEY, HEADER_KEY, ModelFile, ModelFileError
from lammps_trajcast.recording.record import record
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.training.progress import ProgressReporter

CUTOFF = 3.5
# Of the reference that is fitted.
REACH = 5.5


def cluster(seed: int = 5, count: int = 12) -> LabeledFrame:
    """Atoms of two species in a cell that is skewed and shorter than twice the cutoff."""
    generator = np.random.default_rng(seed)
    cell = np.array([[5.0, 0.0, 0.0], [0.7, 5.5, 0.0], [-0.4, 0.3, 6.0]])
    return LabeledFrame(
        species=generator.integers(0, 2, count),
        cell=cell,
        pbc=np.array([True, True, True]),
        positions=generator.uniform(0.0, 1.0, (count, 3)) @ cell,
        energy=0.0,
        forces=np.zeros((count, 3)),
        virial=np.zeros(6),
        file=0,
    )


@pytest.mark.parametrize("max_order", [0, 3, 5])
def test_kernel_is_the_definition(max_order: int) -> None:
    model, frame = random_energy(CUTOFF, max_order=max_order), cluster()
    # Longer edges than the cutoff do not count.
    graph = build_graph(frame.positions, frame.cell, frame.pbc, CUTOFF + 1.0)
    receivers, senders = graph.receivers.numpy(), graph.senders.numpy()
    edges: list[list[tuple[int, np.ndarray]]] = [[] for _ in frame.species]
    for receiver, sender, vector in zip(
        receivers, senders, graph.edge_vectors.numpy(), strict=True
    ):
        edges[receiver].append((sender, vector))
    first = np.searchsorted(receivers, np.arange(len(frame.species) + 1))
    for threads in (1, 3):
        found = EnergyKernel(model)(
            frame.species, first, senders, graph.edge_vectors.numpy(), num_threads=threads
        )
        expected = energy_by_definition(model, frame.species, edges)
        np.testing.assert_allclose(found.energies, expected, rtol=1e-11)
    assert np.ptp(expected) > 0.5


def test_atoms_without_neighbors_have_the_constant() -> None:
    model = random_energy(CUTOFF)
    found = EnergyKernel(model)(
        np.array([1, 0]), np.zeros(3, np.int64), np.empty(0, np.int64), np.empty((0, 3)), True
    )
    np.testing.assert_array_equal(found.energies, model.arrays["constants"][[1, 0]])
    assert found.virials is not None
    np.testing.assert_array_equal(found.virials, 0.0)
    with pytest.raises(ValueError, match="energy kernel"):
        EnergyKernel(model)(np.array([1]), np.zeros(3, np.int64), np.empty(0), np.empty((0, 3)))


def test_forces_and_virial_are_derivatives() -> None:
    kernel, frame, step = EnergyKernel(random_energy(CUTOFF)), cluster(), 1e-5
    energy, virial, forces = evaluate(kernel, CUTOFF, frame)

    def energy_of(positions: np.ndarray, cell: np.ndarray) -> float:
        return evaluate(kernel, CUTOFF, frame._replace(positions=positions, cell=cell))[0]

    for atom, axis in ((0, 0), (3, 1), (11, 2)):
        move = np.zeros_like(frame.positions)
        move[atom, axis] = step
        there, back = (energy_of(frame.positions + s * move, frame.cell) for s in (1, -1))
        assert forces[atom, axis] == pytest.approx(-(there - back) / (2 * step), rel=1e-6)
    for k, (a, b) in enumerate(VOIGT):
        strain = np.zeros((3, 3))
        strain[a, b] = strain[b, a] = step / (1 if a == b else 2)
        ends = [np.eye(3) + s * strain for s in (1, -1)]
        there, back = (energy_of(frame.positions @ end, frame.cell @ end) for end in ends)
        assert virial[k] == pytest.approx(-(there - back) / (2 * step), rel=1e-6)
    assert abs(energy) > 1.0
    np.testing.assert_allclose(forces.sum(0), 0.0, atol=1e-10)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_energy_stays_when_everything_is_turned(sign: float) -> None:
    kernel, frame = EnergyKernel(random_energy(CUTOFF)), cluster()
    turn = sign * Rotation.random(random_state=3).as_matrix()
    turned = frame._replace(positions=frame.positions @ turn.T, cell=frame.cell @ turn.T)
    (energy, _, forces), (there, _, forces_there) = (
        evaluate(kernel, CUTOFF, each) for each in (frame, turned)
    )
    assert there == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(forces_there, forces @ turn.T, atol=1e-10)


def test_features_are_what_the_kernel_multiplies() -> None:
    """The equations of the regression, solved by any coefficients, give the kernel's energy."""
    frame = cluster()
    basis = EnergyBasis(
        num_species=2, cutoff=CUTOFF, num_pair=7, num_radial=3, max_order=4, skew=3.0
    )
    features = Features(basis, np.random.default_rng(2).uniform(1.0, CUTOFF, 500))
    solution = torch.from_numpy(np.random.default_rng(1).normal(size=basis.num_features))
    rows = features.rows(frame)
    model = EnergyModel(basis, arrays_of(features, solution, offset=0.25))
    energy, virial, forces = evaluate(EnergyKernel(model), CUTOFF, frame)
    count = len(frame.species)
    assert float(rows.energy @ solution) + 0.25 * count == pytest.approx(energy, rel=1e-9)
    np.testing.assert_allclose((rows.virial @ solution).numpy(), virial, rtol=1e-8)
    np.testing.assert_allclose((rows.forces @ solution).numpy(), forces, rtol=1e-7, atol=1e-8)


@pytest.fixture(scope="module")
def argon(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Crystals of Lennard-Jones atoms of two kinds, recorded with their energies."""
    place = tmp_path_factory.mktemp("argon")
    script = place / "argon.lmp"
    # Smooth where it ends, and with few neighbors.
    script.write_text(SCRIPT.replace("lj/cut 8.0", f"lj/smooth/linear {REACH}"))
    # The script's own dump goes to the directory that LAMMPS is started in.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return record(script, place / "data", replace(OPTIONS, segments=8))


def test_a_strain_is_no_fluctuation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors would look small beside what pressures differ by from cell to cell."""
    script = tmp_path / "argon.lmp"
    equilibrated = SCRIPT.replace("run 103", "run 4000").replace("restart 50", "restart 5000")
    script.write_text(equilibrated.replace("lj/cut 8.0", f"lj/smooth/linear {REACH}"))
    monkeypatch.chdir(tmp_path)
    options = replace(OPTIONS, segments=40, split=(0.9, 0.05, 0.05), segments_per_shard=20)
    same, strained = (
        LabeledFrames(
            record(script, tmp_path / f"data{strain}", replace(options, strain=strain)), "train"
        )
        for strain in (0.0, 0.01)
    )
    segments = strained.labels_of_segments()
    raw = [
        np.concatenate([s.virials[:, :3].mean(1) for s in segments if s.file == k]).std()
        for k in range(4)
    ]
    found, expected = fluctuations(strained), fluctuations(same)
    assert min(raw) > 2.0 * expected.pressure
    assert found.pressure == pytest.approx(expected.pressure, rel=0.25)
    assert found.energy == pytest.approx(expected.energy, rel=0.25)
    assert found.stress == pytest.approx(expected.stress, rel=0.25)


class _Segments:
    """What `fluctuations` asks of frames."""

    def __init__(self, segments: list[SegmentLabels]) -> None:
        self.segments = segments

    def labels_of_segments(self) -> list[SegmentLabels]:
        return self.segments

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> LabeledFrame:
        empty = np.zeros((1, 3))
        return LabeledFrame(
            np.zeros(1, int), np.eye(3), np.ones(3, bool), empty, 0.0, empty, None, 0
        )


@pytest.mark.parametrize(
    ("number", "of_a_file", "pbc"),
    [
        (40, 1, (True, True, True)),
        (12, 2, (True, True, True)),
        (60, 10, (True, True, True)),
        (60, 10, (True, True, False)),
    ],
)
def test_fluctuations_of_few_segments(
    number: int, of_a_file: int, pbc: tuple[bool, bool, bool]
) -> None:
    """Within segments and between them, both of one: the energy does not know of the strain.

    A box that follows the atoms along a direction that is not periodic is no strain.
    """
    random = np.random.default_rng(1)
    segments = []
    for k in range(number):
        cell = 10.0 * (np.eye(3) + np.triu(random.uniform(-0.01, 0.01, (3, 3))))
        cell[2] *= 1.0 if pbc[2] else random.uniform(0.5, 2.0)
        energies = random.normal() + random.normal(size=200)
        virials = np.repeat(energies[:, None], 6, axis=1)
        segments.append(SegmentLabels(k // of_a_file, cell, np.array(pbc), energies, virials))
    found = fluctuations(_Segments(segments))  # type: ignore[arg-type]
    # One segment in a file has no others to be compared with.
    expected = np.sqrt(1.0 + (1.0 - 1.0 / of_a_file))
    assert found.energy == pytest.approx(expected, rel=0.25)


def argon_model() -> ModelFile:
    return tiny_model(
        architecture={"edge_cutoff": REACH},
        metadata={"species": ("Ne", "Ar"), "masses": (20.18, 39.95), "timestep": 20.0},
    )


def test_functions_of_a_crystal_with_many_distances() -> None:
    """Two shells, the second cut: functions depend on each other, and rounding adds up."""
    random = np.random.default_rng(1)
    distances = np.concatenate(
        [random.normal(2.36, 0.08, 50000), random.normal(3.84, 0.12, 150000)]
    )
    distances = distances[distances < 4.0]
    basis = EnergyBasis(
        num_species=1, cutoff=4.0, num_pair=20, num_radial=10, max_order=3, skew=3.0
    )
    features = Features(basis, distances)

    def mixed(at: NDArray[np.float64]) -> Tensor:
        return chebyshev(torch.from_numpy(at), basis, 20)[0] @ features.pair_mixing

    data, between = mixed(distances), mixed(np.linspace(0.85 * distances.min(), 4.0, 10000))
    assert torch.all(data.square().mean(0) < 1.06)
    # The first of them are orthonormal, as far as there are so many independent ones: over the
    # distances, and as one of 21 over those that the data may have missed.
    products = (20.0 * data[:, :4].T @ data[:, :4] / len(data)) / 21.0
    products += between[:, :4].T @ between[:, :4] / len(between) / 21.0
    torch.testing.assert_close(products, torch.eye(4, dtype=torch.float64), atol=1e-3, rtol=0.0)


def test_functions_below_the_shortest_distance() -> None:
    """A run that is longer than the data gets closer, where polynomials of degree 19 grow fast."""
    distances = 3.2 + 1.8 * np.random.default_rng(2).random(20000)
    basis = EnergyBasis(
        num_species=2, cutoff=5.0, num_pair=20, num_radial=10, max_order=3, skew=3.0
    )
    features = Features(basis, distances)
    closer = torch.linspace(0.86 * 3.2, 3.2, 50, dtype=torch.float64)
    values = chebyshev(closer, basis, 20)[0] @ features.pair_mixing
    assert float(values.abs().max()) < 40.0


def test_regression_finds_the_energy_of_the_reference(
    argon: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Species in another order than in the data; energies of frames that took no part."""

    def few_functions(num_species: int, cutoff: float) -> EnergyBasis:
        return EnergyBasis(
            num_species=num_species, cutoff=cutoff, num_pair=14, num_radial=3, max_order=2, skew=3.0
        )

    monkeypatch.setattr(regression, "choose_basis", few_functions)
    with_energy(argon_model(), argon, ProgressReporter([]), REACH).save(
        tmp_path / "model.safetensors"
    )
    model = ModelFile.load(tmp_path / "model.safetensors")
    energy = model.energy
    assert energy is not None
    assert energy.errors is not None
    assert energy.basis.cutoff == REACH
    test = LabeledFrames(argon, "test")
    assert test.elements == ["Ar", "Ne"]
    kernel, swap = EnergyKernel(energy), np.array([1, 0])
    found, expected, virials, expected_virials = [], [], [], []
    for k in range(len(test)):
        frame = test[k]
        mapped = frame._replace(species=swap[frame.species])
        value, virial, forces = evaluate(kernel, REACH, mapped)
        found.append(value)
        expected.append(frame.energy)
        virials.append(virial)
        expected_virials.append(frame.virial)
        assert frame.forces is not None
        error = np.sqrt(np.mean((forces - frame.forces) ** 2))
        assert error < 0.1 * np.sqrt(np.mean(frame.forces**2))
    units = fluctuations(LabeledFrames(argon, "train"))
    difference = np.array(found) - expected
    assert np.sqrt(np.mean(difference**2)) < 0.1 * units.energy
    assert np.sqrt(np.mean((np.array(virials) - expected_virials) ** 2)) < 0.1 * units.stress
    # What the file says of itself is that.
    said = energy.errors.energy * units.energy
    assert np.sqrt(np.mean(difference**2)) == pytest.approx(said, rel=0.3)
    assert energy.errors.temperatures[0] < 40.0 < energy.errors.temperatures[1]


@pytest.mark.parametrize("species", [1, 2, 3, 4, 6, 10, 15])
def test_many_species_take_no_more_memory(species: int) -> None:
    basis = choose_basis(species, 5.0)
    assert basis.num_features < 10_000
    assert species > 2 or basis.num_radial == 10


def test_data_that_cannot_serve(argon: list[Path], tmp_path: Path) -> None:
    def refuse(model: ModelFile, files: list[Path]) -> str:
        with pytest.raises(DatasetError) as caught:
            with_energy(model, files, ProgressReporter([]))
        return str(caught.value)

    model = argon_model()
    other = tiny_model(architecture={"edge_cutoff": REACH}, metadata={"species": ("Ar", "O")})
    assert "has no O" in refuse(other, argon)

    def changed(change: Callable[[h5py.Group], None], split: str = "train") -> list[Path]:
        path = tmp_path / "changed.h5"
        path.write_bytes(argon[0].read_bytes())
        with h5py.File(path, "r+") as file:
            for segment in file["segments"].values():
                segment.attrs["split"] = split
                change(segment)
        return [path]

    def bare(segment: h5py.Group) -> None:
        del segment["energy"], segment["forces"]

    def frozen(segment: h5py.Group) -> None:
        segment["energy"][:] = 1.0

    assert "lammps-trajcast label" in refuse(model, changed(bare))
    assert "do not differ" in refuse(model, changed(frozen))
    assert "validation and test" in refuse(model, changed(lambda _: None))
    assert "no segments for training" in refuse(model, changed(lambda _: None, "test"))


def test_file_keeps_the_energy(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    plain, energy = tiny_model(), random_energy(3.5)
    plain.save(path)
    assert ModelFile.load(path).energy is None
    ModelFile(plain.metadata, plain.weights, energy).save(path)
    loaded = ModelFile.load(path)
    assert loaded.energy is not None
    assert loaded.energy.basis == energy.basis
    for name, array in energy.arrays.items():
        np.testing.assert_array_equal(loaded.energy.arrays[name], array)
    assert set(loaded.weights) == set(plain.weights)
    # Restart files of the same network go on.
    assert loaded.fingerprint() == plain.fingerprint()


def test_damaged_energies_are_refused(tmp_path: Path) -> None:
    path, damaged = tmp_path / "model.safetensors", tmp_path / "damaged.safetensors"
    plain = tiny_model()
    ModelFile(plain.metadata, plain.weights, random_energy(3.5)).save(path)
    arrays = load_file(path)
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        header = dict(file.metadata())

    def refused(changed: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
        save_file(changed, damaged, metadata=metadata)
        with pytest.raises(ModelFileError) as caught:
            ModelFile.load(damaged)
        return str(caught.value)

    less = {name: array for name, array in arrays.items() if name != "energy.pairs"}
    assert "weight energy.pairs is missing" in refused(less, header)
    changed = arrays | {"energy.pairs": arrays["energy.pairs"] + 1.0}
    assert "checksum" in refused(changed, header)
    changed = arrays | {"energy.pairs": np.full_like(arrays["energy.pairs"], np.nan)}
    assert "not finite" in refused(changed, header)
    words = json.loads(header[ENERGY_KEY])

    def with_basis(**changes: object) -> dict[str, str]:
        text = json.dumps({**words, "basis": {**words["basis"], **changes}})
        return {HEADER_KEY: header[HEADER_KEY], ENERGY_KEY: text}

    assert "its energy" in refused(arrays, with_basis(num_radial=0))
    assert "too many coefficients" in refused(
        arrays, with_basis(num_species=100, num_radial=64, num_pair=64)
    )
    assert "3 species" in refused(arrays, with_basis(num_species=3))
    assert "shape" in refused(arrays, with_basis(num_radial=2))
    assert "unknown weight energy." in refused(arrays, {HEADER_KEY: header[HEADER_KEY]})
