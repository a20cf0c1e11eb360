"""The end of `make demo`: a table and a picture of the run of examples/lammps_inputs/in.quartz.

python -m lammps_trajcast.analysis.demo RUN_DIRECTORY REFERENCE.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lammps_trajcast.analysis.rdf import RDFError, deviation, plot_rdf, read_csv, read_lammps_rdf
from lammps_trajcast.analysis.run import RunError, read_structure, read_thermo
from lammps_trajcast.data.trajectory import TrajectoryError

ELEMENTS = ("Si", "O")
PAIRS = ("Si-Si", "Si-O", "O-O")
COORDINATION = {"Si": 4, "O": 2}
# Between the first shell of Si-O (1.6 Angstrom) and everything else (2.5 Angstrom).
COORDINATION_CUTOFF = 2.2


def summarize(directory: Path, reference: Path) -> str:
    """Table of a run in `directory`; writes quartz_rdf.png there.

    Raises RunError, RDFError or TrajectoryError.
    """
    thermo = read_thermo(directory / "log.lammps")
    structure = read_structure(
        directory / "quartz.dump",
        ELEMENTS,
        COORDINATION,
        COORDINATION_CUTOFF,
        "metal",
        thermo.timestep,
    )
    rdf = read_lammps_rdf(directory / "quartz_rdf.dat", PAIRS)
    expected = read_csv(reference)
    picture = directory / "quartz_rdf.png"
    label = f"fix python/trajcast, {thermo.timestep:g} fs"
    plot_rdf(rdf, expected, label).savefig(picture, dpi=150)
    differences = ", ".join(f"{k} {v:.3f}" for k, v in deviation(rdf, expected).items())
    faults = int(structure.miscoordinated.max())
    rows = [
        ("atoms", f"{structure.atoms}"),
        ("step", f"{thermo.timestep:g} fs"),
        ("simulated time", f"{thermo.time:g} ps ({thermo.steps} steps)"),
        ("speed", f"{thermo.ns_per_day:.2f} ns/day ({thermo.wall_time:.1f} s)"),
        ("temperature", f"{thermo.mean_temperature():.1f} K"),
        ("momentum drift", f"{structure.momentum_drift:.1e} of sum m|v|"),
        ("miscoordinated atoms", f"{faults} at most in {structure.frames} frames"),
        ("g(r), rms difference", differences),
        ("picture", f"{picture}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main(
    directory: Annotated[Path, typer.Argument(help="Where in.quartz was run.")],
    reference: Annotated[Path, typer.Argument(help="Reference g(r), CSV.")],
) -> None:
    """Print a table of a run of in.quartz and draw its g(r) beside the reference."""
    try:
        typer.echo(summarize(directory, reference))
    except (RunError, RDFError, TrajectoryError) as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
