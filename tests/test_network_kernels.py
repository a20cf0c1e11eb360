"""The kernels for prediction: tables, layers and every set of instructions, against e3nn."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PARITY_CASES
from test_kernels import architecture, random_inputs, relative
from test_network_parity import Case

from lammps_trajcast.kernels.network import NetworkKernels, PredictionNetwork
from lammps_trajcast.kernels.tables import (
    ORDER,
    TOLERANCE,
    Function,
    HermiteTable,
    TableError,
    fastest,
    hermite_basis,
    message_function,
    scalar_function,
    tabulate,
    velocity_function,
)
from lammps_trajcast.model.architecture import Architecture, GateActivations, ParityActivations
from lammps_trajcast.model.codegen import quick_construction
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import compile_network

pytestmark = pytest.mark.usefixtures("unoptimized")

SOURCES = Path(__file__).parents[1] / "fix_src" / "kernels"


def network(arch: Architecture, seed: int = 0) -> TrajCast:
    torch.manual_seed(seed)
    return TrajCast(arch)


def predict(kernels: NetworkKernels, *inputs: torch.Tensor) -> torch.Tensor:
    """Targets from inputs in double precision; compiled by TorchScript, as the fix does."""
    species, velocities, vectors, receivers, senders = inputs
    run = compile_network(PredictionNetwork(kernels))
    return run(species, velocities.to(kernels.dtype), vectors, receivers, senders)


# ---- the whole network -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "lmax,channels,instructions",
    [
        (1, 8, "portable"),
        (2, 5, "best"),
        (2, 5, "avx2"),
        (2, 40, "best"),
        (2, 40, "portable"),
        (3, 16, "best"),
        (3, 16, "avx2"),
    ],
)
def test_kernels_are_plain(lmax: int, channels: int, instructions: str) -> None:
    """Any rotation order and number of channels, in either precision, against plain in double."""
    arch = architecture(lmax, channels)
    plain = network(arch)
    inputs = random_inputs(arch, torch.float64)
    with torch.no_grad():
        wanted = plain.predict(*inputs)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
        found = predict(NetworkKernels(plain, arch, dtype, instructions=instructions), *inputs)
        assert found.dtype == dtype
        assert relative(found.double(), wanted) < tolerance


def test_instructions_are_those_asked_for() -> None:
    arch = architecture(1, 4)
    used = [
        NetworkKernels(network(arch), arch, torch.float32, instructions=name).instructions
        for name in ("portable", "avx2", "best")
    ]
    assert used[0] == "portable"
    assert used[1] in ("avx2", "portable")
    assert used[2] in ("avx512", "avx2", "portable")


@pytest.mark.parametrize("name", PARITY_CASES)
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-6)])
def test_parity(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """Targets of the authors' implementation, compiled by TorchScript as the fix does."""
    case = Case(name)
    with quick_construction(evaluated=False):
        plain, arch = case.model.build(torch.float64), case.model.metadata.architecture
    species, positions, velocities, masses, vectors, receivers, senders = case.inputs()
    kernels = NetworkKernels(plain, arch, dtype)
    target = predict(kernels, species, velocities, vectors, receivers, senders).double()
    system = torch.zeros_like(species)
    found = plain.conservation(target, positions, velocities, masses, system, 1)
    for field in ("displacement", "velocity"):
        wanted = torch.from_numpy(case.expected[field])
        assert relative(getattr(found, field), wanted) < tolerance


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_other_activations(activation: str) -> None:
    activations = ParityActivations(e=activation)
    gate = GateActivations(activation_scalars=activations, activation_gates=activations)
    arch = architecture(2, 8).model_copy(update={"nl_gate_kwargs": gate})
    plain = network(arch)
    inputs = random_inputs(arch, torch.float64)
    with torch.no_grad():
        wanted = plain.predict(*inputs)
    found = predict(NetworkKernels(plain, arch, torch.float64), *inputs)
    assert relative(found, wanted) < 1e-10


def test_many_neighbours_and_atoms() -> None:
    """Several tiles of edges an atom, several blocks of atoms, more than one species."""
    arch = architecture(2, 16)
    plain = network(arch)
    generator = torch.Generator().manual_seed(9)
    atoms, edges = 150, 150 * 41
    receivers = torch.randint(0, atoms, (edges,), generator=generator).sort().values
    senders = torch.randint(0, atoms, (edges,), generator=generator)
    vectors = torch.randn(edges, 3, generator=generator, dtype=torch.float64)
    vectors *= 1.0 + 0.2 / vectors.norm(dim=1, keepdim=True)  # no two atoms in one place
    species = torch.randint(0, 3, (atoms,), generator=generator)
    velocities = 0.05 * torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    inputs = (species, velocities, vectors, receivers, senders)
    with torch.no_grad():
        wanted = plain.predict(*inputs)
    found = predict(NetworkKernels(plain, arch, torch.float64), *inputs)
    assert relative(found, wanted) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_threads_give_the_same_digits(dtype: torch.dtype) -> None:
    """Each atom's sums are one thread's, in the order of its edges."""
    arch = architecture(2, 16)
    kernels = NetworkKernels(network(arch), arch, dtype)
    inputs = random_inputs(arch, torch.float64, 90)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(predict(kernels, *inputs))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(results[0], other)


def test_resting_and_fast_atoms() -> None:
    """No direction at rest; beyond the range of the embedding the speed does not show."""
    arch = architecture(2, 8)
    plain = network(arch)
    species, velocities, vectors, receivers, senders = random_inputs(arch, torch.float64)
    velocities[0] = 0.0
    velocities[1] *= 100.0
    velocities[2] *= 3.0
    with torch.no_grad():
        wanted = plain.predict(species, velocities, vectors, receivers, senders)
    kernels = NetworkKernels(plain, arch, torch.float64)
    found = predict(kernels, species, velocities, vectors, receivers, senders)
    assert relative(found, wanted) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    """An atom with a velocity of NaN, its neighbours, and nobody else."""
    arch = architecture(2, 8).model_copy(update={"num_mp_layers": 1})
    species, velocities, vectors, receivers, senders = random_inputs(arch, torch.float64)
    velocities[4] = torch.nan
    kernels = NetworkKernels(network(arch), arch, dtype)
    found = predict(kernels, species, velocities, vectors, receivers, senders)
    touched = set(receivers[senders == 4].tolist()) | {4}
    assert set(found.isnan().any(dim=1).nonzero().flatten().tolist()) == touched


def test_kernels_keep_their_weights() -> None:
    """Training goes on with the network; what was compiled from it does not change."""
    arch = architecture(1, 8)
    plain = network(arch)
    inputs = random_inputs(arch, torch.float64)
    kernels = NetworkKernels(plain, arch, torch.float64)
    before = predict(kernels, *inputs)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.5)
    assert torch.equal(predict(kernels, *inputs), before)
    assert not torch.equal(predict(NetworkKernels(plain, arch, torch.float64), *inputs), before)


def test_no_atoms_and_no_edges() -> None:
    arch = architecture(2, 8)
    plain = network(arch)
    kernels = NetworkKernels(plain, arch, torch.float64)
    nothing = torch.empty(0, dtype=torch.int64)
    none = torch.empty((0, 3), dtype=torch.float64)
    assert predict(kernels, nothing, none, none, nothing, nothing).shape == (0, 6)
    species = torch.tensor([0, 2])
    velocities = torch.tensor([[0.01, 0.02, -0.03], [0.0, 0.0, 0.05]], dtype=torch.float64)
    with torch.no_grad():
        wanted = plain.predict(species, velocities, none, nothing, nothing)
    found = predict(kernels, species, velocities, none, nothing, nothing)
    assert relative(found, wanted) < 1e-10


def test_wrong_tensors_are_refused() -> None:
    arch = architecture(1, 4)
    kernels = NetworkKernels(network(arch), arch, torch.float32)
    run = PredictionNetwork(kernels)
    species, velocities, vectors, receivers, senders = random_inputs(arch, torch.float64)
    with pytest.raises(ValueError, match="velocities"):
        run(species, velocities, vectors, receivers, senders)
    with pytest.raises(ValueError, match="edge_vectors"):
        run(species, velocities.float(), vectors.float(), receivers, senders)
    edges, features = run.edges(vectors), run.first(species, velocities.float())
    first_edge = torch.zeros(len(species) + 1, dtype=torch.int64)
    out = torch.empty(len(species), kernels.widths[1] + 1)
    with pytest.raises(ValueError, match="out"):
        run.layer(0, features, edges, first_edge, senders, species, velocities.float(), None, out)


def test_rotation_order_beyond_the_kernels() -> None:
    arch = architecture(2, 4).model_copy(update={"max_rotation_order": 4})
    with pytest.raises(ValueError, match="order"):
        NetworkKernels(network(architecture(2, 4)), arch, torch.float32)


# ---- tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3])
def test_hermite_polynomials_are_exact(order: int) -> None:
    """A polynomial of the degree that they can represent, and its derivatives."""
    coefficients = np.random.default_rng(4).normal(size=2 * order)
    polynomial = np.polynomial.Polynomial(coefficients)
    nodes = np.linspace(0.5, 2.0, 4)
    derivatives = [
        polynomial.deriv(k)(nodes) * 0.5**k if k else polynomial(nodes) for k in range(order)
    ]
    table = HermiteTable(0.5, 0.5, np.stack(derivatives, axis=1)[None, :, :, None])
    x = np.linspace(0.5, 2.0, 31)
    np.testing.assert_allclose(table.evaluate(x)[0, :, 0], polynomial(x), rtol=1e-12)
    assert hermite_basis(np.zeros(1), order)[0].tolist() == [1.0] + [0.0] * (2 * order - 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["quartz_l2", "tiny_cell"])
def test_tables_are_within_their_bound(name: str, dtype: torch.dtype) -> None:
    """At random places, against the modules of the network; 1e-8 is the bound in double."""
    case = Case(name)
    plain, arch = case.model.build(torch.float64), case.model.metadata.architecture
    bound = {torch.float64: 1e-8, torch.float32: 1e-6}[dtype]
    assert TOLERANCE[dtype] < bound
    rng = np.random.default_rng(6)
    layer, embedding = plain.interactions[-1], plain.embedding
    limits = {"first": 0.1, "last": arch.edge_cutoff}
    function = message_function(plain.edge_embedding.radial_basis, layer.edge_mlp)
    table = tabulate([function], **limits, order=ORDER[dtype], tolerance=TOLERANCE[dtype])
    r = torch.from_numpy(rng.uniform(0.1, arch.edge_cutoff, 2000))
    with torch.no_grad():
        exact = layer.edge_mlp(plain.edge_embedding.radial_basis(r)).numpy()
    assert np.abs(table.evaluate(r.numpy())[0] - exact).max() < bound * np.abs(exact).max()

    species = range(arch.num_chem_elements)
    speeds = torch.from_numpy(rng.uniform(0.0, 2.0 * arch.vel_max, 2000))
    velocities = torch.zeros(2000, 3, dtype=torch.float64)
    velocities[:, 1] = speeds
    range_of_speeds = {"first": 0.0, "last": fastest(embedding)}
    weights = tabulate(
        [velocity_function(embedding, layer.vel_mlp, s) for s in species],
        **range_of_speeds,
        order=ORDER[dtype],
        tolerance=TOLERANCE[dtype],
    )
    scalars = tabulate(
        [scalar_function(embedding, s) for s in species],
        **range_of_speeds,
        order=ORDER[dtype],
        tolerance=TOLERANCE[dtype],
    )
    for s in species:
        with torch.no_grad():
            nodes = embedding(torch.full((2000,), s), velocities)
            exact = layer.vel_mlp(nodes.speed).numpy()
            first = nodes.features[:, : arch.num_hidden_channels].numpy()
        found = weights.evaluate(speeds.numpy())[s]
        assert np.abs(found - exact).max() < bound * np.abs(exact).max()
        found = scalars.evaluate(speeds.numpy())[s]
        assert np.abs(found - first).max() < bound * np.abs(first).max()


def test_a_coarser_table_is_worse() -> None:
    """The error is that of the interpolation, not a constant."""
    plain = network(architecture(2, 8))
    function = message_function(plain.edge_embedding.radial_basis, plain.interactions[0].edge_mlp)
    r = np.linspace(0.5, 4.0, 5000)
    exact = function(torch.from_numpy(r)).numpy()
    tables = [tabulate([function], 0.5, 4.0, 2, 1.0, fewest=n) for n in (40, 80, 160)]
    assert [table.num_nodes for table in tables] == [41, 81, 161]
    errors = [np.abs(table.evaluate(r)[0] - exact).max() for table in tables]
    assert errors[0] / errors[1] == pytest.approx(16.0, rel=0.5)
    assert errors[1] / errors[2] == pytest.approx(16.0, rel=0.5)


def test_hopeless_functions_are_refused() -> None:
    def wild(x: torch.Tensor) -> torch.Tensor:
        return torch.sin(1e7 * x).unsqueeze(1)

    with pytest.raises(TableError, match="kernels plain"):
        tabulate([Function(wild, torch.eye(1, dtype=torch.float64))], 0.0, 1.0, 2, 1e-8)


# ---- the couplings compiled in -----------------------------------------------------------------


def test_couplings_are_e3nns() -> None:
    written = runpy.run_path(str(SOURCES / "generate_couplings.py"))["couplings"]()
    assert written == (SOURCES / "couplings.h").read_text()
