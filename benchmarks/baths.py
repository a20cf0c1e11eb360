"""python -m benchmarks.baths: the shipped models under several thermostats, for docs/gallery.md.

Whatever bath a user chooses: the temperature of all atoms, of each element and of the longest
waves, beside what the bath was asked for. Each run begins as the shipped input of its model does.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from ase.data import chemical_symbols
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.child import run_program
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import fill_in, markdown
from lammps_trajcast.analysis.thermal import (
    degrees_of_freedom,
    kinetic_temperatures,
    long_waves,
    wave_temperatures,
)
from lammps_trajcast.analysis.uncertainty import mean_error
from lammps_trajcast.data.frames import Species
from lammps_trajcast.lammps_runs.trajectory import Trajectory, TrajectoryReader
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.units import Units

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results_baths.json"
PAGE = ROOT / "docs" / "gallery.md"
INPUTS = ROOT / "examples" / "lammps_inputs"

# All in K; the runs begin with 20 ps of a bath that acts on each atom by itself.
TEMPERATURE = 300.0
SETTLE = 20.0
BLOCKS = 10
METAL = "units           metal"
FRAMES = 1000
# Largest deviations: of the temperature, of that of an element; of long waves, standard errors.
TOTAL, ELEMENT, WAVES = 0.01, 0.03, 2.0
BATHS = {
    "csvr 0.1 ps": ("temp/csvr", 0.1),
    "csvr 0.3 ps": ("temp/csvr", 0.3),
    "csvr 1 ps": ("temp/csvr", 1.0),
    "langevin 0.3 ps": ("langevin", 0.3),
    "langevin 1 ps": ("langevin", 1.0),
}


class Shipped(NamedTuple):
    """A shipped model and the input that begins its runs.

    replace: what is written differently in the input; options: of the fix; molecule: an isolated
    one, of which the angular momentum is fixed, too.
    """

    title: str
    model: str
    input: str
    replace: dict[str, str] = {}
    molecule: bool = False
    options: str = ""

    @property
    def path(self) -> Path:
        """Of the model file."""
        return ROOT / "examples" / f"{self.model}.safetensors"


MODELS = {
    "quartz": Shipped("alpha-quartz, 30 fs", "quartz/quartz", "in.quartz"),
    "water": Shipped("water, 5 fs", "water/water", "in.water"),
    "water_10fs": Shipped(
        "water, 10 fs",
        "water/water_10fs",
        "in.water",
        {"water.safetensors": "water_10fs.safetensors", "timestep        5": "timestep 10"},
    ),
    "silicon": Shipped("silicon, 24 fs", "silicon_chgnet/silicon_chgnet", "in.silicon"),
    "silicon_reversible": Shipped(
        "the same, `reversible yes`",
        "silicon_chgnet/silicon_chgnet",
        "in.silicon",
        options="reversible yes",
    ),
    "paracetamol": Shipped(
        "paracetamol, 7 fs", "paracetamol/paracetamol", "in.paracetamol", molecule=True
    ),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def script(shipped: Shipped, bath: str, length: float) -> str:
    """Return the input of a run of `length` ps."""
    timestep = ModelFile.load(shipped.path).metadata.timestep
    text = (INPUTS / shipped.input).read_text()
    for old, new in shipped.replace.items():
        assert old in text, f"{shipped.input} has no '{old}'"
        text = text.replace(old, new)
    lines = text.replace("../", f"{ROOT}/examples/").splitlines()
    integrator = next(i for i, line in enumerate(lines) if "python/trajcast" in line)
    head = "\n".join(lines[: integrator + 1]) + f" {shipped.options}".rstrip()
    picosecond = 1.0 if METAL in text else 1000.0
    steps, settle = (round(1e3 * time / timestep) for time in (length, SETTLE))
    every = max(steps // FRAMES, 1)
    style, damping = BATHS[bath]
    # What takes momenta away in each step leaves the rest canonical; `zero yes` does so only for
    # atoms of one mass. Noise also turns a molecule, whose rotation the model takes to be frozen.
    angular = " angular" if shipped.molecule else ""
    counted = ""
    if shipped.molecule and style != "langevin":
        counted = "compute_modify bath_temp extra/dof 6\n"
    return f"""{head}
fix bath all langevin {TEMPERATURE} {TEMPERATURE} {0.3 * picosecond} 4711
fix still all momentum 1 linear 1 1 1{angular}
thermo {settle}
run {settle}
unfix bath
fix bath all {style} {TEMPERATURE} {TEMPERATURE} {damping * picosecond} 815
{counted}dump frames all custom {every} frames.dump id type xu yu zu vx vy vz
dump_modify frames sort id format float %.9g
run {steps}
"""


def measure(shipped: Shipped, bath: str, length: float) -> dict[str, Any]:
    """Run a model under a bath; temperatures and their standard errors, K, by name."""
    text = script(shipped, bath, length)
    metadata = ModelFile.load(shipped.path).metadata
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "in.bath").write_text(text)
        lmp = str(Path(sys.executable).parent / "lmp")
        run_program([lmp, "-in", "in.bath", "-log", "none"], place, {})
        types = _elements(text)
        known = dict(zip(metadata.species, metadata.masses, strict=True))
        species = Species.from_types(types, [known[element] for element in types])
        units: Units = "metal" if METAL in text else "real"
        frames = TrajectoryReader(species, units).read(place / "frames.dump", metadata.timestep)
    return temperatures(frames, shipped.molecule)


def _elements(text: str) -> list[str]:
    line = next(line for line in text.splitlines() if "python/trajcast" in line)
    words = line.split("safetensors", 1)[1].split()
    return [word for word in words if word in chemical_symbols]


def temperatures(frames: Trajectory, molecule: bool) -> dict[str, Any]:
    """Of all atoms, of each element, and of the longest waves of a periodic cell.

    Returns:
        by name: [mean, standard error], K; the error is half of a 95 % interval.
    """
    every = max(len(frames) // 50, 1)
    shares: NDArray[np.float64] = (
        np.mean([degrees_of_freedom(frames.masses, x) for x in frames.positions[::every]], axis=0)
        if molecule
        else degrees_of_freedom(frames.masses)
    )
    series = {"all": kinetic_temperatures(frames.velocities, frames.masses, shares)}
    for index, element in enumerate(frames.elements):
        atoms = frames.species == index
        if len(set(frames.elements)) > 1 and atoms.any():
            series[element] = kinetic_temperatures(
                frames.velocities[:, atoms], frames.masses[atoms], shares[atoms]
            )
    if frames.pbc.all():
        multiples, _ = long_waves(frames.cell, 0.5)
        kinetic, share = wave_temperatures(
            frames.positions, frames.velocities, frames.masses, frames.cell, multiples
        )
        series["waves"] = kinetic.sum(axis=1) / share.sum(axis=1)
    return {
        name: [float(values.mean()), mean_error([values], BLOCKS).half_width / 2.0]
        for name, values in series.items()
    }


def verdict(found: dict[str, list[float]]) -> str:
    """Name what is farther off than it may be, and not by chance; empty if nothing is."""
    wrong = []
    for name, (mean, error) in found.items():
        off = abs(mean - TEMPERATURE)
        limit = {"all": TOTAL, "waves": 0.0}.get(name, ELEMENT) * TEMPERATURE
        if off > max(limit, WAVES * error if name == "waves" else 0.0):
            wrong.append(f"{name}{'' if off - 2.0 * error > limit else ' (undecided)'}")
    return ", ".join(wrong)


def table(results: dict[str, Any]) -> str:
    """Return the rows as a Markdown table."""
    lines = []
    for row in results["rows"].values():
        found = row["temperatures"]

        def text(name: str, found: dict[str, list[float]] = found) -> str:
            return f"{found[name][0]:.1f} ± {found[name][1]:.1f}" if name in found else "–"

        elements = [f"{name} {text(name)}" for name in found if name not in ("all", "waves")]
        lines.append(
            [
                row["title"],
                row["bath"],
                text("all"),
                ", ".join(elements) or "–",
                text("waves"),
                verdict(found) or "none",
            ]
        )
    header = ["model", "thermostat", "all atoms / K", "elements / K", "longest waves / K"]
    return markdown([*header, "off"], lines)


@app.command()
def run(
    models: Annotated[str, typer.Option(help="Some of them, or all.")] = "all",
    length: Annotated[float, typer.Option(min=1.0, help="ps, of each run.")] = 100.0,
) -> None:
    """Run every model under every bath; rows that are there are replaced."""
    console = Console()
    names = list(MODELS) if models == "all" else models.replace(",", " ").split()
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise typer.BadParameter(f"no model {unknown[0]}: write some of {' '.join(MODELS)}, or all")
    results: dict[str, Any] = {"rows": {}}
    if RESULTS.is_file():
        results = json.loads(RESULTS.read_text())
    for name in names:
        for bath in BATHS:
            found = measure(MODELS[name], bath, length)
            results["rows"][f"{name}, {bath}"] = {
                "title": MODELS[name].title,
                "bath": bath,
                "length": length,
                "temperatures": found,
                "date": datetime.date.today().isoformat(),
            }
            order = [f"{model}, {bath}" for model in MODELS for bath in BATHS]
            rows = results["rows"]
            results["rows"] = {key: rows[key] for key in order if key in rows}
            results["machine"], results["versions"] = describe_machine(), describe_versions()
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            words = ", ".join(
                f"{key} {mean:.1f} ± {error:.1f}" for key, (mean, error) in found.items()
            )
            console.print(
                f"{MODELS[name].title}, {bath}: {words} K; off: {verdict(found) or 'none'}"
            )


@app.command()
def report() -> None:
    """Fill in the page with what has been measured."""
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(fill_in(PAGE.read_text(), {"baths": table(results)}))


if __name__ == "__main__":
    app()
