"""Training learns, resumes to the same weights after a kill, and names what is wrong."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.batches import EpochSampler, GraphPairs, collate
from lammps_trajcast.training.config import OptimizationConfig, TrainingConfig, TrainingError
from lammps_trajcast.training.module import TrainingModule, learning_rate_factor
from lammps_trajcast.training.train import make_architecture, train

HORIZON = 10.0  # fs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Free flight of a dilute gas: x' = x + v t, v' = v, known without any simulation."""
    path = tmp_path_factory.mktemp("data") / "gas.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="lammps-trajcast dataset", format_version=1, horizon=HORIZON, units="real"
        )
        file.attrs["elements"] = ["Ne", "Ar"]
        file.attrs["masses"] = [20.18, 39.95]
        for k, split in enumerate(["train"] * 4 + ["validation", "test"]):
            segment = file.create_group(f"segments/{k:06d}")
            segment.attrs.update(split=split, source="gas", first_step=0)
            species = np.array([0, 1] * (3 + k % 2))
            mass = np.array([20.18, 39.95])[species][:, None]
            velocity = generator.normal(size=(len(species), 3)) * 0.005
            velocity -= (mass * velocity).sum(0) / mass.sum()
            times = HORIZON * np.arange(9)[:, None, None]
            segment["species"] = species
            segment["cell"] = np.eye(3) * 7.0
            segment["pbc"] = np.ones(3, dtype=bool)
            segment["positions"] = generator.uniform(0, 7, (len(species), 3)) + velocity * times
            segment["velocities"] = np.repeat(velocity[None], 9, axis=0)
            segment["pairs"] = np.column_stack([np.arange(8), np.arange(1, 9)])
    return path


def write_config(directory: Path, dataset: Path, **optimization) -> Path:
    config = {
        "dataset": str(dataset),
        "output": "model.safetensors",
        "directory": "run",
        "seed": 3,
        "precision": "double",
        "network": {
            "edge_cutoff": 3.0,
            "max_rotation_order": 1,
            "num_hidden_channels": 8,
            "num_mp_layers": 2,
        },
        "optimization": {
            "steps": 40,
            "epoch_steps": 10,
            "batch_size": 3,
            "learning_rate": 0.01,
            "warmup_steps": 5,
            "validation_pairs": 4,
            "ema_decay": 0.9,
            **optimization,
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, dataset: Path) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    train(TrainingConfig.load(write_config(directory, dataset)), progress=False)
    return directory


def test_training_learns(tmp_path: Path, dataset: Path) -> None:
    """Ballistic motion is learned far below the error of the mean (relative error 1)."""
    config = write_config(tmp_path, dataset, steps=300, epoch_steps=50, ema_decay=0.97)
    errors = train(TrainingConfig.load(config), progress=False)
    assert errors["displacement"] < 0.5 and errors["velocity"] < 0.5


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


def same_weights(a: Path, b: Path, tolerance: float) -> None:
    first, second = (ModelFile.load(d / "model.safetensors").state_dict for d in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance)


def test_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, trained: Path, dataset: Path
) -> None:
    config = write_config(tmp_path, dataset)
    program = "from lammps_trajcast.cli import app; app()"
    run = [sys.executable, "-c", program, "train", str(config)]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # Whenever the kill comes after the first checkpoint, nothing may differ.
    while process.poll() is None and not list((tmp_path / "run").glob("step*.ckpt")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "run").glob("step*.ckpt"))
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same_weights(tmp_path, trained, 1e-12)
    # The log has not lost what came before the kill.
    whole, resumed = (validation_errors(d) for d in (trained, tmp_path))
    np.testing.assert_allclose(resumed, whole, rtol=1e-9)


def validation_errors(directory: Path) -> list[float]:
    with (directory / "run" / "metrics.csv").open() as file:
        column = [row["validation_velocity_error"] for row in csv.DictReader(file)]
    return [float(value) for value in column if value]


def test_broken_checkpoint_is_left_out(tmp_path: Path, trained: Path, dataset: Path) -> None:
    """A checkpoint cut off by a kill is not resumed from; the one before it is."""
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    train(config, progress=False)
    newest = sorted(config.directory.glob("step*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "model.safetensors").unlink()
    train(config, progress=False)
    same_weights(tmp_path, trained, 1e-12)


def test_loss_is_the_mean_square_in_units_of_the_rms(dataset: Path) -> None:
    """A network whose read-out is zero predicts no motion: every relative error is one."""
    from lammps_trajcast.data.dataset import TrajectoryPairs
    from lammps_trajcast.data.statistics import dataset_statistics

    options = OptimizationConfig(steps=1)
    pairs = TrajectoryPairs(dataset, "train")
    statistics = dataset_statistics(dataset)
    config = TrainingConfig.load(write_config(dataset.parent, dataset))
    architecture = make_architecture(config, pairs, statistics)
    rms = (statistics.rms_displacement, statistics.rms_velocity)
    module = TrainingModule(architecture, rms, options, "double", "plain")
    with torch.no_grad():
        module.network.read_out.read_out.weight.zero_()
        batch = collate(list(GraphPairs(pairs, 3.0)))
        displacement, velocity = module.errors(batch)
    assert float(displacement.mean()) == pytest.approx(1.0)
    assert float(velocity.mean()) == pytest.approx(1.0)


def test_batches_do_not_mix_frames(dataset: Path) -> None:
    from lammps_trajcast.data.dataset import TrajectoryPairs

    frames = GraphPairs(TrajectoryPairs(dataset, "train"), 3.0)
    items = [frames[0], frames[20]]
    batch = collate(items)
    assert bool((batch.system[batch.receivers] == batch.system[batch.senders]).all())
    assert len(batch.receivers) == sum(len(sample.graph.receivers) for sample in items)
    assert bool((batch.receivers[1:] >= batch.receivers[:-1]).all())


def test_sampler_passes_over_everything() -> None:
    """Each pass sees every pair once; epochs continue where the last ended."""
    seen: list[int] = []
    sampler = EpochSampler(size=7, samples=4, seed=1, position=lambda: len(seen))
    for _ in range(7):
        seen += list(sampler)
    assert [sorted(seen[7 * k : 7 * k + 7]) for k in range(4)] == [list(range(7))] * 4
    assert seen[:7] != seen[7:14]


def test_learning_rate() -> None:
    options = OptimizationConfig(
        steps=1000, warmup_steps=100, learning_rate=1.0, final_learning_rate=0.01
    )
    assert learning_rate_factor(0, options) == pytest.approx(0.01)
    assert learning_rate_factor(100, options) == pytest.approx(1.0)
    assert learning_rate_factor(550, options) == pytest.approx(0.505)
    assert learning_rate_factor(1000, options) == pytest.approx(0.01)


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
    [("a: [", "not YAML"), ("- 1", "must be a mapping"), ("{}", "dataset: Field required")],
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


def test_pushforward_begins_at_the_networks_own_state(dataset: Path) -> None:
    """After one step the batch stands at the prediction and asks for the true state after it."""
    from lammps_trajcast.data.dataset import TrajectoryPairs
    from lammps_trajcast.data.statistics import dataset_statistics

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


def test_training_starts_from_a_model(tmp_path: Path, trained: Path, dataset: Path) -> None:
    """With steps that change nothing the weights are those of the model it began with."""
    path = write_config(tmp_path, dataset, learning_rate=1e-30, final_learning_rate=0.0, steps=10)
    start = {"start_from": trained / "model.safetensors"}
    train(TrainingConfig.load(path).model_copy(update=start), progress=False)
    same_weights(tmp_path, trained, 1e-12)


def test_training_refuses_another_start(tmp_path: Path, trained: Path, dataset: Path) -> None:
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    network = config.network.model_copy(update={"num_mp_layers": 3})
    start = {"start_from": trained / "model.safetensors", "network": network}
    with pytest.raises(TrainingError, match="another num_mp_layers"):
        train(config.model_copy(update=start), progress=False)
    with pytest.raises(TrainingError, match="no such model file"):
        train(config.model_copy(update={"start_from": tmp_path / "no"}), progress=False)
