"""Steps in TF32, emulated on a CPU: operands are rounded as a GPU rounds them."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from ase import units
from ase.io import read
from locations import EXAMPLES
from numpy.typing import NDArray
from rounded_products import BF16, TF32, RoundedProducts, Steps

from lammps_trajcast.kernels.triton.tf32 import is_cut_on, rounded
from lammps_trajcast.model.conservation import Prediction
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.graph import Graph, build_graph
from lammps_trajcast.runtime.predictor import Frame, Predictor

FIRST, EVERY, FRAMES = 100, 10, 40  # steps before the first frame, and from one to the next


class Change(NamedTuple):
    """What another arithmetic changes, in the mean of all frames."""

    displacement: float  # over the rms displacement
    velocity: float  # over the rms velocity
    energy: float  # kinetic, of a step, relative
    uncertainty: float  # of it


class Molecule:
    """Frames of paracetamol at about 300 K, by the shipped model, and steps from them."""

    def __init__(self) -> None:
        self.model = ModelFile.load(EXAMPLES / "paracetamol" / "paracetamol.safetensors")
        data = self.model.metadata
        file = EXAMPLES / "paracetamol" / "geometry.data"
        atoms = read(file, format="lammps-data", atom_style="full", units="real")
        symbols = atoms.get_chemical_symbols()
        self.species = np.array([data.species.index(symbol) for symbol in symbols])
        self.masses = np.array(data.masses)[self.species]
        self.frames = self._run(atoms.positions)
        double = Steps(self.model, "double")
        self.double = [self.step(double, k) for k in range(FRAMES)]

    def _graph(self, positions: NDArray[np.float64]) -> Graph:
        cutoff = self.model.metadata.architecture.edge_cutoff
        return build_graph(positions, np.zeros((3, 3)), [False] * 3, cutoff)

    def _run(self, x: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], ...]]:
        # Half of it becomes potential energy, and half of what the geometry has becomes kinetic.
        width = np.sqrt(300.0 * units.kB / self.masses) * units.fs
        v = np.random.default_rng(3).standard_normal(x.shape) * width[:, None]
        elements = list(self.model.metadata.species)
        predictor = Predictor(self.model, elements, kernels="direct", num_threads=1)
        frames = []
        for k in range(FIRST + EVERY * FRAMES):
            graph = self._graph(x)
            first_edge = np.searchsorted(graph.receivers.numpy(), np.arange(len(x) + 1))
            types = (self.species + 1).astype(np.int32)
            senders, vectors = graph.senders.numpy(), graph.edge_vectors.numpy()
            after = predictor.step(Frame(types, x, v, self.masses, first_edge, senders, vectors))
            x, v = x + after.displacements, after.velocities
            if k >= FIRST and (k - FIRST) % EVERY == 0:
                frames.append((x, v))
        return frames

    def step(self, steps: Steps, k: int) -> Prediction:
        x, v = self.frames[k]
        graph = self._graph(x)
        arrays = (torch.from_numpy(each) for each in (self.species, x, v, self.masses))
        return steps(*arrays, graph.edge_vectors, graph.receivers, graph.senders)

    def energy(self, prediction: Prediction) -> float:
        return float((self.masses[:, None] * prediction.velocity.numpy() ** 2).sum())

    def change(self, steps: Steps) -> Change:
        """How these steps differ from those in double precision."""
        found = [self.step(steps, k) for k in range(FRAMES)]
        pairs = list(zip(found, self.double, strict=True))
        squares = [
            [float((a - b).square().mean()) for a, b in zip(one, exact, strict=True)]
            for one, exact in pairs
        ]
        displacement, velocity = np.sqrt(np.mean(squares, axis=0))
        energies = [self.energy(one) / self.energy(exact) - 1.0 for one, exact in pairs]
        data = self.model.metadata
        return Change(
            displacement / data.rms_displacement,
            velocity / data.rms_velocity,
            float(np.mean(energies)),
            float(np.std(energies, ddof=1) / np.sqrt(FRAMES)),
        )


@pytest.fixture(scope="module")
def molecule() -> Molecule:
    torch.set_num_threads(1)
    return Molecule()


def test_rounding() -> None:
    tie = 2.0**-11
    values = torch.tensor([1.0 + tie, 1.0 + 3.0 * tie, -1.0 - 1.001 * tie, 1.0 + 0.999 * tie, 0.0])
    wanted = torch.tensor([1.0, 1.0 + 4.0 * tie, -1.0 - 2.0 * tie, 1.0, 0.0])
    assert torch.equal(rounded(values), wanted)
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(values, BF16), values.bfloat16().float())
    assert 0.0 < float((rounded(values) / values - 1.0).abs().max()) <= tie


def test_a_step_in_tf32(molecule: Molecule) -> None:
    """Its error is below a tenth of the model's own, and it adds no energy in the mean."""
    single, tf32 = (molecule.change(Steps(molecule.model, p)) for p in ("single", "tf32"))
    own = molecule.model.metadata.provenance
    assert 10.0 * single.displacement < tf32.displacement
    assert 10.0 * single.velocity < tf32.velocity
    assert tf32.displacement < 0.1 * float(own["test_error_displacement"])
    assert tf32.velocity < 0.1 * float(own["test_error_velocity"])
    assert abs(tf32.energy) < 3.0 * tf32.uncertainty < 1e-4


def test_with_all_products_in_tf32_a_step_would_change_the_energy(molecule: Molecule) -> None:
    """Embedding, radial networks of the speed, read-out, and rounded weights."""
    steps = Steps(molecule.model, "single")
    with RoundedProducts(TF32) as products:
        change = molecule.change(steps)
    assert products.count == 71 * FRAMES
    assert abs(change.energy) > 5.0 * change.uncertainty


def test_a_device_that_rounds() -> None:
    assert not is_cut_on(torch.device("cpu"))
