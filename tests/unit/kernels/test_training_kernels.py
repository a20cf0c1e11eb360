"""The convolution of training: every set of instructions, and tables of lengths, against torch."""

import pytest
import torch
from e3nn import o3
from networks import architecture, relative
from torch import Tensor

import lammps_trajcast.kernels.edge_convolution as kernels
from lammps_trajcast.kernels.edge_convolution import edge_convolution
from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.kernels.path_table import PathTable, register_table
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.interaction import DepthwiseTensorProduct
from lammps_trajcast.model.irreps import full_feature_irreps
from lammps_trajcast.model.network import TrajCast

ATOMS, SENDERS, EDGES, NODES = 9, 11, 150, 20
# Tolerances in units of the largest value, sums of up to 40 edges.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}


class Problem:
    """A tensor product, a graph in which some atoms have no edges, and random numbers."""

    def __init__(self, lmax: int, channels: int, natural: bool, dtype: torch.dtype) -> None:
        direction = o3.Irreps.spherical_harmonics(lmax)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # of e3nn's Clebsch-Gordan coefficients
        try:
            self.product = DepthwiseTensorProduct(
                full_feature_irreps(channels, lmax, natural), direction, lmax, natural
            )
        finally:
            torch.set_default_dtype(before)
        self.table = PathTable(self.product.tp)
        self.number = register_table(self.table)
        self.generator = torch.Generator().manual_seed(7)
        receivers = torch.randint(0, ATOMS - 2, (EDGES,), generator=self.generator).sort().values
        self.receivers = receivers + (receivers > 3).long()  # atom 4 has none, nor have the last
        self.first_edge = torch.searchsorted(self.receivers, torch.arange(ATOMS + 1))
        self.senders = torch.randint(0, SENDERS, (EDGES,), generator=self.generator)
        self.channels, self.dtype = channels, dtype
        self.features = self.random(SENDERS, self.table.num_inputs, channels)
        self.own = self.random(ATOMS, self.table.num_inputs, channels)
        self.harmonics = self.random(EDGES, self.table.num_harmonics)
        self.weights = self.random(EDGES, self.table.num_paths * channels)
        self.rows = self.random(NODES, self.table.num_paths * channels)
        self.node = torch.randint(0, NODES - 1, (EDGES,), generator=self.generator)
        self.fraction = torch.rand(EDGES, generator=self.generator, dtype=torch.float64)
        self.probe = self.random(ATOMS, self.table.num_outputs, channels)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def by_e3nn(self, features: Tensor, weights: Tensor, own: Tensor) -> Tensor:
        """The sum of messages by e3nn's tensor product, in the kernels' order of rows."""
        taken = features[self.senders] + own[self.receivers]
        dims = [ir.dim for _, ir in self.product.tp.irreps_in1]
        flat = torch.cat([x.mT.flatten(1) for x in taken.split(dims, dim=1)], dim=1)
        messages = self.product(flat, self.harmonics, weights)
        pooled = messages.new_zeros(ATOMS, messages.size(1)).index_add(0, self.receivers, messages)
        out, first = [], 0
        for ir, count in self.table.groups:
            size = ir.dim * count * self.channels
            block = pooled[:, first : first + size].view(ATOMS, count, self.channels, ir.dim)
            out.append(block.permute(0, 3, 1, 2).reshape(ATOMS, -1, self.channels))
            first += size
        return torch.cat(out, dim=1)

    def by_kernels(self, features: Tensor, weights: Tensor, own: Tensor, table: bool) -> Tensor:
        given = [features, self.harmonics, weights, own]
        features, harmonics, weights, own = (x.to(self.dtype) for x in given)
        where = [self.node, self.fraction] if table else [None, None]
        out = edge_convolution(
            *(features, harmonics, weights, self.first_edge, self.senders, self.number),
            *(own, *where),
        )
        return out.double()

    def interpolated(self, rows: Tensor) -> Tensor:
        share = self.fraction.unsqueeze(1)
        return (1.0 - share) * rows[self.node] + share * rows[self.node + 1]


def values_and_gradients(function, probe: Tensor, *inputs: Tensor) -> list[Tensor]:
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad((out * probe).sum(), inputs)]


@pytest.mark.parametrize("instructions", ["best", "avx2", "portable"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "lmax,channels,natural", [(1, 16, True), (2, 32, True), (3, 48, False), (2, 5, False)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_convolution_is_that_of_e3nn(
    lmax: int, channels: int, natural: bool, dtype, instructions: str, threads: int, monkeypatch
) -> None:
    """Values and gradients, with weights of the edges' own and with a table of weights.

    5 channels fill no vector register and take the loops for any number.
    """
    monkeypatch.setattr(kernels, "instructions", instructions)
    given = Problem(lmax, channels, natural, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for table, weights in ((False, given.weights), (True, given.rows)):
            inputs = (given.features, weights, given.own)
            wanted = values_and_gradients(
                lambda f, w, o, table=table: given.by_e3nn(
                    f, given.interpolated(w) if table else w, o
                ),
                given.probe,
                *inputs,
            )
            found = values_and_gradients(
                lambda f, w, o, table=table: given.by_kernels(f, w, o, table),
                given.probe,
                *inputs,
            )
            for a, b in zip(found, wanted, strict=True):
                assert relative(a, b) < TOLERANCE[dtype]
    finally:
        torch.set_num_threads(before)


def test_orders_beyond_those_compiled() -> None:
    given = Problem(4, 16, True, torch.float64)
    inputs = (given.features, given.weights, given.own)
    wanted = values_and_gradients(given.by_e3nn, given.probe, *inputs)
    found = values_and_gradients(
        lambda f, w, o: given.by_kernels(f, w, o, False), given.probe, *inputs
    )
    for a, b in zip(found, wanted, strict=True):
        assert relative(a, b) < 1e-12


@pytest.mark.parametrize("node", [-1, NODES - 1])
def test_a_node_beyond_the_table(node: int) -> None:
    given = Problem(1, 16, True, torch.float64)
    given.node[3] = node
    with pytest.raises(ValueError, match="node"):
        given.by_kernels(given.features, given.rows, given.own, True)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda x: x.repeat_interleave(2)[::2], "contiguous"),
        (lambda x: x.float() if x.is_floating_point() else x, "torch.float32"),
        (lambda x: x[:-1], "one number for each"),
    ],
)
def test_nodes_that_lie_otherwise_in_memory(change, message: str) -> None:
    given = Problem(1, 16, True, torch.float64)
    given.node, given.fraction = change(given.node), change(given.fraction)
    with pytest.raises(ValueError, match=message):
        given.by_kernels(given.features, given.rows, given.own, True)


def test_no_edges() -> None:
    given = Problem(1, 16, True, torch.float64)
    nothing = torch.zeros(0, dtype=torch.int64)
    out = edge_convolution(
        *(given.features, given.harmonics[:0], given.rows, torch.zeros(ATOMS + 1).long(), nothing),
        *(given.number, given.own, nothing, torch.zeros(0, dtype=torch.float64)),
    )
    assert out.shape == (ATOMS, given.table.num_outputs, 16)
    assert not out.any()


def test_tables_of_lengths_converge_to_the_network() -> None:
    """The error of predictions and of gradients falls with the square of the spacing."""
    torch.manual_seed(0)
    arch = Architecture(
        num_chem_elements=2,
        edge_cutoff=5.0,
        vel_max=0.11,
        max_rotation_order=2,
        num_hidden_channels=16,
        num_mp_layers=2,
        avg_num_neighbors=30.0,
        message_features="both",
        feature_parity="natural",
    )
    network = TrajCast(arch).double()
    fused = FusedTrajCast(network)
    generator = torch.Generator().manual_seed(3)
    atoms, edges = 100, 6000
    receivers = torch.randint(0, atoms, (edges,), generator=generator).sort().values
    senders = torch.randint(0, atoms, (edges,), generator=generator)
    vectors = torch.randn(edges, 3, generator=generator, dtype=torch.float64)
    lengths = 1.5 + 3.5 * torch.rand(edges, 1, generator=generator, dtype=torch.float64)
    vectors = lengths * vectors / vectors.norm(dim=1, keepdim=True)
    species = torch.randint(0, 2, (atoms,), generator=generator)
    velocities = 0.05 * torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    probe = torch.randn(atoms, 6, generator=generator, dtype=torch.float64)
    parameters = [p for p in network.parameters() if p.numel()]

    def results(embedded) -> list[Tensor]:
        out = fused.predict_from(species, velocities, embedded, receivers, senders)
        return [out.detach(), *torch.autograd.grad((out * probe).sum(), parameters)]

    wanted = results(network.edge_embedding(vectors))
    errors = []
    for nodes in (512, 1024):
        embedded = network.edge_embedding.tabulated(vectors, arch.edge_cutoff / nodes)
        assert embedded.node is not None
        # The shortest edge and the longest are within the table.
        assert len(embedded.length) < 0.72 * nodes
        found = results(embedded)
        errors.append(max(relative(a, b) for a, b in zip(found, wanted, strict=True)))
    assert errors[1] < 3e-4
    assert 3.0 < errors[0] / errors[1] < 5.0


def test_few_edges_take_no_table() -> None:
    torch.manual_seed(0)
    arch = architecture(1, 8)
    network = TrajCast(arch).double()
    vectors = torch.randn(40, 3, dtype=torch.float64)
    embedded = network.edge_embedding.tabulated(vectors, 0.005)
    assert embedded.node is None
    assert torch.equal(embedded.length, network.edge_embedding(vectors).length)
