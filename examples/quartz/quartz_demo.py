"""The end of `make demo`: a table and a picture of the run of examples/lammps_inputs/in.quartz.

python quartz_demo.py RUN_DIRECTORY REFERENCE.csv
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from quartz_rdf import (
    RadialDistribution,
    RDFError,
    plot_rdf,
    read_csv,
    read_lammps_rdf,
    relative_deviation,
)
from quartz_run import (
    RunError,
    Temperatures,
    Thermo,
    read_structure,
    read_temperatures,
    read_thermo,
)

from lammps_trajcast.data.frames import TrajectoryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ELEMENTS = ("Si", "O")
PAIRS = ("Si-Si", "Si-O", "O-O")
COORDINATION = {"Si": 4, "O": 2}
# Between the first shell of Si-O (1.6 Angstrom) and everything else (2.5 Angstrom).
COORDINATION_CUTOFF = 2.2
# First shells; what the network sees beyond them; what it does not see. Angstrom.
RANGES = ((0.0, 4.0), (4.0, 6.0), (6.0, 8.0))
# Values in a line of quartz_temperature.dat.
GROUPS = ("all", *ELEMENTS)


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
    temperatures = read_temperatures(directory / "quartz_temperature.dat", GROUPS)
    rdf = read_lammps_rdf(directory / "quartz_rdf.dat", PAIRS)
    expected = read_csv(reference)
    picture = directory / "quartz_rdf.png"
    draw(thermo, temperatures, rdf, expected).savefig(picture, dpi=150)
    faults = int(structure.miscoordinated.max())
    rows = [
        ("atoms", f"{structure.atoms}"),
        ("step", f"{thermo.timestep:g} fs"),
        ("simulated time", f"{thermo.time:g} ps ({thermo.steps} steps)"),
        ("speed", f"{thermo.ns_per_day:.2f} ns/day ({thermo.wall_time:.1f} s)"),
        *temperature_rows(temperatures),
        ("momentum drift", f"{structure.momentum_drift:.1e} of sum m|v|"),
        ("miscoordinated atoms", f"{faults} at most in {structure.frames} frames"),
        *rdf_rows(rdf, expected),
        ("picture", f"{picture}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def temperature_rows(temperatures: Temperatures) -> list[tuple[str, str]]:
    """Means of all atoms and of each element, whose equality the former does not show."""
    means = temperatures.means()
    mean = means["all"][0]
    return [
        (
            "temperature" if name == "all" else f"temperature of {name}",
            f"{value:.1f} ± {error:.1f} K",
        )
        for name, (value, error) in means.items()
    ] + [
        (
            "equipartition",
            ", ".join(f"{name} {100.0 * (means[name][0] / mean - 1.0):+.1f} %" for name in ELEMENTS)
            + " off the mean",
        )
    ]


def rdf_rows(rdf: RadialDistribution, expected: RadialDistribution) -> list[tuple[str, str]]:
    """How far g(r) is off in each range of distances."""
    return [
        (
            f"g(r), {start:g} to {stop:g} Å" if start else f"g(r) up to {stop:g} Å",
            ", ".join(
                f"{pair} {100.0 * value:.1f} %"
                for pair, value in relative_deviation(rdf, expected, start, stop).items()
            )
            + " off",
        )
        for start, stop in RANGES
    ]


def draw(
    thermo: Thermo,
    temperatures: Temperatures,
    rdf: RadialDistribution,
    expected: RadialDistribution,
) -> Figure:
    """g(r) of each pair of elements beside the reference, and below them the temperatures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, len(PAIRS), height_ratios=(3.2, 2.2))
    panels = [figure.add_subplot(grid[0, k]) for k in range(len(PAIRS))]
    plot_rdf(panels, rdf, expected, f"fix python/trajcast, {thermo.timestep:g} fs")
    axes = figure.add_subplot(grid[1, :])
    time = temperatures.step * thermo.timestep * 1e-3
    for (name, values), color in zip(
        temperatures.values.items(), ("black", "C0", "C3"), strict=True
    ):
        axes.plot(time, values, color=color, linewidth=1.2, label=name)
    axes.set(xlabel="time / ps", ylabel="temperature / K", xlim=(0.0, time[-1]))
    axes.legend(frameon=False, ncols=len(GROUPS))
    return figure


def main(
    directory: Annotated[Path, typer.Argument(help="Where in.quartz was run.")],
    reference: Annotated[Path, typer.Argument(help="Reference g(r), CSV.")],
) -> None:
    """Print a table of a run of in.quartz; draw its g(r) beside the reference, and temperatures."""
    try:
        typer.echo(summarize(directory, reference))
    except (RunError, RDFError, TrajectoryError) as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(main)
