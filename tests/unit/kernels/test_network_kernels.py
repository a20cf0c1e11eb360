"""The kernels for prediction: tables, layers and every set of instructions, against e3nn."""

import runpy

import numpy as np
import pytest
import torch
from e3nn import o3
from e3nn.math import normalize2mom
from e3nn.nn import FullyConnectedNet
from locations import PARITY_CASES, ROOT
from models import kernels_of, predict
from networks import Case, architecture, network, random_inputs, relative

from lammps_trajcast.kernels.network import KernelGraph, NetworkKernels
from lammps_trajcast.kernels.tables import (
    ORDER,
    TOLERANCE,
    Function,
    HermiteTable,
    SpeedEmbedding,
    TableError,
    hermite_basis,
    message_function,
    scalar_function,
    tabulate,
    velocity_function,
)
from lammps_trajcast.model.architecture import Architecture, GateActivations, ParityActivations
from lammps_trajcast.model.conservation import Conservation
from lammps_trajcast.model.file import as_arrays, weights_of
from lammps_trajcast.model.interaction import ACTIVATIONS
from lammps_trajcast.model.irreps import layers
from lammps_trajcast.model.normalization import GAINS

pytestmark = pytest.mark.usefixtures("unoptimized")

SOURCES = ROOT / "fix_src" / "kernels"


def matrices(perceptron: FullyConnectedNet) -> list[np.ndarray]:
    return [layer.weight.detach().numpy() for layer in perceptron]


def messages(arch: Architecture, perceptron: FullyConnectedNet, weights: dict) -> Function:
    return message_function(
        weights["edge_embedding.radial_basis.bessel_roots"],
        arch.edge_cutoff,
        arch.num_edge_poly_cutoff,
        matrices(perceptron),
    )


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
        found = predict(kernels_of(plain, arch, dtype, instructions=instructions), *inputs)
        assert found.dtype == dtype
        assert relative(found.double(), wanted) < tolerance


def test_instructions_are_those_asked_for() -> None:
    arch = architecture(1, 4)
    used = [
        kernels_of(network(arch), arch, torch.float32, instructions=name).instructions
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
    data = case.model.metadata
    species, positions, velocities, masses, vectors, receivers, senders = case.inputs()
    precision = {torch.float32: "single", torch.float64: "double"}[dtype]
    kernels = NetworkKernels(data.architecture, case.model.weights, precision)
    target = predict(kernels, species, velocities, vectors, receivers, senders).double()
    system = torch.zeros_like(species)
    conservation = Conservation(data.architecture, (data.rms_displacement, data.rms_velocity))
    found = conservation(target, positions, velocities, masses, system, 1)
    for field in ("displacement", "velocity"):
        wanted = torch.from_numpy(case.expected[field])
        assert relative(getattr(found, field), wanted) < tolerance


def test_products_and_sums_are_contracted() -> None:
    """Fused multiply-add where the processor has it, in every build.

    A build that tests the kernels, as that of `make sanitize`, otherwise has the digits of the
    portable ones, to the last bit, and tests other sums than those that users get.
    """
    arch = architecture(2, 8)
    plain, inputs = network(arch), random_inputs(arch, torch.float64)
    best = kernels_of(plain, arch, torch.float32)
    portable = kernels_of(plain, arch, torch.float32, instructions="portable")
    if best.instructions == "portable":
        pytest.skip("this processor has no fused multiply-add, or no other kernels")
    assert not torch.equal(predict(best, *inputs), predict(portable, *inputs))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_other_activations(activation: str) -> None:
    activations = ParityActivations(e=activation)
    gate = GateActivations(activation_scalars=activations, activation_gates=activations)
    arch = architecture(2, 8).model_copy(update={"nl_gate_kwargs": gate})
    plain = network(arch)
    inputs = random_inputs(arch, torch.float64)
    with torch.no_grad():
        wanted = plain.predict(*inputs)
    found = predict(kernels_of(plain, arch, torch.float64), *inputs)
    assert relative(found, wanted) < 1e-10


def test_many_neighbors_and_atoms() -> None:
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
    found = predict(kernels_of(plain, arch, torch.float64), *inputs)
    assert relative(found, wanted) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_threads_give_the_same_digits(dtype: torch.dtype) -> None:
    """Each atom's sums are one thread's, in the order of its edges."""
    arch = architecture(2, 16)
    kernels = kernels_of(network(arch), arch, dtype)
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
    kernels = kernels_of(plain, arch, torch.float64)
    found = predict(kernels, species, velocities, vectors, receivers, senders)
    assert relative(found, wanted) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_no_number_stays_none(dtype: torch.dtype) -> None:
    """An atom with a velocity of NaN, its neighbors, and nobody else."""
    arch = architecture(2, 8).model_copy(update={"num_mp_layers": 1})
    species, velocities, vectors, receivers, senders = random_inputs(arch, torch.float64)
    velocities[4] = torch.nan
    kernels = kernels_of(network(arch), arch, dtype)
    found = predict(kernels, species, velocities, vectors, receivers, senders)
    touched = set(receivers[senders == 4].tolist()) | {4}
    assert set(found.isnan().any(dim=1).nonzero().flatten().tolist()) == touched


def test_kernels_keep_their_weights() -> None:
    """Training goes on with the network; what was compiled from it does not change."""
    arch = architecture(1, 8)
    plain = network(arch)
    inputs = random_inputs(arch, torch.float64)
    kernels = kernels_of(plain, arch, torch.float64)
    before = predict(kernels, *inputs)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.5)
    assert torch.equal(predict(kernels, *inputs), before)
    assert not torch.equal(predict(kernels_of(plain, arch, torch.float64), *inputs), before)


def test_no_atoms_and_no_edges() -> None:
    arch = architecture(2, 8)
    plain = network(arch)
    kernels = kernels_of(plain, arch, torch.float64)
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
    kernels = kernels_of(network(arch), arch, torch.float32)
    inputs = (x.numpy() for x in random_inputs(arch, torch.float64))
    species, velocities, vectors, receivers, senders = inputs
    single = velocities.astype(np.float32)
    with pytest.raises(ValueError, match="velocities is float64"):
        kernels.embed(species, velocities)
    with pytest.raises(ValueError, match="edge_vectors is float32"):
        kernels.edges(vectors.astype(np.float32))
    edges, features = kernels.edges(vectors), kernels.embed(species, single)
    first_edge = np.searchsorted(receivers, np.arange(len(species) + 1))
    graph = (KernelGraph(species, single, edges, first_edge, senders), None)
    wide = np.empty((len(species), 2 * kernels.widths[1]), np.float32)
    with pytest.raises(ValueError, match="out is float32"):
        kernels.layer(0, features, *graph, wide)
    with pytest.raises(ValueError, match="out is not contiguous"):
        kernels.layer(0, features, *graph, wide[:, ::2])
    with pytest.raises(ValueError, match="fewer rows"):
        kernels.layer(0, features[:-1], *graph, np.ascontiguousarray(wide[:, ::2]))
    last = np.zeros((3, kernels.widths[-1]), np.float32)
    with pytest.raises(ValueError, match="fewer rows"):
        kernels.read_out(last, 4)


def test_rotation_order_beyond_the_kernels() -> None:
    arch = architecture(2, 4).model_copy(update={"max_rotation_order": 4})
    with pytest.raises(ValueError, match="order"):
        kernels_of(network(architecture(2, 4)), arch, torch.float32)


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
    precision = {torch.float32: "single", torch.float64: "double"}[dtype]
    settings = {"order": ORDER[precision], "tolerance": TOLERANCE[precision]}
    assert TOLERANCE[precision] < bound
    rng = np.random.default_rng(6)
    layer, embedding = plain.interactions[-1], plain.embedding
    limits = {"first": 0.1, "last": arch.edge_cutoff}
    weights = as_arrays(weights_of(plain))
    speed = SpeedEmbedding.of(arch, weights)
    table = tabulate([messages(arch, layer.edge_mlp, weights)], **limits, **settings)
    r = torch.from_numpy(rng.uniform(0.1, arch.edge_cutoff, 2000))
    with torch.no_grad():
        exact = layer.edge_mlp(plain.edge_embedding.radial_basis(r)).numpy()
    assert np.abs(table.evaluate(r.numpy())[0] - exact).max() < bound * np.abs(exact).max()

    species = range(arch.num_chem_elements)
    speeds = torch.from_numpy(rng.uniform(0.0, 2.0 * arch.vel_max, 2000))
    velocities = torch.zeros(2000, 3, dtype=torch.float64)
    velocities[:, 1] = speeds
    range_of_speeds = {"first": 0.0, "last": speed.fastest}
    perceptron = matrices(layer.vel_mlp)
    linear = weights["embedding.linear.weight"].reshape(-1, arch.num_hidden_channels)
    linear = linear[: -arch.max_rotation_order]
    path_weights = tabulate(
        [velocity_function(speed, s, perceptron) for s in species], **range_of_speeds, **settings
    )
    scalars = tabulate(
        [scalar_function(speed, s, linear) for s in species], **range_of_speeds, **settings
    )
    for s in species:
        with torch.no_grad():
            nodes = embedding(torch.full((2000,), s), velocities)
            exact = layer.vel_mlp(nodes.speed).numpy()
            first = nodes.features[:, : arch.num_hidden_channels].numpy()
        found = path_weights.evaluate(speeds.numpy())[s]
        assert np.abs(found - exact).max() < bound * np.abs(exact).max()
        found = scalars.evaluate(speeds.numpy())[s]
        assert np.abs(found - first).max() < bound * np.abs(first).max()


def test_a_coarser_table_is_worse() -> None:
    """The error is that of the interpolation, not a constant."""
    arch = architecture(2, 8)
    plain = network(arch)
    function = messages(arch, plain.interactions[0].edge_mlp, as_arrays(weights_of(plain)))
    r = np.linspace(0.5, 4.0, 5000)
    exact = function(r)
    tables = [tabulate([function], 0.5, 4.0, 2, 1.0, fewest=n) for n in (40, 80, 160)]
    assert [table.num_nodes for table in tables] == [41, 81, 161]
    errors = [np.abs(table.evaluate(r)[0] - exact).max() for table in tables]
    assert errors[0] / errors[1] == pytest.approx(16.0, rel=0.5)
    assert errors[1] / errors[2] == pytest.approx(16.0, rel=0.5)


def test_hopeless_functions_are_refused() -> None:
    def wild(x: np.ndarray, order: int) -> np.ndarray:
        return np.stack([np.sin(1e7 * x), 1e7 * np.cos(1e7 * x)][:order])[:, :, None]

    with pytest.raises(TableError, match="kernels plain"):
        tabulate([Function(wild, np.eye(1))], 0.0, 1.0, 2, 1e-8)


@pytest.mark.parametrize("species", [0, 2])
def test_derivatives_are_those_of_the_modules(species: int) -> None:
    """Value and two derivatives of each function, against torch's automatic differentiation."""
    arch = architecture(2, 8)
    plain = network(arch)
    weights, layer = as_arrays(weights_of(plain)), plain.interactions[1]
    speed = SpeedEmbedding.of(arch, weights)

    def of_speed(s: torch.Tensor) -> torch.Tensor:
        offset = (s.unsqueeze(1) - plain.embedding.centers) / plain.embedding.spacing
        gaussians = torch.exp(-offset * offset) * plain.embedding.speed_scale
        one_hot = torch.eye(arch.num_chem_elements, dtype=torch.float64)[species]
        return plain.embedding.element_tp(gaussians, one_hot.expand(len(s), -1))

    basis, rng = plain.edge_embedding.radial_basis, np.random.default_rng(1)
    for function, module, last in (
        (messages(arch, layer.edge_mlp, weights), lambda r: layer.edge_mlp(basis(r)), 3.9),
        (
            velocity_function(speed, species, matrices(layer.vel_mlp)),
            lambda s: layer.vel_mlp(of_speed(s)),
            0.12,
        ),
    ):
        x = torch.from_numpy(rng.uniform(0.01 * last, last, 40)).requires_grad_()
        found = function.inner(x.detach().numpy(), 3) @ function.outer
        for column in (0, 5):
            values = [module(x)[:, column]]
            for _ in range(2):
                (slope,) = torch.autograd.grad(values[-1].sum(), x, create_graph=True)
                values.append(slope)
            for k, wanted in enumerate(values):
                error = np.abs(found[k, :, column] - wanted.detach().numpy()).max()
                assert error < 1e-12 * float(wanted.detach().abs().max()), (k, column)


# ---- what the kernels know without e3nn ----------------------------------------------------------


@pytest.mark.parametrize("name", GAINS)
def test_gains_are_e3nns(name: str) -> None:
    assert GAINS[name] == pytest.approx(normalize2mom(ACTIVATIONS[name]).cst, rel=1e-14)


@pytest.mark.parametrize("lmax", [1, 2, 3, 4])
@pytest.mark.parametrize("parity", ["both", "natural"])
def test_irreps_and_paths_are_e3nns(lmax: int, parity: str) -> None:
    """Of each layer, with the normalization of each path, which the kernels work out themselves."""
    arch = architecture(lmax, 4).model_copy(update={"feature_parity": parity})
    for light, plain in zip(layers(arch), network(arch).interactions, strict=True):
        for irreps, paths, product in (
            (light.messages, light.message_paths, plain.dtp_edge.tp),
            (light.conditioned, light.velocity_paths, plain.dtp_vel.tp),
        ):
            assert o3.Irreps(irreps) == product.irreps_out
            for path, instruction in zip(paths, product.instructions, strict=True):
                assert path == (instruction.i_in1, instruction.i_in2, instruction.i_out)
                dim = irreps[path.out].ir.dim
                assert instruction.path_weight == pytest.approx(dim**0.5, rel=1e-15)
        assert o3.Irreps(light.inputs) == plain.dtp_edge.tp.irreps_in1
        assert o3.Irreps(light.contracted) == plain.dtp_vel.tp.irreps_in1
        assert o3.Irreps(light.updates) == plain.linear_updates.irreps_out
        assert o3.Irreps(light.outputs) == plain.irreps_out


# ---- the couplings compiled in -----------------------------------------------------------------


def test_couplings_are_e3nns() -> None:
    written = runpy.run_path(str(SOURCES / "generate_couplings.py"))["couplings"]()
    assert written == (SOURCES / "couplings.h").read_text()
