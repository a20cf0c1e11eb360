"""Runs of stock `lmp`: input scripts, and what their logs say."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from benchmarks.child import BenchmarkError, FinishedRun, run_program
from lammps_trajcast.lammps_runs.log import Loop, loop_times
from lammps_trajcast.lammps_runs.program import potentials_directory

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DATA = EXAMPLES / "quartz" / "quartz.data"
SHIPPED_MODEL = EXAMPLES / "quartz" / "quartz.safetensors"
ATOMS_OF_CELL = 9

START = """\
units           metal
atom_style      atomic
read_data       {data}
replicate       {replicate}
"""
NETWORK = """\
pair_style      zero {cutoff:g} full
pair_coeff      * *
timestep        0.030
velocity        all create 300 4928 mom yes dist gaussian
fix             1 all python/trajcast {model} Si O threads {threads}{options}
fix             2 all temp/csvr 300 300 0.1 5813
"""
VASHISHTA = """\
pair_style      vashishta
pair_coeff      * * SiO.1990.vashishta Si O
timestep        0.001
velocity        all create 300 4928 mom yes dist gaussian
fix             1 all nve
"""
RUN = """\
thermo          {thermo}
thermo_style    custom step temp cpu {columns}
run             {steps}
"""

_MODIFY = re.compile(r"^Modify +\| *\S+ *\| *(\S+)", re.MULTILINE)


def read_modify(text: str) -> list[float]:
    """Return the seconds that each run of a log spent in fixes, the average over ranks."""
    return [float(m[1]) for m in _MODIFY.finditer(text)]


def network_input(
    replicate: str,
    threads: int,
    steps: int,
    warm_up: int = 0,
    thermo: int = 1_000_000,
    columns: str = "",
    model: Path = SHIPPED_MODEL,
    cutoff: float = 6.0,
    options: str = "",
) -> str:
    """Return an input script that runs quartz with a network, after a warm-up of its own.

    Args:
        replicate: cells of quartz in x, y and z.
        threads: CPU threads of the network.
        steps: of the run.
        warm_up: steps of the run before it; 0: there is none.
        thermo: steps between lines of output.
        columns: of the output, besides step, temperature and CPU time.
        model: model file of quartz with a time step of 30 fs.
        cutoff: of the model, Angstrom.
        options: more keywords of the fix.
    """
    head = START.format(data=DATA, replicate=replicate)
    head += NETWORK.format(
        model=model, threads=threads, cutoff=cutoff, options=f" {options}" if options else ""
    )
    return head + _runs(steps, warm_up, thermo, columns)


def vashishta_input(replicate: str, steps: int, warm_up: int) -> str:
    """Return an input script that runs quartz with the potential the network learned from."""
    return START.format(data=DATA, replicate=replicate) + VASHISHTA + _runs(steps, warm_up)


def _runs(steps: int, warm_up: int, thermo: int = 1_000_000, columns: str = "") -> str:
    runs = [warm_up, steps] if warm_up else [steps]
    return "".join(RUN.format(thermo=thermo, columns=columns, steps=number) for number in runs)


def run_lammps(
    script: str, threads: int, ranks: int = 0, memory_limit: int | None = None
) -> FinishedRun:
    """Run an input script in the `lmp` of this environment.

    Args:
        script: the text.
        threads: of OpenMP, for each rank.
        ranks: of MPI; 0 starts `lmp` without mpirun.
        memory_limit: bytes, see :func:`run_program`.
    """
    binaries = Path(sys.executable).parent
    potentials = str(potentials_directory() or "")
    launcher = [str(binaries / "mpirun"), "-np", str(ranks)] if ranks else []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        (directory / "in.benchmark").write_text(script)
        return run_program(
            [*launcher, str(binaries / "lmp"), "-in", "in.benchmark", "-log", "none"],
            directory,
            {"OMP_NUM_THREADS": str(threads), "LAMMPS_POTENTIALS": potentials},
            memory_limit,
        )


def last_loop(finished: FinishedRun) -> Loop:
    """Return the last run of a finished `lmp`."""
    loops = loop_times(finished.output)
    if not loops:
        raise BenchmarkError("lmp wrote no 'Loop time'")
    return loops[-1]
