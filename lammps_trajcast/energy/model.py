"""What a model file says of the potential energy."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

# Largest number of coefficients that a file may ask memory for.
_MOST_COEFFICIENTS = 10_000_000


class EnergyBasis(BaseModel):
    """The functions of which `fix_src/kernels/energy.h` makes an energy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_species: int = Field(ge=1, le=120)
    cutoff: float = Field(gt=0.0, le=100.0)  # Angstrom
    num_pair: int = Field(ge=2, le=64)  # functions of a distance in the terms of two bodies
    num_radial: int = Field(ge=1, le=64)  # and in those of three
    max_order: int = Field(ge=0, le=6)  # largest degree of a polynomial of an angle's cosine
    skew: float = Field(ge=0.0, le=100.0)  # how much better short distances are resolved

    @model_validator(mode="after")
    def _possible(self) -> EnergyBasis:
        if self.num_radial > self.num_pair:
            raise ValueError("num_radial cannot exceed num_pair")
        if self.num_species * (self.max_order + 1) * self.width**2 > _MOST_COEFFICIENTS:
            raise ValueError("too many coefficients")
        return self

    @property
    def width(self) -> int:
        """Number of radial functions, counted for each species of a neighbor."""
        return self.num_species * self.num_radial

    @property
    def num_features(self) -> int:
        """Number of coefficients that a regression determines."""
        products = (self.max_order + 1) * self.width * (self.width + 1) // 2
        return self.num_species * (1 + self.num_species * self.num_pair + products)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {name: shape} of the arrays of `trajcast_energy_model`."""
        species = self.num_species
        return {
            "constants": (species,),
            "pairs": (species, species, self.num_pair),
            "radial": (self.num_radial, self.num_radial),
            "products": (species, self.max_order + 1, self.width, self.width),
        }


class EnergyErrors(BaseModel):
    """Root mean square errors in segments that took no part, relative to a standard deviation.

    That is the one of the quantity in a bath of constant temperature, that is, its thermal
    fluctuation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy: float
    pressure: float | None = None  # without the kinetic part
    stress: float | None = None  # all six components
    forces: float
    energy_per_atom: float  # kcal/mol, not relative
    frames: int  # of the training data that were used
    temperatures: tuple[float, float]  # K, lowest and highest mean of a file of the data


class EnergyModel(NamedTuple):
    """The potential energy of a model file, kcal/mol.

    Attributes:
        basis: the functions.
        arrays: their coefficients by name, float64, see :meth:`EnergyBasis.shapes`.
        errors: None if they are not known.
        provenance: where they come from.
    """

    basis: EnergyBasis
    arrays: dict[str, NDArray[np.float64]]
    errors: EnergyErrors | None = None
    provenance: Mapping[str, Any] = MappingProxyType({})


class EnergyHeader(BaseModel):
    """What the header of a model file holds of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    basis: EnergyBasis
    errors: EnergyErrors | None = None
    provenance: dict[str, Any] = {}
