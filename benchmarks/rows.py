"""The targets, and how each is measured. All of a row is measured side by side, in turns."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmarks.child import BenchmarkError, in_child
from benchmarks.lammps import (
    ATOMS_OF_CELL,
    EXAMPLES,
    last_loop,
    network_input,
    run_lammps,
    vashishta_input,
)
from lammps_trajcast.lammps_runs.log import loops_in

GIGABYTE = 1e9


@dataclass(frozen=True)
class Target:
    """What a measured number has to be: at least, or at most, a value."""

    value: float
    at_least: bool
    unit: str = ""

    def met_by(self, value: float) -> bool:
        """Say whether a measured value is good enough."""
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}{self.unit and ' ' + self.unit}"


@dataclass(frozen=True)
class Outcome:
    """What came out of measuring a row.

    values: the number to compare with the target, by what it was measured with ("1 thread").
    samples: the raw numbers behind them, fit for JSON.
    note: why there is no value, or what one should know about it.
    """

    values: dict[str, float]
    samples: dict[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are those of the published numbers."""

    threads: tuple[int, ...] = (1, 2)
    rounds: int = 4
    small: tuple[int, int, int] = (4, 4, 4)  # cells of quartz
    medium: tuple[int, int, int] = (8, 8, 8)
    series: tuple[tuple[int, int, int], ...] = (
        (5, 5, 5),
        (8, 8, 8),
        (12, 12, 12),
        (20, 20, 10),
        (22, 22, 23),
    )
    large: tuple[int, int, int] = (22, 22, 23)
    huge: tuple[int, int, int] = (48, 48, 49)
    atom_steps: int = 300_000  # of one run of a series
    steps: int = 100  # of runs that watch single steps


def _atoms(replicate: tuple[int, int, int]) -> int:
    return ATOMS_OF_CELL * replicate[0] * replicate[1] * replicate[2]


def _words(replicate: tuple[int, int, int]) -> str:
    return " ".join(map(str, replicate))


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number > 1 else ''}"


def _medians(samples: dict[int, list[float]]) -> dict[int, float]:
    return {number: statistics.median(values) for number, values in samples.items()}


class Session:
    """The measurements of one run; those that several rows need are made once."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @cached_property
    def wide_steps(self) -> Any:
        """Times of a step of the 64-channel model."""
        return self._steps("wide")

    @cached_property
    def shipped_steps(self) -> Any:
        """Times of a step of the shipped model."""
        return self._steps("shipped")

    def _steps(self, model: str) -> Any:
        from benchmarks.steps import measure_steps

        return in_child(
            measure_steps, model, self.sizes.small, self.sizes.threads, self.sizes.rounds
        )


def fused_over_plain(steps: Any) -> Outcome:
    """Compare the kernels by times of single steps."""
    plain, fused = _medians(steps.plain), _medians(steps.fused)
    return Outcome(
        {_threads(number): plain[number] / fused[number] for number in plain}, steps._asdict()
    )


def training(session: Session) -> Outcome:
    """Compare the kernels by times of training steps."""
    from benchmarks.steps import measure_training

    samples = in_child(measure_training, session.sizes.threads, session.sizes.rounds)
    plain, fused = _medians(samples["plain"]), _medians(samples["fused"])
    return Outcome({_threads(number): plain[number] / fused[number] for number in plain}, samples)


def second_thread(session: Session) -> Outcome:
    """Compare one thread with the most threads, both models."""
    few, many = min(session.sizes.threads), max(session.sizes.threads)
    values = {}
    for name, steps in (
        ("64 channels", session.wide_steps),
        ("shipped model", session.shipped_steps),
    ):
        fused = _medians(steps.fused)
        values[name] = fused[few] / fused[many]
    return Outcome(values, note="samples are those of the rows on plain and fused kernels")


def peak_share(session: Session) -> Outcome:
    """Compare the operations that a step needs with those the machine can do in its time."""
    from benchmarks.operations import count_operations_of

    steps = session.wide_steps
    operations = in_child(count_operations_of, "wide", steps.neighbors)
    fused, peak = _medians(steps.fused), _medians(steps.peak)
    needed = operations["counted"] * steps.atoms
    return Outcome(
        {_threads(n): 100.0 * needed / fused[n] / peak[n] for n in fused},
        {
            "operations_per_atom": operations,
            "operations_per_second": {n: needed / fused[n] for n in fused},
            "peak": peak,
            "neighbors": steps.neighbors,
        },
    )


def outside_network(session: Session) -> Outcome:
    """Compare the time that the fix spends outside of the network with that of a step."""
    from benchmarks.outside import measure_outside

    sizes = session.sizes
    steps = max(5, sizes.atom_steps // _atoms(sizes.medium))
    samples = {
        threads: in_child(measure_outside, _words(sizes.medium), threads, steps)
        for threads in sizes.threads
    }
    return Outcome(
        {
            _threads(threads): 100.0 * (run["fix"] - run["network"]) / run["loop"]
            for threads, run in samples.items()
        },
        {"seconds": samples, "steps": steps},
    )


def shared_cores(session: Session) -> Outcome:
    """Compare threads with one thread while another process takes as much of each core as it gets.

    A step on several threads should wait for none that has not got a core.
    """
    sizes = session.sizes
    few, many = min(sizes.threads), max(sizes.threads)
    steps = max(5, sizes.atom_steps // _atoms(sizes.small) // 5)
    burner = [sys.executable, "-c", "while True: pass"]
    values, samples = {}, {}
    for busy in range(1, many + 1):
        seconds: dict[int, list[float]] = {few: [], many: []}
        burners = [subprocess.Popen(burner) for _ in range(busy)]
        try:
            for _ in range(sizes.rounds):
                for threads, found in seconds.items():
                    script = network_input(_words(sizes.small), threads, steps, warm_up=10)
                    found.append(last_loop(run_lammps(script, threads)).step_seconds)
        finally:
            for process in burners:
                process.kill()
                process.wait()
        median = _medians(seconds)
        values[f"{busy} of {many} cores busy"] = median[many] / median[few]
        samples[busy] = seconds
    return Outcome(values, {"seconds_per_step": samples})


def cost_per_atom(session: Session) -> Outcome:
    """Time whole runs of growing crystals, small and large in turns."""
    sizes = session.sizes
    samples: dict[int, list[float]] = {}
    # Down and up again: a machine that slows down meanwhile shows as a spread, not as a trend.
    for replicate in (*sizes.series[::-1], *sizes.series):
        atoms = _atoms(replicate)
        steps = max(3, sizes.atom_steps // atoms)
        script = network_input(_words(replicate), max(sizes.threads), steps, warm_up=2)
        loop = last_loop(run_lammps(script, max(sizes.threads)))
        samples.setdefault(atoms, []).append(loop.step_seconds / atoms)
    cost = {atoms: statistics.median(values) for atoms, values in sorted(samples.items())}
    spread = 100.0 * (max(cost.values()) / min(cost.values()) - 1.0)
    return Outcome(
        {"largest over smallest": spread}, {"seconds_per_atom_and_step": samples, "median": cost}
    )


def _peak_memory(session: Session, replicate: tuple[int, int, int]) -> Outcome:
    threads = max(session.sizes.threads)
    done = run_lammps(
        network_input(_words(replicate), threads, 2), threads, memory_limit=int(24 * GIGABYTE)
    )
    return Outcome(
        {f"{_atoms(replicate):,} atoms": done.memory / GIGABYTE},
        {
            "atoms": _atoms(replicate),
            "bytes": done.memory,
            "wall": done.wall,
            "step": last_loop(done).step_seconds,
        },
    )


def simulated_time(session: Session) -> Outcome:
    """Compare simulated time per wall time of the network and the potential it learned from.

    The network runs on threads of one rank, the potential, which has no threads, on ranks.
    """
    sizes = session.sizes
    words, atoms = _words(sizes.medium), _atoms(sizes.medium)
    steps = max(5, sizes.atom_steps // atoms)
    values, samples = {}, {}
    for cores in sizes.threads:
        network: list[float] = []
        potential: list[float] = []
        for _ in range(max(1, sizes.rounds // 2)):
            done = run_lammps(network_input(words, cores, steps, warm_up=2), cores)
            network.append(30.0 / last_loop(done).step_seconds)
            script = vashishta_input(words, 3 * steps, warm_up=2)
            done = run_lammps(script, 1, ranks=cores if cores > 1 else 0)
            potential.append(1.0 / last_loop(done).step_seconds)
        values[f"{cores} core{'s' if cores > 1 else ''}"] = statistics.median(
            network
        ) / statistics.median(potential)
        samples[cores] = {"network_fs_per_s": network, "potential_fs_per_s": potential}
    return Outcome(values, samples)


def start(session: Session) -> Outcome:
    """Time the shipped input script with one step, from the start of `lmp` to its end."""
    script = (EXAMPLES / "lammps_inputs" / "in.quartz").read_text()
    script = script.replace("../quartz", str(EXAMPLES / "quartz"))
    head, run, _ = script.rpartition("\nrun ")
    if not run:
        raise BenchmarkError("in.quartz has no line 'run'")
    done = [
        run_lammps(head + "\nrun 1\n", max(session.sizes.threads))
        for _ in range(session.sizes.rounds)
    ]
    return Outcome(
        {"lmp": statistics.median(d.wall for d in done)},
        {"wall": [d.wall for d in done], "cpu": [d.cpu for d in done]},
    )


def slow_steps(session: Session) -> Outcome:
    """Count steps after the tenth that take more than twice the median, in each of several runs.

    The runs are the same to the last digit, so that what the code does, compile or allocate, it
    does in the same step of each; what else the machine does hits one step or another.
    """
    sizes = session.sizes
    threads = min(sizes.threads)
    script = network_input(_words(sizes.small), threads, sizes.steps, thermo=1)
    runs = []
    for _ in range(max(2, sizes.rounds - 1)):
        columns = loops_in(run_lammps(script, threads).output)[-1].columns
        cpu = columns["CPU"].tolist()
        runs.append([b - a for a, b in zip(cpu[:-1], cpu[1:], strict=True)])
    fastest = [min(times) for times in zip(*runs, strict=True)]
    limit = 2.0 * statistics.median(fastest)
    return Outcome(
        {_threads(threads): sum(seconds > limit for seconds in fastest[10:])}, {"seconds": runs}
    )


def gpu(session: Session) -> Outcome:
    """Simulated time of the 64-channel model on a GPU, where there is one."""
    from benchmarks.gpu import find_gpu, measure_gpu

    name = in_child(find_gpu)
    if name is None:
        return Outcome({}, note="no GPU in this machine")
    speed = measure_gpu(session.sizes.medium)
    return Outcome({name: speed["ns_per_day"]}, speed)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    minutes: about how long it takes on two cores, with what other rows have not measured yet.
    """

    what: str
    target: Target
    measure: Callable[[Session], Outcome]
    minutes: float


ROWS: dict[str, Row] = {
    "wide": Row(
        "fused over plain kernels, 64 channels, lmax 2, 5 layers, 5 Å; 576 atoms",
        Target(30.0, True),
        lambda session: fused_over_plain(session.wide_steps),
        2.0,
    ),
    "shipped": Row(
        "fused over plain kernels, shipped quartz model; 576 atoms",
        Target(15.0, True),
        lambda session: fused_over_plain(session.shipped_steps),
        0.5,
    ),
    "training": Row(
        "training step, fused over plain kernels, size of the shipped model",
        Target(8.0, True),
        training,
        0.5,
    ),
    "threads": Row(
        "two threads over one, fused kernels; 576 atoms", Target(1.8, True), second_thread, 0.1
    ),
    "shared": Row(
        "time of a step on two threads over one, beside other processes; 576 atoms",
        Target(1.3, False),
        shared_cores,
        1.5,
    ),
    "peak": Row(
        "share of the measured float32 matrix-product peak, 64 channels",
        Target(40.0, True, "%"),
        peak_share,
        0.1,
    ),
    "outside": Row(
        "time in the fix outside of the network, shipped model; 4,608 atoms",
        Target(5.0, False, "% of a step"),
        outside_network,
        1.0,
    ),
    "atoms": Row(
        "spread of the cost per atom, 1,000 to 100,000 atoms, shipped model",
        Target(10.0, False, "%"),
        cost_per_atom,
        4.0,
    ),
    "memory": Row(
        "peak memory, shipped model",
        Target(3.0, False, "GB"),
        lambda session: _peak_memory(session, session.sizes.large),
        0.5,
    ),
    "million": Row(
        "peak memory of a million atoms, shipped model",
        Target(24.0, False, "GB"),
        lambda session: _peak_memory(session, session.sizes.huge),
        4.0,
    ),
    "vashishta": Row(
        "simulated time per wall time, network at 30 fs over Vashishta at 1 fs; 4,608 atoms",
        Target(10.0, True),
        simulated_time,
        3.0,
    ),
    "start": Row("start of lmp to the end of the first step", Target(6.0, False, "s"), start, 0.5),
    "regular": Row(
        "steps after the tenth slower than twice the median, of 100",
        Target(0.0, False),
        slow_steps,
        0.5,
    ),
    "gpu": Row(
        "one H200, 64 channels; 4,608 atoms at 30 fs", Target(200.0, True, "ns/day"), gpu, 1.0
    ),
}
