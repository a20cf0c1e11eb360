"""The validation of a model of a fit: what it compares, how long, what that costs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lammps_trajcast.fit.config import FitConfig
from lammps_trajcast.fit.proof import WORST, Outcome
from lammps_trajcast.fit.reference import Inspected
from lammps_trajcast.validation.config import (
    DiffusionSettings,
    Lengths,
    RadialSettings,
    Reference,
    SetupError,
    SpectrumSettings,
    Tolerances,
    ValidationConfig,
)
from lammps_trajcast.validation.report import Report
from lammps_trajcast.validation.validate import Validation

# Frames of all atoms of which a block is made, at most; ps of a block in which spectra are taken.
FRAMES_OF_A_BLOCK, SPECTRUM = 500_000, 10.0
# ps: the longest production that is planned, and of the probe.
LONGEST, PROBE = 100.0, (4.0, 10.0)


@dataclass(frozen=True)
class Judged:
    """A validated model.

    Attributes:
        outcome: of its checks.
        report: None if its runs did not start.
        speed: times the simulated time of the reference in the same CPU time, None if not known.
        length: ps that each run of the reference has, None if not known.
    """

    outcome: Outcome
    report: Report | None
    speed: float | None
    length: float | None = None


def validation_config(
    config: FitConfig,
    inspected: Inspected,
    time_unit: float,
    *,
    model: Path,
    horizon: float,
    timestep: float,
    initial_temperature: float,
    equilibration: float,
    rounds: int,
    start: Path | None,
    liquid: bool,
    reversible: bool,
    lengths: dict[str, float],
    max_hours: float | None = None,
) -> ValidationConfig:
    """What `validate` compares.

    time_unit, timestep, horizon: fs. lengths: production of "probe" and "full", ps,
    and the "longest" to which the latter is continued until no check is undecided (infinity: only
    the time bounds it), within so many hours.
    equilibration: ps, of the first of so many rounds; start: directory of one that is finished.
    """
    periodic = all(inspected.periodic)
    options = f"{config.fix_options} {'reversible yes' if reversible else ''}".strip()
    half = 0.5 * min((h for h in inspected.heights if h > 0.0), default=12.0)
    every = max(1, -(-inspected.atoms // 2000))
    runs = config.validation

    def of(production: float, longest: float, independent: int, speed: int) -> Lengths:
        shortest = 4.0 * every * runs.blocks * horizon * 1e-3
        whole = max(production, 1.001 * shortest)
        nve = runs.nve or max(min(0.1 * whole, 5.0), 20.0 * horizon * 1e-3)
        return Lengths.model_validate(
            {
                "equilibration": equilibration,
                "production": whole,
                "blocks": runs.blocks,
                "frames_every": every,
                "spectrum": min(SPECTRUM, whole / runs.blocks),
                "nve": nve,
                "one_step": 20,
                "runs": independent,
                "speed": speed,
                "until_decided": longest > whole,
                # The time is for the other kind of steps, or for a better model.
                "until_failed": longest > whole,
                "longest": longest if whole < longest < math.inf else None,
                "max_hours": max_hours if longest > whole else None,
            }
        )

    full = of(lengths["full"], lengths["longest"], runs.runs, runs.speed)
    diffusion = None
    if liquid:
        # Lags reach half a block.
        block = full.production / full.blocks
        diffusion = DiffusionSettings(fit=(0.1 * block, 0.4 * block))
    return ValidationConfig(
        name=config.name,
        model=model,
        system=config.system,
        elements=config.elements,
        temperature=config.temperature,
        thermostat=config.thermostat_in(time_unit, inspected.isolated),
        fix_options=options,
        seed=4928 + config.seed,
        reference=Reference(
            timestep=timestep,
            initial_temperature=initial_temperature,
            rounds=rounds,
            equilibrated=start,
        ),
        lengths={"short": of(lengths["probe"], 0.0, 1, 0), "full": full},
        rdf=RadialSettings(r_max=float(f"{min(8.0, 0.98 * half):.3g}")) if periodic else None,
        spectrum=SpectrumSettings(),
        diffusion=diffusion,
        tolerances=_tolerances(config, inspected),
    )


def _tolerances(config: FitConfig, inspected: Inspected) -> Tolerances:
    """Those of the fit; displacements of a molecule that turns are not judged unless asked for.

    Its few turns say so little that the reference itself fails the check.
    """
    given = config.tolerances
    if not inspected.isolated or "displacement" in given.model_fields_set:
        return given
    return given.model_copy(update={"displacement": None})


def judge(config: ValidationConfig, length: str, runs: Path, command: Sequence[str]) -> Judged:
    """Run a validation. A model that cannot be run fails; raises SetupError for the rest."""
    validation = Validation(config, length, runs, command)  # type: ignore[arg-type]
    if not config.diffusion or length == "short":
        # The fit of a diffusion constant needs the lags of the full length.
        validation.config = config.model_copy(update={"diffusion": None})
    try:
        (report,) = validation.run()
    except SetupError as error:
        if str(error).startswith("the reference failed"):
            raise
        return Judged(Outcome(0, [str(error)], [], [], WORST, unstable=True), None, None)
    speeds = report.speeds
    after = re.search(r"after (\S+) ps", report.note)
    return Judged(
        Outcome.of(report),
        report,
        speeds.ratio if speeds else None,
        float(after[1]) if after else None,
    )


def model_step_seconds(runs: Path) -> float | None:
    """Wall time of a step of the model, from its newest run; None if there is none."""
    logs = sorted(runs.glob("equilibrium-model-*/log.lammps"), key=lambda p: p.stat().st_mtime)
    for log in reversed(logs):
        text = log.read_text(errors="replace")
        found = re.findall(r"^Loop time of (\S+) on \d+ procs for (\d+) steps", text, re.MULTILINE)
        steps = sum(int(number) for _, number in found)
        if steps:
            return sum(float(seconds) for seconds, _ in found) / steps
    return None


def seconds_a_picosecond(
    timestep: float, horizon: float, of_reference: float, of_model: float, runs: int
) -> float:
    """Wall time of a ps of production of both: reference, model, energies of the model's frames.

    Args:
        timestep: of the reference, fs.
        horizon: time step of the model, fs.
        of_reference: wall time of a step of the reference, s.
        of_model: wall time of a step of the model, s.
        runs: number of runs of the model.

    Returns:
        Seconds.
    """
    reference = of_reference / timestep
    return 1e3 * (reference + runs * (of_model + of_reference) / horizon)


def production_in(seconds: float, a_picosecond: float, horizon: float, blocks: int) -> float:
    """Length of a production that takes a given time; at least ten frames a block.

    Args:
        seconds: wall time to spend.
        a_picosecond: wall time of a ps, s.
        horizon: time step of the model, fs.
        blocks: number of blocks of the production.

    Returns:
        Picoseconds, at most the longest production.
    """
    shortest = 10.0 * blocks * horizon * 1e-3
    return float(f"{min(max(seconds / a_picosecond, shortest), LONGEST):.3g}")
