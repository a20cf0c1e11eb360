"""The YAML file of `lammps-trajcast train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lammps_trajcast.data.layout import DatasetError, dataset_files
from lammps_trajcast.model.architecture import MLP, GateActivations
from lammps_trajcast.yaml_file import read_checked


class TrainingError(Exception):
    """Training that cannot start or go on; the message says what to change."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NetworkConfig(_Section):
    """Hyperparameters of the network; what the data set says (species, averages) is not repeated.

    Names as in :class:`lammps_trajcast.model.architecture.Architecture`; ``edge_cutoff`` in
    Angstrom. ``speed_limit_rms`` is the architecture's speed_limit in units of the rms speed of the
    data set.
    """

    edge_cutoff: float = Field(gt=0.0, le=100.0)
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
    speed_limit_rms: float | None = Field(None, ge=0.1, le=100.0)


class OptimizationConfig(_Section):
    """How long and how fast to train.

    The learning rate rises linearly over ``warmup_steps`` and then follows a cosine down to
    ``final_learning_rate`` at the last step. An epoch is ``epoch_steps`` steps, not a pass over the
    data: after each the network is validated and a checkpoint is written.

    With ``pushforward_steps`` K > 0 each mini-batch begins k steps into the network's own
    trajectory, k drawn evenly from 0 ... K, and the network learns to come back to the true state
    one horizon later (the "pushforward trick" of Brandstetter, Worrall and Welling, ICLR 2022):
    it learns to damp its own errors instead of amplifying them.

    With ``reversibility_weight`` w > 0 the network also predicts back from where it arrived, with
    velocities reversed, and w times the mean square distance to where it began is added to the
    loss. The equations of motion are reversible and a network whose errors are not heats some
    vibrations and cools others, at every step (the reversal loss of Huh, Yang, Hwang and Shin,
    "Time-Reversal Symmetric ODE Network", NeurIPS 2020; here without the gradient through the way
    there).

    ``early_stopping`` ends the training after so many validations in a row without a better one.
    With ``time_reversal`` every second pair, at random, is run backwards: from (x', -v') to
    (x, -v), as true to the equations of motion as the pair itself. ``input_noise`` is the standard
    deviation of Gaussian noise on the input, in units of the rms displacement for positions and of
    the rms velocity for velocities; the target stays the true later state. ``training_pairs`` takes
    that many pairs, drawn with the seed, instead of all; fewer pairs are among the more.

    At the end the read-out, the last linear map, is solved for on ``read_out_pairs`` pairs of the
    training split, see :func:`lammps_trajcast.training.polish.fit_read_out`; 0 leaves it as
    trained.

    With the ``normalization`` ``element`` errors count in units of the rms of the atom's element,
    with ``all`` in that of all atoms, where light elements outweigh heavy ones.

    ``optimizer`` is Adam or :class:`lammps_trajcast.training.muon.Muon`, which needs several times
    fewer steps.
    """

    optimizer: Literal["adam", "muon"] = "muon"
    steps: int = Field(gt=0)
    epoch_steps: int = Field(500, gt=0)
    batch_size: int = Field(4, gt=0)
    learning_rate: float = Field(5e-3, gt=0.0)
    final_learning_rate: float = Field(1e-5, ge=0.0)
    warmup_steps: int = Field(200, ge=0)
    gradient_clip: float = Field(1.0, gt=0.0, allow_inf_nan=True)
    ema_decay: float = Field(0.999, ge=0.0, lt=1.0)
    validation_pairs: int = Field(128, gt=0)
    pushforward_steps: int = Field(0, ge=0, le=100)
    reversibility_weight: float = Field(0.0, ge=0.0)
    velocity_weight: float = Field(1.0, gt=0.0)
    normalization: Literal["element", "all"] = "element"
    early_stopping: int | None = Field(None, ge=1)
    time_reversal: bool = False
    input_noise: float = Field(0.0, ge=0.0, lt=1.0)
    training_pairs: int | None = Field(None, ge=1)
    read_out_pairs: int = Field(500, ge=0)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


class TrainingConfig(_Section):
    """Everything that decides the result of a training run.

    Paths are relative to the YAML file. ``dataset`` is a file, a directory of .h5 files, a pattern
    with * in it, or a list of these. ``directory`` takes checkpoints, logs and the learning curve;
    ``output`` is the model file with the best weights. ``start_from`` is a model file whose
    weights and architecture training begins with, and whose scales if it is for the same horizon.

    ``devices`` processes, each with a device of the kind ``accelerator``, share every mini-batch.
    For each of them ``workers`` processes read frames and build graphs ahead of it; with 0 it does
    so itself. The result is the same.
    """

    dataset: Annotated[tuple[Path, ...], BeforeValidator(_as_list), Field(min_length=1)]
    output: Path
    directory: Path
    seed: int = Field(0, ge=0, lt=2**32)
    start_from: Path | None = None
    precision: Literal["single", "double"] = "single"
    kernels: Literal["fused", "plain"] = "fused"
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu"
    devices: int = Field(1, ge=1)
    workers: int = Field(0, ge=0, le=256)
    tensorboard: bool = False
    network: NetworkConfig
    optimization: OptimizationConfig

    @classmethod
    def load(cls, path: Path | str) -> TrainingConfig:
        """Read and check a YAML file.

        Raises TrainingError naming the file, the line, the key and what is wrong with it.
        """
        path = Path(path)
        config, lines = read_checked(path, cls, TrainingError)
        here = path.resolve().parent
        config = config.model_copy(
            update={
                "dataset": tuple(here / entry for entry in config.dataset),
                "output": here / config.output,
                "directory": here / config.directory,
                "start_from": config.start_from and here / config.start_from,
            }
        )
        problem = config._problem()
        if problem is not None:
            key, message = problem
            place = tuple(key.split("."))
            raise TrainingError(f"{path}, line {lines[place]}: {key}: {message}")
        return config

    def _problem(self) -> tuple[str, str] | None:
        """The first key whose value does not fit the others or names no file, and what to say."""
        channels = self.network.num_hidden_channels
        if channels < 8 and self.optimization.read_out_pairs:
            return (
                "network.num_hidden_channels",
                f"{channels} leave the read-out a single channel for displacement and velocity, "
                "which cannot be solved for; write at least 8, or optimization.read_out_pairs: 0",
            )
        try:
            for file in dataset_files(self.dataset):
                if not file.is_file():
                    return (
                        "dataset",
                        f"{file}: no such file; make it with 'lammps-trajcast dataset'",
                    )
        except DatasetError as error:
            return "dataset", str(error)
        if self.start_from is not None and not self.start_from.is_file():
            return "start_from", f"{self.start_from}: no such model file"
        if self.output.is_dir():
            return "output", f"{self.output} is a directory; write the name of a file"
        if not self.output.parent.is_dir():
            return "output", f"there is no directory {self.output.parent}; make it first"
        return None
