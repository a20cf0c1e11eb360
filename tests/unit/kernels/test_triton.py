"""The Triton kernels against e3nn, finite differences and the plain network.

Without a GPU they run in Triton's interpreter (TRITON_INTERPRET=1, set by conftest.py), and are
compiled for a Hopper GPU without being run. On a GPU: TRITON_INTERPRET=0 pytest test_triton.py
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from e3nn import o3
from networks import Case, architecture, relative
from scipy.interpolate import BPoly

from lammps_trajcast.kernels.path_table import PathTable, register_table
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model.interaction import DepthwiseTensorProduct
from lammps_trajcast.model.irreps import full_feature_irreps
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import compile_network

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch only")
from lammps_trajcast.kernels.triton import convolution, source  # noqa: E402
from lammps_trajcast.kernels.triton.convolution import kernels_of  # noqa: E402
from lammps_trajcast.kernels.triton.network import TabulatedTrajCast  # noqa: E402
from lammps_trajcast.kernels.triton.tf32 import SplitWeights  # noqa: E402
from lammps_trajcast.runtime.triton_backend import TritonBackend  # noqa: E402

DEVICE = torch.device("cpu" if convolution.INTERPRETED else "cuda")
if DEVICE.type == "cuda" and not torch.cuda.is_available():
    pytest.skip("TRITON_INTERPRET=0 and no GPU", allow_module_level=True)

# Receivers without edges first, in the middle and last, and more nodes that only send.
FIRST_EDGE = [0, 0, 4, 4, 4, 11, 12, 15, 15]
NUM_NODES = 11


@pytest.fixture
def wide_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs with many lanes: the interpreter's time goes by operations."""
    monkeypatch.setattr(convolution, "MIN_LANES", 1024)


class Problem:
    """A tensor product with random features, harmonics and weights on a small graph."""

    def __init__(self, lmax: int, channels: int, dtype: torch.dtype, first_layer: bool = False):
        direction = o3.Irreps.spherical_harmonics(lmax)
        irreps = o3.Irreps([(channels, ir) for _, ir in direction])
        irreps = irreps if first_layer else full_feature_irreps(channels, lmax)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        self.product = DepthwiseTensorProduct(irreps, direction, lmax).tp
        torch.set_default_dtype(default)
        self.table = PathTable(self.product)
        self.channels = channels
        self.generator = torch.Generator().manual_seed(3)
        self.first_edge = torch.tensor(FIRST_EDGE)
        num_edges = FIRST_EDGE[-1]
        self.senders = torch.randint(0, NUM_NODES, (num_edges,), generator=self.generator)
        self.features = self.random(NUM_NODES, self.table.num_inputs, channels).to(dtype)
        self.harmonics = self.random(num_edges, self.table.num_harmonics).to(dtype)
        self.weights = self.random(num_edges, self.table.num_paths * channels).to(dtype)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def arguments(self) -> list[torch.Tensor]:
        tensors = (self.features, self.harmonics, self.weights, self.first_edge, self.senders)
        return [tensor.to(DEVICE) for tensor in tensors]

    def plain(self, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The same with e3nn's tensor product, in double; its layout turned into the kernels'."""
        columns = []
        first = 0
        for _, ir in self.product.irreps_in1:
            block = features[:, first : first + ir.dim].transpose(1, 2)
            columns.append(block.flatten(1))
            first += ir.dim
        messages = self.product(
            torch.cat(columns, dim=1)[self.senders], self.harmonics.double(), weights
        )
        receivers = torch.arange(len(FIRST_EDGE) - 1).repeat_interleave(self.first_edge.diff())
        pooled = messages.new_zeros(len(FIRST_EDGE) - 1, messages.size(1))
        pooled = pooled.index_add(0, receivers, messages)
        rows = []
        first = 0
        for ir, paths in self.table.groups:
            size = paths * self.channels * ir.dim
            block = pooled[:, first : first + size].view(-1, paths, self.channels, ir.dim)
            rows.append(block.permute(0, 3, 1, 2).reshape(-1, ir.dim * paths, self.channels))
            first += size
        return torch.cat(rows, dim=1)


@pytest.mark.parametrize(
    "lmax,channels,dtype,tolerance,first_layer",
    [
        (1, 1, torch.float64, 1e-13, False),
        (1, 5, torch.float32, 2e-6, True),
        (2, 16, torch.float64, 1e-13, False),
        (2, 33, torch.float32, 2e-6, False),
        (2, 4, torch.float64, 1e-13, True),
        (3, 4, torch.float64, 1e-13, False),
    ],
)
def test_convolution_and_gradients_are_those_of_e3nn(
    lmax: int, channels: int, dtype: torch.dtype, tolerance: float, first_layer: bool
) -> None:
    problem = Problem(lmax, channels, dtype, first_layer)
    features = problem.features.double().requires_grad_()
    weights = problem.weights.double().requires_grad_()
    wanted = problem.plain(features, weights)
    probe = problem.random(*wanted.shape).to(dtype)
    wanted_gradients = torch.autograd.grad((wanted * probe).sum(), (features, weights))
    wanted = wanted.detach()

    kernels = kernels_of(problem.table)
    found = kernels.forward(*problem.arguments())
    assert found.dtype == dtype
    assert relative(found.cpu().double(), wanted) < tolerance
    gradients = kernels.backward(probe.to(DEVICE), *problem.arguments())
    for gradient, wanted_gradient in zip(gradients, wanted_gradients, strict=True):
        assert gradient.dtype == dtype
        assert relative(gradient.cpu().double(), wanted_gradient) < tolerance


def test_gradcheck() -> None:
    """Gradients against finite differences of the forward kernel."""
    problem = Problem(1, 2, torch.float64)
    _, harmonics, _, first_edge, senders = problem.arguments()
    kernels = kernels_of(problem.table)

    class Convolution(torch.autograd.Function):
        @staticmethod
        def forward(ctx, features, weights):
            ctx.save_for_backward(features, weights)
            return kernels.forward(features, harmonics, weights, first_edge, senders)

        @staticmethod
        def backward(ctx, grad_out):
            features, weights = ctx.saved_tensors
            return kernels.backward(grad_out, features, harmonics, weights, first_edge, senders)

    inputs = [x.to(DEVICE).requires_grad_() for x in (problem.features, problem.weights)]
    assert torch.autograd.gradcheck(Convolution.apply, inputs, fast_mode=True)


def test_bits_repeat_for_any_shape_of_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum has one order: not that of lanes, of programs or of how kernels are split."""
    problem = Problem(1, 6, torch.float64)
    kernels = kernels_of(problem.table)
    probe = problem.random(len(FIRST_EDGE) - 1, problem.table.num_outputs, 6).to(DEVICE)

    def run() -> list[torch.Tensor]:
        arguments = problem.arguments()
        return [kernels.forward(*arguments), *kernels.backward(probe, *arguments)]

    wanted = run()
    for lanes, width in [(32, 128), (64, 128), (32, 4)]:  # 4: several programs share a node
        monkeypatch.setattr(convolution, "MIN_LANES", lanes)
        monkeypatch.setattr(convolution, "MAX_WIDTH", width)
        for found, first in zip(run(), wanted, strict=True):
            assert torch.equal(found, first)


def test_graphs_without_edges_or_receivers() -> None:
    problem = Problem(1, 4, torch.float32)
    kernels = kernels_of(problem.table)
    features, harmonics, weights, _, senders = problem.arguments()
    none = [features, harmonics[:0], weights[:0]]
    out = kernels.forward(*none, torch.zeros(4, dtype=torch.int64, device=DEVICE), senders[:0])
    assert out.shape == (3, problem.table.num_outputs, 4) and not out.any()
    gradients = kernels.backward(
        out, *none, torch.zeros(4, dtype=torch.int64, device=DEVICE), senders[:0]
    )
    assert gradients[0].shape == features.shape and not gradients[0].any()
    assert gradients[1].shape == weights[:0].shape
    out = kernels.forward(*none, torch.zeros(1, dtype=torch.int64, device=DEVICE), senders[:0])
    assert out.shape == (0, problem.table.num_outputs, 4)


@pytest.mark.parametrize("lmax", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 40, 1000])
def test_every_entry_is_in_one_kernel(lmax: int, rows: int) -> None:
    """However a tensor product is dealt out to kernels, no row of the result is in two of them."""
    table = Problem(lmax, 2, torch.float64).table
    parts = source.split(source.families(table.entries()), rows)
    written = [c for part in parts for family in part for c in family.outputs()]
    assert sorted(written) == list(range(table.num_outputs))
    for part in parts:
        assert len(part) == 1 or sum(len(family.outputs()) for family in part) <= rows
    places = {
        (path, *place, terms)
        for part in parts
        for family in part
        for path, items in family.paths
        for place, terms in zip(items, family.couplings, strict=True)
    }
    exact = {(p, a, c, tuple(b for b, _ in terms)) for p, a, c, terms in table.entries()}
    assert {(p, a, c, tuple(b for b, _ in terms)) for p, a, c, terms in places} == exact
    read = [
        {a for family in part for a in family.inputs()}
        for part in source.split_by_order(source.families(table.entries()))
    ]
    assert sorted(a for rows in read for a in rows) == list(range(table.num_inputs))


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("order", [2, 3])
def test_tabulated_convolution(dtype: torch.dtype, tolerance: float, order: int) -> None:
    """The kernel with a table against e3nn with weights interpolated by SciPy."""
    problem = Problem(2, 8, dtype)
    intervals = 20
    nodes = problem.random(intervals + 1, order, problem.table.num_paths * 8)
    polynomials = BPoly.from_derivatives(np.arange(intervals + 1), nodes.numpy())
    positions = intervals * torch.rand(FIRST_EDGE[-1], generator=problem.generator)
    positions[:4] = torch.tensor([0.0, intervals, 1.0, intervals - 1e-5])
    features, harmonics, _, first_edge, senders = problem.arguments()
    found = torch.ops.lammps_trajcast.tabulated_edge_convolution(
        features,
        harmonics,
        nodes.unflatten(2, (-1, 8)).to(dtype).to(DEVICE),
        positions.to(dtype).to(DEVICE),
        first_edge[:-1],
        first_edge[1:],
        senders,
        None,
        register_table(problem.table),
    )
    weights = torch.from_numpy(polynomials(positions.double().numpy()))
    wanted = problem.plain(problem.features.double(), weights)
    assert relative(found.cpu().double(), wanted) < tolerance


def test_receivers_add_to_the_features_of_their_senders() -> None:
    """Of some receivers, in another order; the others' edges are not used."""
    problem = Problem(2, 8, torch.float64)
    features, harmonics, _, first_edge, senders = problem.arguments()
    paths = problem.table.num_paths
    table = (
        problem.random(1, 2, paths, 8).expand(3, -1, -1, -1)
        * torch.tensor([1.0, 0.0])[:, None, None]
    )  # weights that do not change with the distance
    chosen = torch.tensor([4, 0, 1], device=DEVICE)
    own = problem.random(3, problem.table.num_inputs, 8).to(DEVICE)
    found = torch.ops.lammps_trajcast.tabulated_edge_convolution(
        features,
        harmonics,
        table.contiguous().to(DEVICE),
        torch.ones(FIRST_EDGE[-1], dtype=torch.float64, device=DEVICE),
        first_edge[chosen],
        first_edge[chosen + 1],
        senders,
        own,
        register_table(problem.table),
    )
    weights = table[0, 0].expand(FIRST_EDGE[-1], -1, -1).flatten(1)
    for row, receiver in enumerate(chosen.tolist()):
        whole = problem.plain(problem.features + own[row].cpu(), weights)
        if receiver == 0:
            assert not found[row].any()
        else:
            assert relative(found[row].cpu(), whole[receiver]) < 1e-13


@pytest.mark.parametrize("channels", [3, 40])
def test_gate(channels: int) -> None:
    """Every activation, gates, residuals that are there or not, against torch's operations."""
    functions = {
        "silu": torch.nn.functional.silu,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
    }
    # Update: 0o, 0e with the gates, 1o, 2e; the result in another order.
    dims, even = [1, 1, 3, 5], 1
    block = source.GatedBlock
    blocks = [
        block(update=1, residual=0, dim=1, gate=-1, activation="silu", gain=1.7),
        block(update=0, residual=-1, dim=1, gate=-1, activation="tanh", gain=1.6),
        block(update=3, residual=-1, dim=5, gate=0, activation="sigmoid", gain=1.8),
        block(update=2, residual=1, dim=3, gate=1, activation="relu", gain=1.4),
    ]
    generator = torch.Generator().manual_seed(4)

    def random(*shape: int) -> torch.Tensor:
        return 3.0 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    atoms = 7
    update = [random(atoms, d, channels * (3 if k == even else 1)) for k, d in enumerate(dims)]
    residual = [random(atoms, 1, channels), random(atoms, 3, channels)]
    wanted = []
    for b in blocks:
        x = update[b.update][:, :, :channels]
        if b.gate >= 0:
            first = channels * (1 + b.gate)
            gate = update[even][:, :, first : first + channels]
            x = b.gain * functions[b.activation](gate) * x
        else:
            x = b.gain * functions[b.activation](x)
        wanted.append((x + residual[b.residual] if b.residual >= 0 else x) / 2**0.5)
    text = source.gate(blocks, even, len(update), len(residual))
    out = torch.empty(atoms, 10, channels, dtype=torch.float64, device=DEVICE)
    arguments = [x.to(DEVICE) for x in (*update, *residual)]
    convolution.launch(text, atoms, channels, *arguments, out)
    assert relative(out.cpu(), torch.cat(wanted, dim=1)) < 1e-14


@pytest.mark.parametrize(
    "lmax,channels,dtype,tf32,tolerance",
    [
        (2, 5, torch.float64, False, 1e-10),
        (1, 16, torch.float32, False, 2e-6),
        (2, 8, torch.float32, False, 2e-6),
        (2, 8, torch.float32, True, 1e-3),
    ],
)
def test_network_is_plain(
    wide_programs: None,
    lmax: int,
    channels: int,
    dtype: torch.dtype,
    tf32: bool,
    tolerance: float,
) -> None:
    """Compiled, in either precision or in TF32, against plain in double."""
    torch.manual_seed(0)
    arch = architecture(lmax, channels)
    network = TrajCast(arch)
    generator = torch.Generator().manual_seed(5)
    atoms, edges = 9, 40
    receivers = torch.randint(0, atoms - 2, (edges,), generator=generator).sort().values
    senders = torch.randint(0, atoms, (edges,), generator=generator)
    directions = torch.randn(edges, 3, generator=generator, dtype=torch.float64)
    lengths = 0.5 + 4.0 * torch.rand(edges, 1, generator=generator, dtype=torch.float64)
    vectors = lengths * torch.nn.functional.normalize(directions)
    species = torch.randint(0, arch.num_chem_elements, (atoms,), generator=generator)
    velocities = 0.05 * torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    inputs = (species, velocities, vectors, receivers, senders)
    with torch.no_grad():
        wanted = network.predict(*inputs)
        fast = compile_network(TabulatedTrajCast(network.to(dtype=dtype, device=DEVICE), tf32))
        found = fast.predict(
            *(x.to(dtype if x.is_floating_point() else x.dtype).to(DEVICE) for x in inputs)
        )
    assert tf32 * 1e-5 < relative(found.cpu().double(), wanted) < tolerance


@pytest.mark.parametrize("outputs", [4, 64, 128])
def test_products_in_tf32(outputs: int) -> None:
    """On a GPU those of the emulation: it rounds features, and cuts none."""
    generator = torch.Generator().manual_seed(7)
    rows = torch.rand(300, 5, 96, generator=generator)
    weight = torch.rand(96, outputs, generator=generator)
    split = SplitWeights([weight])
    arguments = (rows, split.coarse[0], split.fine[0])
    emulated = torch.ops.lammps_trajcast.tf32_product(*arguments)
    found = torch.ops.lammps_trajcast.tf32_product(*(x.to(DEVICE) for x in arguments)).cpu()
    exact = rows.double() @ weight.double()
    assert relative(found.double(), emulated.double()) < 1e-5
    assert 2e-5 < relative(found.double(), exact) < 2.0**-11
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("name", ["benzene_angular", "tiny_cell"])
def test_network_parity(wide_programs: None, name: str) -> None:
    case = Case(name)
    network = case.model.build(torch.float64).to(DEVICE)
    with torch.no_grad():
        out = TabulatedTrajCast(network)(
            *(x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in case.inputs())
        )
    for field in ("displacement", "velocity"):
        wanted = torch.from_numpy(case.expected[field])
        assert relative(getattr(out, field).cpu(), wanted) < 1e-10


def test_backend(wide_programs: None) -> None:
    """A layer at a time, its receivers in two parts, as with several MPI ranks."""
    case = Case("benzene_angular")
    network = case.model.build(torch.float64).to(DEVICE)
    species, _, velocities, _, vectors, receivers, senders = case.inputs()
    with torch.inference_mode():
        wanted = network.cpu().predict(species, velocities, vectors, receivers, senders)
        network = network.to(DEVICE)
        backend = TritonBackend(network)
        first_edge = torch.nn.functional.pad(torch.bincount(receivers).cumsum(0), (1, 0))
        inputs = (species, velocities, vectors, first_edge, senders)
        backend.prepare(StepGraph(*(x.to(DEVICE) for x in inputs)))
        atoms = torch.arange(len(species), device=DEVICE)
        features = backend.initial_features()
        for k in range(backend.num_layers):
            out = features.new_full((len(species), backend.widths[k + 1]), torch.nan)
            for part in (atoms[::2].contiguous(), atoms[1::2].contiguous()):
                backend.layer(k, features, out, part)
            features = out
        found = backend.read_out(features)
    assert relative(found.cpu(), wanted) < 1e-10


@pytest.mark.parametrize("operation", ["edge_convolution", "edge_convolution_backward"])
def test_operations_of_the_fused_network_have_a_kernel_for_cuda(operation: str) -> None:
    name = f"lammps_trajcast::{operation}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


def test_wrong_shapes_are_refused() -> None:
    problem = Problem(1, 4, torch.float32)
    features, harmonics, _, first_edge, senders = problem.arguments()
    table = torch.zeros(3, 2, problem.table.num_paths, 4, device=DEVICE)
    positions = torch.zeros(FIRST_EDGE[-1], device=DEVICE)
    number = register_table(problem.table)
    run = torch.ops.lammps_trajcast.tabulated_edge_convolution
    begins, ends = first_edge[:-1], first_edge[1:]
    own = features[: len(begins)]
    good = [features, harmonics, table, positions, begins, ends, senders, own, number]
    run(*good)
    bad = {
        "what receivers add": [*good[:7], own[1:], number],
        "features": [features[:, 1:], *good[1:]],
        "harmonics": [features, harmonics[1:], *good[2:]],
        "radial table": [features, harmonics, table[:, :1], *good[3:]],
        "positions": [features, harmonics, table, positions[1:], *good[4:]],
    }
    for name, arguments in bad.items():
        with pytest.raises(ValueError, match=name):
            run(*arguments)


def test_compiles_for_a_hopper_gpu() -> None:
    """Ahead of time, to machine code; in another process, as this one may be the interpreter's."""
    code = """
import json, torch
from lammps_trajcast.kernels.triton.resources import KINDS, edge_resources, resources
found = [list(r) for dtype in (torch.float32, torch.float64) for r in edge_resources(dtype)]
for channels, dtype in ((16, torch.float64), (64, torch.float32)):
    for kind in KINDS:
        found += [list(r) for r in resources(kind, 1, channels, dtype)]
print(json.dumps(found))
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {kind for kind, *_ in found} == {
        "forward",
        "tabulated",
        "weight_gradient",
        "feature_gradient",
        "gate",
        "count",
        "write",
        "judge",
    }
    for kind, registers, stack, _ in found:
        assert 0 < registers < 256, kind
        assert stack == 0, kind
