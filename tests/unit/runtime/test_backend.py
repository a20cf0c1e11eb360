"""The network a layer at a time against the whole network, for any receivers and any split."""

import numpy as np
import pytest
import torch
from locations import PARITY_CASES
from models import first_edge
from reference import assert_close
from systems import load_case

from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.backend import Backend, StepArrays
from lammps_trajcast.runtime.direct_backend import DirectBackend
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.runtime.make_backend import make_backend
from lammps_trajcast.runtime.shared_kernels import kernels_of

pytestmark = pytest.mark.usefixtures("unoptimized")


class AsTensors(Backend):
    """A backend on arrays for tests on tensors of the same memory."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.widths, self.memory = backend, backend.widths, backend.memory

    def prepare(self, graph) -> None:
        self._backend.prepare(StepArrays(*(tensor.numpy() for tensor in graph)))

    def initial_features(self) -> torch.Tensor:
        return torch.from_numpy(self._backend.initial_features())

    def layer(self, k, features, out, receivers=None) -> None:
        rows = None if receivers is None else receivers.numpy()
        self._backend.layer(k, features.numpy(), out.numpy(), rows)

    def read_out(self, features) -> torch.Tensor:
        return torch.from_numpy(self._backend.read_out(features.numpy()))


@pytest.fixture(params=["plain", "fused", "direct"])
def kernels(request) -> str:
    return request.param


class Atoms:
    """A parity case as tensors, and the whole network's answer."""

    def __init__(self, name: str, path) -> None:
        system = load_case(name)
        self.model = ModelFile.load(path)
        graph = build_graph(system.positions, system.cell, system.pbc, system.cutoff)
        self.species = torch.tensor(system.types - 1)
        self.velocities = torch.tensor(system.velocities)
        self.receivers, self.senders, self.vectors = graph
        with torch.no_grad():
            self.target = self.model.build(dtype=torch.float64).predict(
                self.species, self.velocities, self.vectors, self.receivers, self.senders
            )

    def backend(self, kernels: str) -> Backend:
        if kernels == "direct":
            return AsTensors(DirectBackend(kernels_of(self.model, "double", 1e-12), 2))
        return make_backend(self.model, "double", torch.device("cpu"), kernels, tolerance=1e-12)

    def graph(self) -> StepGraph:
        edges = first_edge(self.receivers, self.species)
        return StepGraph(self.species, self.velocities, self.vectors, edges, self.senders)


def run_layers(backend: Backend, num_nodes: int, parts: list[torch.Tensor | None]) -> torch.Tensor:
    features = backend.initial_features()
    for k in range(backend.num_layers):
        assert features.shape == (num_nodes, backend.widths[k])
        out = torch.full((num_nodes, backend.widths[k + 1]), torch.nan, dtype=torch.float64)
        for part in parts:
            backend.layer(k, features, out, part)
        features = out
    return backend.read_out(features)


@pytest.mark.parametrize("name", PARITY_CASES)
def test_layer_after_layer_is_the_network(name, kernels, model_file) -> None:
    atoms = Atoms(name, model_file(name))
    backend = atoms.backend(kernels)
    count = len(atoms.species)
    shuffled = torch.from_numpy(np.random.default_rng(3).permutation(count))
    nobody = torch.empty(0, dtype=torch.int64)
    with torch.inference_mode():
        backend.prepare(atoms.graph())
        splits: list[list[torch.Tensor | None]] = [
            [None],
            [shuffled[: count // 3], nobody, shuffled[count // 3 :]],
        ]
        for parts in splits:
            target = run_layers(backend, count, parts)
            assert_close(target.numpy(), atoms.target.numpy(), 1e-12)


def test_two_ranks_by_hand(kernels, model_file) -> None:
    """Each half computes its own atoms, and has the others' rows copied between the layers."""
    atoms = Atoms("quartz_l2", model_file("quartz_l2"))
    count = len(atoms.species)
    half = count // 2
    own = [torch.arange(half), torch.arange(half, count)]
    ranks = []
    for mine, others in (own, own[::-1]):
        backend = atoms.backend(kernels)
        nodes = torch.cat([mine, others])
        number = torch.argsort(nodes)
        edges = torch.isin(atoms.receivers, mine)
        with torch.inference_mode():
            backend.prepare(
                StepGraph(
                    atoms.species[nodes],
                    atoms.velocities[nodes],
                    atoms.vectors[edges],
                    first_edge(atoms.receivers[edges] - mine[0], mine),
                    number[atoms.senders[edges]],
                )
            )
        ranks.append((backend, len(mine)))

    with torch.inference_mode():
        features = [backend.initial_features() for backend, _ in ranks]
        for k in range(ranks[0][0].num_layers):
            after = []
            for (backend, _), rows in zip(ranks, features, strict=True):
                out = torch.full((count, backend.widths[k + 1]), torch.nan, dtype=torch.float64)
                backend.layer(k, rows, out)
                after.append(out)
            for rank, (_, mine) in enumerate(ranks):
                after[rank][mine:] = after[1 - rank][: count - mine]
            features = after
        targets = [
            backend.read_out(rows) for (backend, _), rows in zip(ranks, features, strict=True)
        ]
    assert_close(torch.cat(targets).numpy(), atoms.target.numpy(), 1e-12)


def test_other_rows_are_left_alone(kernels, model_file) -> None:
    atoms = Atoms("quartz_l2", model_file("quartz_l2"))
    backend = atoms.backend(kernels)
    some = torch.tensor([5, 2])
    with torch.inference_mode():
        backend.prepare(atoms.graph())
        features = backend.initial_features()
        out = torch.full((len(atoms.species), backend.widths[1]), 7.0, dtype=torch.float64)
        backend.layer(0, features, out, some)
    written = (out != 7.0).any(dim=1).nonzero().flatten().tolist()
    assert written == [2, 5]
