"""The benchmarks themselves, at tiny sizes: do they count and measure what they say?"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from ase.io import read
from ase.neighborlist import neighbor_list
from e3nn import o3
from locations import EXAMPLES, ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import frontier, gpu
from benchmarks.__main__ import measure_rows, select_rows
from benchmarks.child import BenchmarkError, in_child, run_program
from benchmarks.lammps import read_modify
from benchmarks.operations import count_couplings, count_operations
from benchmarks.report import fill_in, write_page
from benchmarks.rows import ROWS, Sizes, Target
from lammps_trajcast.data.dataset import Pair
from lammps_trajcast.lammps_runs.log import loops_in
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.interaction import DepthwiseTensorProduct
from lammps_trajcast.model.irreps import full_feature_irreps
from lammps_trajcast.model.network import TrajCast

TINY = Sizes(
    threads=(1,),
    rounds=1,
    small=(1, 1, 1),
    medium=(2, 2, 2),
    series=((1, 1, 1), (2, 2, 2)),
    large=(2, 2, 2),
    huge=(3, 2, 2),
    atom_steps=500,
    steps=15,
)


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_couplings_are_those_of_the_tensor_product(lmax: int) -> None:
    """Non-zero elements of e3nn's product, which is linear in the features and the harmonics."""
    irreps, direction = o3.Irreps(full_feature_irreps(1, lmax)), o3.Irreps.spherical_harmonics(lmax)
    product = DepthwiseTensorProduct(irreps, direction, lmax).double()
    generator = torch.Generator().manual_seed(0)
    weights = 1.0 + torch.rand(1, product.weight_numel, generator=generator).double()
    features = torch.eye(irreps.dim, dtype=torch.float64)
    matrices = torch.stack(
        [
            product(features, unit.expand(irreps.dim, -1), weights.expand(irreps.dim, -1))
            for unit in torch.eye(direction.dim, dtype=torch.float64)
        ]
    )
    present = matrices.abs() > 1e-10

    found = count_couplings(irreps, lmax)
    # Every path has rows of its own in the result.
    assert found.paths == product.weight_numel
    assert found.entries == int(present.any(dim=0).sum())
    assert found.coefficients == int(present.sum())


@pytest.mark.parametrize("lmax,layers", [(1, 3), (2, 1), (2, 3), (3, 2)])
def test_weights_that_the_output_depends_on_are_counted(lmax: int, layers: int) -> None:
    """Each has a gradient, and takes a multiply-add for every component of its irrep."""
    arch = Architecture(
        num_chem_elements=1,
        edge_cutoff=4.0,
        vel_max=0.1,
        max_rotation_order=lmax,
        num_hidden_channels=4,
        num_mp_layers=layers,
        avg_num_neighbors=3.0,
    )
    torch.manual_seed(0)
    network = TrajCast(arch)
    atoms, edges = 6, 18
    vectors = torch.randn(edges, 3, dtype=torch.float64)
    velocities = 0.05 * torch.randn(atoms, 3, dtype=torch.float64)
    receivers = torch.arange(atoms).repeat_interleave(3)
    senders = (receivers + torch.arange(edges) % 3 + 1) % atoms
    species = torch.zeros(atoms, dtype=torch.int64)
    out = network.predict(species, velocities, vectors, receivers, senders)
    out.square().sum().backward()

    def multiply_adds(linear) -> int:
        views = linear.weight_views(linear.weight.grad, yield_instruction=True)
        return sum(
            int((gradient != 0.0).sum()) * linear.irreps_out[instruction.i_out].ir.dim
            for _, instruction, gradient in views
        )

    def paths(mlp) -> int:
        return int((list(mlp.parameters())[-1].grad != 0.0).any(dim=0).sum())

    found = count_operations(arch, 3.0)
    layers = list(network.interactions)
    assert found.contraction == sum(multiply_adds(layer.linear_contraction) for layer in layers)
    assert found.update == sum(multiply_adds(layer.linear_updates) for layer in layers)
    assert found.residual == sum(multiply_adds(layer.tp_resnet) for layer in layers)
    read_out = network.read_out
    assert found.read_out == multiply_adds(read_out.compression) + multiply_adds(read_out.read_out)
    # A polynomial of the third order for every path and channel.
    evaluations = sum(3 * paths(layer.edge_mlp) + paths(layer.vel_mlp) for layer in layers)
    assert found.table == 3 * evaluations


def test_work_on_edges_grows_with_the_neighbors_alone() -> None:
    arch = Architecture(
        num_chem_elements=2,
        edge_cutoff=4.0,
        vel_max=0.1,
        max_rotation_order=1,
        num_hidden_channels=8,
        num_mp_layers=2,
        avg_num_neighbors=7.0,
    )
    none, few, many = (count_operations(arch, neighbors) for neighbors in (0.0, 10.0, 20.0))
    for name in ("convolution", "path_weights", "couplings", "table"):
        grown = getattr(few, name) - getattr(none, name)
        assert getattr(many, name) - getattr(few, name) == grown > 0.0
    assert none.convolution == 0.0
    for name in ("contraction", "velocity_product", "update", "residual", "read_out"):
        assert getattr(many, name) == getattr(few, name) > 0.0


def test_memory_and_time_of_a_program(tmp_path: Path) -> None:
    """A program that fills 300 MB and waits; the one before it does neither."""
    fill = "import time; a = bytearray(b'x') * 300_000_000; time.sleep(0.4)"
    # This process may be larger than the program: start it from a small one.
    small = in_child(run_program, [sys.executable, "-c", "pass"], tmp_path)
    large = in_child(run_program, [sys.executable, "-c", fill], tmp_path)
    assert 300e6 < large.memory < 400e6
    assert small.memory < 200e6
    # On a busy machine everything takes longer, but waiting takes no CPU time.
    assert large.wall > 0.4 and large.wall - large.cpu > 0.3 and large.cpu > small.cpu


def test_a_program_that_fails(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="status 3: ERROR: no atoms"):
        run_program(
            [sys.executable, "-c", "print('ERROR: no atoms'); print('last'); raise SystemExit(3)"],
            tmp_path,
        )


def test_a_program_that_wants_too_much_memory(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="MemoryError"):
        run_program(
            [sys.executable, "-c", "bytearray(2_000_000_000)"], tmp_path, memory_limit=10**9
        )


def test_functions_run_in_another_process() -> None:
    assert in_child(divmod, 17, 5) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        in_child(divmod, 1, 0)


LOG = """
   Step          Temp          CPU
         0   300            0
         1   290            0.5
Loop time of 0.5 on 1 procs for 1 steps with 9 atoms

   Step          Temp          CPU
         1   290            0
         2   280            0.25
         3   270            0.75
Loop time of 0.75 on 2 procs for 2 steps with 9 atoms

MPI task timing breakdown:
Section |  min time  |  avg time  |  max time  |%varavg| %total
---------------------------------------------------------------
Pair    | 0.001      | 0.001      | 0.001      |   0.0 |  0.02
Modify  | 0.6        | 0.65       | 0.7        |   0.0 | 99.62
"""


def test_logs() -> None:
    loops = loops_in(LOG)
    assert [(loop.steps, loop.atoms, loop.step_seconds) for loop in loops] == [
        (1, 9, 0.5),
        (2, 9, 0.375),
    ]
    assert read_modify(LOG) == [0.65]
    assert list(loops[-1].columns["CPU"]) == [0.0, 0.25, 0.75]


def test_targets() -> None:
    assert Target(30.0, True).met_by(30.0) and not Target(30.0, True).met_by(29.9)
    assert Target(3.0, False).met_by(3.0) and not Target(3.0, False).met_by(3.1)


def test_unknown_rows_are_refused() -> None:
    assert select_rows("start, gpu") == ["start", "gpu"]
    with pytest.raises(typer.BadParameter, match="no row fast: write some of wide shipped"):
        select_rows("start,fast")


@pytest.fixture(scope="module")
def results() -> dict:
    """Two rows, one measured in Python and one through lmp, at a tiny size."""
    return measure_rows(["shipped", "regular"], TINY)


@pytest.mark.long
def test_rows_measure(results: dict) -> None:
    assert set(results["shipped"]["values"]) == {"1 thread"}
    assert results["shipped"]["samples"]["atoms"] == 9
    fused = results["shipped"]["samples"]["fused"][1]
    assert len(fused) == 5 and min(fused) > 0.0
    assert [len(run) for run in results["regular"]["samples"]["seconds"]] == [TINY.steps] * 2
    json.dumps(results)


@pytest.mark.long
def test_the_other_rows_measure() -> None:
    """On two threads and two ranks; all but those that need the 64-channel network."""
    names = ["training", "outside", "atoms", "memory", "million", "vashishta", "start"]
    results = measure_rows(names, replace(TINY, threads=(1, 2)))
    for name, result in results.items():
        assert result["values"], (name, result["note"])
        assert all(value >= 0.0 for value in result["values"].values())
    assert set(results["training"]["values"]) == {"1 thread", "2 threads"}
    assert set(results["vashishta"]["values"]) == {"1 core", "2 cores"}
    for run in results["outside"]["samples"]["seconds"].values():
        assert 0.0 < run["network"] < run["fix"] < run["loop"]
    assert list(results["atoms"]["samples"]["median"]) == [9, 72]
    # The process holds Python, torch and LAMMPS.
    assert 0.1 < results["memory"]["values"]["72 atoms"] < 3.0
    assert results["start"]["values"]["lmp"] > 0.5
    json.dumps(results)


@pytest.mark.long
def test_page_holds_the_results(results: dict, tmp_path: Path) -> None:
    names = ["machine", "targets", "operations", "profile plain", "profile fused"]
    page = tmp_path / "benchmarks.md"
    page.write_text(
        "before\n" + "".join(f"<!-- begin {n} -->\nold\n<!-- end {n} -->\n" for n in names)
    )
    content = {
        "machine": {
            "processor": "A processor",
            "cores": 2,
            "instructions": ["avx2"],
            "memory_gb": 24.0,
            "system": "Linux",
        },
        "versions": {"torch": "2.13.0", "commit": "abc"},
        "rows": json.loads(json.dumps(results)),
        "profile": {"plain": {"gate": 0.3, "update": 0.1}, "fused": {"aten::mm": 0.02}},
    }
    written = write_page(content, page)
    assert {path.name for path in written} == {
        "benchmarks.md",
        "benchmark_profile.png",
        "benchmark_steps.png",
    }
    text = page.read_text()
    assert text.startswith("before\n")
    assert "old" not in text
    ratio = results["shipped"]["values"]["1 thread"]
    verdict = "reached" if ratio >= 15.0 else "**missed**"
    assert f"| {ROWS['shipped'].what} | 1 thread | {ratio:.3g} | >= 15 | {verdict} |" in text
    assert "not measured: not run" in text
    assert "| gate | 300.0 | 75 % |" in text
    assert write_page(content, page) == written
    assert page.read_text() == text


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- begin table -->"):
        fill_in("nothing", {"table": "| 1 |"})


def test_sizes_of_networks_are_read() -> None:
    assert frontier.Size.parse("32x4") == (32, 4, 2, None)
    assert frontier.Size.parse("48x3l1c5.5") == (48, 3, 1, 5.5)
    with pytest.raises(typer.BadParameter, match="write for example 32x4"):
        frontier.Size.parse("32")


def test_the_page_holds_the_measured_cost_of_accuracy() -> None:
    systems = json.loads(frontier.RESULTS.read_text())
    assert frontier.table(systems) in frontier.PAGE.read_text()


def test_cost_of_a_model_and_its_neighbors() -> None:
    """Of the shipped model in a perfect crystal, whose neighbors ASE counts."""
    atoms = read(EXAMPLES / "quartz/quartz.data", format="lammps-data") * (2, 2, 2)
    pair = Pair(
        species=torch.from_numpy(np.where(atoms.numbers == 14, 0, 1)),
        positions=torch.from_numpy(atoms.positions),
        velocities=torch.zeros(len(atoms), 3, dtype=torch.float64),
        cell=torch.from_numpy(np.array(atoms.cell)),
        pbc=torch.tensor([True] * 3),
        displacement=torch.zeros(len(atoms), 3),
        velocity_after=torch.zeros(len(atoms), 3),
        masses=torch.from_numpy(atoms.get_masses()),
    )
    found = frontier.costs({"one": EXAMPLES / "quartz/quartz.safetensors"}, pair)["one"]
    assert found["neighbors"] == len(neighbor_list("i", atoms, 6.0)) / len(atoms)
    assert found["cost"] > 0.0


def test_steps_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that does as a GPU; each measurement is written, and one that fails is told."""
    monkeypatch.setenv("TRAJCAST_RESIDENT", "1")
    monkeypatch.setattr(gpu, "NETWORKS", gpu.NETWORKS[:1] + gpu.NETWORKS[2:])
    monkeypatch.setattr(gpu, "RUNS", 1)
    monkeypatch.setattr(gpu, "WARM_UP", 1)
    output = tmp_path / "gpu.json"
    found = gpu.run(output, "cpu", budget=3600.0, sizes=((2, 2),), tests=False)
    assert json.loads(output.read_text()) == found
    assert not found["left out"], found
    row = found["accurate, 72 atoms"]
    assert row["atoms"] == 72 and 0 < row["network"] < row["step"]
    assert row["ns_per_day"] == pytest.approx(30e-6 * 86400 / row["step"])
    assert found["deviation after 12 steps, double"] < 1e-9
    assert 1e-9 < found["deviation after 12 steps, single"] < 1e-2
    table = gpu.report(found)
    assert "| accurate | 72 |" in table and "| kernel | a step |" in table

    cut = gpu.run(output, "cuda", budget=15.0, sizes=((2, 2),), tests=False)
    assert cut["left out"].keys() >= {"profile", "deviation after 12 steps, double"}
    assert "left out: profile" in gpu.report(cut)
