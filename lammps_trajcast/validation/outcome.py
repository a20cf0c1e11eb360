"""A validation as one call: for programs that need its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lammps_trajcast.lammps_runs.runner import Observer
from lammps_trajcast.validation.compare import FAILED, PASSED, UNDECIDED, Check
from lammps_trajcast.validation.config import EQUILIBRIUM, Length, ValidationConfig
from lammps_trajcast.validation.report import Report
from lammps_trajcast.validation.speed import Speeds
from lammps_trajcast.validation.validate import Validation

STATUS = {PASSED: 0, FAILED: 2, UNDECIDED: 3}


@dataclass(frozen=True)
class Outcome:
    """What a validation found.

    Attributes:
        reports: one for each protocol, in the order given.
        pages: their HTML files; each has a JSON file beside it, with the suffix .json.
    """

    reports: list[Report]
    pages: list[Path]

    @property
    def verdict(self) -> str:
        """Return "failed" if a check fails, else "undecided" if one is, else "passed"."""
        verdicts = [report.verdict for report in self.reports]
        return next((word for word in (FAILED, UNDECIDED) if word in verdicts), PASSED)

    @property
    def status(self) -> int:
        """Exit status of the command: 0 passed, 2 failed, 3 undecided."""
        return STATUS[self.verdict]

    @property
    def checks(self) -> list[Check]:
        """All checks: name, value, unit, limit, error (standard error), interval, verdict."""
        return [check for report in self.reports for check in report.checks]

    @property
    def failed(self) -> list[Check]:
        """Checks that the model fails."""
        return [check for report in self.reports for check in report.failed]

    @property
    def undecided(self) -> list[Check]:
        """Checks that are neither passed nor failed; `remark` of each says why."""
        return [check for report in self.reports for check in report.undecided]

    @property
    def speed(self) -> Speeds | None:
        """Speed of reference and model in CPU time; None if it was not measured."""
        speeds = [report.speeds for report in self.reports if report.speeds is not None]
        return speeds[0] if speeds else None

    def table(self) -> str:
        """All checks and the verdicts as text for a terminal."""
        return "\n\n".join(report.table() for report in self.reports)


def validate_model(
    config: ValidationConfig,
    directory: Path,
    *,
    length: Length = "short",
    protocols: Sequence[str] = (EQUILIBRIUM,),
    command: Sequence[str] | None = None,
    images: Path | None = None,
    observe: Observer | None = None,
) -> Outcome:
    """Run a model and its reference in LAMMPS, compare them, and write the reports.

    Runs that are finished in `directory` are not repeated: a call that was interrupted goes on
    where it was, and a longer `longest` continues the runs.

    Args:
        config: from :meth:`ValidationConfig.load`, or made in memory: then `model` and `system`
            are absolute paths. With `until_decided` in its lengths the runs go on until no check
            is undecided, or until `longest` or `max_hours` is reached.
        directory: of the reports MODEL-LENGTH.html and MODEL-LENGTH-PROTOCOL.html; the runs go to
            `runs` in it.
        length: which of the lengths of the configuration.
        protocols: "equilibrium", or names of protocols of the configuration.
        command: words that start LAMMPS; by default the `lmp` beside this Python.
        images: a directory for the plots as PNG files.
        observe: is called as observe(stage, text, seconds_left) when something has gone on: the
            name of a run with its step in words and the wall time that this run will still take;
            or a protocol with what was decided, and None.

    Raises:
        SetupError: the validation cannot be carried out; the message says what to change.
        OSError: a file cannot be written.
    """
    place = directory.resolve()
    validation = Validation(config, length, place / "runs", command, observe)
    reports, pages = [], []
    for report in validation.run(protocols):
        # Each at once: a later protocol may not come to its end.
        pages.append(report.write(directory, images))
        reports.append(report)
        if observe is not None:
            observe(report.name, report.words, None)
    return Outcome(reports, pages)
