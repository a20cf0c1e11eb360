"""The YAML file of `lammps-trajcast validate`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lammps_trajcast.recording.options import LARGEST_STRAIN
from lammps_trajcast.yaml_file import read_checked

Positive = Annotated[float, Field(gt=0.0)]
Length = Literal["short", "full"]


# The protocol at the temperature of the YAML file.
EQUILIBRIUM = "equilibrium"
# Where until_decided has no bound of its own, runs grow to so many times their length.
DEFAULT_LONGEST = 16.0


class SetupError(Exception):
    """A validation that cannot start or go on; the message says what to change."""


def _deprecated(words: str) -> None:
    print(f"WARNING: {words}", file=sys.stderr)


def known_elements(elements: list[str]) -> list[str]:
    """Return chemical symbols as they are; raise ValueError, for pydantic, if one is wrong."""
    for element in elements:
        if atomic_numbers.get(element, 0) == 0:
            raise ValueError(f"'{element}' is not a chemical element; write a symbol, as Si")
    return elements


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Reference(_Section):
    """How the reference is integrated.

    Attributes:
        timestep: time step of the reference in fs; the model's time step must be a multiple of it.
        initial_temperature: temperature in K of the velocities that the first run begins with;
            without it, the temperature of the protocol. Use twice that for atoms that start at rest
            in a crystal.
        equilibration: "local": the first half with fix langevin, which acts on each atom by itself,
            the second half with the configured thermostat; "thermostat": all of it with the
            configured thermostat.
        damping: time constant of fix langevin in ps; without it, 0.2 or an eighth of the time that
            it acts, whichever is less.
        rounds: largest number of rounds of equilibration, each twice as long as the one before,
            until the reference passes the tests of equilibrium.
        equilibrated: directory of a finished equilibration at `temperature`, with its log.lammps
            and state.dump, that the first start takes instead of an equilibration of its own.
    """

    timestep: Positive
    initial_temperature: Positive | None = None
    equilibration: Literal["local", "thermostat"] = "local"
    damping: Positive | None = None
    rounds: int = Field(3, ge=1, le=8)
    equilibrated: Path | None = None


class Lengths(_Section):
    """How long to run; times in ps, of each run.

    Attributes:
        equilibration: time of the reference before anything is measured: half of it as `reference`
            says, half with the thermostat, in which it is tested for equilibrium.
        production: time of each run with the thermostat, which most checks are made of.
        blocks: number of parts of equal length that a production is divided into; the statistical
            errors come from their differences.
        frames_every: number of horizons between the frames for structure, displacement and energy.
        spectrum: time in each block in which a frame is kept at every horizon, for the spectrum;
            without it, the whole block.
        nve: time of the runs without a thermostat, for the drift of the total energy; that of the
            reference also gives the pairs of states for the errors of single steps.
        one_step: number of these pairs of states.
        runs: number of independent runs of the model.
        reference_runs: number of independent runs of the reference with the thermostat, which are
            averaged; take more than one if a single run is too inaccurate a measure for the model.
        until_decided: whether all runs of the production are continued, each time to twice their
            length, until no check is undecided.
        longest: with until_decided, largest length of a run in ps; 16 times `production` if neither
            this nor max_hours is given.
        max_hours: with until_decided, no run is continued if the validation would probably take
            longer than so many hours of wall time.
        until_failed: with until_decided, whether runs are no longer continued as soon as a check
            fails.
        speed: number of pairs of pieces in which the speed of model and reference is measured; 0:
            not measured.
    """

    equilibration: Positive
    production: Positive
    blocks: int = Field(5, ge=2)
    frames_every: int = Field(1, ge=1)
    spectrum: Positive | None = None
    nve: Positive
    one_step: int = Field(50, ge=1)
    runs: int = Field(1, ge=1)
    reference_runs: int = Field(1, ge=1, le=500)
    until_decided: bool = False
    until_failed: bool = False
    longest: Positive | None = None
    max_hours: Positive | None = None
    speed: int = Field(3, ge=0)

    @model_validator(mode="after")
    def _bound(self) -> Lengths:
        if not self.until_decided and (self.longest or self.max_hours):
            raise ValueError(
                "longest and max_hours need until_decided: true; write that, too, or leave them out"
            )
        if not self.until_decided and self.until_failed:
            raise ValueError(
                "until_failed needs until_decided: true; write that, too, or leave it out"
            )
        if self.longest is not None and self.longest < self.production:
            raise ValueError(
                f"longest ({self.longest:g} ps) is less than production ({self.production:g} ps)"
            )
        return self

    @property
    def most(self) -> float:
        """The longest production of a run, ps."""
        if not self.until_decided:
            return self.production
        if self.longest is None:
            return float("inf") if self.max_hours else DEFAULT_LONGEST * self.production
        return self.longest


class RadialSettings(_Section):
    """How g(r) is compared.

    Attributes:
        r_max: distance in Angstrom up to which g(r) is compared.
        bin_width: width of a bin of g(r) in Angstrom.
    """

    r_max: Positive = 6.0
    bin_width: Positive = 0.02


class DiffusionSettings(_Section):
    """How diffusion coefficients are measured.

    Attributes:
        fit: two times in ps; a straight line is fitted to the mean-square displacement between
            them.
    """

    fit: tuple[float, float]

    @model_validator(mode="after")
    def _in_order(self) -> DiffusionSettings:
        if not 0.0 <= self.fit[0] < self.fit[1]:
            raise ValueError("fit must be two times in ps, the smaller first")
        return self


class SpectrumSettings(_Section):
    """How spectra are measured.

    Attributes:
        resolution: distance in THz below which two lines of the spectrum count as one; a finer
            resolution needs longer blocks.
        prominence: least prominence of a peak that is compared as a main peak, as a share of the
            highest peak.
    """

    resolution: Positive = 0.5
    prominence: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2


class Tolerances(_Section):
    """What still passes. A tolerance of null is not judged, only reported.

    Attributes:
        rdf: g(r), integral of |g - g_ref| over that of |g_ref - 1|.
        rdf_peak: difference in the position of the first peak of g(r), Angstrom.
        distribution: half the integral of |p - p_ref| of bond lengths, angles and dihedral angles.
        spectrum_similarity: least cosine of the angle between the two spectra.
        spectrum_peak: largest distance of a main peak of the reference's spectrum from the nearest
            peak of the model's, THz.
        energy: difference of the mean potential energy per atom, in kT.
        fluctuation: relative difference of a standard deviation: of the temperature to the
            canonical one, of the potential energy to the reference's.
        temperature: relative difference of the mean temperature to the thermostat's.
        element_temperature: relative difference of the mean temperature of an element to the
            thermostat's.
        wave_temperature: difference of the mean temperature of the longest waves to that of the
            reference, over the thermostat's; in a periodic cell.
        diffusion: relative difference of the diffusion constant.
        displacement: mean-square displacement, integral of the difference over that of the
            reference.
        faulty_frames: share of frames in which an atom has another number of bonds than at the
            start, beyond that of the reference.
        one_step_displacement: error of the displacement in a single step, RMSE over rms.
        one_step_velocity: error of the velocity in a single step, RMSE over rms.
        nve_drift: drift of the total energy without a thermostat, meV per atom and ps.
        own_energy: error of the potential energy in the model file, over its thermal fluctuation.
        own_pressure: error of the pressure of that energy, over the thermal fluctuation.
        elastic: difference of an elastic constant C_ij of a strain protocol, over sqrt(C_ii C_jj)
            of the reference.
        density: relative difference of the density at the pressure of the reference, in a strain
            protocol of a cell that is periodic in all directions.
        expansion: relative difference of the thermal expansion of the volume, in a strain protocol
            with `expansion`.
        series: for quench and two_temperature, mean deviation of a series over time from the
            reference, over the range that the reference goes through.
    """

    rdf: Positive | None = 0.03
    rdf_peak: Positive | None = 0.01
    distribution: Positive | None = 0.05
    spectrum_similarity: Positive | None = 0.97
    spectrum_peak: Positive | None = 1.0
    energy: Positive | None = 0.1
    fluctuation: Positive | None = 0.20
    temperature: Positive | None = 0.01
    element_temperature: Positive | None = 0.03
    wave_temperature: Positive | None = 0.05
    diffusion: Positive | None = 0.15
    displacement: Positive | None = 0.15
    faulty_frames: Annotated[float, Field(ge=0.0)] | None = 0.0
    one_step_displacement: Positive | None = None
    one_step_velocity: Positive | None = None
    nve_drift: Positive | None = None
    own_energy: Positive | None = 0.1
    own_pressure: Positive | None = None
    elastic: Positive | None = 0.10
    density: Positive | None = 0.005
    expansion: Positive | None = 0.20
    series: Positive | None = 0.10

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        if isinstance(given, dict) and "spreads" in given:
            _deprecated(
                "spreads has no effect any more, as the uncertainty of each check says what is "
                "chance; leave it out, the next release needs that"
            )
            given = {key: value for key, value in given.items() if key != "spreads"}
        return given


class Protocol(_Section):
    """One thing to do to the system: exactly one of the first four keys.

    Attributes:
        temperature: temperature in K; all checks of equilibrium at this temperature.
        quench: two temperatures in K and a rate in K/ps; the thermostat's temperature goes from the
            first to the second.
        two_temperature: two temperatures in K; the atoms in the lower half of the cell along z get
            velocities of the second, the others of the first, and there is no thermostat.
        strain: 0.01 for 1 %; elastic constants and density, from the mean pressures of cells that
            are strained to both sides along each periodic direction; the model file needs an
            energy.
        expansion: of a strain protocol: two temperatures in K; both also run in the cell as it is
            at each of them, and the thermal expansion is compared, from the pressures and the
            elastic constants of each.
        duration: time of two_temperature and of each run of strain, ps; a quench takes as long as
            its rate says.
        fix_options: of two_temperature: further keywords for fix python/trajcast in these runs, as
            "conserve yes".
    """

    temperature: Positive | None = None
    quench: tuple[Positive, Positive, Positive] | None = None
    two_temperature: tuple[Positive, Positive] | None = None
    strain: Annotated[float, Field(gt=0.0, le=LARGEST_STRAIN)] | None = None
    expansion: tuple[Positive, Positive] | None = None
    duration: Positive = 10.0
    fix_options: str = ""

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        if isinstance(given, dict) and "hot_half" in given and "two_temperature" not in given:
            _deprecated("hot_half is now two_temperature; write that, the next release needs it")
            given = {**given, "two_temperature": given["hot_half"]}
            del given["hot_half"]
        return given

    @model_validator(mode="after")
    def _exactly_one(self) -> Protocol:
        if len(self.model_fields_set - {"duration", "expansion", "fix_options"}) != 1:
            raise ValueError("needs exactly one of temperature, quench, two_temperature, strain")
        if self.expansion is not None and self.strain is None:
            raise ValueError("expansion needs strain beside it, for the elastic constants")
        if self.expansion is not None and self.expansion[0] >= self.expansion[1]:
            raise ValueError("expansion: the second temperature has to be above the first")
        if self.fix_options and self.two_temperature is None:
            raise ValueError(
                "fix_options of a protocol is for two_temperature alone; write it outside of "
                "protocols, where it is for all runs"
            )
        return self


class ValidationConfig(_Section):
    """A system and what to compare on it. Paths are relative to the YAML file.

    Attributes:
        name: title of the report.
        model: model file that is validated.
        system: LAMMPS input that defines units, atoms and the reference potential, and no more.
            LAMMPS runs in its directory.
        elements: element of LAMMPS type 1, 2, …
        temperature: temperature of the runs, K.
        thermostat: style and arguments of the thermostat fix; {start} and {stop} stand for
            temperatures, {seed} for a seed. Times are in the unit of the system (ps for metal, fs
            for real).
        fix_options: further keywords for fix python/trajcast, as "device cuda".
        seed: seed of velocities and thermostats.
        reference: how the reference is integrated, below.
        lengths: lengths of the runs, by the names `short` and `full`, below.
        rdf: settings of g(r), below; null: g(r) is not compared. Systems that are not periodic have
            none.
        spectrum: settings of the vibrational spectrum, below.
        bonds: largest length in Angstrom of a bond between two elements, as "Si-O": 2.2; bonds and
            angles are compared for these.
        permanent_bonds: whether a check requires that every atom keeps its number of bonds.
        dihedrals: IDs of four atoms whose dihedral angle is compared, by a name of your own.
        diffusion: settings of diffusion, for liquids, below; null: diffusion is not compared.
        protocols: what else to do to the system, by a name of your own, below.
        tolerances: largest deviations with which the checks pass, below.
    """

    name: str
    model: Path
    system: Path
    elements: list[str] = Field(min_length=1)
    temperature: Positive
    thermostat: str = "temp/csvr {start} {stop} 0.1 {seed}"
    fix_options: str = ""
    seed: int = Field(4928, gt=0, lt=2**31 - 1000)
    reference: Reference
    lengths: dict[Length, Lengths]
    rdf: RadialSettings | None = RadialSettings()
    spectrum: SpectrumSettings = SpectrumSettings()
    bonds: dict[str, Positive] = {}
    permanent_bonds: bool = True
    dihedrals: dict[str, tuple[int, int, int, int]] = {}
    diffusion: DiffusionSettings | None = None
    protocols: dict[str, Protocol] = {}
    tolerances: Tolerances = Tolerances()

    @field_validator("elements")
    @classmethod
    def _known_elements(cls, elements: list[str]) -> list[str]:
        return known_elements(elements)

    @field_validator("thermostat")
    @classmethod
    def _thermostat_fields(cls, line: str) -> str:
        unknown = set(re.findall(r"\{(.*?)\}", line)) - {"start", "stop", "seed"}
        if unknown:
            raise ValueError(
                f"unknown {{{sorted(unknown)[0]}}}; only {{start}}, {{stop}} and {{seed}} are set"
            )
        if "{start}" not in line or "{stop}" not in line:
            raise ValueError("needs {start} and {stop}, as in temp/csvr {start} {stop} 0.1 {seed}")
        return line

    @field_validator("protocols")
    @classmethod
    def _protocol_names(cls, protocols: dict[str, Protocol]) -> dict[str, Protocol]:
        for name in protocols:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in ("all", EQUILIBRIUM):
                raise ValueError(
                    f"'{name}': a name has letters, digits, _ and - only, and is neither all nor "
                    f"{EQUILIBRIUM}"
                )
        return protocols

    @model_validator(mode="after")
    def _bonds_between_elements(self) -> ValidationConfig:
        for name in self.bonds:
            ends = name.split("-")
            if len(ends) != 2 or not set(ends) <= set(self.elements):
                raise ValueError(
                    f"bonds: '{name}' names no pair of {' '.join(self.elements)}; write them as "
                    f"{self.elements[0]}-{self.elements[-1]}"
                )
        for name, atoms in self.dihedrals.items():
            if min(atoms) < 1 or len(set(atoms)) != 4:
                raise ValueError(f"dihedrals: '{name}' needs the IDs of four different atoms")
        return self

    @property
    def bond_cutoffs(self) -> dict[tuple[int, int], float]:
        """`bonds` by species indices in ascending order."""
        order = list(dict.fromkeys(self.elements))
        cutoffs = {}
        for name, cutoff in self.bonds.items():
            first, second = sorted(order.index(element) for element in name.split("-"))
            cutoffs[first, second] = cutoff
        return cutoffs

    @classmethod
    def load(cls, path: Path | str) -> ValidationConfig:
        """Read and check a YAML file.

        Raises:
            SetupError: a value is wrong; the message names file, line, key and fault.
        """
        path = Path(path)
        config, _ = read_checked(path, cls, SetupError)
        here = path.resolve().parent
        reference = config.reference
        if reference.equilibrated is not None:
            reference = reference.model_copy(update={"equilibrated": here / reference.equilibrated})
        return config.model_copy(
            update={
                "model": here / config.model,
                "system": here / config.system,
                "reference": reference,
            }
        )
