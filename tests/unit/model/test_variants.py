"""Architectures beyond the published one: every way to evaluate them gives the same."""

import functools

import pytest
import torch
from e3nn import o3
from models import first_edge, kernels_of, model_of, predict
from networks import architecture, random_inputs, relative

from lammps_trajcast.kernels.edge_convolution import edge_convolution
from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.kernels.path_table import PathTable, register_table
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.embedding import SphericalHarmonics
from lammps_trajcast.model.interaction import DepthwiseTensorProduct, ReceiverMix
from lammps_trajcast.model.irreps import full_feature_irreps
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.shapes import weight_shapes
from lammps_trajcast.model.torchscript import compile_network
from lammps_trajcast.runtime.make_backend import make_backend

pytestmark = pytest.mark.usefixtures("unoptimized")

FACTORS = (0.4, 1.0, 1.7)
VARIANTS = {
    "solid": {"velocity_harmonics": "solid", "velocity_scale": 0.03},
    "both": {"message_features": "both"},
    "natural": {"feature_parity": "natural"},
    "limited": {"speed_limit": 0.02},
    "factors": {"speed_limit": 0.02, "speed_factors": FACTORS},
    "all": {
        "velocity_harmonics": "solid",
        "velocity_scale": 0.03,
        "message_features": "both",
        "feature_parity": "natural",
        "speed_limit": 0.05,
        "speed_factors": FACTORS,
    },
}


def variant(name: str, lmax: int = 2, channels: int = 8) -> Architecture:
    published = architecture(lmax, channels)
    return Architecture(**{**published.model_dump(), **VARIANTS[name]})


def network(arch: Architecture) -> TrajCast:
    torch.manual_seed(0)
    made = TrajCast(arch)
    for layer in made.interactions:
        if layer.own_share is not None:  # at their first values scalars would not be tested
            layer.own_share.weight.data += 0.3 * torch.randn_like(layer.own_share.weight)
    return made


@pytest.mark.parametrize("name", VARIANTS)
def test_fused_and_its_gradients_are_plain(name: str) -> None:
    arch = variant(name)
    plain = network(arch)
    fused = FusedTrajCast(plain)
    inputs = random_inputs(arch, torch.float64)
    probe = torch.randn(len(inputs[0]), 6, dtype=torch.float64)
    parameters = [p for p in plain.parameters() if p.numel()]
    wanted, found = plain.predict(*inputs), fused.predict(*inputs)
    assert relative(found, wanted) < 1e-12
    gradients = [torch.autograd.grad((x * probe).sum(), parameters) for x in (found, wanted)]
    for a, b in zip(*gradients, strict=True):
        assert relative(a, b) < 1e-10
    with torch.no_grad():
        for module in (plain, fused):
            assert relative(compile_network(module).predict(*inputs), wanted) < 1e-12


@pytest.mark.parametrize(
    "name,channels,instructions",
    [
        ("solid", 5, "portable"),
        ("both", 40, "best"),
        ("natural", 32, "avx2"),
        ("limited", 16, "best"),
        ("all", 8, "best"),
        ("all", 32, "portable"),
    ],
)
def test_prediction_kernels_are_plain(name: str, channels: int, instructions: str) -> None:
    arch = variant(name, channels=channels)
    plain = network(arch)
    inputs = random_inputs(arch, torch.float64)
    with torch.no_grad():
        wanted = plain.predict(*inputs)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-6)):
        kernels = kernels_of(plain, arch, dtype, instructions=instructions)
        found = predict(kernels, *inputs)
        assert relative(found.double(), wanted) < tolerance


@pytest.mark.parametrize("kernels", ["plain", "fused"])
def test_layers_of_some_atoms(kernels: str) -> None:
    """As on several ranks: the receivers of a layer in two parts."""
    arch = variant("all", channels=16)
    species, velocities, vectors, receivers, senders = random_inputs(arch, torch.float64)
    plain, count = network(arch), len(species)
    with torch.inference_mode():
        wanted = plain.predict(species, velocities, vectors, receivers, senders)
        backend = make_backend(model_of(plain, arch), "double", torch.device("cpu"), kernels)
        edges = first_edge(receivers, species)
        backend.prepare(StepGraph(species, velocities, vectors, edges, senders))
        features = backend.initial_features()
        for k in range(backend.num_layers):
            out = features.new_full((count, backend.widths[k + 1]), torch.nan)
            for part in (torch.arange(0, count, 2), torch.arange(1, count, 2)):
                backend.layer(k, features, out, part)
            features = out
        assert relative(backend.read_out(features), wanted) < 1e-10


@pytest.mark.parametrize("name", VARIANTS)
def test_rotations_and_reflections(name: str) -> None:
    arch = variant(name)
    plain = network(arch)
    species, velocities, vectors, receivers, senders = random_inputs(arch, torch.float64)
    rotation = -o3.rand_matrix(dtype=torch.float64)
    with torch.no_grad():
        before = plain.predict(species, velocities, vectors, receivers, senders)
        after = plain.predict(
            species, velocities @ rotation.T, vectors @ rotation.T, receivers, senders
        )
    assert relative(after.view(-1, 2, 3), before.view(-1, 2, 3) @ rotation.T) < 1e-10


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_are_those_of_the_network(name: str) -> None:
    arch = variant(name)
    found = {key: tuple(p.shape) for key, p in TrajCast(arch).named_parameters() if p.numel()}
    assert weight_shapes(arch) == found


@pytest.mark.parametrize("kernels", ["plain", "prediction"])
def test_speed_limit(kernels: str) -> None:
    """Far beyond it nothing changes with the speed; far below, nothing changes with the limit."""
    arch = variant("limited")
    limit = arch.speed_limit
    assert limit is not None
    plain, without = network(arch), network(arch.model_copy(update={"speed_limit": None}))
    species, velocities, *graph = random_inputs(arch, torch.float64)
    run = plain.predict
    if kernels == "prediction":
        run = functools.partial(predict, kernels_of(plain, arch, torch.float64))
    direction = velocities / velocities.norm(dim=1, keepdim=True)
    with torch.no_grad():
        fast, faster = (run(species, x * limit * direction, *graph) for x in (30.0, 1e9))
        slow = run(species, 0.1 * limit * direction, *graph)
        assert relative(faster, fast) < 1e-9
        assert relative(fast, without.predict(species, limit * direction, *graph)) < 1e-9
        assert relative(slow, without.predict(species, 0.1 * limit * direction, *graph)) < 1e-8


@pytest.mark.parametrize("kernels", ["plain", "fused", "prediction"])
@pytest.mark.parametrize("harmonics", ["solid", "unit"])
def test_speed_factors(kernels: str, harmonics: str) -> None:
    """Radial functions see the speed times the factor, harmonics the velocity as it is.

    With one factor for all, that is a network whose Gaussians are closer and whose limit is lower.
    """
    arch = variant("all" if harmonics == "solid" else "factors")
    arch = arch.model_copy(update={"speed_limit": 0.05})
    assert arch.speed_limit is not None and arch.speed_factors is not None
    species, velocities, *graph = random_inputs(arch, torch.float64)

    def run(arch: Architecture) -> torch.Tensor:
        plain = network(arch)
        if kernels == "prediction":
            return predict(kernels_of(plain, arch, torch.float64), species, velocities, *graph)
        made = FusedTrajCast(plain) if kernels == "fused" else plain
        return made.predict(species, velocities, *graph)

    with torch.no_grad():
        for factor in (0.4, 1.7):
            same = arch.model_copy(update={"speed_factors": (factor,) * 3})
            closer = arch.model_copy(
                update={
                    "speed_factors": None,
                    "vel_max": arch.vel_max / factor,
                    "speed_limit": arch.speed_limit / factor,
                }
            )
            assert relative(run(same), run(closer)) < 1e-8
        # Atoms of the last element are seen with the last factor.
        species = torch.full_like(species, 2)
        assert relative(run(arch), run(same)) < 1e-8
        other = arch.model_copy(update={"speed_factors": None})
        assert relative(run(arch), run(other)) > 1e-3


def test_there_is_a_factor_for_each_element() -> None:
    arch = variant("all").model_dump()
    with pytest.raises(ValueError, match="1 speed_factors for 3 elements"):
        Architecture(**arch | {"speed_factors": (1.0,)})


def test_a_speed_limit_needs_no_larger_tables() -> None:
    """Functions end at the limit; that they get there at many times this speed is no matter."""
    limited = variant("limited", channels=32)
    without = limited.model_copy(update={"speed_limit": None})
    sizes = [kernels_of(network(arch), arch, torch.float64).bytes for arch in (limited, without)]
    assert sizes[0] < 1.2 * sizes[1], sizes


def test_natural_parity_alone() -> None:
    layers = network(variant("natural")).interactions
    assert all(ir.p == (-1) ** ir.l for layer in layers for _, ir in layer.irreps_out)
    paths = [
        len(network(variant(name, channels=4)).interactions[1].dtp_edge.tp.instructions)
        for name in ("both", "natural")
    ]
    assert paths[1] < 0.4 * paths[0]


def test_solid_harmonics_are_polynomials() -> None:
    """Order l grows with the l-th power; on the sphere of radius ``scale`` both kinds are equal."""
    unit, solid = SphericalHarmonics(3), SphericalHarmonics(3, 0.2)
    vectors = torch.randn(5, 3)
    vectors = 0.2 * vectors / vectors.norm(dim=1, keepdim=True)
    orders = torch.tensor([0, *3 * [1], *5 * [2], *7 * [3]])
    assert relative(solid(vectors), unit(vectors)) < 1e-6
    assert relative(solid(3.0 * vectors), 3.0**orders * unit(vectors)) < 1e-6
    assert torch.isfinite(solid(torch.zeros(1, 3))).all()


def test_scale_belongs_to_solid_harmonics() -> None:
    published = architecture(2, 8).model_dump()
    for change in ({"velocity_harmonics": "solid"}, {"velocity_scale": 0.1}):
        with pytest.raises(ValueError, match="velocity_scale"):
            Architecture(**{**published, **change})


def test_messages_are_differences_at_first() -> None:
    """Equal vectors of sender and receiver cancel; scalars are the sender's."""
    irreps = o3.Irreps(full_feature_irreps(4, 1))
    features = torch.randn(3, irreps.dim)
    own = ReceiverMix(irreps)(features)
    for (_, ir), where in zip(irreps, irreps.slices(), strict=True):
        wanted = torch.zeros_like(own[:, where]) if ir.l == 0 else -features[:, where]
        assert torch.equal(own[:, where], wanted)


def test_gradcheck_of_the_receivers_share() -> None:
    direction, channels = o3.Irreps.spherical_harmonics(2), 3
    product = DepthwiseTensorProduct(full_feature_irreps(channels, 2), direction, 2).double()
    table = PathTable(product.tp)
    number = register_table(table)
    first_edge = torch.tensor([0, 2, 2, 5, 6])
    senders = torch.tensor([1, 2, 0, 0, 3, 2])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    inputs = (
        random(4, table.num_inputs, channels).requires_grad_(),
        random(6, table.num_paths * channels).requires_grad_(),
        random(4, table.num_inputs, channels).requires_grad_(),
    )
    harmonics = random(6, table.num_harmonics)
    assert torch.autograd.gradcheck(
        lambda f, w, own: edge_convolution(f, harmonics, w, first_edge, senders, number, own),
        inputs,
        fast_mode=True,
    )
    with pytest.raises(ValueError, match="own features"):
        edge_convolution(
            inputs[0], harmonics, inputs[1], first_edge, senders, number, inputs[2][:3]
        )
