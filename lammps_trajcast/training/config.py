"""The YAML file of `lammps-trajcast train`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lammps_trajcast.model.architecture import MLP, GateActivations
from lammps_trajcast.yaml_file import read_yaml


class TrainingError(Exception):
    """Training that cannot start or go on; the message says what to change."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Section):
    """Hyperparameters of the network; what the data set says (species, averages) is not repeated.

    Names as in :class:`lammps_trajcast.model.architecture.Architecture`; ``edge_cutoff`` in
    Angstrom.
    """

    edge_cutoff: float = Field(gt=0.0)
    max_rotation_order: int = Field(ge=1, le=4)
    num_hidden_channels: int = Field(ge=4, le=1024)
    num_mp_layers: int = Field(ge=1, le=32)
    num_edge_rbf: int = Field(8, ge=1, le=256)
    num_edge_poly_cutoff: int = Field(6, ge=2, le=64)
    num_vel_rbf: int = Field(8, ge=2, le=256)
    edge_mlp_kwargs: MLP = MLP()
    vel_mlp_kwargs: MLP = MLP()
    nl_gate_kwargs: GateActivations = GateActivations()
    conserve_ang_mom: bool = False
    net_lin_mom: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
    net_ang_mom: tuple[float, float, float] | None = None
    velocity_harmonics: Literal["unit", "solid"] = "unit"
    message_features: Literal["sender", "both"] = "sender"
    feature_parity: Literal["both", "natural"] = "both"


class OptimizationConfig(_Section):
    """How long and how fast to train.

    The learning rate rises linearly over ``warmup_steps`` and then follows a cosine down to
    ``final_learning_rate`` at the last step. An epoch is ``epoch_steps`` steps, not a pass over the
    data: after each the network is validated and a checkpoint is written.

    With ``pushforward_steps`` K > 0 each mini-batch begins k steps into the network's own
    trajectory, k drawn evenly from 0 ... K, and the network learns to come back to the true state
    one horizon later (the "pushforward trick" of Brandstetter, Worrall and Welling, ICLR 2022):
    it learns to damp its own errors instead of amplifying them.
    """

    steps: int = Field(gt=0)
    epoch_steps: int = Field(500, gt=0)
    batch_size: int = Field(4, gt=0)
    learning_rate: float = Field(5e-3, gt=0.0)
    final_learning_rate: float = Field(1e-5, ge=0.0)
    warmup_steps: int = Field(200, ge=0)
    gradient_clip: float = Field(1.0, gt=0.0)
    ema_decay: float = Field(0.999, ge=0.0, lt=1.0)
    validation_pairs: int = Field(128, gt=0)
    pushforward_steps: int = Field(0, ge=0, le=100)
    velocity_weight: float = Field(1.0, gt=0.0)


class TrainingConfig(_Section):
    """Everything that decides the result of a training run.

    Paths are relative to the YAML file. ``directory`` takes checkpoints, logs and the learning
    curve; ``output`` is the model file with the best weights. ``start_from`` is a model file whose
    weights, architecture and scales training begins with.
    """

    dataset: Path
    output: Path
    directory: Path
    seed: int = 0
    start_from: Path | None = None
    precision: Literal["single", "double"] = "single"
    kernels: Literal["fused", "plain"] = "fused"
    network: NetworkConfig
    optimization: OptimizationConfig

    @classmethod
    def load(cls, path: Path | str) -> TrainingConfig:
        """Read and check a YAML file.

        Raises TrainingError naming the file, the key and what is wrong with it.
        """
        path = Path(path)
        content = read_yaml(path, TrainingError)
        if not isinstance(content, dict):
            raise TrainingError(f"{path}: must be a mapping with the keys dataset, output, …")
        try:
            config = cls(**content)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
            raise TrainingError(f"{path}: {problems}") from None
        except TypeError as error:
            raise TrainingError(f"{path}: keys must be names ({error})") from None
        here = path.resolve().parent
        paths = ("dataset", "output", "directory", "start_from")
        given = {name: getattr(config, name) for name in paths}
        return config.model_copy(
            update={name: path and here / path for name, path in given.items()}
        )
