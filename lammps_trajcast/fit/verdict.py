"""Three lines: what the model may be used for, which checks it does not pass, what to do."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lammps_trajcast.fit.config import FitConfig
from lammps_trajcast.fit.config import Verdict as Word
from lammps_trajcast.fit.proof import Outcome
from lammps_trajcast.fit.reference import Inspected

EXIT = {"proven": 0, "fails": 2, "undecided": 3}
# Checks that are named in a line.
NAMED = 4


@dataclass(frozen=True)
class Verdict:
    """What a fit ends with.

    Attributes:
        word: the whole in a word.
        lines: use, checks, advice.
    """

    word: Word
    lines: tuple[str, str, str]

    @property
    def status(self) -> int:
        """Exit status."""
        return EXIT[self.word]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Facts:
    """What a verdict is made of.

    Attributes:
        horizon, timestep: fs.
        converged: whether the error had stopped falling at the end of the training.
        training: how it ended, in words.
        out_of_time: why the budget ended the fit, or empty.
    """

    model: Path
    horizon: float
    timestep: float
    reversible: bool
    production: float
    speed: float | None
    cutoff: float
    converged: bool
    training: str
    out_of_time: str = ""


def make_verdict(
    config: FitConfig, inspected: Inspected, outcome: Outcome, facts: Facts
) -> Verdict:
    """Say it."""
    word = outcome.verdict
    recorded = config.recorded
    step = f"{facts.horizon:g} fs a step" + (", reversible steps" if facts.reversible else "")
    what = f"{' '.join(dict.fromkeys(config.elements))} at {config.temperature:g} K"
    cell = f"{inspected.atoms} atoms"
    if inspected.isolated:
        cell += " (an isolated molecule)"
    known = (
        f"trained on {min(recorded):g} to {max(recorded):g} K"
        if not config.trajectories
        else "trained on the given trajectories"
    )
    if word == "proven":
        use = (
            f"USE: {facts.model.name} is proven for {what}, {step}, cells of about {cell} ({known})"
        )
    elif word == "undecided":
        use = f"USE: {facts.model.name} may serve for {what}, {step}, {cell}; it is not proven"
    else:
        use = f"USE: {facts.model.name} is not to be used: a check fails ({what}, {step}, {cell})"
    if facts.speed is not None:
        times, than = (facts.speed, "faster") if facts.speed >= 1.0 else (1 / facts.speed, "slower")
        use += f"; {times:.2g} times {than} than the reference"
    checks = f"CHECKS: {outcome} over {facts.production:g} ps"
    if outcome.fails:
        checks += f". Fails: {_some(outcome.fails)}"
    if outcome.undecided:
        checks += f". Undecided: {_some(outcome.undecided)}"
    advice = _advice(inspected, outcome, facts, twice(config.seconds))
    return Verdict(word, (use + ".", checks + ".", f"NEXT: {advice}"))


def as_dict(verdict: Verdict, outcome: Outcome, facts: Facts, seconds: float) -> dict[str, Any]:
    """Return what verdict.json holds; times in fs, production in ps, seconds of the whole fit."""
    return {
        "verdict": verdict.word,
        "lines": list(verdict.lines),
        "model": facts.model.name,
        "passed": outcome.passed,
        "fails": outcome.fails,
        "undecided": outcome.undecided,
        "horizon": facts.horizon,
        "timestep": facts.timestep,
        "reversible": facts.reversible,
        "production": facts.production,
        "speed": facts.speed,
        "converged": facts.converged,
        "seconds": round(seconds, 1),
    }


def twice(seconds: float) -> str:
    """Twice a duration, as --budget takes it."""
    minutes = max(round(2.0 * seconds / 60.0), 1)
    hours, rest = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{rest}m" if rest or not hours else "")


def _advice(inspected: Inspected, outcome: Outcome, facts: Facts, budget: str) -> str:
    parts: list[str] = []
    more = f"the same command with --budget {budget} or more"
    if outcome.fails:
        if facts.out_of_time:
            parts.append(facts.out_of_time)
        if facts.out_of_time or not facts.converged:
            parts.append(f"{more} goes on from what is there")
        if not facts.converged:
            parts.append(f"the training {facts.training}")
        elif not facts.out_of_time:
            parts.append(
                "the training has converged: try a shorter --horizon with another --output, or "
                "more num_hidden_channels under network in fit.yaml"
            )
        if all(fault.startswith("temperature of ") for fault in outcome.fails):
            parts.append(
                "under fix langevin these temperatures are often right: write 'thermostat: "
                "langevin {start} {stop} 0.5 {seed}' (500 in units real) in fit.yaml, which begins "
                "with another equilibration and data set"
            )
    elif outcome.undecided:
        if outcome.doubtful and not facts.converged:
            parts.append(f"the training {facts.training}: {more} trains it further")
        elif outcome.noisy:
            parts.append(f"longer runs decide: {more} goes on with them")
        else:
            parts.append("the reference itself is too noisy or not in equilibrium: see the report")
        if facts.out_of_time:
            parts.append(facts.out_of_time)
    else:
        parts.append("run the input script beside the model")
        if not facts.converged:
            parts.append(f"the training {facts.training}: a larger --budget may make it better")
    narrow = narrow_cell(inspected, facts.cutoff)
    if narrow:
        parts.append(narrow.removeprefix("; "))
    elif not outcome.fails:
        parts.append("validate in larger cells and at other temperatures before using it there")
    return "; ".join(parts) + "."


def narrow_cell(inspected: Inspected, cutoff: float) -> str:
    """A remark, if a cell is so narrow that an atom would see images of its neighbors."""
    sides = [h for h, flag in zip(inspected.heights, inspected.periodic, strict=True) if flag]
    if not sides or min(sides) >= 2.0 * cutoff:
        return ""
    return (
        f"; the cell is only {min(sides):.3g} Å wide with a cutoff of {cutoff:g} Å: fit in a "
        "larger one (replicate) before larger cells are trusted"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more


def put_on_top(report: Path, verdict: Verdict) -> None:
    """Write the verdict above everything else in a report; raises OSError."""
    kind = {"proven": "passed", "fails": "failed", "undecided": "undecided"}[verdict.word]
    lines = "".join(f"<p>{html.escape(line)}</p>\n" for line in verdict.lines)
    box = (
        f'<main>\n<div class="verdict {kind}"><p><strong>{verdict.word.capitalize()}</strong></p>\n'
        f"{lines}</div>"
    )
    report.write_text(report.read_text().replace("<main>", box, 1))
