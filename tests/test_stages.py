"""The network a layer at a time against the whole network, for any receivers and any split."""

import copy

import numpy as np
import pytest
import torch
from conftest import PARITY_CASES, load_case
from reference import assert_close

from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.runtime.stages import Stages, make_stages

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture(params=["plain", "fused"])
def kernels(request) -> str:
    return request.param


class Atoms:
    """A parity case as tensors, and the whole network's answer."""

    def __init__(self, name: str, path) -> None:
        system = load_case(name)
        model = ModelFile.load(path)
        self.network = model.build(dtype=torch.float64)
        self.architecture = model.metadata.architecture
        graph = build_graph(system.positions, system.cell, system.pbc, system.cutoff)
        self.species = torch.tensor(system.types - 1)
        self.velocities = torch.tensor(system.velocities)
        self.receivers, self.senders, self.vectors = graph
        with torch.no_grad():
            self.target = self.network.predict(
                self.species, self.velocities, self.vectors, self.receivers, self.senders
            )

    def stages(self, kernels: str) -> Stages:
        return make_stages(
            copy.deepcopy(self.network),
            self.architecture,
            torch.float64,
            torch.device("cpu"),
            kernels,
            tolerance=1e-12,
        )

    def first_edge(self) -> torch.Tensor:
        degrees = torch.bincount(self.receivers, minlength=len(self.species))
        return torch.nn.functional.pad(degrees.cumsum(0), (1, 0))


def run_layers(stages: Stages, num_nodes: int, parts: list[torch.Tensor | None]) -> torch.Tensor:
    features = stages.initial_features()
    for k in range(stages.num_layers):
        assert features.shape == (num_nodes, stages.widths[k])
        out = torch.full((num_nodes, stages.widths[k + 1]), torch.nan, dtype=stages.dtype)
        for part in parts:
            stages.layer(k, features, out, part)
        features = out
    return stages.read_out(features)


@pytest.mark.parametrize("name", PARITY_CASES)
def test_layer_after_layer_is_the_network(name, kernels, model_file) -> None:
    atoms = Atoms(name, model_file(name))
    stages = atoms.stages(kernels)
    count = len(atoms.species)
    shuffled = torch.from_numpy(np.random.default_rng(3).permutation(count))
    nobody = torch.empty(0, dtype=torch.int64)
    with torch.inference_mode():
        stages.prepare(
            atoms.species, atoms.velocities, atoms.vectors, atoms.first_edge(), atoms.senders
        )
        splits: list[list[torch.Tensor | None]] = [
            [None],
            [shuffled[: count // 3], nobody, shuffled[count // 3 :]],
        ]
        for parts in splits:
            target = run_layers(stages, count, parts)
            assert_close(target.numpy(), atoms.target.numpy(), 1e-12)


def test_two_ranks_by_hand(kernels, model_file) -> None:
    """Each half computes its own atoms, and has the others' rows copied between the layers."""
    atoms = Atoms("quartz_l2", model_file("quartz_l2"))
    count = len(atoms.species)
    half = count // 2
    own = [torch.arange(half), torch.arange(half, count)]
    ranks = []
    for mine, others in (own, own[::-1]):
        stages = atoms.stages(kernels)
        nodes = torch.cat([mine, others])
        number = torch.argsort(nodes)
        edges = torch.isin(atoms.receivers, mine)
        degrees = torch.bincount(atoms.receivers[edges] - mine[0], minlength=len(mine))
        with torch.inference_mode():
            stages.prepare(
                atoms.species[nodes],
                atoms.velocities[nodes],
                atoms.vectors[edges],
                torch.nn.functional.pad(degrees.cumsum(0), (1, 0)),
                number[atoms.senders[edges]],
            )
        ranks.append((stages, len(mine)))

    with torch.inference_mode():
        features = [stages.initial_features() for stages, _ in ranks]
        for k in range(ranks[0][0].num_layers):
            after = []
            for (stages, _), rows in zip(ranks, features, strict=True):
                out = torch.full((count, stages.widths[k + 1]), torch.nan, dtype=stages.dtype)
                stages.layer(k, rows, out)
                after.append(out)
            for rank, (_, mine) in enumerate(ranks):
                after[rank][mine:] = after[1 - rank][: count - mine]
            features = after
        targets = [stages.read_out(rows) for (stages, _), rows in zip(ranks, features, strict=True)]
    assert_close(torch.cat(targets).numpy(), atoms.target.numpy(), 1e-12)


def test_other_rows_are_left_alone(kernels, model_file) -> None:
    atoms = Atoms("quartz_l2", model_file("quartz_l2"))
    stages = atoms.stages(kernels)
    some = torch.tensor([5, 2])
    with torch.inference_mode():
        stages.prepare(
            atoms.species, atoms.velocities, atoms.vectors, atoms.first_edge(), atoms.senders
        )
        features = stages.initial_features()
        out = torch.full((len(atoms.species), stages.widths[1]), 7.0, dtype=stages.dtype)
        stages.layer(0, features, out, some)
    written = (out != 7.0).any(dim=1).nonzero().flatten().tolist()
    assert written == [2, 5]
