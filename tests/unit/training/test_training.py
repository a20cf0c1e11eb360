"""Training learns, resumes to the same weights after a kill, and names what is wrong."""

import csv
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from reliability import fault
from trainings import HORIZON, dataset, same_weights, trained, validation_errors, write_config  # noqa: F401

from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.layout import Split
from lammps_trajcast.data.statistics import dataset_statistics
from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.model.conservation import Prediction
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.speed_limit import with_speed_limit
from lammps_trajcast.runtime.graph import build_graph
from lammps_trajcast.training.batches import (
    Augmentation,
    Batch,
    Draw,
    EpochSampler,
    GraphPairs,
    ProcessShard,
    ShardedSampler,
    collate,
)
from lammps_trajcast.training.bruteforce_neighbors import bruteforce_edges
from lammps_trajcast.training.config import OptimizationConfig, TrainingConfig, TrainingError
from lammps_trajcast.training.cuda_graphs import CudaGraphNetwork, pad_edges
from lammps_trajcast.training.curve import join_logs
from lammps_trajcast.training.module import TrainingModule
from lammps_trajcast.training.preparation import (
    make_architecture,
    rms_of_elements,
    speed_factors,
    training_indices,
)
from lammps_trajcast.training.progress import Status
from lammps_trajcast.training.readout_fit import fit_read_out
from lammps_trajcast.training.saving import AtomicCSVWriter
from lammps_trajcast.training.schedule import Schedule
from lammps_trajcast.training.train import train


def test_training_learns(tmp_path: Path, dataset: Path) -> None:
    """Ballistic motion is learned far below the error of the mean (relative error 1)."""
    config = write_config(tmp_path, dataset, steps=300, epoch_steps=50, ema_decay=0.97)
    errors = train(TrainingConfig.load(config), progress=False)
    assert errors["displacement"] < 0.5 and errors["velocity"] < 0.5


def test_divergence_is_reported(tmp_path: Path, dataset: Path) -> None:
    config = write_config(tmp_path, dataset, learning_rate=1e200, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"diverged.*optimization.learning_rate, now 1e\+200"):
        train(TrainingConfig.load(config), progress=False)


def test_what_training_leaves(trained: Path, dataset: Path) -> None:
    model = ModelFile.load(trained / "model.safetensors")
    data = model.metadata
    assert data.species == ("Ne", "Ar") and data.masses == (20.18, 39.95)
    assert data.timestep == HORIZON and data.units == "real" and data.precision == "double"
    with h5py.File(dataset) as file:
        segments = [s for s in file["segments"].values() if s.attrs["split"] == "train"]
        speed = max(np.linalg.norm(s["velocities"][:], axis=-1).max() for s in segments)
        moves = np.concatenate(
            [np.diff(s["positions"][:], axis=0).reshape(-1, 3) for s in segments]
        )
    assert data.statistics["max_speed"] == pytest.approx(speed)
    assert data.limits is not None
    assert max(data.limits.max_speed) == pytest.approx(speed)
    assert data.rms_displacement == pytest.approx(np.sqrt((moves**2).mean()))
    assert 0 < data.provenance["test_error_velocity"] < 2
    assert data.provenance["configuration"]["seed"] == 3
    assert (trained / "run" / "learning_curve.png").stat().st_size > 1000
    rows = (trained / "run" / "metrics.csv").read_text().splitlines()
    assert "validation_velocity_error" in rows[0] and len(rows) >= 5


def test_kernels_train_the_same(tmp_path: Path, trained: Path, dataset: Path) -> None:
    """Plain and fused kernels give the same weights."""
    path = write_config(tmp_path, dataset)
    config = TrainingConfig.load(path).model_copy(update={"kernels": "plain"})
    train(config, progress=False)
    same_weights(tmp_path, trained, 1e-6)


def test_logs_of_several_starts_are_those_of_one(tmp_path: Path, dataset: Path) -> None:
    """Steps and errors, of a training that has gone on three times from its checkpoints."""

    class StoppedError(Exception):
        pass

    def learn(name: str, *stops: int) -> list[tuple[int, float]]:
        path = write_config(tmp_path / name, dataset, steps=40, epoch_steps=10)
        for stop in stops:

            def observe(status: Status, stop: int = stop) -> None:
                if status.step >= stop:
                    raise StoppedError

            with pytest.raises(StoppedError):
                train(TrainingConfig.load(path), progress=False, observer=observe)
        train(TrainingConfig.load(path), progress=False)
        with (tmp_path / name / "run" / "metrics.csv").open() as file:
            return [(int(r["step"]), float(r["validation_loss"]))
                    for r in csv.DictReader(file) if r["validation_loss"]]  # fmt: skip

    whole, resumed = learn("one"), learn("several", 12, 23, 34)
    assert [step for step, _ in whole] == [9, 19, 29, 39] == [step for step, _ in resumed]
    assert [loss for _, loss in resumed] == pytest.approx([loss for _, loss in whole], rel=1e-9)


@pytest.mark.parametrize("killed", [False, True])
def test_a_log_that_gets_a_column_keeps_its_rows(killed: bool, tmp_path: Path, monkeypatch) -> None:
    """Also if the process is killed meanwhile, here an error: their checkpoint is there already."""

    def kill(*_: object) -> None:
        raise InterruptedError

    writer = AtomicCSVWriter(str(tmp_path))
    writer.log_metrics({"validation_loss": 0.5}, step=9)
    writer.save()
    writer.log_metrics({"train_loss": 0.7}, step=9)
    if killed:
        monkeypatch.setattr(csv.DictWriter, "writerows", kill)
        with pytest.raises(InterruptedError):
            writer.save()
    else:
        writer.save()
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["validation_loss"] == "0.5"
    assert [row["train_loss"] for row in rows[1:]] == ([] if killed else ["0.7"])


def test_broken_checkpoint_is_left_out(tmp_path: Path, trained: Path, dataset: Path) -> None:
    """A checkpoint cut off by a kill is not resumed from; the one before it is."""
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    train(config, progress=False)
    newest = sorted(config.directory.glob("step*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "model.safetensors").unlink()
    train(config, progress=False)
    same_weights(tmp_path, trained, 1e-12)


@pytest.mark.parametrize("normalization", ["element", "all"])
def test_loss_is_the_mean_square_in_units_of_the_rms(dataset: Path, normalization: str) -> None:
    """A network whose read-out is zero predicts no motion: every relative error is one.

    In units of an element's own rms that is so for each element by itself.
    """
    options = OptimizationConfig(steps=1, normalization=normalization, velocity_weight=3.0)
    pairs = TrajectoryPairs(dataset, "train")
    statistics = dataset_statistics(dataset)
    config = TrainingConfig.load(write_config(dataset.parent, dataset))
    architecture = make_architecture(config, pairs, statistics)
    rms = (statistics.rms_displacement, statistics.rms_velocity)
    of_elements = rms_of_elements(statistics)
    module = TrainingModule(architecture, rms, options, "double", "plain", of_elements)
    with torch.no_grad():
        module.network.read_out.read_out.weight.zero_()
        batch = collate(list(GraphPairs(pairs, 3.0)))
        displacement, velocity = module.errors(batch)
    assert float(module.loss(batch, displacement, velocity)) == pytest.approx(4.0)
    losses = []
    for element in range(len(pairs.elements)):
        of_it = batch.species == element
        part = batch._replace(species=batch.species[of_it])
        losses.append(float(module.loss(part, displacement[of_it], velocity[of_it])))
    if normalization == "element":
        assert losses == pytest.approx([4.0] * len(losses))
    else:
        square = displacement.square().sum() / displacement.numel()
        assert rms[0] ** 2 == pytest.approx(float(square))
        assert max(losses) > 4.0 > min(losses)


def test_read_out_is_solved_for(dataset: Path) -> None:
    """The gradient of the loss by the read-out vanishes, and the scale is right.

    Of its hidden channels two are in use, so the other gradients are zero anyway.
    """
    pairs = TrajectoryPairs(dataset, "train")
    statistics = dataset_statistics(dataset)
    config = TrainingConfig.load(write_config(dataset.parent, dataset))
    torch.manual_seed(0)
    module = TrainingModule(
        make_architecture(config, pairs, statistics),
        (statistics.rms_displacement, statistics.rms_velocity),
        OptimizationConfig(steps=1),
        "double",
        "plain",
        rms_of_elements(statistics),
    )
    frames = list(GraphPairs(pairs, 3.0))
    batch = collate(frames)

    def loss() -> torch.Tensor:
        return module.loss(batch, *module.errors(batch))

    before = float(loss().detach())
    # In parts of unequal size, which the result must not show.
    fit_read_out(module, [collate(frames[:5]), collate(frames[5:])])
    after = loss()
    assert float(after.detach()) < 0.9 * before
    read_out = module.network.read_out
    weights = [read_out.compression.weight, read_out.read_out.weight]
    for gradient, weight in zip(torch.autograd.grad(after, weights), weights, strict=True):
        assert float(gradient.abs().max() * weight.detach().abs().max()) < 1e-6
    with torch.no_grad():
        prediction = module.predict(batch)
        errors = module.errors(batch)
        for k, predicted in enumerate([prediction.displacement, prediction.velocity]):
            scale = module.loss_scales[batch.species][:, k, None]
            products = (predicted * errors[k] / scale**2).sum()
            assert abs(float(products)) < 1e-6 * float((predicted / scale).square().sum())


def test_read_out_is_not_fitted_to_an_explosion(dataset: Path) -> None:
    """Among many pairs one is absurd: the result is that without it."""
    pairs = TrajectoryPairs(dataset, "train")
    statistics = dataset_statistics(dataset)
    config = TrainingConfig.load(write_config(dataset.parent, dataset))
    frames = GraphPairs(pairs, 3.0)
    batches = [collate([frames[k]]) for k in range(6)]
    absurd = batches[2]._replace(velocity_after=1e7 * batches[2].velocity_after)
    found = []
    for used in (batches[:2] + batches[3:], [*batches[:2], absurd, *batches[3:]]):
        torch.manual_seed(0)
        module = TrainingModule(
            make_architecture(config, pairs, statistics),
            (statistics.rms_displacement, statistics.rms_velocity),
            OptimizationConfig(steps=1),
            "double",
            "fused",
        )
        fit_read_out(module, used)
        found.append(module.network.read_out.compression.weight.detach().clone())
    torch.testing.assert_close(found[0], found[1])


def test_batches_do_not_mix_frames(dataset: Path) -> None:

    frames = GraphPairs(TrajectoryPairs(dataset, "train"), 3.0)
    items = [frames[0], frames[20]]
    batch = collate(items)
    assert bool((batch.system[batch.receivers] == batch.system[batch.senders]).all())
    assert len(batch.receivers) == sum(len(sample.graph.receivers) for sample in items)
    assert bool((batch.receivers[1:] >= batch.receivers[:-1]).all())


@pytest.mark.long
def test_worker_processes_change_nothing(tmp_path: Path, trained: Path, dataset: Path) -> None:
    config = write_config(tmp_path, dataset)
    content = yaml.safe_load(config.read_text()) | {"workers": 2}
    config.write_text(yaml.safe_dump(content))
    train(TrainingConfig.load(config), progress=False)
    weights = [ModelFile.load(d / "model.safetensors").state_dict for d in (trained, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("split", ["train", "test"])
def test_pairs_are_the_same_in_memory_and_from_the_file(
    dataset: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = TrajectoryPairs(dataset, split)
    monkeypatch.setattr("lammps_trajcast.data.dataset.IN_MEMORY", 0)
    from_file = TrajectoryPairs(dataset, split)
    both = (in_memory, from_file)
    for index in [*range(len(from_file)), *range(len(from_file))]:
        for one, other in zip(in_memory[index], from_file[index], strict=True):
            assert torch.equal(one, other)
        states = [p.later_states(index, 3) + p.earlier_states(index, 3) for p in both]
        assert len(states[0]) == len(states[1])
        assert all(torch.equal(a.positions, b.positions) for a, b in zip(*states, strict=True))
    assert in_memory._segment_cache and not from_file._segment_cache


@pytest.mark.parametrize("cutoff", [2.5, 4.0, 9.0])
@pytest.mark.parametrize("periodic", [True, False])
def test_edges_by_looking_at_all_pairs(cutoff: float, periodic: bool) -> None:
    """The same edges as from vesin, in skewed cells and for atoms far outside of them."""
    random = np.random.default_rng(4)
    counts = [5, 1, 9]
    cells = np.array([np.diag(x) for x in ((5.0, 6.0, 7.0), (4.0, 4.0, 4.0), (6.0, 3.5, 9.0))])
    cells[:, 1, 0], cells[:, 2, :2] = 1.9, (-1.5, 1.2)
    pbc = np.full((3, 3), periodic)
    spans = (-2.0, 3.0) if periodic else (0.0, 0.8)
    frames = [random.uniform(*spans, (n, 3)) @ c for n, c in zip(counts, cells, strict=True)]
    expected = [build_graph(*frame, cutoff) for frame in zip(frames, cells, pbc, strict=True)]
    system = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    found = bruteforce_edges(
        torch.from_numpy(np.concatenate(frames)),
        system,
        torch.from_numpy(cells),
        torch.from_numpy(pbc),
        cutoff,
    )
    assert found is not None
    assert bool((found["receivers"].diff() >= 0).all())

    def rows(receivers: torch.Tensor, senders: torch.Tensor, vectors: torch.Tensor) -> np.ndarray:
        table = np.column_stack([receivers.numpy(), senders.numpy(), vectors.numpy().round(9)])
        return table[np.lexsort(table.T[::-1])]

    first = np.cumsum([0, *counts])
    known = np.concatenate(
        [
            rows(g.receivers + n, g.senders + n, g.edge_vectors)
            for g, n in zip(expected, first[:-1], strict=True)
        ]
    )
    assert len(known) == len(found["receivers"]) and len(known) > (20 if periodic else 2)
    np.testing.assert_allclose(
        rows(found["receivers"], found["senders"], found["edge_vectors"]), known, atol=1e-8
    )


def test_edges_of_slabs_are_left_to_others() -> None:
    slab = torch.tensor([[True, True, False]])
    where = (torch.zeros(2, 3).double(), torch.zeros(2).long(), torch.eye(3).double()[None] * 5.0)
    assert bruteforce_edges(*where, slab, 3.0) is None
    assert bruteforce_edges(*where, torch.ones_like(slab), 3.0) is not None


def gas_network(dataset: Path) -> tuple[TrajCast, Batch]:
    """A network with random weights for the gas, in double precision, and a mini-batch."""
    config = TrainingConfig.load(write_config(dataset.parent, dataset))
    pairs = TrajectoryPairs(dataset, "train")
    network = TrajCast(make_architecture(config, pairs, dataset_statistics(dataset)), (0.05, 0.005))
    frames = GraphPairs(pairs, 3.0)
    return network.double(), collate([frames[0], frames[20], frames[3]])


def predicted_and_gradients(predict, network: TrajCast, inputs) -> list[torch.Tensor]:
    network.zero_grad()
    target = predict(*inputs)
    weights = torch.arange(target.numel()).to(target).view_as(target)
    (target * weights).sum().backward()
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 10
    return [target.detach().clone(), *gradients]


def test_edges_that_fill_up_contribute_nothing(dataset: Path) -> None:
    """What CUDA graphs of a fixed size are given: the same prediction and the same gradients."""
    network, batch = gas_network(dataset)
    edges = (batch.edge_vectors, batch.receivers, batch.senders)
    inputs = (batch.species, batch.velocities, *edges)
    more = pad_edges(inputs, len(batch.senders) + 37, 3.0)
    assert len(more[4]) == len(batch.senders) + 37
    assert bool((more[3].diff() >= 0).all())
    predict = FusedTrajCast(network).predict
    results = [predicted_and_gradients(predict, network, given) for given in (inputs, more)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_graphs_on_a_gpu_change_nothing(dataset: Path) -> None:
    """CUDA graphs against the same kernels one by one, for mini-batches with few and many edges."""
    network, batch = gas_network(dataset)
    network = network.cuda()
    fused = FusedTrajCast(network).cuda()
    on_graphs = CudaGraphNetwork(fused, 3.0)
    edges = (batch.edge_vectors, batch.receivers, batch.senders)
    inputs = tuple(x.cuda() for x in (batch.species, batch.velocities, *edges))
    fewer = (*inputs[:2], *(x[: len(x) // 2] for x in inputs[2:]))
    for given in [fewer, inputs, *4 * [fewer], *2 * [inputs], fewer]:
        expected = predicted_and_gradients(fused.predict, network, given)
        found = predicted_and_gradients(lambda *x: on_graphs.predict("there", *x), network, given)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    assert on_graphs._graphs and not on_graphs._failed


def test_sampler_passes_over_everything() -> None:
    """Each pass sees every pair once; epochs continue where the last ended."""
    seen: list[int] = []
    sampler = EpochSampler(7, 2, 1, epoch=lambda: (len(seen) // 2, len(seen) // 2 + 2))
    for _ in range(7):
        assert len(sampler) == 4
        seen += [draw.pair for draw in sampler]
    assert [sorted(seen[7 * k : 7 * k + 7]) for k in range(4)] == [list(range(7))] * 4
    assert seen[:7] != seen[7:14]


def test_learning_rate() -> None:
    options = OptimizationConfig(
        schedule="cosine", steps=1000, warmup_steps=100, learning_rate=1.0, final_learning_rate=0.01
    )
    schedule = Schedule(options)
    assert schedule.factor(0) == pytest.approx(0.01)
    assert schedule.factor(100) == pytest.approx(1.0)
    assert schedule.factor(550) == pytest.approx(0.505)
    assert schedule.factor(1000) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"learning_rat": 1}, "optimization.learning_rat"),
        ({"steps": -5}, "optimization.steps"),
        ({"batch_size": "many"}, "optimization.batch_size"),
    ],
)
def test_wrong_configuration(tmp_path: Path, dataset: Path, change, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TrainingConfig.load(write_config(tmp_path, dataset, **change))


@pytest.mark.parametrize(
    "text,message",
    [("a: [", "not YAML"), ("- 1", "must have lines"), ("{}", "dataset: Field required")],
)
def test_unusable_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        TrainingConfig.load(path)
    with pytest.raises(TrainingError, match="cannot be read"):
        TrainingConfig.load(tmp_path / "absent.yaml")


def test_empty_split_is_refused(tmp_path: Path, dataset: Path) -> None:
    copy = tmp_path / "gas.h5"
    copy.write_bytes(dataset.read_bytes())
    with h5py.File(copy, "a") as file:
        file["segments/000005"].attrs["split"] = "train"
    with pytest.raises(TrainingError, match="split 'test' is empty"):
        train(TrainingConfig.load(write_config(tmp_path, copy)), progress=False)


@pytest.mark.parametrize(
    "network,velocity,message",
    [
        ({}, [0.0005, 0.0, 0.0], "net_lin_mom.*drift.*'velocity all zero linear'"),
        (
            {"conserve_ang_mom": True, "net_ang_mom": [0.0, 0.0, 0.0]},
            [0.0, 0.0, 0.0],
            "net_ang_mom.*turn.*'net_ang_mom: null'",
        ),
    ],
)
def test_momenta_that_the_network_would_take_away_are_refused(
    tmp_path: Path, dataset: Path, network: dict, velocity: list[float], message: str
) -> None:
    copy = tmp_path / "gas.h5"
    copy.write_bytes(dataset.read_bytes())
    with h5py.File(copy, "a") as file:
        for segment in file["segments"].values():
            times = HORIZON * np.arange(9)[:, None, None]
            segment["positions"][:] = segment["positions"][:] + np.array(velocity) * times
            segment["velocities"][:] = segment["velocities"][:] + velocity
            segment["pbc"][:] = not network
    path = write_config(tmp_path, copy, steps=2, epoch_steps=1, warmup_steps=1)
    content = yaml.safe_load(path.read_text())
    content["network"] |= network
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(TrainingError, match=message):
        train(TrainingConfig.load(path), progress=False)
    # As they are, they are kept.
    (key,) = re.findall("net_..._mom", message)[:1]
    content["network"][key] = None
    path.write_text(yaml.safe_dump(content))
    train(TrainingConfig.load(path), progress=False)


def test_pushforward_begins_at_the_networks_own_state(dataset: Path) -> None:
    """After one step the batch stands at the prediction and asks for the true state after it."""
    pairs = TrajectoryPairs(dataset, "train")
    statistics = dataset_statistics(dataset)
    config = TrainingConfig.load(write_config(dataset.parent, dataset))
    architecture = make_architecture(config, pairs, statistics)
    rms = (statistics.rms_displacement, statistics.rms_velocity)
    torch.manual_seed(0)
    module = TrainingModule(architecture, rms, OptimizationConfig(steps=1), "double", "fused")
    frames = GraphPairs(pairs, 3.0, [0, 8], num_later=2)
    before = collate([frames[0], frames[1]])
    assert len(before.later) == 2
    with torch.no_grad():
        prediction = module.predict(before)
    after = module.pushed_forward(before, 1)
    torch.testing.assert_close(after.positions, before.positions + prediction.displacement)
    torch.testing.assert_close(after.velocities, prediction.velocity)
    # The gas flies freely: two horizons from the first state.
    truth = before.positions + 2 * before.displacement
    torch.testing.assert_close(after.positions + after.displacement, truth)
    torch.testing.assert_close(after.velocity_after, before.velocities)
    lengths = after.edge_vectors.norm(dim=1)
    assert len(lengths) > 0 and bool((lengths < 3.0).all())
    assert len(module.pushed_forward(before, 5).later) == 0
    # A network that explodes is not followed.
    for factor in (1e9, float("nan")):
        with torch.no_grad():
            module.network.read_out.read_out.weight.mul_(factor)
        assert module.pushed_forward(before, 5) is before


class DampedFlight(TrainingModule):
    """Atoms that fly freely for a horizon and then lose part of their velocity."""

    factor = 1.0

    def predict(self, batch: Batch, use: str = "there") -> Prediction:
        flight = batch.velocities * HORIZON
        return Prediction(flight, self.factor * batch.velocities)


def test_way_back_ends_where_it_began(dataset: Path) -> None:
    """Free flight is reversible; with a velocity lost on the way there the way back is short."""
    pairs = TrajectoryPairs(dataset, "train")
    statistics = dataset_statistics(dataset)
    config = TrainingConfig.load(write_config(dataset.parent, dataset))
    architecture = make_architecture(config, pairs, statistics)
    rms = (statistics.rms_displacement, statistics.rms_velocity)
    module = DampedFlight(architecture, rms, OptimizationConfig(steps=1), "double", "fused")
    frames = GraphPairs(pairs, 3.0, [0, 8])
    batch = collate([frames[0], frames[1]])
    back = module.way_back(batch, module.predict(batch))
    assert back is not None
    assert bool((back.edge_vectors.norm(dim=1) < 3.0).all())
    torch.testing.assert_close(back.positions + back.displacement, batch.positions)
    assert float(module.reversal_loss(batch, module.predict(batch))) < 1e-24
    module.factor = 0.9
    missing = (0.1 * HORIZON * batch.velocities / rms[0]).square().mean()
    slower = ((1 - 0.9**2) * batch.velocities / rms[1]).square().mean()
    found = module.reversal_loss(batch, module.predict(batch))
    torch.testing.assert_close(found, missing + slower)
    # A network that explodes is not followed.
    far = module.predict(batch)._replace(displacement=torch.full_like(batch.positions, np.nan))
    assert module.way_back(batch, far) is None
    assert float(module.reversal_loss(batch, far)) == 0.0


def test_training_starts_from_a_model(tmp_path: Path, trained: Path, dataset: Path) -> None:
    """With steps that change nothing the weights are those of the model it began with."""
    path = write_config(tmp_path, dataset, learning_rate=1e-30, final_learning_rate=0.0, steps=10)
    start = {"start_from": trained / "model.safetensors"}
    train(TrainingConfig.load(path).model_copy(update=start), progress=False)
    same_weights(tmp_path, trained, 1e-12)


def test_training_starts_from_a_model_for_another_horizon(
    tmp_path: Path, trained: Path, dataset: Path
) -> None:
    """Its weights stay, its predictions scale with the data: in twice the time twice as far."""
    longer = tmp_path / "longer.h5"
    shutil.copy(dataset, longer)
    with h5py.File(longer, "r+") as file:
        file.attrs["horizon"] = 2.0 * HORIZON
        for segment in file["segments"].values():
            pairs = segment["pairs"][:-1] + np.array([0, 1])
            del segment["pairs"]
            segment["pairs"] = pairs
    # Nothing learned, and no read-out solved for.
    rates = {"learning_rate": 1e-30, "final_learning_rate": 0.0, "read_out_pairs": 0}
    path = write_config(tmp_path, longer, **rates, steps=10)
    start = {"start_from": trained / "model.safetensors"}
    train(TrainingConfig.load(path).model_copy(update=start), progress=False)
    same_weights(tmp_path, trained, 1e-12)
    before, after = (
        ModelFile.load(directory / "model.safetensors").metadata
        for directory in (trained, tmp_path)
    )
    assert after.timestep == 2.0 * before.timestep
    assert after.rms_displacement == pytest.approx(2.0 * before.rms_displacement)
    assert after.rms_velocity == pytest.approx(before.rms_velocity)


def test_training_refuses_another_start(tmp_path: Path, trained: Path, dataset: Path) -> None:
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    network = config.network.model_copy(update={"num_mp_layers": 3})
    start = {"start_from": trained / "model.safetensors", "network": network}
    with pytest.raises(TrainingError, match="another num_mp_layers"):
        train(config.model_copy(update=start), progress=False)
    with pytest.raises(TrainingError, match="no such model file"):
        train(config.model_copy(update={"start_from": tmp_path / "no"}), progress=False)
    network = config.network.model_copy(update={"speed_limit_rms": 2.0})
    start = {"start_from": trained / "model.safetensors", "network": network}
    with pytest.raises(TrainingError, match="has no speed limit.*clamp-speed"):
        train(config.model_copy(update=start), progress=False)
    limited = tmp_path / "limited.safetensors"
    with_speed_limit(ModelFile.load(trained / "model.safetensors"), 3.0).save(limited)
    with pytest.raises(TrainingError, match="limit of 3 rms speeds.*clamp-speed"):
        train(config.model_copy(update=start | {"start_from": limited}), progress=False)


def test_speed_limit_in_rms_speeds(tmp_path: Path, dataset: Path) -> None:
    """It ends the range of the radial functions, whatever the fastest atom of the data."""
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    pairs, statistics = TrajectoryPairs(dataset, "train"), dataset_statistics(dataset, "train")
    without = make_architecture(config, pairs, statistics)
    assert without.speed_limit is None
    assert without.vel_max == pytest.approx(1.2 * statistics.max_speed, rel=1e-3)
    network = config.network.model_copy(update={"speed_limit_rms": 2.0})
    limited = make_architecture(config.model_copy(update={"network": network}), pairs, statistics)
    speeds = np.concatenate([np.linalg.norm(pair.velocities, axis=1) for pair in pairs])
    assert limited.speed_limit == pytest.approx(2.0 * np.sqrt((speeds**2).mean()), rel=0.05)
    assert limited.vel_max == pytest.approx(1.2 * limited.speed_limit, rel=1e-3)
    assert limited.speed_factors is None


def test_speeds_in_units_of_the_element(tmp_path: Path, dataset: Path) -> None:
    """Each has the same rms speed then, and a heavy atom is fast where it is fast for its mass."""
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    pairs, statistics = TrajectoryPairs(dataset, "train"), dataset_statistics(dataset, "train")
    network = config.network.model_copy(update={"speed_units": "element"})
    built = make_architecture(config.model_copy(update={"network": network}), pairs, statistics)
    species = np.concatenate([pair.species.numpy() for pair in pairs])
    speeds = np.concatenate([np.linalg.norm(pair.velocities, axis=1) for pair in pairs])
    rms = [np.sqrt((speeds[species == k] ** 2).mean()) for k in range(len(pairs.elements))]
    assert built.speed_factors == pytest.approx(
        [np.sqrt((speeds**2).mean()) / one for one in rms], rel=0.02
    )
    highest = max(
        factor * speeds[species == k].max() for k, factor in enumerate(built.speed_factors)
    )
    assert built.vel_max == pytest.approx(1.2 * highest, rel=0.05)
    # One that stands still, and one that is not there.
    still = statistics.limits.model_copy(update={"rms_speed": (1e-9, None)})
    factors, _ = speed_factors(replace(statistics, limits=still))
    assert factors == (1.0, 1.0)


def test_a_training_goes_on_with_the_speeds_that_it_began_with(
    tmp_path: Path, dataset: Path
) -> None:
    """All weights have the same shapes: nothing else would show that the network is another one."""
    config = TrainingConfig.load(write_config(tmp_path, dataset, steps=2, epoch_steps=2))
    train(config, progress=False)
    network = config.network.model_copy(update={"speed_units": "element"})
    other = config.model_copy(update={"network": network})
    with pytest.raises(TrainingError, match="other speed_units: write 'speed_units: all' under"):
        train(other, progress=False)
    train(other, progress=False, fresh=True)
    with pytest.raises(TrainingError, match="write 'speed_units: element' under network to go on"):
        train(config, progress=False)
    # Checkpoints of earlier releases do not say, and had none.
    for path in (tmp_path / "run").glob("*.ckpt"):
        content = torch.load(path, weights_only=False)
        assert content.pop("speed_factors") is not None
        torch.save(content, path)
    train(config, progress=False)


# ---- options -------------------------------------------------------------------------------------
def test_options_resume_to_the_same_weights(tmp_path: Path, dataset: Path) -> None:
    """Reversal, noise, few pairs, a short last epoch: a resumed run repeats what was drawn."""
    path = write_config(
        *(tmp_path, dataset),
        **{"steps": 7, "epoch_steps": 5, "time_reversal": True},
        **{"training_pairs": 9, "pushforward_steps": 1, "early_stopping": 5},
        **{"reversibility_weight": 0.5},
    )
    path.write_text(path.read_text() + "tensorboard: true\nexperimental: {input_noise: 0.1}\n")
    config = TrainingConfig.load(path)
    train(config, progress=False)
    names = [f.name for f in sorted(config.directory.glob("step*.ckpt"))]
    assert names == ["step00000005.ckpt", "step00000007.ckpt"]
    # The last, shorter epoch was validated too.
    assert len(validation_errors(tmp_path)) == 2
    assert logged_to_tensorboard(config.directory / "tensorboard") >= {4, 6}
    first = ModelFile.load(config.output)
    (config.directory / names[1]).unlink()
    (config.directory / "best.ckpt").unlink()
    config.output.unlink()
    train(config, progress=False)
    second = ModelFile.load(config.output)
    assert second.metadata.provenance["step"] == first.metadata.provenance["step"]
    for name, weights in first.state_dict.items():
        torch.testing.assert_close(second.state_dict[name], weights, rtol=1e-12, atol=1e-12)


def logged_to_tensorboard(directory: Path) -> set[int]:
    """Steps at which the velocity error was logged, read from the event files record by record."""
    from tensorboardX.proto.event_pb2 import Event

    steps = set()
    for path in directory.glob("events*"):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            tags = [value.tag for value in event.summary.value]
            steps |= {event.step} if "validation_velocity_error" in tags else set()
            content = content[16 + size :]
    return steps


def test_early_stopping(tmp_path: Path, dataset: Path) -> None:
    """Steps that change nothing bring no better validation: two epochs, and no more next time."""
    config = TrainingConfig.load(
        write_config(
            *(tmp_path, dataset),
            **{"learning_rate": 1e-30, "final_learning_rate": 0.0, "steps": 20, "epoch_steps": 2},
            early_stopping=1,
        )
    )
    for _ in range(2):
        train(config, progress=False)
        assert (config.directory / "step00000004.ckpt").is_file()
        assert not list(config.directory.glob("step00000006.ckpt"))


def test_full_disk_loses_nothing(tmp_path: Path, dataset: Path, record_property) -> None:
    """A limit on the size of files stands for a disk that has no room for a checkpoint."""
    config = TrainingConfig.load(write_config(tmp_path, dataset, steps=4, epoch_steps=2))
    train(config.model_copy(update={"optimization": shorter(config, 2)}), progress=False)
    checkpoint = config.directory / "step00000002.ckpt"
    before = checkpoint.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(TrainingError, match="File too large; the checkpoints there are whole"):
            train(config, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoint.read_bytes() == before
    assert not list(config.directory.glob("*.part"))
    train(config, progress=False)
    assert (config.directory / "step00000004.ckpt").is_file()
    result = "one line, the checkpoint before is whole, the same command goes on from it"
    fault(record_property, "disk full while training writes a checkpoint", result)


def shorter(config: TrainingConfig, steps: int) -> OptimizationConfig:
    return config.optimization.model_copy(update={"steps": steps})


def test_time_reversal_builds_the_graph_of_the_reversed_pair(dataset: Path) -> None:
    """A reversed pair leads back to where it came from, and its later states lie further back."""
    pairs = TrajectoryPairs(dataset, "train")
    change = Augmentation(seed=5, time_reversal=True)
    frames = GraphPairs(pairs, 3.0, num_later=2, augmentation=change)
    reversed_draws = 0
    for number in range(40):
        index = number % len(pairs)
        plain, drawn = frames[index], frames[Draw(index, number)]
        if torch.equal(plain.pair.positions, drawn.pair.positions):
            continue
        reversed_draws += 1
        pair = drawn.pair
        end = pair.positions + pair.displacement
        torch.testing.assert_close(end, plain.pair.positions)
        # The gas flies freely, backwards too.
        torch.testing.assert_close(pair.displacement, HORIZON * pair.velocities)
        torch.testing.assert_close(pair.velocity_after, -plain.pair.velocities)
        for k, state in enumerate(drawn.later, 1):
            torch.testing.assert_close(state.positions, end + k * pair.displacement)
            torch.testing.assert_close(state.velocities, pair.velocity_after)
        assert len(drawn.later) == min(2, index % 8)
        other = build_graph(plain.pair.positions + plain.pair.displacement, *pair[3:5], 3.0)
        torch.testing.assert_close(drawn.graph.edge_vectors, other.edge_vectors)
    assert 10 < reversed_draws < 30


def test_input_noise_moves_the_start_only(dataset: Path) -> None:

    pairs = TrajectoryPairs(dataset, "train")
    change = Augmentation(seed=1, position_noise=0.01, velocity_noise=0.002)
    frames = GraphPairs(pairs, 3.0, augmentation=change)
    moved, pushed = [], []
    for number in range(200):
        plain, noisy = pairs[number % 32], frames[Draw(number % 32, number)].pair
        share = plain.masses / plain.masses.sum()
        moved.append((noisy.positions - plain.positions).ravel())
        pushed.append((noisy.velocities - plain.velocities).ravel())
        for kicked in (noisy.positions - plain.positions, noisy.velocities - plain.velocities):
            torch.testing.assert_close(share @ kicked, torch.zeros(3, dtype=torch.float64))
        torch.testing.assert_close(
            noisy.positions + noisy.displacement, plain.positions + plain.displacement
        )
        assert torch.equal(noisy.velocity_after, plain.velocity_after)
    # Without the motion of the center of mass a little less than asked for.
    assert 0.8 < float(torch.cat(moved).std()) / 0.01 < 1.0
    assert 0.8 < float(torch.cat(pushed).std()) / 0.002 < 1.0
    assert torch.equal(frames[Draw(3, 7)].pair.positions, frames[Draw(3, 7)].pair.positions)
    assert not torch.equal(frames[Draw(3, 7)].pair.positions, frames[Draw(3, 8)].pair.positions)


def test_processes_share_every_mini_batch() -> None:
    """Two processes together draw what one draws, in mini-batches of half the size."""
    whole = list(EpochSampler(7, 4, 1, epoch=lambda: (3, 8)))
    parts = [
        list(EpochSampler(7, 4, 1, lambda: (3, 8), share=lambda rank=rank: ProcessShard(rank, 2)))
        for rank in range(2)
    ]
    for step in range(5):
        joint = [draw for part in parts for draw in part[2 * step : 2 * step + 2]]
        assert joint == whole[4 * step : 4 * step + 4]
    dealt = [list(ShardedSampler(7, lambda rank=rank: ProcessShard(rank, 3))) for rank in range(3)]
    assert sorted(sum(dealt, [])) == list(range(7))


def test_few_pairs_are_among_the_more(dataset: Path, tmp_path: Path) -> None:
    few, more = (
        training_indices(32, TrainingConfig.load(write_config(tmp_path, dataset, training_pairs=n)))
        for n in (5, 20)
    )
    assert few is not None and more is not None
    assert len(set(few)) == 5 and few == more[:5] and max(more) < 32
    config = TrainingConfig.load(write_config(tmp_path, dataset, training_pairs=33))
    with pytest.raises(TrainingError, match="training_pairs: 33, but the data set has 32 pairs"):
        train(config, progress=False)


def test_devices_that_do_not_fit(dataset: Path, tmp_path: Path) -> None:
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    with pytest.raises(TrainingError, match="3 frames cannot be shared equally by 2 devices"):
        train(config.model_copy(update={"devices": 2}), progress=False)


@pytest.mark.long
def test_two_processes_train_what_one_does(tmp_path: Path, dataset: Path) -> None:
    """Frames of different sizes, shared out to two processes: the same weights."""
    for name, devices in (("one", 1), ("two", 2)):
        path = write_config(tmp_path / name, dataset, steps=6, epoch_steps=3, batch_size=4)
        path.write_text(path.read_text() + f"devices: {devices}\n")
        program = [str(Path(sys.executable).parent / "lammps-trajcast"), "train", str(path)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("on unseen segments") == 1
    same_weights(tmp_path / "one", tmp_path / "two", 1e-7)
    one, two = (validation_errors(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.parametrize(
    "old,new,message",
    [
        ("steps: 40", "steps: -5", "line 15: optimization.steps: Input should be greater than 0"),
        ("batch_size:", "batchsize:", "line 10: optimization.batchsize: no such key; did you mean "
                                      "batch_size"),
        ("  steps: 40", "  input_noise: 0.1", "optimization.input_noise: helped nowhere and is "
         "experimental.input_noise now"),
        ("edge_cutoff: 3.0", "", "line 3: network.edge_cutoff: Field required"),
        ("output: model", "output: absent/model", "there is no directory"),
        ("seed: 3", "seed: 3\nseed: 4", "seed was given on line"),
        ("dataset: ", "dataset: no", "line 1: dataset: .* no such file"),
        ("seed: 3", "start_from: no.safetensors", "start_from: .* no such model file"),
    ],
)  # fmt: skip
def test_mistakes_name_their_line(
    tmp_path: Path, dataset: Path, old: str, new: str, message: str
) -> None:
    path = write_config(tmp_path, dataset)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(TrainingError, match=message) as error:
        TrainingConfig.load(path)
    assert "line" in str(error.value) and "\n" not in str(error.value)


def test_cut_off_log_is_joined(tmp_path: Path) -> None:
    """A row that a kill has cut off is dropped, and rows that a resumed run writes again."""
    for start, rows in ((0, ["9,0.5", "19,0.4", "29,0."]), (20, ["29,0.3"])):
        directory = tmp_path / f"logs/from_step_{start:08d}"
        directory.mkdir(parents=True)
        end = "" if start == 0 else "\n"
        (directory / "metrics.csv").write_text("\n".join(["step,x", *rows]) + end)
    join_logs(tmp_path / "logs", tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,x", "9,0.5", "19,0.4", "29,0.3"]
