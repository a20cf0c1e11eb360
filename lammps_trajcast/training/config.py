"""The YAML file of `lammps-trajcast train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lammps_trajcast.data.layout import DatasetError, dataset_files
from lammps_trajcast.model.architecture import (
    MLP,
    ActivationName,
    GateActivations,
    ParityActivations,
)
from lammps_trajcast.yaml_file import read_checked


class TrainingError(Exception):
    """Training that cannot start or go on; the message says what to change."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _EdgeMLP(MLP):
    n_neurons: tuple[int, ...] = (32, 32, 32)


class _BoundedGates(ParityActivations):
    e: ActivationName = "sigmoid"


class _Gates(GateActivations):
    activation_gates: _BoundedGates = _BoundedGates()


# What `preset: published` says instead of the defaults.
PUBLISHED: dict[str, Any] = {
    "edge_mlp_kwargs": MLP().model_dump(),
    "vel_mlp_kwargs": MLP().model_dump(),
    "nl_gate_kwargs": GateActivations().model_dump(),
    "velocity_harmonics": "unit",
    "message_features": "sender",
    "feature_parity": "both",
    "speed_limit_rms": None,
    "speed_units": "all",
}


def _merged(below: Any, above: Any) -> Any:
    """Return a mapping with the entries of another in place of its own, section by section."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    both = {name: _merged(below[name], above[name]) for name in below.keys() & above.keys()}
    return below | above | both


class NetworkConfig(_Section):
    """Hyperparameters of the network; what the data set says (species, averages) is not repeated.

    Names as in :class:`lammps_trajcast.model.architecture.Architecture`; ``edge_cutoff`` in
    Angstrom. ``speed_units`` says what the radial functions of the speed see as fast, and
    ``speed_limit_rms`` is the architecture's speed_limit in that unit: with ``element`` the rms
    speed of the atom's element in the data set, with ``all`` that of all atoms.
    The defaults are what was best where it was measured; with the ``preset`` ``published`` they are
    those of the published network, and keys that are written come first. With ``start_from``
    keys that are absent are as in that model.

    Attributes:
        preset: "best": the defaults below; "published": those of the published network. Keys that
            are written come first.
        edge_cutoff: distance in Angstrom within which an atom sees its neighbors in one layer.
        max_rotation_order: highest order l of the features, 0 for scalars, 1 for vectors and so on.
        num_hidden_channels: number of channels of each irrep, the width of the network; at least 8,
            or 4 with read_out_pairs 0.
        num_mp_layers: number of interaction layers; an atom sees as far as edge_cutoff times this
            number.
        num_edge_rbf: number of radial functions of the distance.
        num_edge_poly_cutoff: exponent of the polynomial cutoff function, which is zero at
            edge_cutoff.
        num_vel_rbf: number of radial functions of the speed.
        edge_mlp_kwargs: `n_neurons`, the numbers of neurons in the hidden layers of the radial
            networks of distances.
        vel_mlp_kwargs: `n_neurons`, the numbers of neurons in the hidden layers of the radial
            networks of speeds.
        nl_gate_kwargs: activation functions of the gates: `activation_scalars` and
            `activation_gates`, each with `e` for even and `o` for odd parity.
        conserve_ang_mom: whether a step keeps the angular momentum; for isolated molecules only.
        net_lin_mom: total momentum (x, y, z) that each step sets, g/mol Angstrom/fs; the states of
            the data set have to have it, too. null: each step keeps the momentum of its input.
        net_ang_mom: angular momentum (x, y, z) that each step sets with conserve_ang_mom; the
            states of the data set have to have it, too. null: each step keeps that of its input.
        velocity_harmonics: how the network sees a velocity: "unit" by harmonics of its direction,
            "solid" by polynomials of the velocity itself.
        message_features: features that a message is made of: those of the sender, or those of both
            atoms.
        feature_parity: features of both parities of each order, or only those of the natural parity
            (-1)^l.
        speed_units: unit in which the radial functions see a speed: the rms speed of the atom's
            element, so that light and heavy atoms are equally fast, or that of all atoms.
        speed_limit_rms: largest speed that the radial functions see, in the unit that speed_units
            names; faster atoms are treated as if they had this speed. null: no limit.
    """

    preset: Literal["best", "published"] = "best"
    edge_cutoff: float = Field(gt=0.0, le=100.0)
    max_rotation_order: int = Field(2, ge=1, le=4)
    num_hidden_channels: int = Field(32, ge=4, le=1024)
    num_mp_layers: int = Field(4, ge=1, le=32)
    num_edge_rbf: int = Field(8, ge=1, le=256)
    num_edge_poly_cutoff: int = Field(6, ge=2, le=64)
    num_vel_rbf: int = Field(8, ge=2, le=256)
    edge_mlp_kwargs: _EdgeMLP = _EdgeMLP()
    vel_mlp_kwargs: MLP = MLP()
    nl_gate_kwargs: _Gates = _Gates()
    conserve_ang_mom: bool = False
    net_lin_mom: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
    net_ang_mom: tuple[float, float, float] | None = None
    velocity_harmonics: Literal["unit", "solid"] = "solid"
    message_features: Literal["sender", "both"] = "both"
    feature_parity: Literal["both", "natural"] = "natural"
    speed_units: Literal["element", "all"] = "element"
    speed_limit_rms: float | None = Field(2.0, ge=0.1, le=100.0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("preset") == "published":
            return _merged(PUBLISHED, value)
        return value

    def architecture_fields(self, asked_for: bool = False) -> dict[str, Any]:
        """Return what goes into an :class:`Architecture` as it is.

        Args:
            asked_for: only what the file says, by a key or by a preset, in whole sections.
        """
        names = set(type(self).model_fields) - {"preset", "speed_limit_rms", "speed_units"}
        if asked_for:
            names &= self.model_fields_set
        return self.model_dump(include=names)


class OptimizationConfig(_Section):
    """How long and how fast to train.

    The learning rate rises linearly over ``warmup_steps``. With the ``schedule`` ``cosine`` it then
    follows a cosine down to ``final_learning_rate`` at ``steps``. With ``plateau`` it stays until
    the validation error has stopped falling: until the line through the logarithms of the errors of
    the last ``patience`` validations falls by less than ``min_fall``, its standard error added.
    Then it goes down as a cosine over ``decay_share`` of the steps done so far, and training ends.
    It ends by ``steps`` and by ``max_hours`` of wall time, all starts of a training together, where
    these are given: the rate begins to go down early enough. An epoch is ``epoch_steps`` steps, not
    a pass over the data: after each the network is validated and a checkpoint is written.

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

    ``early_stopping`` ends a cosine after so many validations in a row without a better one.
    With ``time_reversal`` every second pair, at random, is run backwards: from (x', -v') to
    (x, -v), as true to the equations of motion as the pair itself. ``training_pairs`` takes
    that many pairs, drawn with the seed, instead of all; fewer pairs are among the more.

    At the end the read-out, the last linear map, is solved for on ``read_out_pairs`` pairs of the
    training split, see :func:`lammps_trajcast.training.readout_fit.fit_read_out`; 0 leaves it as
    trained.

    With the ``normalization`` ``element`` errors count in units of the rms of the atom's element,
    with ``all`` in that of all atoms, where light elements outweigh heavy ones.

    ``optimizer`` is Adam or :class:`lammps_trajcast.training.muon.Muon`, which needs several times
    fewer steps.

    Attributes:
        optimizer: "muon" needs several times fewer steps than "adam".
        schedule: "plateau": train until the validation error has stopped falling; "cosine": train
            for `steps` steps.
        steps: number of optimizer steps; with a plateau an upper bound.
        max_hours: upper bound of the wall time in hours, all starts of the training together; with
            a plateau only.
        patience: number of last validations that show whether the error has stopped falling; with a
            plateau only.
        min_fall: the error has stopped falling if its relative fall over these validations is
            smaller; with a plateau only.
        decay_share: length of the last part of a plateau, in which the learning rate goes down, as
            a share of the steps before.
        epoch_steps: number of steps between validations; a checkpoint is written after each.
        batch_size: number of frames in a mini-batch; the frames may differ in size.
        learning_rate: highest learning rate, the rms change of a weight in a step.
        final_learning_rate: learning rate of the last step.
        warmup_steps: number of steps in which the learning rate rises linearly to the highest.
        gradient_clip: largest norm of the gradient; a larger gradient is scaled down to it.
        ema_decay: share of the mean weights that is kept in each step; the mean, not the last
            weights, is validated and stored in the model file.
        validation_pairs: number of pairs of the validation split on which each validation is done.
        pushforward_steps: a mini-batch begins up to so many steps into the network's own
            trajectory, so that the network learns to damp its own errors; 0: from true states only.
        reversibility_weight: weight, in the loss, of the square distance from the start after a
            step forward and a step back; a value above 0 makes a training step three times as long.
        velocity_weight: weight of the velocity's square error in the loss; that of the displacement
            is 1.
        normalization: unit of errors in the loss: the rms of the atom's element, or that of all
            atoms, in which light elements outweigh heavy ones.
        early_stopping: number of validations in a row without a better one after which training
            ends; with a cosine only. null: it goes on to the last step.
        time_reversal: whether every second pair, at random, is run backwards.
        training_pairs: number of pairs to train on, drawn with the seed, to measure the error
            against it; null for all.
        read_out_pairs: number of training pairs on which the last linear map is solved for at the
            end; 0 leaves it as trained.
    """

    moved: ClassVar[dict[str, str]] = {
        "input_noise": "helped nowhere and is experimental.input_noise now; write a section "
        "experimental: with input_noise in it, or leave it out"
    }

    optimizer: Literal["adam", "muon"] = "muon"
    schedule: Literal["plateau", "cosine"] = "plateau"
    steps: int | None = Field(None, gt=0)
    max_hours: float | None = Field(None, gt=0.0)
    patience: int = Field(10, ge=4, le=1000)
    min_fall: float = Field(0.05, gt=0.0, lt=1.0)
    decay_share: float = Field(0.25, gt=0.0, le=10.0)
    epoch_steps: int = Field(500, gt=0)
    batch_size: int = Field(4, gt=0)
    learning_rate: float = Field(1e-2, gt=0.0)
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
    training_pairs: int | None = Field(None, ge=1)
    read_out_pairs: int = Field(500, ge=0)

    @model_validator(mode="after")
    def _schedule_fits(self) -> OptimizationConfig:
        if self.schedule == "cosine":
            if self.steps is None:
                raise ValueError(
                    "a cosine needs to know its last step; write steps: N, or schedule: plateau"
                )
            if self.max_hours is not None:
                raise ValueError(
                    "max_hours goes with schedule: plateau; a cosine ends at steps, leave it out"
                )
        elif self.early_stopping is not None:
            raise ValueError(
                "early_stopping goes with schedule: cosine; a plateau ends by itself, see patience"
            )
        return self


class ExperimentalConfig(_Section):
    """What has shown no use yet; it may change or go.

    ``input_noise`` is the standard deviation of Gaussian noise on the input, in units of the rms
    displacement for positions and of the rms velocity for velocities; the target stays the true
    later state.

    Attributes:
        input_noise: standard deviation of Gaussian noise on the input, in units of the rms
            displacement for positions and of the rms velocity for velocities; 0 for none.
    """

    input_noise: float = Field(0.0, ge=0.0, lt=1.0)


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

    Attributes:
        dataset: the data set: a file, a directory (all .h5 files in it), a file name with * in it,
            or a list of these.
        output: model file that is written, with the best weights.
        directory: directory for checkpoints, logs and the learning curve.
        seed: seed of the initial weights and of the order of the data.
        start_from: model file whose weights training begins with, to fine-tune it or for a second
            stage; may be for another horizon.
        precision: floating-point numbers of the network.
        kernels: code that evaluates the network: "fused" (compiled CPU kernels, Triton on GPUs) or
            "plain" (e3nn, slower).
        accelerator: kind of device to train on; "auto" takes a GPU if there is one.
        devices: number of devices, each with a process, that share each mini-batch; batch_size must
            be a multiple of it.
        workers: number of processes that read frames ahead of the training, for each device; for a
            GPU as many as there are cores. Each keeps a data set of up to 512 MB in memory. 0:
            none.
        tensorboard: whether event files for TensorBoard are written, too.
        network: size and variants of the network, below.
        optimization: how long and how fast to train, below.
        experimental: options that have shown no use yet, below.
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
    experimental: ExperimentalConfig = ExperimentalConfig.model_validate({})

    @classmethod
    def load(cls, path: Path | str) -> TrainingConfig:
        """Read and check a YAML file.

        Raises:
            TrainingError: a value is wrong; the message names file, line, key and fault.
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
