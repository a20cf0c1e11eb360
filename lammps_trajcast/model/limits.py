"""How far the states of a model's training data went: where its predictions can be trusted."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lammps_trajcast.units import TIME_IN_FS, Units

_Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_Temperature = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Limits(BaseModel):
    """Extremes of the training data, by species, in the order of the model's species.

    Lengths in Angstrom, speeds in the velocity unit of the model. None: there was no such atom, or
    no such pair of atoms near each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_displacement: tuple[_Positive | None, ...]  # (S,) largest in one time step of the model
    rms_displacement: tuple[_Positive | None, ...]  # (S,) root mean square of its length
    max_speed: tuple[_Positive | None, ...]  # (S,)
    rms_speed: tuple[_Positive | None, ...]  # (S,)
    min_distance: tuple[tuple[_Positive | None, ...], ...]  # (S, S) smallest, for pairs of species
    # (S,) largest from an atom to its nearest neighbor; None: files of earlier releases do not say
    max_nearest_distance: tuple[_Positive | None, ...] | None = None
    min_temperature: _Temperature  # K, kinetic, of a frame
    mean_temperature: _Temperature  # K
    max_temperature: _Temperature  # K

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, given: Any) -> Any:
        # The name in files of releases before 0.2.
        if isinstance(given, dict) and "max_isolation" in given:
            given = dict(given)
            given.setdefault("max_nearest_distance", given.pop("max_isolation"))
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Limits:
        rows = [self.max_displacement, self.rms_displacement, self.max_speed, self.rms_speed]
        if self.max_nearest_distance is not None:
            rows.append(self.max_nearest_distance)
        if any(len(row) != self.num_species for row in (*rows, *self.min_distance)):
            raise ValueError("its lists must have one number for each species")
        if self.min_distance != tuple(zip(*self.min_distance, strict=True)):
            raise ValueError("min_distance must be symmetric")
        return self

    @property
    def num_species(self) -> int:
        """How many species there are."""
        return len(self.min_distance)

    def has_seen(self, species: int) -> bool:
        """Whether the training data held an atom of a species.

        One that never moved and had no other atom near it counts as none.
        """
        rows = (self.max_displacement, self.max_speed, self.max_nearest_distance or ())
        return any(len(row) > species and row[species] is not None for row in rows) or any(
            distance is not None for distance in self.min_distance[species]
        )

    def of_species(self, order: list[int]) -> Limits:
        """Return the limits of species order[0], order[1], ..."""

        def pick(row: tuple[_Positive | None, ...]) -> tuple[_Positive | None, ...]:
            return tuple(row[k] for k in order)

        return self.model_copy(
            update={
                "max_displacement": pick(self.max_displacement),
                "rms_displacement": pick(self.rms_displacement),
                "max_speed": pick(self.max_speed),
                "rms_speed": pick(self.rms_speed),
                "min_distance": tuple(pick(self.min_distance[k]) for k in order),
                "max_nearest_distance": None
                if self.max_nearest_distance is None
                else pick(self.max_nearest_distance),
            }
        )

    def converted(self, before: Units, after: Units) -> Limits:
        """Return the limits with speeds in the velocity unit of other units."""
        factor = TIME_IN_FS[after] / TIME_IN_FS[before]

        def scale(row: tuple[_Positive | None, ...]) -> tuple[_Positive | None, ...]:
            return tuple(None if speed is None else speed * factor for speed in row)

        return self.model_copy(
            update={"max_speed": scale(self.max_speed), "rms_speed": scale(self.rms_speed)}
        )
