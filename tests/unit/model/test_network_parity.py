"""The network gives the numbers of the authors' code, and has the symmetries of physics."""

import numpy as np
import pytest
import torch
from ase.neighborlist import primitive_neighbor_list
from e3nn import o3
from locations import PARITY_CASES
from networks import TOLERANCE, Case

from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.shapes import weight_shapes
from lammps_trajcast.model.torchscript import compile_network
from lammps_trajcast.runtime.graph import build_graph

pytestmark = pytest.mark.usefixtures("unoptimized")


@pytest.fixture(scope="module", params=PARITY_CASES)
def case(request) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def compiled_network(case: Case) -> torch.nn.Module:
    """In double precision. TorchScript takes seconds to compile one."""
    return compile_network(case.model.build(torch.float64))


@pytest.mark.parametrize(
    ("compiled", "dtype"),
    [
        pytest.param(False, torch.float64, id="eager-double"),
        pytest.param(False, torch.float32, id="eager-single"),
        pytest.param(True, torch.float64, id="compiled-double"),
        # Each of the two is there by itself; to compile takes seconds.
        pytest.param(True, torch.float32, id="compiled-single", marks=pytest.mark.long),
    ],
)
def test_parity(
    case: Case, compiled: bool, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    if not compiled:
        run: torch.nn.Module = case.model.build(dtype)
    elif dtype == torch.float64:
        run = request.getfixturevalue("compiled_network")
    else:
        run = compile_network(case.model.build(dtype))
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in case.inputs()]
    with torch.no_grad():
        out = run(*inputs)
    rms = np.array([case.model.metadata.rms_displacement, case.model.metadata.rms_velocity])
    target = np.concatenate([out.displacement / rms[0], out.velocity / rms[1]], axis=1)
    scale = np.abs(case.expected["target"]).max()
    assert np.abs(target - case.expected["target"]).max() < TOLERANCE[dtype] * scale
    for name in ("displacement", "velocity"):
        wanted = case.expected[name]
        deviation = np.abs(getattr(out, name).numpy() - wanted).max()
        assert deviation < TOLERANCE[dtype] * np.abs(wanted).max()


def test_layers_one_at_a_time(case: Case, compiled_network: torch.nn.Module) -> None:
    """The layers called by themselves give the numbers of the whole."""
    network = compiled_network
    species, positions, velocities, masses, vectors, receivers, senders = case.inputs()
    with torch.no_grad():
        nodes = network.embedding(species, velocities)
        edges = network.edge_embedding(vectors)
        features = nodes.features
        for layer in network.interactions:
            features = layer(features, nodes, edges, receivers, senders, len(species))
        target = network.read_out(features)
        out = network.conservation(
            target, positions, velocities, masses, torch.zeros_like(species), 1
        )
    np.testing.assert_allclose(out.velocity, case.expected["velocity"], rtol=0, atol=1e-12)


def test_graph_has_the_edges_of_the_authors(case: Case) -> None:
    e = case.expected
    graph = build_graph(e["positions"], e["cell"], [True] * 3, case.cutoff)
    assert len(graph.receivers) == int(e["num_edges"])
    assert bool((graph.receivers[1:] >= graph.receivers[:-1]).all())
    i, j, vectors = primitive_neighbor_list(
        "ijD", [True] * 3, e["cell"], e["positions"], case.cutoff
    )

    def rows(a, b, d) -> np.ndarray:
        table = np.column_stack([a, b, np.round(d, 8) + 0.0])
        return table[np.lexsort(table.T[::-1])]

    ours = rows(graph.receivers, graph.senders, graph.edge_vectors)
    np.testing.assert_allclose(ours, rows(i, j, vectors), atol=1e-7)


def test_shapes_are_those_of_the_network(case: Case) -> None:
    network = TrajCast(case.model.metadata.architecture)
    found = {k: tuple(p.shape) for k, p in network.named_parameters() if p.numel()}
    assert found == weight_shapes(case.model.metadata.architecture)


@pytest.mark.parametrize("reflect", [False, True], ids=["rotation", "reflection"])
def test_rotation_and_reflection(case: Case, reflect: bool) -> None:
    generator = np.random.default_rng(7)
    matrix = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    matrix *= np.sign(np.linalg.det(matrix)) * (-1 if reflect else 1)
    assert np.isclose(np.linalg.det(matrix), -1 if reflect else 1)
    e = case.expected
    d, v = case.predict(
        positions=e["positions"] @ matrix,
        velocities=e["velocities"] @ matrix,
        cell=e["cell"] @ matrix,
    )
    np.testing.assert_allclose(d, e["displacement"] @ matrix, atol=1e-10)
    np.testing.assert_allclose(v, e["velocity"] @ matrix, atol=1e-10)


def test_translation(case: Case) -> None:
    d, v = case.predict(positions=case.expected["positions"] + [1.7, -20.3, 4.4])
    np.testing.assert_allclose(d, case.expected["displacement"], atol=1e-10)
    np.testing.assert_allclose(v, case.expected["velocity"], atol=1e-10)


def test_permutation(case: Case) -> None:
    e = case.expected
    order = np.random.default_rng(3).permutation(len(e["types"]))
    d, v = case.predict(
        positions=e["positions"][order], velocities=e["velocities"][order], order=order
    )
    np.testing.assert_allclose(d, e["displacement"][order], atol=1e-10)
    np.testing.assert_allclose(v, e["velocity"][order], atol=1e-10)


def test_supercell(case: Case) -> None:
    """A repeated cell gives repeated predictions (but for a molecule, whose images would spin)."""
    e = case.expected
    if case.model.metadata.architecture.conserve_ang_mom:
        pytest.skip("angular momentum is that of one molecule")
    shifts = [np.array([i, j, 0]) @ e["cell"] for i in range(2) for j in range(3)]
    count = len(shifts)
    cell = e["cell"] * np.array([[2.0], [3.0], [1.0]])
    d, v = case.predict(
        positions=np.concatenate([e["positions"] + shift for shift in shifts]),
        velocities=np.tile(e["velocities"], (count, 1)),
        cell=cell,
        order=np.tile(np.arange(len(e["types"])), count),
    )
    np.testing.assert_allclose(d, np.tile(e["displacement"], (count, 1)), atol=1e-10)
    np.testing.assert_allclose(v, np.tile(e["velocity"], (count, 1)), atol=1e-10)


def test_spherical_harmonics_are_e3nns() -> None:
    from lammps_trajcast.model.embedding import SphericalHarmonics

    vectors = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = o3.spherical_harmonics([0, 1, 2, 3], vectors, True, "component")
    torch.testing.assert_close(SphericalHarmonics(3)(vectors), wanted)
