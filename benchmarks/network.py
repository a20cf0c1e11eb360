"""python -m benchmarks.network: two hosts, a network of limited bandwidth between them.

The hosts are network namespaces of this machine, joined by a virtual cable whose rate the kernel
limits (tc tbf); MPI is told not to use shared memory. It takes root, and `ip` and `tc` (Debian's
iproute2). Both hosts share the cores of this machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.child import in_child, run_program
from benchmarks.lammps import ATOMS_OF_CELL, last_loop, network_input
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.mpi import MODELS, VECTOR, save_model
from benchmarks.report import fill_in, markdown
from lammps_trajcast.lammps_runs.log import loops_in

RESULTS = Path(__file__).resolve().parent / "results_network.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "parallel.md"
# Name of a host's namespace, of its end of the cable, and its address.
HOSTS = (("trajcast0", "tjc0", "10.77.0.1"), ("trajcast1", "tjc1", "10.77.0.2"))
# Gbit/s; infinity: as fast as the kernel copies.
RATES = (float("inf"), 10.0, 1.0, 0.3)
# What keeps MPICH from seeing that the hosts are one machine.
NO_SHARED_MEMORY = {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self", "FI_PROVIDER": "tcp"}
REMOTE_SHELL = """\
#!/bin/sh
# What mpiexec calls instead of ssh: options, a host, a command.
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
case $host in
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _call(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Make the namespaces and the cable; at the end they are gone."""
    try:
        for host, _, _ in HOSTS:
            _call("ip", "netns", "add", host)
        (first, end, _), (second, other, _) = HOSTS
        words = ["ip", "link", "add", end, "netns", first, "type", "veth"]
        _call(*words, "peer", "name", other, "netns", second)
        for host, cable, address in HOSTS:
            _call("ip", "-n", host, "addr", "add", f"{address}/24", "dev", cable)
            _call("ip", "-n", host, "link", "set", "lo", "up")
            _call("ip", "-n", host, "link", "set", cable, "up")
        yield
    finally:
        for host, _, _ in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)


def limit_rate(rate: float) -> None:
    """Limit what each host sends, Gbit/s."""
    for host, cable, _ in HOSTS:
        words = ["tc", "-n", host, "qdisc"]
        subprocess.run([*words, "del", "dev", cable, "root"], capture_output=True, check=False)
        if rate != float("inf"):
            # A bucket of two ms, but at least some packets of this cable.
            burst = max(int(2e-3 * rate * 1e9 / 8), 131072)
            limits = ["rate", f"{rate * 1e3:g}mbit", "burst", f"{burst}b", "latency", "100ms"]
            _call(*words, "add", "dev", cable, "root", "tbf", *limits)


def measure_rate(directory: Path, launcher: list[str]) -> float:
    """Return what a large message really gets, bytes/s."""
    code = (
        "from mpi4py import MPI; import numpy as np, time\n"
        "c = MPI.COMM_WORLD; b = np.zeros(16_000_000, 'u1'); times = []\n"
        "for k in range(4):\n"
        "    c.Barrier(); t = time.perf_counter()\n"
        "    c.Sendrecv(b, c.rank ^ 1, 0, b.copy(), c.rank ^ 1)\n"
        "    times.append(time.perf_counter() - t)\n"
        "if c.rank == 0: print('RATE', 16e6 / sorted(times[1:])[1])\n"
    )
    done = run_program([*launcher, sys.executable, "-c", code], directory, {})
    return float(done.output.split("RATE")[1].split()[0])


def launch(directory: Path) -> list[str]:
    """Return the words that start two ranks, one on each host."""
    shell = directory / "remote_shell"
    cases = "".join(f"{address}) name={host};;\n" for host, _, address in HOSTS)
    shell.write_text(f'{REMOTE_SHELL}{cases}esac\nexec ip netns exec "$name" sh -c "$*"\n')
    shell.chmod(0o755)
    variables = [f"{name}={value}" for name, value in NO_SHARED_MEMORY.items()]
    return [
        *("ip", "netns", "exec", HOSTS[0][0], "env", *variables),
        *(str(Path(sys.executable).parent / "mpiexec"), "-launcher", "ssh"),
        *("-launcher-exec", str(shell), "-iface", HOSTS[0][1]),
        *("-hosts", ",".join(address for _, _, address in HOSTS), "-np", "2"),
    ]


@app.command()
def run(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "small",
    cells: Annotated[int, typer.Option(min=1, help="Of quartz, along each axis.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="In each run.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Runs at each rate, in turns.")] = 3,
    output: Annotated[Path, typer.Option(help="Results.")] = RESULTS,
) -> None:
    """Measure two ranks on two hosts at several rates."""
    if os.geteuid() != 0:
        raise typer.BadParameter("network namespaces take root")
    found: dict[str, list[dict[str, float]]] = {f"{rate:g}": [] for rate in RATES}
    with tempfile.TemporaryDirectory() as name, two_hosts():
        directory = Path(name)
        path = directory / "model.safetensors"
        info = in_child(save_model, model, path)
        columns = " ".join(f"f_1[{k}]" for k in range(1, len(VECTOR) + 1))
        script = network_input(
            f"{cells} {cells} {cells}", 1, steps, 3, 1, columns, path, info["cutoff"]
        )
        (directory / "in.benchmark").write_text(script)
        launcher = launch(directory)
        for number in range(rounds):
            for rate in RATES:
                limit_rate(rate)
                real = measure_rate(directory, launcher)
                program = [str(Path(sys.executable).parent / "lmp"), "-in", "in.benchmark"]
                done = run_program(
                    [*launcher, *program, "-log", "none"], directory, {"OMP_NUM_THREADS": "1"}
                )
                log = loops_in(done.output)[-1].columns
                parts = {
                    key: statistics.median(log[f"f_1[{k}]"][1:]) for k, key in enumerate(VECTOR, 1)
                }
                found[f"{rate:g}"].append(
                    {"step": last_loop(done).step_seconds, "rate": real, **parts}
                )
                typer.echo(f"round {number + 1} of {rounds}, {rate:g} Gbit/s")
    content = {
        "model": model,
        "atoms": ATOMS_OF_CELL * cells**3,
        "rates": found,
        "machine": describe_machine(),
        "versions": describe_versions(),
    }
    output.write_text(json.dumps(content, indent=1) + "\n")
    typer.echo(table(content))


def table(content: dict[str, Any]) -> str:
    """Return the measured rows as Markdown.

    What travels takes bytes / rate on the cable; what a step waits for beyond what it waits for
    without a limit was not hidden behind the atoms that need nothing of the other host. The cost
    model hides nothing.
    """
    samples = content["rates"]

    def median(rate: str, key: str) -> float:
        return statistics.median(sample[key] for sample in samples[rate])

    free, lines = "inf", []
    base = median(free, "step")
    for rate in samples:
        # Both hosts receive at the same time.
        on_cable = 0.5 * median(rate, "bytes") / median(rate, "rate")
        waits = median(rate, "exchange")
        longer = median(rate, "step") - base
        hidden = "–" if rate == free else f"{100 * max(1.0 - longer / on_cable, 0.0):.0f} %"
        lines.append(
            [
                "no limit" if rate == free else f"{rate} Gbit/s",
                f"{median(rate, 'rate') / 1e6:.0f} MB/s",
                f"{1e3 * median(rate, 'step'):.1f}",
                f"{1e3 * on_cable:.1f}",
                f"{1e3 * waits:.1f}",
                "–" if rate == free else f"{1e3 * (base + on_cable):.1f}",
                hidden,
            ]
        )
    header = ["cable", "measured", "ms a step", "ms on the cable", "ms of waiting"]
    header += ["ms a step if nothing is hidden", "hidden"]
    return markdown(header, lines)


@app.command()
def report() -> None:
    """Write the table into docs/parallel.md."""
    content = json.loads(RESULTS.read_text())
    machine = content["machine"]
    text = (
        f"{MODELS[content['model']]}, {content['atoms']:,} atoms, one rank of one thread on each "
        f"of two hosts; medians. {machine['processor']}, {machine['cores']} cores.\n\n"
    )
    PAGE.write_text(fill_in(PAGE.read_text(), {"network": text + table(content)}))


if __name__ == "__main__":
    app()
