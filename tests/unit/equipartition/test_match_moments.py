"""Single steps that keep energies: derivatives, and an imbalance that was put in on purpose."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from validations import CUTOFF, frame, invoke

from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.equipartition.correction import LastLayerCorrection
from lammps_trajcast.equipartition.last_layer import LastLayer
from lammps_trajcast.equipartition.match_moments import (
    MotionClasses,
    _derivatives,
    _moments_of,
    within_budget,
)
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile, ModelMetadata, weights_of
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.training.batches import GraphPairs, collate, without_drift

RMS = (0.05, 0.01)
HORIZON = 5.0
SCALES = torch.tensor([1.0, 1.004], dtype=torch.float64)  # of the velocities of the two elements


def test_derivatives_of_moments() -> None:
    batch = frame(8)
    kinds = MotionClasses.of(batch, CUTOFF)
    centers = torch.rand(kinds.number, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    missed = 0.02 * torch.randn(len(batch.species), 3, generator=generator, dtype=torch.float64)
    inputs = [missed.requires_grad_(), batch.velocities.clone().requires_grad_()]
    found = _derivatives(batch, kinds, centers, *(x.detach() for x in inputs))
    moments = _moments_of(batch, kinds, centers, *inputs)
    assert len(found) == len(moments) == 5
    for (by, derivative), values in zip(found, moments, strict=True):
        some = [k for k in range(len(values)) if float(values[k].detach()) != 0.0]
        assert len(some) > 1
        for k in some:
            (expected,) = torch.autograd.grad(values[k], inputs[by], retain_graph=True)
            torch.testing.assert_close(derivative[k], expected)


def test_a_change_within_a_budget() -> None:
    """The cheapest one if it is cheap enough; else it costs the budget, and no step improves it."""
    generator = torch.Generator().manual_seed(3)
    size, gains = 30, 12

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root = normal(size, size)
    cost = root @ root.T + torch.eye(size, dtype=torch.float64)
    factor = torch.linalg.cholesky(cost)
    effect, wanted = normal(gains, size), normal(gains)
    doubt = 0.5 + normal(gains).abs()
    cheapest = LastLayerCorrection._change(factor, effect, wanted, doubt)
    spent = float(cheapest @ cost @ cheapest)
    torch.testing.assert_close(within_budget(factor, effect, wanted, doubt, 2.0 * spent), cheapest)

    budget = 0.3 * spent
    change = within_budget(factor, effect, wanted, doubt, budget)
    assert float(change @ cost @ change) == pytest.approx(budget, rel=1e-6)

    def missing(change: Tensor) -> float:
        return float(((wanted - effect @ change) / doubt).square().sum())

    for _ in range(20):
        other = change + 0.05 * normal(size) * change.abs().mean()
        other = other * (budget / float(other @ cost @ other)) ** 0.5
        assert missing(other) >= missing(change)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network, and data in which the second element is faster than it says."""
    directory = tmp_path_factory.mktemp("balance")
    torch.manual_seed(0)
    architecture = Architecture(
        **{"num_chem_elements": 2, "edge_cutoff": CUTOFF, "vel_max": 0.1, "avg_num_neighbors": 9.0},
        **{"max_rotation_order": 2, "num_hidden_channels": 8, "num_mp_layers": 2},
        **{"velocity_harmonics": "solid", "velocity_scale": 0.02},
    )
    network = TrajCast(architecture, RMS)
    layer = LastLayer(network, RMS)
    masses = (28.0, 16.0)
    metadata = ModelMetadata(
        architecture=architecture,
        species=("Si", "O"),
        masses=masses,
        timestep=HORIZON,
        units="real",
        rms_displacement=RMS[0],
        rms_velocity=RMS[1],
        precision="single",
        provenance={"test_error_velocity": 9.0},
    )
    ModelFile(metadata, weights_of(network)).save(directory / "model.safetensors")
    with h5py.File(directory / "data.h5", "w") as file:
        file.attrs.update(format="lammps-trajcast dataset", format_version=1, units="real")
        file.attrs["horizon"] = HORIZON
        file.attrs["elements"], file.attrs["masses"] = ["Si", "O"], list(masses)
        for k in range(360):
            batch = frame(1000 + k, count=8)
            displacement, velocity = layer.predict(batch)
            # With the momentum that the model keeps.
            velocity = without_drift(velocity * SCALES[batch.species][:, None], batch)
            x, v = batch.positions.numpy(), batch.velocities.numpy()
            segment = file.create_group(f"segments/{k:06d}")
            segment.attrs.update(
                split="test" if k % 3 == 2 else "train", source="none", first_step=0
            )
            segment["species"] = batch.species.numpy()
            segment["cell"], segment["pbc"] = batch.cells[0].numpy(), np.ones(3, dtype=bool)
            segment["positions"] = np.stack([x, x + displacement.numpy()])
            segment["velocities"] = np.stack([v, velocity.numpy()])
            segment["pairs"] = np.array([[0, 1]])
    return directory


def kinetic_gains(directory: Path, name: str) -> list[float]:
    """Of each element, on the test split, relative."""
    model = ModelFile.load(directory / name)
    network = model.build(torch.float64)
    pairs = TrajectoryPairs([directory / "data.h5"], "test")
    sums = np.zeros((2, 2))
    samples = list(GraphPairs(pairs, CUTOFF))
    for first in range(0, len(samples), 20):
        batch = collate(samples[first : first + 20])
        with torch.no_grad():
            found = network(
                *(batch.species, batch.positions, batch.velocities, batch.masses),
                *(batch.edge_vectors, batch.receivers, batch.senders),
                *(batch.system, batch.num_systems),
            )
        for side, velocity in enumerate((found.velocity, batch.velocity_after)):
            squares = velocity.square().sum(1)
            sums[side] += [float(squares[batch.species == element].sum()) for element in range(2)]
    return (sums[0] / sums[1] - 1.0).tolist()


def test_command(home: Path) -> None:
    """It is found and taken away, on data that the change has not seen."""
    before = kinetic_gains(home, "model.safetensors")
    assert before[1] == pytest.approx(-2.0 * 0.004, rel=0.2)
    # What is wrong here is all of the loss, so that the change is as large as it.
    words = ("--dataset", home / "data.h5", "-o", home / "new.safetensors", "--loss-growth", "200")
    status, out, error = invoke("match-moments", home / "model.safetensors", *words)
    assert status == 0, error
    assert [line.split(":")[0] for line in out.splitlines()[:2]] == ["before", "after"]
    after = kinetic_gains(home, "new.safetensors")
    assert abs(after[1]) < 0.05 * abs(before[1]) and abs(after[0]) < 0.2 * abs(before[1]), out
    provenance = ModelFile.load(home / "new.safetensors").metadata.provenance
    assert "240 pairs" in provenance["moments_matched"]
    assert provenance["test_error_velocity"] < 0.01


def test_two_sets_of_states_and_a_bound(home: Path, tmp_path: Path) -> None:
    """Pairs of both count, and the loss grows no more than it may; less is corrected then."""
    other = tmp_path / "other.h5"
    shutil.copy(home / "data.h5", other)
    words = ("--dataset", home / "data.h5", "-o", tmp_path / "new.safetensors")
    words += ("--states", home / "data.h5", "--states", other, "--loss-growth", "1")
    status, out, error = invoke("match-moments", home / "model.safetensors", *words)
    assert status == 0, error
    growth = float(out.splitlines()[1].split("loss +")[1].rstrip(" %"))
    assert 0.5 < growth <= 1.0, out
    provenance = ModelFile.load(tmp_path / "new.safetensors").metadata.provenance
    assert "480 pairs" in provenance["moments_matched"]
    shutil.copy(tmp_path / "new.safetensors", home / "bounded.safetensors")
    before, after = (kinetic_gains(home, f"{name}.safetensors")[1] for name in ("model", "bounded"))
    assert 0.3 * abs(before) < abs(after) < abs(before)


def test_mistakes_are_one_line(home: Path, tmp_path: Path) -> None:
    few, other = tmp_path / "few.h5", tmp_path / "other.h5"
    for path in (few, other):
        shutil.copy(home / "data.h5", path)
    with h5py.File(few, "r+") as file:
        for segment in list(file["segments"].values())[6:]:
            segment.attrs["split"] = "validation"
    with h5py.File(other, "r+") as file:
        file.attrs["horizon"] = 7.0
    model, data = home / "model.safetensors", home / "data.h5"
    for words, message in (
        ((home / "absent.safetensors", "--dataset", data), "absent.safetensors"),
        ((model, "--dataset", data, "--states", few), f"'train' of {few}, too few"),
        ((model, "--dataset", data, "--states", other), "O and 7 fs, --dataset for Si O and 5 fs"),
        ((model, "--dataset", other, "--states", other), "5 fs; give the one that the model"),
    ):
        status, _, error = invoke("match-moments", *words, "-o", tmp_path / "new.safetensors")
        assert status == 1 and message in error and len(error.splitlines()) == 1, error
