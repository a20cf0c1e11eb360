"""The learning rate in the course of a training, and when it ends."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from lammps_trajcast.training.config import OptimizationConfig

# Why the learning rate begins to go down.
Reason = Literal["converged", "steps", "max_hours"]
# Steps of a start that are not typical: code is compiled, files are read for the first time.
UNTYPICAL_STEPS = 5
# Room in the plan for what takes longer than it did before.
SLACK = 1.02
# Steps of the way down over those that mean weights look back on: with more, the end is mixed with
# weights of a higher rate.
MEMORIES = 10


class Fall(NamedTuple):
    """How far the validation error fell over the last validations, and what is noise of it.

    Attributes:
        steps: from the first of them to the last.
        relative: 1 - error at the end / error at the beginning, of the straight line through the
            logarithms of the errors; negative where it rose.
        uncertainty: standard error of that.
    """

    steps: int
    relative: float
    uncertainty: float


class _Decay(NamedTuple):
    """From a step on, at which so much of the way down was done, until the end."""

    step: int
    progress: float
    end: int


class Schedule:
    """The learning rate of every step over the highest; see :class:`OptimizationConfig`.

    Warm-up is a straight line. With ``cosine`` half a period of a cosine follows, down to
    ``final_learning_rate`` at ``steps``. With ``plateau`` the rate stays at its highest until the
    validation error has stopped falling, or until a decay must begin to end by ``steps`` or
    ``max_hours``; then the same curve over ``decay_share`` of the steps done so far, and the end.

    Everything that decides is part of checkpoints; without ``max_hours`` a resumed run is the
    uninterrupted one.
    """

    def __init__(self, options: OptimizationConfig) -> None:
        self.options = options
        self.reason: Reason | None = None
        # Wall time, all starts together.
        self.seconds = 0.0
        self.seconds_per_step: float | None = None
        self._errors: list[tuple[int, float]] = []
        self._decay: _Decay | None = None
        self._here = (0, 0.0)  # steps and their seconds in this start
        if options.schedule == "cosine":
            assert options.steps is not None
            self.reason = "steps"
            self._decay = _Decay(options.warmup_steps, 0.0, options.steps)

    @property
    def end(self) -> int | None:
        """The step after the last, where it is known."""
        return None if self._decay is None else self._decay.end

    @property
    def latest_decay(self) -> int | None:
        """The step at which a decay must begin to end by ``steps``."""
        if self.options.steps is None or self.options.schedule == "cosine":
            return None
        return max(1, math.floor(self.options.steps / (1.0 + self.options.decay_share)))

    @property
    def decaying(self) -> bool:
        """Whether the learning rate goes down already."""
        return self._decay is not None

    def factor(self, step: int) -> float:
        """Return the learning rate of a step over the highest."""
        options = self.options
        rise = min(1.0, (step + 1) / options.warmup_steps) if options.warmup_steps else 1.0
        if self._decay is None or step < self._decay.step:
            return rise
        last = options.final_learning_rate / options.learning_rate
        down = 0.5 * (1.0 + math.cos(math.pi * min(1.0, self._progress(step))))
        return rise * (last + (1.0 - last) * down)

    def _progress(self, step: int) -> float:
        """How much of the way down is done, from 0 to 1."""
        assert self._decay is not None
        begin, before, end = self._decay
        return before + (1.0 - before) * (step - begin) / max(1, end - begin)

    def longest_memory(self) -> float:
        """Return an upper bound of the decay rate of mean weights, for the step at hand."""
        if self._decay is None or self.options.schedule == "cosine":
            return 1.0
        return max(0.0, 1.0 - MEMORIES / max(1, self._decay.end - self._decay.step))

    def next_stop(self, step: int) -> int:
        """Return where the epoch that begins at a step ends: there the network is validated."""
        every = self.options.epoch_steps
        stops = [(step // every + 1) * every, self.end]
        if self._decay is None:
            stops.append(self.latest_decay)
        return min([stop for stop in stops if stop is not None and stop > step], default=step + 1)

    # ---- what happens --------------------------------------------------------------------------

    def validated(self, step: int, error: float) -> None:
        """Take in the validation error after so many steps; the decay may begin here."""
        self._errors.append((step, error))
        if self._decay is not None:
            return
        fall = self.fall()
        if fall is not None and fall.relative + fall.uncertainty < self.options.min_fall:
            self._begin_decay(step, "converged", math.ceil(self.options.decay_share * step))
        elif self.latest_decay is not None and step >= self.latest_decay:
            assert self.options.steps is not None
            self._begin_decay(step, "steps", self.options.steps - step)

    def fall(self) -> Fall | None:
        """How far the error fell over the last ``patience`` validations before the decay.

        None before there were as many after the warm-up.
        """
        end = math.inf if self._decay is None else self._decay.step
        first = self.options.warmup_steps
        errors = [entry for entry in self._errors if first < entry[0] <= end]
        return fall_of(errors[-self.options.patience :], self.options.patience)

    def passed(self, step: int, seconds: float) -> None:
        """Record that a step is done.

        Args:
            step: number of steps done.
            seconds: wall time since the last call, validation included.
        """
        self.seconds += seconds
        steps, spent = self._here
        if steps >= UNTYPICAL_STEPS:
            spent += seconds
            self.seconds_per_step = spent / (steps + 1 - UNTYPICAL_STEPS)
        self._here = (steps + 1, spent)
        if self.options.max_hours is not None and self.seconds_per_step is not None:
            self._keep_to_time(step)

    def _keep_to_time(self, step: int) -> None:
        assert self.options.max_hours is not None and self.seconds_per_step is not None
        left = 3600.0 * self.options.max_hours - self.seconds
        affordable = max(1, math.floor(left / (SLACK * self.seconds_per_step)))
        if self._decay is None:
            wanted = math.ceil(self.options.decay_share * (step + 1))
            # One more step at the highest rate, and a decay could not be done any more.
            if affordable <= wanted + 1:
                self._begin_decay(step, "max_hours", min(wanted, affordable))
        elif step < self._decay.end and affordable < self._decay.end - step:
            # Steps take longer than they did: the rest of the way down in as many as there is time.
            self._decay = _Decay(step, self._progress(step), step + affordable)
            self.reason = self.reason if self.reason == "converged" else "max_hours"

    def _begin_decay(self, step: int, reason: Reason, steps: int) -> None:
        self.reason = reason
        most = self.options.steps
        end = step + max(1, steps)
        self._decay = _Decay(step, 0.0, end if most is None else min(end, max(most, step + 1)))

    # ---- what to tell --------------------------------------------------------------------------

    def outcome(self, step: int) -> str:
        """Say whether the error had stopped falling, in a few words.

        Args:
            step: number of steps done.
        """
        if self.options.schedule == "cosine":
            if self.options.steps is not None and step < self.options.steps:
                number = self.options.early_stopping
                return f"ended after {step} steps: {number} validations without a better one"
            return f"ended after {step} steps, as asked"
        if self.reason == "converged":
            return "converged: the validation error had stopped falling"
        fall = self.fall() or fall_of(self._before_decay(), 2)
        still = ""
        if fall is not None:
            still = (
                f", the error still fell by {100.0 * fall.relative:.1f} % over the last "
                f"{fall.steps} steps before the learning rate went down"
            )
        return f"did not converge: ended by {self.reason}{still}"

    def _before_decay(self) -> list[tuple[int, float]]:
        end = math.inf if self._decay is None else self._decay.step
        return [entry for entry in self._errors if entry[0] <= end]

    def last_step(self, step: int) -> tuple[int, Literal["exact", "at most", "at least"]]:
        """Return how many steps the training will have, as far as that is known."""
        if self.end is not None:
            return self.end, "exact"
        most = [] if self.options.steps is None else [self.options.steps]
        if self.options.max_hours is not None and self.seconds_per_step:
            left = 3600.0 * self.options.max_hours - self.seconds
            most.append(step + max(1, int(left / self.seconds_per_step)))
        if most:
            return min(most), "at most"
        begin = max(step, self.options.patience * self.options.epoch_steps)
        return math.ceil((1.0 + self.options.decay_share) * begin), "at least"

    # ---- checkpoints ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        return {
            "schedule": self.options.schedule,
            "bounds": {"steps": self.options.steps, "max_hours": self.options.max_hours},
            "errors": list(self._errors),
            "decay": None if self._decay is None else tuple(self._decay),
            "reason": self.reason,
            "seconds": self.seconds,
            "seconds_per_step": self.seconds_per_step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        A training that was ended by a bound which is wider now goes on at the highest rate.
        """
        self._errors = [(int(step), float(error)) for step, error in state["errors"]]
        self.seconds = state["seconds"]
        self.seconds_per_step = state["seconds_per_step"]
        if not state["schedule"] == self.options.schedule == "plateau" or state["decay"] is None:
            return
        reason, decay = state["reason"], _Decay(*state["decay"])
        if reason != "converged":
            before, now = state["bounds"][reason], getattr(self.options, reason)
            if now is None or now > before:
                # Errors at a low rate would make those that follow look like a rise.
                self._errors = [entry for entry in self._errors if entry[0] <= decay.step]
                return
        self.reason, self._decay = reason, decay


def fall_of(errors: list[tuple[int, float]], least: int) -> Fall | None:
    """Return how far errors fell: (step, error) of at least so many validations, two or more."""
    if len(errors) < max(2, least):
        return None
    steps, values = np.array(errors, dtype=float).T
    span = steps[-1] - steps[0]
    if span <= 0.0 or not (values > 0.0).all() or not np.isfinite(values).all():
        return None
    x = (steps - steps.mean()) / span
    y = np.log(values)
    slope = float(x @ y / (x @ x))
    rest = y - y.mean() - slope * x
    degrees = max(1, len(errors) - 2)
    uncertainty = math.sqrt(float(rest @ rest) / degrees / float(x @ x))
    return Fall(int(span), 1.0 - math.exp(slope), uncertainty)
