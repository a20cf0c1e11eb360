"""python -m benchmarks.network: two hosts, a network of limited rate or with a delay between them.

The hosts are network namespaces of this machine (benchmarks/cable.py); MPI is told not to use
shared memory. It takes root, and `ip` and `tc` (Debian's iproute2). Both hosts share the cores of
this machine.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.cable import HOSTS, limit_rate, two_hosts
from benchmarks.child import in_child, run_program
from benchmarks.lammps import ATOMS_OF_CELL, last_loop, network_input
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.mpi import MODELS, VECTOR, save_model
from benchmarks.report import fill_in, markdown
from lammps_trajcast.lammps_runs.log import loops_in

RESULTS = Path(__file__).resolve().parent / "results_network.json"
# What goes to both sides, one after the other: positions, forces and the states of the fix. Sums:
# of the neighbor check, of the fix, two of the thermostat, three of a line of output.
HALOS, SUMS = 3, 7
PAGE = Path(__file__).resolve().parent.parent / "docs" / "parallel.md"
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


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        ranks: on both hosts together.
        rate: of the cable, Gbit/s; None: as fast as the kernel copies.
        delay: of a packet, s; None: a cable that has none.
    """

    ranks: int = 2
    rate: float | None = None
    delay: float | None = None

    @property
    def free(self) -> Case:
        """With as many ranks, and nothing that is limited or late."""
        return Case(self.ranks, None, None if self.delay is None else 0.0)

    @property
    def name(self) -> str:
        """Of the cable."""
        if self.delay is not None:
            return f"of a program, {1e3 * self.delay:g} ms" if self.delay else "of a program"
        return "no limit" if self.rate is None else f"{self.rate:g} Gbit/s"


CASES = (
    *(Case(rate=rate) for rate in (None, 10.0, 1.0, 0.3)),
    *(Case(ranks, rate) for ranks in (4, 8) for rate in (None, 1.0)),
    *(Case(delay=delay) for delay in (0.0, 1e-4, 1e-3)),
)


def measure_cable(directory: Path, launcher: list[str]) -> tuple[float, float]:
    """Return what a large message gets, bytes/s, and the time of a small one, s."""
    code = (
        "from mpi4py import MPI; import numpy as np, time\n"
        "c = MPI.COMM_WORLD\n"
        "b = np.zeros(16_000_000, 'u1'); a = b.copy(); times = []\n"
        "for k in range(4):\n"
        "    c.Barrier(); t = time.perf_counter()\n"
        "    c.Sendrecv(b, c.rank ^ 1, 0, a, c.rank ^ 1)\n"
        "    times.append(time.perf_counter() - t)\n"
        "c.Barrier(); t = time.perf_counter()\n"
        "for k in range(200):\n"
        "    if c.rank == k % 2: c.Send(b[:8], c.rank ^ 1)\n"
        "    else: c.Recv(a[:8], c.rank ^ 1)\n"
        "found = 16e6 / sorted(times[1:])[1], (time.perf_counter() - t) / 200\n"
        "if c.rank == 0: print('CABLE', *found)\n"
    )
    done = run_program([*launcher, sys.executable, "-c", code], directory, {})
    rate, time = done.output.split("CABLE")[1].split()[:2]
    return float(rate), float(time)


def launch(directory: Path, ranks: int) -> list[str]:
    """Return the words that start so many ranks, half of them on each host."""
    shell = directory / "remote_shell"
    cases = "".join(f"{address}) name={host};;\n" for host, _, address in HOSTS)
    shell.write_text(f'{REMOTE_SHELL}{cases}esac\nexec ip netns exec "$name" sh -c "$*"\n')
    shell.chmod(0o755)
    variables = [f"{name}={value}" for name, value in NO_SHARED_MEMORY.items()]
    return [
        *("ip", "netns", "exec", HOSTS[0][0], "env", *variables),
        *(str(Path(sys.executable).parent / "mpiexec"), "-launcher", "ssh"),
        *("-launcher-exec", str(shell), "-iface", HOSTS[0][1]),
        *("-hosts", ",".join(address for _, _, address in HOSTS)),
        *("-ppn", str(ranks // 2), "-np", str(ranks)),
    ]


@app.command()
def run(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "small",
    cells: Annotated[int, typer.Option(min=1, help="Of quartz, along each axis.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="In each run.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each case, in turns.")] = 3,
    output: Annotated[Path, typer.Option(help="Results.")] = RESULTS,
) -> None:
    """Measure ranks on two hosts, with cables of several rates and delays."""
    if os.geteuid() != 0:
        raise typer.BadParameter("network namespaces take root")
    found: list[list[dict[str, float]]] = [[] for _ in CASES]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        path = directory / "model.safetensors"
        info = in_child(save_model, model, path)
        columns = " ".join(f"f_1[{k}]" for k in range(1, len(VECTOR) + 1))
        script = network_input(
            f"{cells} {cells} {cells}", 1, steps, 3, 1, columns, path, info["cutoff"]
        )
        (directory / "in.benchmark").write_text(script)
        program = [str(Path(sys.executable).parent / "lmp"), "-in", "in.benchmark", "-log", "none"]
        for number in range(rounds):
            for case, samples in zip(CASES, found, strict=True):
                with two_hosts(case.delay):
                    if case.rate is not None:
                        limit_rate(case.rate)
                    rate, time = measure_cable(directory, launch(directory, 2))
                    words = [*launch(directory, case.ranks), *program]
                    done = run_program(words, directory, {"OMP_NUM_THREADS": "1"})
                log = loops_in(done.output)[-1].columns
                parts = {
                    key: statistics.median(log[f"f_1[{k}]"][1:]) for k, key in enumerate(VECTOR, 1)
                }
                step = last_loop(done).step_seconds
                samples.append({"step": step, "rate": rate, "time": time, **parts})
                typer.echo(f"round {number + 1} of {rounds}, {case}")
    content = {
        "model": model,
        "layers": info["layers"],
        "atoms": ATOMS_OF_CELL * cells**3,
        "cases": [
            {**asdict(case), "samples": samples} for case, samples in zip(CASES, found, strict=True)
        ],
        "machine": describe_machine(),
        "versions": describe_versions(),
    }
    output.write_text(json.dumps(content, indent=1) + "\n")
    typer.echo(table(content))


def table(content: dict[str, Any]) -> str:
    """Return the measured rows as Markdown.

    On the cable a step takes bytes / rate, and the time of a small message for each message that
    waits for the one before. What a step takes longer than without a limit or a delay was not
    hidden behind the atoms that need nothing of the other host. The cost model
    (benchmarks/scaling.py) hides nothing.
    """
    medians: dict[Case, dict[str, float]] = {}
    for row in content["cases"]:
        keys = row["samples"][0]
        medians[Case(row["ranks"], row["rate"], row["delay"])] = {
            key: statistics.median(sample[key] for sample in row["samples"]) for key in keys
        }
    # Features between layers, and which of them are asked for.
    messages = HALOS * 2 + SUMS + content["layers"] - 1 + 1
    lines = []
    for case, found in medians.items():
        base = medians[case.free]
        # Both hosts receive at the same time.
        on_cable, free = (
            0.5 * base["bytes"] / each["rate"] + messages * each.get("time", 0.0)
            for each in (found, base)
        )
        cells = [str(case.ranks), case.name, f"{found['rate'] / 1e6:.0f} MB/s"]
        # Older results have no time of a message, which is small without a delay.
        cells.append(f"{1e3 * found['time']:.2f}" if "time" in found else "–")
        cells.append(f"{1e3 * found['step']:.1f}")
        cells.append(f"{1e3 * found['exchange']:.1f}")
        # The bytes of more ranks are those between ranks of one host, too.
        cells.append(f"{1e3 * on_cable:.1f}" if case.ranks == 2 else "–")
        if case == case.free or case.ranks > 2:
            cells += ["–", "–"]
        else:
            hidden = 1.0 - (found["step"] - base["step"]) / (on_cable - free)
            cells.append(f"{1e3 * (base['step'] + on_cable - free):.1f}")
            cells.append(f"{100 * min(max(hidden, 0.0), 1.0):.0f} %")
        lines.append(cells)
    header = ["ranks", "cable", "measured", "ms a message", "ms a step", "ms of waiting"]
    return markdown([*header, "ms on the cable", "ms a step if nothing is hidden", "hidden"], lines)


@app.command()
def report() -> None:
    """Write the table into docs/parallel.md."""
    content = json.loads(RESULTS.read_text())
    machine = content["machine"]
    text = (
        f"{MODELS[content['model']]}, {content['atoms']:,} atoms, one thread a rank, half of the "
        f"ranks on each host; medians. {machine['processor']}, {machine['cores']} cores.\n\n"
    )
    PAGE.write_text(fill_in(PAGE.read_text(), {"network": text + table(content)}))


if __name__ == "__main__":
    app()
