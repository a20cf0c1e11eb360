"""The YAML file of `lammps-trajcast fit`: what was asked for, and what was chosen."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from lammps_trajcast.atomic_file import replacing
from lammps_trajcast.model.file import explain
from lammps_trajcast.recording.options import LARGEST_STRAIN
from lammps_trajcast.training.config import NetworkConfig, OptimizationConfig
from lammps_trajcast.validation.config import Tolerances, known_elements
from lammps_trajcast.yaml_file import read_checked

Positive = Annotated[float, Field(gt=0.0)]

# What comes below it in fit.yaml is written by the program.
MARK = "# ---- Chosen by lammps-trajcast fit; used as it is. Delete a part to have it chosen anew."
HEAD = """\
# What `lammps-trajcast fit` makes a model of, and how; the same command, or
#   lammps-trajcast fit {path}
# goes on where it was interrupted. All keys: docs/your_own_system.md
"""
# Temperatures of the data, in units of that asked for.
RECORDED = (0.75, 1.0, 1.25, 1.6)
SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

# What is best is the default: docs/training.md has the measurements.
NETWORK: dict[str, Any] = {
    "max_rotation_order": 2,
    "num_hidden_channels": 32,
    "num_mp_layers": 4,
    "edge_mlp_kwargs": {"n_neurons": [32, 32, 32]},
    "velocity_harmonics": "solid",
    "message_features": "both",
    "feature_parity": "natural",
    "speed_units": "element",
    "speed_limit_rms": 2.0,
    "nl_gate_kwargs": {"activation_gates": {"e": "sigmoid"}},
}


class FitError(Exception):
    """A fit that cannot start or go on; the message says what to change."""


def seconds_of(text: str) -> float:
    """Return the seconds of a duration like "2h", "90m", "1h30m" or "45s".

    Raises:
        ValueError: the text is not a duration.
    """
    parts = re.findall(r"([0-9.]+)\s*(min|[smhd])", text)
    if not parts or "".join(f"{n}{u}" for n, u in parts) != re.sub(r"\s", "", text):
        raise ValueError(f"'{text}' is not a duration; write 2h, 90m or 1h30m")
    try:
        total = sum(float(number) * SECONDS[unit] for number, unit in parts)
    except ValueError:
        raise ValueError(f"'{text}' is not a duration; write 2h, 90m or 1h30m") from None
    if not total > 0.0:
        raise ValueError(f"'{text}': must be longer than nothing")
    return total


def plain(path: Path) -> Path:
    """The absolute path without . and ..: one file has one name, on which stages depend."""
    return Path(os.path.abspath(path))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recording(_Section):
    """NVE segments of the data set at each temperature. Keys that are absent are chosen.

    Attributes:
        segments: number of segments for each temperature.
        segment_length: length of a segment, ps.
        decorrelate: time with the thermostat between two segments, ps.
        equilibration: time with the thermostat before the first segment, ps.
        strain: largest strain of the cell, drawn anew for each segment, so that the potential
            energy learns pressures; without it 0.01 for periodic systems.
    """

    segments: int | None = Field(None, ge=10)
    segment_length: Positive | None = None
    decorrelate: Positive | None = None
    equilibration: Positive | None = None
    strain: float | None = Field(None, ge=0.0, le=LARGEST_STRAIN)


class Runs(_Section):
    """Runs of the validation, as in the YAML file of `validate`. Keys that are absent are chosen.

    A production is continued to its longest as long as a check is undecided by chance.

    Attributes:
        equilibration: time of the reference before anything is measured, ps.
        production: length of each run with the thermostat, at first, ps.
        blocks: number of parts of equal length that a production is divided into; the statistical
            errors come from their differences.
        nve: length of the runs without a thermostat, ps.
        longest: length up to which a production is continued, ps.
        runs: number of independent runs of the model.
        speed: number of pairs of pieces in which the speed of model and reference is measured; 0:
            not measured.
        probe: length of the short run that chooses between plain and reversible steps, ps.
    """

    equilibration: Positive | None = None
    production: Positive | None = None
    blocks: int = Field(5, ge=2)
    nve: Positive | None = None
    longest: Positive | None = None
    runs: int = Field(1, ge=1)
    speed: int = Field(2, ge=0)
    probe: Positive | None = None


class Round(_Section):
    """One training, with its data set and what followed.

    Attributes:
        horizon: time step of the model, fs.
        segments: number of segments of the data set for each temperature.
        hours: wall time of the training in hours, at most; it ends when the error has stopped
            falling.
        epoch_steps: number of steps between two validations of the training.
        steps: number of optimizer steps, at most.
        budget: budget of the whole fit when the length of the training was chosen.
        start_from: number of the round whose model the training began with, from 1.
        reversible: whether the fix takes reversible steps, as the probe has decided.
        production: length of the runs of the validation, at first, ps.
    """

    horizon: Positive
    segments: int = Field(ge=1)
    epoch_steps: int = Field(ge=1)
    hours: Positive | None = None
    steps: int | None = Field(None, ge=1)
    budget: str | None = None
    start_from: int | None = None
    reversible: bool | None = None
    production: Positive | None = None


class Chosen(_Section):
    """What the program has chosen.

    Attributes:
        timestep: time step of the reference, fs.
        initial_temperature: temperature of the velocities that the reference begins with, K.
        network: keys of the section `network` in the YAML file of `train`.
        batch_size: number of frames in a mini-batch of the training.
        equilibration: time of equilibration of the reference, ps.
        recording: lengths of the recording of the data set, ps.
        rounds: the trainings, each with its data set and what followed.
    """

    timestep: Positive | None = None
    initial_temperature: Positive | None = None
    network: dict[str, Any] | None = None
    batch_size: int | None = None
    recording: dict[str, float] | None = None
    equilibration: Positive | None = None
    rounds: tuple[Round, ...] = ()


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


class FitConfig(_Section):
    """Everything that decides the result. Paths are relative to the YAML file.

    Attributes:
        name: name of the model; files are named after it.
        system: LAMMPS input that defines units, atoms and the reference potential, and no more.
        elements: element of LAMMPS type 1, 2, …
        temperature: temperature in K at which the model is validated.
        temperatures: temperatures in K at which the data are recorded; without it, 25 % less than
            `temperature`, the same, 25 and 60 % more.
        budget: wall time of the whole fit, as "90m", "2h" or "1h30m".
        seed: seed of all random numbers.
        thermostat: style and arguments of the thermostat, as in the YAML file of `validate`;
            without it, temp/csvr with a time of 0.1 ps, for an isolated molecule langevin with 0.5
            ps.
        timestep: time step of the reference, fs; without it, that of the system, or a twentieth of
            the shortest period.
        masses: mass of each LAMMPS type in g/mol, if those of the system are not near standard
            weights.
        horizon: time step of the model, fs; without it, the longest that comes out proven.
        reversible: whether the fix takes reversible steps, which cost three times as much; without
            it, a short run decides.
        trajectories: data sets (.h5), dumps, extended XYZ or .traj files to begin with instead of a
            recording.
        interval: time between the frames of the trajectories in fs, if the files do not contain it.
        start_from: model file to fine-tune; the training begins with its weights.
        fix_options: further keywords for fix python/trajcast in all runs, as "device cuda".
        rounds: largest number of rounds; each is a training and a validation.
        lmp: command that starts LAMMPS, as "mpirun -np 4 lmp".
        network: keys of the section `network` in the YAML file of `train`, in place of the
            defaults.
        optimization: keys of the section `optimization` in the YAML file of `train`, in place of
            the defaults.
        recording: lengths of the recording of the data set, below.
        validation: lengths of the runs that judge the model, below.
        tolerances: tolerances of the checks, as in the YAML file of `validate`.
        chosen: what the program has chosen; it writes this section, below a line that says so.
            Delete a part to have it chosen again.
    """

    # What the options of the command line are called in the file.
    moved: ClassVar[dict[str, str]] = {"from": "no such key; write trajectories"}

    name: str
    system: Path
    elements: list[str] = Field(min_length=1)
    temperature: Positive
    temperatures: list[Positive] | None = Field(None, min_length=1)
    budget: str = "2h"
    seed: int = Field(1, ge=1, lt=2**20)
    thermostat: str | None = None
    timestep: Positive | None = None
    masses: list[Positive] | None = None
    horizon: Positive | None = None
    reversible: bool | None = None
    trajectories: Annotated[tuple[Path, ...], BeforeValidator(_as_list)] = ()
    interval: Positive | None = None
    start_from: Path | None = None
    fix_options: str = ""
    rounds: int = Field(4, ge=1, le=20)
    lmp: str | None = None
    network: dict[str, Any] = {}
    optimization: dict[str, Any] = {}
    recording: Recording = Field(default_factory=lambda: Recording.model_validate({}))
    validation: Runs = Field(default_factory=lambda: Runs.model_validate({}))
    tolerances: Tolerances = Tolerances()
    chosen: Chosen = Chosen()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(
                f"'{name}' cannot be a model's name, which is that of the directory --output; use "
                "letters, digits, _, - and . only, and no . or - at the beginning"
            )
        return name

    @field_validator("elements")
    @classmethod
    def _known_elements(cls, elements: list[str]) -> list[str]:
        return known_elements(elements)

    @field_validator("budget")
    @classmethod
    def _a_duration(cls, text: str) -> str:
        seconds_of(text)
        return text

    @field_validator("network")
    @classmethod
    def _network_keys(cls, network: dict[str, Any]) -> dict[str, Any]:
        # Any cutoff will do for the check: without one it is chosen.
        _check_keys(NetworkConfig, {"edge_cutoff": 5.0, **NETWORK, **network})
        return network

    @field_validator("optimization")
    @classmethod
    def _optimization_keys(cls, optimization: dict[str, Any]) -> dict[str, Any]:
        _check_keys(OptimizationConfig, optimization)
        return optimization

    @property
    def seconds(self) -> float:
        """The budget in seconds."""
        return seconds_of(self.budget)

    def thermostat_in(self, time_unit: float, isolated: bool) -> str:
        """The thermostat, for a time unit of so many fs.

        One that scales all velocities alike leaves the few modes of an isolated molecule with the
        shares of the energy that they have for longer than an expensive reference can be run.
        """
        if self.thermostat is not None:
            return self.thermostat
        if isolated:
            return f"langevin {{start}} {{stop}} {500.0 / time_unit:g} {{seed}}"
        return f"temp/csvr {{start}} {{stop}} {100.0 / time_unit:g} {{seed}}"

    @property
    def recorded(self) -> list[float]:
        """The temperatures of the data, K.

        The hottest is for the rare states of a run: atoms that once in 100 ps come as close as a
        colder sample of a few ps does not show.
        """
        if self.temperatures is not None:
            return self.temperatures
        return [float(f"{part * self.temperature:.4g}") for part in RECORDED]

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, without what was chosen and without the budget."""
        return self.model_dump(mode="json", exclude={"chosen", "budget"}, exclude_defaults=True)

    @classmethod
    def load(cls, path: Path) -> FitConfig:
        """Read and check a YAML file; paths become absolute.

        Raises:
            FitError: a value is wrong; the message names file, line, key and fault.
        """
        config, _ = read_checked(path, cls, FitError)
        return config.with_paths_from(path.resolve().parent)

    def with_paths_from(self, here: Path) -> FitConfig:
        """The same with absolute paths, relative ones counted from a directory."""
        return self.model_copy(
            update={
                "system": plain(here / self.system),
                "trajectories": tuple(plain(here / path) for path in self.trajectories),
                "start_from": self.start_from and plain(here / self.start_from),
            }
        )

    def save(self, path: Path) -> None:
        """Write the YAML file; of one that is there only the chosen part and the budget change.

        Raises:
            OSError: the file cannot be written.
        """
        if path.is_file():
            above = path.read_text().partition(MARK)[0].rstrip("\n") + "\n"
            above = re.sub(r"(?m)^budget:.*$", f"budget: {self.budget}", above)
            if not re.search(r"(?m)^budget:", above):
                above += f"budget: {self.budget}\n"
            # A chosen part that stands above the mark was moved or written by hand.
            above = re.sub(r"(?ms)^chosen:.*?(?=^\S|\Z)", "", above)
        else:
            above = HEAD.format(path=path.name) + self._text(path.resolve().parent)
        chosen = self.chosen.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        below = yaml.safe_dump({"chosen": chosen}, sort_keys=False, default_flow_style=None)
        write_whole(path, f"{above}\n{MARK}\n{below}" if chosen else above)

    def _text(self, here: Path) -> str:
        content = self.model_dump(mode="json", exclude={"chosen"}, exclude_unset=True)
        content["budget"] = self.budget
        for key in ("system", "start_from"):
            if content.get(key) is not None:
                content[key] = os.path.relpath(content[key], here)
        if content.get("trajectories"):
            content["trajectories"] = [os.path.relpath(p, here) for p in content["trajectories"]]
        content = {key: value for key, value in content.items() if value not in (None, [])}
        return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def _check_keys(section: type[BaseModel], content: dict[str, Any]) -> None:
    try:
        section(**content)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is whole or not there; raises OSError."""
    with replacing(path) as partial:
        partial.write_text(text)


Verdict = Literal["proven", "fails", "undecided"]
