"""What follows from the measurements: time steps, network, and how to spend the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lammps_trajcast.fit.config import NETWORK, FitConfig, FitError

# The reference takes so many steps in the shortest period; those that people write.
STEPS_IN_A_PERIOD = 20
USUAL_STEPS = (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
# Horizons over the shortest period. Reversible steps hold below a half; the next one is taken if
# that does not come out proven.
LONGEST, NEXT = 0.45, 0.3
# Steps of the reference in a horizon below which a model hardly pays.
PAYS = 5
# Seconds that the network takes for an atom on one core, about: 22 to 70 µs were measured.
NETWORK_SECONDS = 35e-6
# Shares of the budget, and of what is left of it when a training begins: a cheap reference leaves
# more.
SURVEY_SHARE, RECORD_SHARE, TRAIN_SHARE = 0.08, 0.15, 0.58
# And of the whole budget, to fit the potential energy, which mostly takes less.
ENERGY_SHARE = 0.04
# Segments for each temperature below which the reference counts as expensive, and atoms below which
# a frame says so little that no time is left unrecorded.
FEW_SEGMENTS, FEW_ATOMS = 40, 64
# Largest strain of a recorded cell: pressure and elastic constants are what cells of the same size
# do not show.
STRAIN = 0.01
# Pairs that begin within a horizon, at least and at most.
PAIRS_IN_A_HORIZON, FRAMES_IN_A_HORIZON = 3, 12
# Atoms in a mini-batch.
BATCH_ATOMS = 1000
# With fewer, a step costs what its calls cost: ethanol's takes 0.033 s with 4 frames, 0.050 s with
# 16, with which errors were 0.009 and 0.014 after 8 minutes; with 4 they were 0.013 and 0.020 after
# 17 minutes.
BATCH_ATOMS_AT_LEAST = 144


def first_step(masses: Sequence[float]) -> float:
    """Return a time step, fs, for a reference whose shortest period is not known yet.

    Args:
        masses: of the types, g/mol. Up to oxygen and sodium there are bonds with periods of 20 fs,
            with hydrogen of 9 fs.
    """
    lightest = min(masses)
    return 0.5 if lightest < 2.5 else 1.0 if lightest < 24.0 else 2.0


def reference_step(period: float) -> float:
    """The time step of the reference for a shortest period, both in fs."""
    allowed = [step for step in USUAL_STEPS if step <= period / STEPS_IN_A_PERIOD]
    return allowed[-1] if allowed else period / STEPS_IN_A_PERIOD


def longest_horizon(period: float, timestep: float, share: float = LONGEST) -> float:
    """Return the largest multiple of the time step below a share of a period.

    Args:
        period: of the fastest vibration, fs.
        timestep: of the reference, fs.
        share: of the period.

    Returns:
        The horizon, fs; at least one time step. It is up to two time steps shorter where no frames
        could be stored in between.
    """
    steps = max(int(share * period / timestep + 1e-9), 1)
    # At most two less have a divisor for frames in between, as 13 steps have not.
    for fewer in range(steps, max(steps - 3, PAIRS_IN_A_HORIZON), -1):
        if _steps_between_frames(fewer) is not None:
            return timestep * fewer
    return timestep * steps


def expected_speed(atoms: int, horizon: float, timestep: float, step_seconds: float) -> float:
    """Roughly how many times faster than the reference a model will be, with plain steps.

    Args:
        atoms: number.
        horizon: fs.
        timestep: of the reference, fs.
        step_seconds: wall time of a step of the reference.
    """
    return horizon / timestep * step_seconds / (NETWORK_SECONDS * atoms)


def check_horizon(horizon: float, timestep: float) -> None:
    """Check that a horizon is a multiple of the reference's time step.

    Args:
        horizon: fs.
        timestep: of the reference, fs.

    Raises:
        FitError: it is not.
    """
    steps = round(horizon / timestep)
    if steps < 1 or abs(steps * timestep - horizon) > 1e-6 * horizon:
        raise FitError(
            f"horizon: {horizon:g} fs is not a multiple of the reference's time step of "
            f"{timestep:g} fs; write {timestep * max(steps, 1):g}, or another timestep"
        )


def make_network(config: FitConfig, cutoff: float, isolated: bool) -> dict[str, Any]:
    """The keys of `network` for a training file."""
    network: dict[str, Any] = {"edge_cutoff": cutoff, **NETWORK}
    if isolated:
        network["conserve_ang_mom"] = True
    return network | config.network


def batch_size(atoms: int) -> int:
    """Frames in a mini-batch: four, more of small molecules and fewer of large systems."""
    return max(1, min(max(4, BATCH_ATOMS_AT_LEAST // atoms), BATCH_ATOMS // atoms))


def rounds_of_equilibration(first: float, timestep: float, step_seconds: float, time: float) -> int:
    """How many rounds, each twice as long as the last, fit into so many seconds; 2 to 6.

    first: ps. timestep: fs. step_seconds: wall time of an MD step.
    """
    seconds = first * 1e3 / timestep * step_seconds
    return max(2, min(6, int(math.log2(time / seconds + 1.0))))


def recording_plan(
    config: FitConfig,
    horizon: float,
    timestep: float,
    step_seconds: float,
    time: float,
    atoms: int,
    equilibrated: bool = False,
) -> tuple[int, dict[str, float]]:
    """Return how many segments are recorded at each temperature in so many seconds.

    A segment is short, so that pairs are of independent states: eight horizons. A recording that
    begins in an equilibrated state has only the temperature to change. With an expensive reference,
    for which few segments would fit, less time passes between them, and a third of all time at
    most: what they lose in independence they gain in number. (Paracetamol, 3.75 fs, errors of
    velocities after 7 ps of recording: 0.054 with segments of 0.03 ps and 0.1 ps between them,
    0.036 with 0.15 ps and 0.1 ps.) So it is with few atoms.

    Args:
        config: what is given there is not chosen.
        horizon: fs.
        timestep: of the reference, fs.
        step_seconds: wall time of an MD step.
        time: for all temperatures together, s.
        atoms: number.
        equilibrated: whether the recording begins in a state that is in equilibrium.

    Returns:
        The number of segments, and `segment_length`, `decorrelate`, `equilibration` in ps.
    """
    given = config.recording
    available = time / len(config.recorded) / step_seconds * timestep * 1e-3

    def times_with(gap: float, shortest: float) -> dict[str, float]:
        decorrelate = given.decorrelate or gap
        length = given.segment_length or max(8.0 * horizon * 1e-3, shortest)
        equilibration = given.equilibration or (4.0 if equilibrated else 8.0) * decorrelate
        return {
            "segment_length": round(length, 6),
            "decorrelate": round(decorrelate, 6),
            "equilibration": round(equilibration, 6),
        }

    def fit_in(times: dict[str, float]) -> int:
        each = times["segment_length"] + times["decorrelate"]
        return int((available - times["equilibration"]) / each)

    times, fewest = times_with(max(0.25, 10.0 * horizon * 1e-3), 0.0), 20
    if fit_in(times) < FEW_SEGMENTS or atoms < FEW_ATOMS:
        gap = max(0.1, 4.0 * horizon * 1e-3)
        times, fewest = times_with(gap, 2.0 * gap), 8
    return given.segments or max(fewest, min(120, fit_in(times))), times


def frame_interval(horizon: float, timestep: float) -> float:
    """Return the time between stored frames: a third of a horizon or less, of which it is a part.

    A pair begins at each frame. Those within a horizon are of states that differ enough to be worth
    their place in the file, and cost no steps of the reference.

    Args:
        horizon: fs, a multiple of the time step.
        timestep: of the reference, fs.

    Returns:
        fs.
    """
    steps = round(horizon / timestep)
    return timestep * (_steps_between_frames(steps) or steps)


def _steps_between_frames(steps: int) -> int | None:
    """Return the largest divisor that leaves 3 to 12 frames in a horizon of so many steps."""
    least = -(-steps // FRAMES_IN_A_HORIZON)
    found = range(steps // PAIRS_IN_A_HORIZON, least - 1, -1)
    return next((n for n in found if n > 0 and steps % n == 0), None)


def recording_seconds(
    segments: int, times: dict[str, float], number: int, timestep: float, step_seconds: float
) -> float:
    """Wall time of a recording at so many temperatures."""
    each = times["equilibration"] + segments * (times["segment_length"] + times["decorrelate"])
    return number * each * 1e3 / timestep * step_seconds
