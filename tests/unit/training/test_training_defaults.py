"""What a training file need not say, and what the published network is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from locations import ROOT
from trainings import dataset, trained, write_config  # noqa: F401

from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.statistics import dataset_statistics
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.config import PUBLISHED, NetworkConfig, TrainingConfig, TrainingError
from lammps_trajcast.training.preparation import make_architecture
from lammps_trajcast.training.train import train
from lammps_trajcast.yaml_file import read_checked

# What won where it was measured (docs/training.md).
BEST = {
    "velocity_harmonics": "solid",
    "message_features": "both",
    "feature_parity": "natural",
    "edge_mlp_kwargs": {"n_neurons": (32, 32, 32), "activation": "silu"},
    "nl_gate_kwargs": {
        "activation_scalars": {"e": "silu", "o": "tanh"},
        "activation_gates": {"e": "sigmoid", "o": "tanh"},
    },
}


def test_the_best_network_is_the_default() -> None:
    network = NetworkConfig.model_validate({"edge_cutoff": 4.0})
    assert network.architecture_fields() | BEST == network.architecture_fields()
    assert network.speed_limit_rms == 2.0
    # A section of which one key is written keeps the rest of its defaults.
    some = NetworkConfig.model_validate(
        {
            "edge_cutoff": 4.0,
            "edge_mlp_kwargs": {"activation": "silu"},
            "nl_gate_kwargs": {"activation_gates": {"o": "tanh"}},
        }
    )
    assert some.architecture_fields() == network.architecture_fields()


def test_published_network() -> None:
    """The preset is what an architecture is that says nothing, but for what the file says."""
    sizes = {
        **{"edge_cutoff": 4.0, "max_rotation_order": 1},
        **{"num_hidden_channels": 16, "num_mp_layers": 2},
    }
    network = NetworkConfig.model_validate({"preset": "published", **sizes})
    data = {"num_chem_elements": 1, "vel_max": 0.1, "avg_num_neighbors": 9.0}
    published = Architecture.model_validate({**data, **sizes})
    assert Architecture.model_validate({**data, **network.architecture_fields()}) == published
    assert network.speed_limit_rms is None
    written = NetworkConfig.model_validate(
        {
            **{"preset": "published", **sizes, "message_features": "both", "speed_limit_rms": 3.0},
            "nl_gate_kwargs": {"activation_scalars": {"e": "tanh"}},
        }
    ).model_dump()
    assert written["message_features"] == "both" and written["speed_limit_rms"] == 3.0
    assert written["velocity_harmonics"] == "unit"
    assert written["nl_gate_kwargs"]["activation_scalars"]["e"] == "tanh"
    assert written["nl_gate_kwargs"]["activation_gates"]["e"] == "silu"


def test_a_second_stage_need_not_repeat_the_network(
    tmp_path: Path,
    dataset: Path,
    trained: Path,
) -> None:
    """What the file does not say is as in the model that training begins with."""
    path = write_config(tmp_path, dataset, steps=2, epoch_steps=2)
    content = yaml.safe_load(path.read_text())
    content["network"] = {"edge_cutoff": 3.0}
    content["start_from"] = str(trained / "model.safetensors")
    path.write_text(yaml.safe_dump(content))
    train(TrainingConfig.load(path), progress=False)
    first, second = (
        ModelFile.load(directory / "model.safetensors").metadata.architecture
        for directory in (trained, tmp_path)
    )
    assert first == second
    content["network"]["message_features"] = "both"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(TrainingError, match="has another message_features; leave these keys"):
        train(TrainingConfig.load(path), progress=False, fresh=True)


@pytest.mark.parametrize(
    ("preset", "limit"), [("best", 2.0), ("published", None)], ids=["best", "published"]
)
def test_presets_make_architectures(
    tmp_path: Path,
    dataset: Path,
    preset: str,
    limit: float | None,
) -> None:
    path = write_config(tmp_path, dataset)
    content = yaml.safe_load(path.read_text())
    content["network"] = {"preset": preset, "edge_cutoff": 3.0}
    path.write_text(yaml.safe_dump(content))
    statistics = dataset_statistics(dataset)
    built = make_architecture(
        TrainingConfig.load(path), TrajectoryPairs(dataset, "train"), statistics
    )
    if limit is None:
        assert built.speed_limit is None
    else:
        assert built.speed_limit == pytest.approx(
            limit * 3**0.5 * statistics.rms_velocity, rel=1e-3
        )
    assert built.velocity_scale is None if preset == "published" else built.velocity_scale


EXAMPLES = sorted((ROOT / "examples").glob("*/train*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_examples_do_not_depend_on_defaults(path: Path) -> None:
    """They say how models of the gallery were made, whatever defaults become."""
    config, _ = read_checked(path, TrainingConfig, TrainingError)
    assert config.optimization.schedule == "cosine"
    assert {"learning_rate", "steps"} <= config.optimization.model_fields_set
    if config.start_from is None:
        # Hidden layers of the embedding of speeds have been the same ever since.
        assert set(PUBLISHED) - {"vel_mlp_kwargs"} <= config.network.model_fields_set
