"""The fused kernels against the plain e3nn path and against finite differences."""

import pytest
import torch
from e3nn import o3
from locations import PARITY_CASES
from networks import architecture, random_inputs, relative

from lammps_trajcast.kernels.edge_convolution import edge_convolution
from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.kernels.path_table import PathTable, register_table
from lammps_trajcast.model.interaction import DepthwiseTensorProduct
from lammps_trajcast.model.irreps import full_feature_irreps
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import compile_network


@pytest.mark.parametrize(
    "lmax,channels,compiled",
    [(1, 8, False), (2, 16, True), (2, 5, False), (3, 32, True), (2, 64, False)],
)
@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_fused_is_plain(lmax: int, channels: int, compiled: bool, dtype, tolerance) -> None:
    """Fused in either precision against plain in double."""
    torch.manual_seed(0)
    arch = architecture(lmax, channels)
    network = TrajCast(arch)
    inputs = random_inputs(arch, torch.float64)
    with torch.no_grad():
        wanted = network.predict(*inputs)
        network = network.to(dtype)
        fused = FusedTrajCast(network)
        run = compile_network(fused) if compiled else fused
        found = run.predict(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
    assert relative(found.double(), wanted) < tolerance


@pytest.mark.parametrize("name", PARITY_CASES)
def test_fused_parity(name: str) -> None:
    from networks import Case

    case = Case(name)
    with torch.no_grad():
        out = FusedTrajCast(case.model.build(torch.float64))(*case.inputs())
    for field in ("displacement", "velocity"):
        wanted = torch.from_numpy(case.expected[field])
        assert relative(getattr(out, field), wanted) < 1e-10


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_agree_and_repeat(threads: int) -> None:
    arch = architecture(2, 16)
    torch.manual_seed(0)
    fused = FusedTrajCast(TrajCast(arch))
    inputs = random_inputs(arch, torch.float64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.no_grad():
            wanted = fused.predict(*inputs)
            torch.set_num_threads(threads)
            first, second = fused.predict(*inputs), fused.predict(*inputs)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)
    assert relative(first, wanted) < 1e-12


def test_gradients_of_the_network() -> None:
    """Gradients to every parameter, fused against plain."""
    torch.manual_seed(0)
    arch = architecture(2, 8)
    network = TrajCast(arch)
    inputs = random_inputs(arch, torch.float64)
    probe = torch.randn(len(inputs[0]), 6, dtype=torch.float64)
    parameters = [p for p in network.parameters() if p.numel()]
    plain = torch.autograd.grad((network.predict(*inputs) * probe).sum(), parameters)
    fused = torch.autograd.grad((FusedTrajCast(network).predict(*inputs) * probe).sum(), parameters)
    for a, b in zip(fused, plain, strict=True):
        assert relative(a, b) < 1e-10


@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_gradcheck(lmax: int) -> None:
    """Gradients of the convolution itself against finite differences, on two threads."""
    channels, atoms = 3, 4
    direction = o3.Irreps.spherical_harmonics(lmax)
    product = DepthwiseTensorProduct(full_feature_irreps(channels, lmax), direction, lmax)
    product = product.double()
    table = PathTable(product.tp)
    number = register_table(table)
    generator = torch.Generator().manual_seed(2)
    first_edge = torch.tensor([0, 2, 2, 5, 6])
    senders = torch.tensor([1, 2, 0, 0, 3, 2])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = random(atoms, table.num_inputs, channels).requires_grad_()
    weights = random(6, table.num_paths * channels).requires_grad_()
    harmonics = random(6, table.num_harmonics)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.autograd.gradcheck(
            lambda f, w: edge_convolution(f, harmonics, w, first_edge, senders, number),
            (features, weights),
            fast_mode=True,
        )
    finally:
        torch.set_num_threads(before)


def test_wrong_shapes_are_refused() -> None:
    direction = o3.Irreps.spherical_harmonics(1)
    product = DepthwiseTensorProduct(full_feature_irreps(4, 1), direction, 1)
    table = PathTable(product.tp)
    number = register_table(table)
    first_edge, senders = torch.tensor([0, 1]), torch.tensor([0])
    good = [
        torch.zeros(1, table.num_inputs, 4),
        torch.zeros(1, 4),
        torch.zeros(1, table.num_paths * 4),
    ]
    edge_convolution(*good, first_edge, senders, number)
    for k, name in enumerate(["features", "harmonics", "weights"]):
        bad = list(good)
        bad[k] = torch.zeros(*bad[k].shape[:1], *(n + 1 for n in bad[k].shape[1:]))
        with pytest.raises(ValueError, match=name):
            edge_convolution(*bad, first_edge, senders, number)
