"""What the stages of a fit share: configuration, what is finished, the budget, the display."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lammps_trajcast.fit.config import FitConfig, FitError
from lammps_trajcast.fit.progress import Progress, in_words
from lammps_trajcast.fit.reference import SurveyRuns
from lammps_trajcast.fit.state import State
from lammps_trajcast.lammps_runs.program import lammps_command

# The share of the budget that another round of training and validation needs.
ANOTHER = 0.2


class OutOfTimeError(Exception):
    """The budget does not suffice for the next stage; the message says which."""


class Stages:
    """Stages that are done once, with what they share.

    Attributes:
        output: directory of everything.
        is_new: whether there was no YAML file before.
        state: which stages are finished.
        base: what every stage depends on.
        name: of the stage that is being done.
    """

    def __init__(self, config: FitConfig, output: Path, progress: Progress | None) -> None:
        self.output = output
        self.file = output / "fit.yaml"
        self.is_new = not self.file.exists()
        self.config = config
        _check_files(config)
        self.state = State(output / "state.json")
        self.progress = progress or Progress(config.seconds, lambda: self.state.elapsed)
        self.command = lammps_command(config.lmp)
        self.survey_runs = SurveyRuns(config, output / "survey", self.command)
        self.validation_runs = output / "runs"
        self.name = "start"
        self.base = [config.asked, self.survey_runs.content]

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.config.seconds - self.state.elapsed

    @property
    def time_for_another(self) -> bool:
        """Whether another round of training and validation can begin."""
        return self.left >= ANOTHER * self.config.seconds

    def run(
        self,
        name: str,
        depends: Any,
        work: Callable[[], dict[str, Any]],
        expected: float | None = None,
        fraction: Callable[[], tuple[float, str]] | None = None,
        finished: Callable[[dict[str, Any]], bool] = lambda _: True,
    ) -> dict[str, Any]:
        """Do a stage unless it is finished; returns what it found.

        finished: whether what it found is enough; if not, it is done again, and goes on.
        """
        self.name = name
        known = self.state.result(name, depends)
        if known is not None and finished(known):
            self.progress.skip(name)
            return known
        with (
            self.progress.stage(name, expected, fraction, self.state.note_time),
            self.quiet(),
        ):
            result = work()
        self.state.finish(name, depends, result)
        return result

    def is_finished(self, name: str, depends: Any) -> bool:
        """Whether a stage is finished and depended on the same."""
        return self.state.result(name, depends) is not None

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """What the stages print goes to a file: there is one display."""
        with (
            (self.output / "log.txt").open("a") as log,
            contextlib.redirect_stderr(log),
            contextlib.redirect_stdout(log),
        ):
            yield

    def need(self, what: str, seconds: float = 0.0) -> None:
        """Raise OutOfTimeError if so many seconds are not left."""
        if self.left < seconds or self.left <= 0.0:
            raise OutOfTimeError(
                f"the budget of {self.config.budget} ends before {what}"
                + (f", which takes about {in_words(seconds)}" if seconds else "")
            )

    def choose(self, **chosen: Any) -> None:
        """Note what was chosen in the YAML file."""
        update = self.config.chosen.model_copy(update=chosen)
        self.config = self.config.model_copy(update={"chosen": update})
        self.save()

    def save(self) -> None:
        """Write the YAML file."""
        self.config.save(self.file)

    def tell(self, text: str) -> None:
        """Show what was found."""
        self.progress.tell(text)


def _check_files(config: FitConfig) -> None:
    """Raises FitError if a file that is needed late is not there."""
    named = {
        "trajectories (--from)": config.trajectories,
        "start_from (--start-from)": (config.start_from,),
    }
    for key, paths in named.items():
        for path in paths:
            if path is not None and not path.is_file():
                raise FitError(f"{key}: {path}: no such file; correct the path")
