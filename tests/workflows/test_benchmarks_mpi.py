"""The benchmark of MPI ranks: does its cost model count right, and does it run?"""

import shutil
import sys

import numpy as np
import pytest
from locations import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import mpi
from benchmarks.scaling import CostModel, Network, fit, remote_atoms, table

MODEL = CostModel(
    fixed=1e-3, own=5e-5, remote=1e-5, row_bytes=1152.0, layers=4, cutoff=4.0, density=0.08
)


@pytest.mark.parametrize(("side", "reach"), [(20.0, 4.0), (3.0, 8.0)])
def test_remote_atoms_of_a_cube(side: float, reach: float) -> None:
    """As many as there are points within reach of the cube."""
    generator = np.random.default_rng(4)
    box, count = side + 2.0 * reach + 1.0, 400_000
    points = box * (generator.random((count, 3)) - 0.5)
    outside = np.maximum(np.abs(points) - 0.5 * side, 0.0)
    distance = np.linalg.norm(outside, axis=1)
    counted = np.count_nonzero((distance > 0.0) & (distance < reach))
    density = count / box**3
    assert remote_atoms(density * side**3, np.inf, density, reach) == pytest.approx(
        counted, rel=0.02
    )


def test_there_are_no_more_remote_atoms_than_atoms() -> None:
    assert remote_atoms(100.0, 250.0, 0.08, 50.0) == 150.0


def test_fit_finds_what_made_the_numbers() -> None:
    serial = {n: MODEL.fixed + MODEL.own * n for n in (500, 2000, 4608)}
    busy = MODEL.fixed + MODEL.own * 2304 + MODEL.remote * 700
    found = fit(serial, (2304.0, 700.0, busy), 1152.0, 4, 4.0, 0.08)
    assert found.own == pytest.approx(MODEL.own)
    assert found.fixed == pytest.approx(MODEL.fixed)
    assert found.remote == pytest.approx(MODEL.remote)


def test_cost_model_has_the_right_limits() -> None:
    fast = Network(latency=0.0, bandwidth=1e30)
    assert MODEL.step(1e4, 1, fast) == pytest.approx(1e-3 + 5e-5 * 1e4)
    # Many atoms for each rank leave little surface, few leave more of it than of anything else.
    assert MODEL.efficiency(1e9, 100, fast) > 0.98
    assert MODEL.efficiency(1e4, 1000, fast) < 0.5
    # A slower network costs what it says, for each of three exchanges, the states and the masks.
    slow = Network(latency=1e-3, bandwidth=1e30)
    assert MODEL.step(1e6, 100, slow) - MODEL.step(1e6, 100, fast) == pytest.approx(
        1e-3 * (5 * 26 + 2 * np.log2(100))
    )
    # Ghosts as wide as four layers see are eight times as many where they are a thin shell.
    assert MODEL.ghost_ratio(1e12, 1000, wide=True) == pytest.approx(
        4 * MODEL.ghost_ratio(1e12, 1000), rel=0.05
    )
    assert MODEL.wide_ghost_step(1e6, 1000, fast) > MODEL.step(1e6, 1000, fast)
    assert len(table(MODEL, fast)) == 24


@pytest.mark.long
def test_it_measures_and_writes_its_page(tmp_path) -> None:
    sizes = mpi.Sizes(
        cells=(3, 3, 3), series=((2, 2, 2),), memory_cells=(4, 4, 4), rounds=1, warm_up=1, steps=3
    )
    shutil.copy(mpi.PAGE, tmp_path / "parallel.md")
    content = {
        "models": {"small": mpi.measure("small", sizes)},
        "machine": mpi.describe_machine(),
        "versions": mpi.describe_versions(),
        "network": {"latency": 2e-6, "bandwidth": 3e9},
    }
    values = {what: value for what, _, value, _ in mpi.targets(content["models"])}
    assert values["rows exchanged in a layer over distinct remote atoms within the cutoff"] == 1.0
    assert 0.0 < values["exchange, share of a step"] < 1.0
    for path in mpi.write_page(content, tmp_path / "parallel.md"):
        assert path.stat().st_size > 1000
