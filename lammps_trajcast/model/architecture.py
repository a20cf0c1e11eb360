"""The hyperparameters of a TrajCast network, under the names of the published configurations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Component = Annotated[float, Field(allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Momentum = tuple[Component, Component, Component]
ActivationName = Literal["silu", "tanh", "relu", "sigmoid"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MLP(_Section):
    """A multilayer perceptron that produces the path weights of a tensor product."""

    n_neurons: tuple[int, ...] = (16, 16, 16)
    activation: Literal["silu"] = "silu"

    @field_validator("n_neurons")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= n <= 4096 for n in value) or len(value) > 16:
            raise ValueError("at most 16 hidden layers of 1 to 4096 neurons each")
        return value


class ParityActivations(_Section):
    """Activation functions by parity: ``e`` (even) and ``o`` (odd)."""

    e: ActivationName = "silu"
    o: Literal["tanh"] = "tanh"


class GateActivations(_Section):
    """Activations of the gated non-linearity."""

    activation_scalars: ParityActivations = ParityActivations()
    activation_gates: ParityActivations = ParityActivations()


class Architecture(_Section):
    """Hyperparameters of :class:`lammps_trajcast.model.network.TrajCast`.

    The field names, and so the YAML files, are those of the published TrajCast code (Thiemann et
    al., Nature Machine Intelligence 8, 764, 2026). Lengths are in Angstrom; ``vel_max`` is in the
    velocity unit of the model. The upper bounds keep a forged file from asking for more memory
    than any trained network needs.

    What the published network does not have; the defaults are its:

    ``velocity_harmonics``: "unit" are the spherical harmonics of the velocity's direction, "solid"
    those times (|v| / velocity_scale)^l, polynomials of the velocity, so that what depends
    linearly on the velocity need not be learned. ``message_features``: "sender" makes messages of
    the sender's features; "both" adds the receiver's to them, each channel times a weight that
    begins at -1 (0 for scalars): differences of vectors, as forces between atoms are.
    ``feature_parity``: "both" has features of both parities of each order, "natural" of (-1)^l
    alone, a third of the tensor products. ``speed_limit``: with it the
    radial functions of the speed are those of s / (1 + (s / speed_limit)^8)^(1/8), which is s while
    s is smaller and never greater than speed_limit: fast atoms, of which a training set has few,
    are embedded as less fast ones are. ``speed_factors``: the speeds of each element
    are multiplied by one for its radial functions, so that light and heavy atoms are alike fast;
    ``vel_max`` and ``speed_limit`` are of the products.
    """

    num_chem_elements: int = Field(ge=1, le=118)
    edge_cutoff: float = Field(gt=0.0, le=100.0)
    num_edge_rbf: int = Field(8, ge=1, le=256)
    num_edge_poly_cutoff: int = Field(6, ge=2, le=64)
    num_vel_rbf: int = Field(8, ge=2, le=256)
    vel_max: float = Field(gt=0.0, allow_inf_nan=False)
    max_rotation_order: int = Field(ge=1, le=4)
    num_hidden_channels: int = Field(ge=4, le=1024)
    num_mp_layers: int = Field(ge=1, le=32)
    avg_num_neighbors: float = Field(gt=0.0, allow_inf_nan=False)
    edge_mlp_kwargs: MLP = MLP()
    vel_mlp_kwargs: MLP = MLP()
    nl_gate_kwargs: GateActivations = GateActivations()
    conserve_ang_mom: bool = False
    net_lin_mom: Momentum | None = (0.0, 0.0, 0.0)
    net_ang_mom: Momentum | None = None
    velocity_harmonics: Literal["unit", "solid"] = "unit"
    velocity_scale: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    message_features: Literal["sender", "both"] = "sender"
    feature_parity: Literal["both", "natural"] = "both"
    speed_limit: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    speed_factors: tuple[Factor, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_backend(cls, value: Any) -> Any:
        # o3_backend chooses an implementation of the same mathematics; it is not a hyperparameter.
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if k != "o3_backend"}
        return value

    @model_validator(mode="after")
    def _has_scale(self) -> Architecture:
        if (self.velocity_harmonics == "solid") != (self.velocity_scale is not None):
            raise ValueError("velocity_scale goes with velocity_harmonics solid, and with no other")
        return self

    @model_validator(mode="after")
    def _has_factors(self) -> Architecture:
        if self.speed_factors is not None:
            number = len(self.speed_factors)
            if number != self.num_chem_elements:
                raise ValueError(f"{number} speed_factors for {self.num_chem_elements} elements")
        return self

    @field_validator("net_lin_mom", "net_ang_mom", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        # Published files write [] for "conserve whatever the input has".
        return None if isinstance(value, (list, tuple)) and not value else value
