"""The optimizer Muon: what it takes for matrices and what a step does."""

import copy

import pytest
import torch
from e3nn import o3

from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.training.muon import Muon, matrices_of, orthogonalized


@pytest.mark.parametrize("shape", [(1, 5), (6, 6), (30, 4), (7, 60)])
def test_orthogonalized(shape: tuple[int, int]) -> None:
    """The singular vectors stay; the singular values come near one whatever they were."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # From the largest to a fiftieth of it; far smaller ones need more iterations.
    values = torch.logspace(0, -1.7, len(values), dtype=torch.float64)
    for scale in (1e-12, 1.0, 1e8):
        result = orthogonalized(torch.stack([left @ torch.diag(scale * values) @ right]))[0]
        core = left.T @ result @ right.T
        assert ((core.diagonal() > 0.6) & (core.diagonal() < 1.25)).all()
        torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-9, rtol=0)
        torch.testing.assert_close(left @ core @ right, result, atol=1e-9, rtol=0)


def test_orthogonalized_zero() -> None:
    assert (orthogonalized(torch.zeros(2, 3, 4)) == 0.0).all()


def test_matrices_of_linear() -> None:
    """The matrix of an output irrep maps the inputs of that irrep, side by side, to it."""
    generator = torch.Generator().manual_seed(2)
    linear = o3.Linear("3x0e + 2x1o + 4x0e + 5x1o", "6x0e + 7x1o").double()
    x = torch.randn(1, linear.irreps_in.dim, generator=generator, dtype=torch.float64)
    places = matrices_of(linear)[linear.weight]
    scalars = torch.cat([x[:, :3], x[:, 9:13]], dim=1)
    vectors = torch.cat([x[:, 3:9].view(1, 2, 3), x[:, 13:].view(1, 5, 3)], dim=1)
    weights = [linear.weight.detach()[place] for place in places]
    y = linear(x)
    torch.testing.assert_close(scalars @ weights[0] / 7**0.5, y[:, :6])
    expected = torch.einsum("nmi,mk->nki", vectors, weights[1]) / 7**0.5
    torch.testing.assert_close(expected, y[:, 6:].view(1, 7, 3))


@pytest.fixture
def network() -> TrajCast:
    torch.manual_seed(0)
    architecture = Architecture(
        num_chem_elements=2, edge_cutoff=3.0, vel_max=0.1, avg_num_neighbors=5.0,
        max_rotation_order=1, num_hidden_channels=8, num_mp_layers=2,
    )  # fmt: skip
    return TrajCast(architecture, (1.0, 1.0))


def test_every_weight_belongs_to_one_matrix(network: TrajCast) -> None:
    found = matrices_of(network)
    for parameter, places in found.items():
        every = torch.cat([place.flatten() for place in places]).sort().values
        assert torch.equal(every, torch.arange(parameter.numel()))
    others = [name for name, p in network.named_parameters() if p not in found]
    functions = ("element_tp", "bessel_roots", "vel_mlp", "edge_mlp.layer0")
    assert all(any(name in other for name in functions) for other in others), others


def test_rare_speeds_do_not_run_away(network: TrajCast) -> None:
    """What acts on radial functions moves little after a gradient that was seen in one step."""
    optimizer = Muon(network, 0.01)
    rare = {
        name: parameter
        for name, parameter in network.named_parameters()
        if any(part in name for part in ("element_tp", "vel_mlp", "mlp.layer0"))
    }
    assert len(rare) == 1 + 2 * 4 + 2
    before = {name: parameter.detach().clone() for name, parameter in rare.items()}
    for step in range(300):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, float(step == 0))
        optimizer.step()
    for name, parameter in rare.items():
        # 300 steps of 0.01 would be 3.
        assert float((parameter.detach() - before[name]).abs().max()) < 0.2, name


def test_step(network: TrajCast) -> None:
    """All singular directions of a matrix change by about the same, however large the gradient."""
    optimizer = Muon(network, 0.01)
    generator = torch.Generator().manual_seed(3)
    before = {p: p.detach().clone() for p in network.parameters()}
    for parameter in network.parameters():
        parameter.grad = 1e3 * torch.randn(
            parameter.shape, generator=generator, dtype=parameter.dtype
        )
    optimizer.step()
    places = matrices_of(network)
    for parameter, old in before.items():
        change = (parameter.detach() - old).flatten()
        if parameter not in places:
            torch.testing.assert_close(change.abs(), torch.full_like(change, 0.01))
            continue
        for place in places[parameter]:
            values = torch.linalg.svdvals(change[place])
            assert values.max() < 1.25 * 0.01 * max(place.shape) ** 0.5
            assert values.max() > 0.6 * 0.01 * max(place.shape) ** 0.5
            downhill = (change[place] * parameter.grad.flatten()[place]).sum()
            assert downhill < 0.0


def test_state_is_restored(network: TrajCast) -> None:
    """A step after saving and loading is the same to the last bit."""
    optimizer = Muon(network, 0.01)
    generator = torch.Generator().manual_seed(4)

    def draw() -> None:
        for parameter in network.parameters():
            parameter.grad = torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )

    draw()
    optimizer.step()
    kept = {name: p.detach().clone() for name, p in network.named_parameters()}
    state = copy.deepcopy(optimizer.state_dict())
    draw()
    fresh = Muon(network, 0.5)
    fresh.load_state_dict(state)
    fresh.step()
    after = [p.detach().clone() for p in network.parameters()]
    network.load_state_dict(kept, strict=False)
    optimizer.step()
    for parameter, expected in zip(network.parameters(), after, strict=True):
        assert torch.equal(parameter.detach(), expected)
