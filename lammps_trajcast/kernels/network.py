"""The network for prediction: `fix_src/kernels/network.h` behind TorchScript-compiled modules."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from e3nn import o3
from numpy.typing import NDArray
from torch import Tensor

from lammps_trajcast.kernels.library import ffi, load_library, pointer
from lammps_trajcast.kernels.tables import (
    FEWEST,
    ORDER,
    TOLERANCE,
    HermiteTable,
    fastest,
    message_function,
    message_range,
    scalar_function,
    tabulate,
    velocity_function,
)
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.interaction import ACTIVATIONS, DepthwiseTensorProduct, Interaction
from lammps_trajcast.model.network import TrajCast
from lammps_trajcast.model.torchscript import exported

MAX_ORDER = 3
"""Largest rotation order that the kernels were compiled for."""

_ACTIVATION_NUMBERS = {"silu": 0, "tanh": 1, "relu": 2, "sigmoid": 3}
_EVEN, _READ_OUT = o3.Irrep(0, 1), o3.Irrep(1, -1)
_INSTRUCTIONS = {"best": 0, "portable": 1, "avx2": 2}


class NetworkKernels:
    """A network compiled for prediction on the CPU.

    Attributes:
        number: what the operations of ``torch.ops.lammps_trajcast`` know it by.
        dtype: its precision.
        widths: (num_layers + 1,) values of an atom's features before each layer and after the last.
    """

    # Tables are made of derivatives, which inference mode has none of.
    @torch.inference_mode(False)
    def __init__(
        self,
        network: TrajCast,
        arch: Architecture,
        dtype: torch.dtype,
        tolerance: float | None = None,
        instructions: str = "best",
    ) -> None:
        """Take the weights of a network; later changes of it do not show.

        Args:
            network: in double precision, whatever ``dtype``.
            arch: its hyperparameters.
            dtype: float32 or float64.
            tolerance: largest error of the tabulated path weights, relative to the largest weight.
            instructions: "best" that the processor has, "avx2" at most, or "portable".

        Raises:
            TableError: the path weights vary too fast.
            ValueError: the rotation order is larger than ``MAX_ORDER``.
            MemoryError: there is no room for the tables.
        """
        if arch.max_rotation_order > MAX_ORDER:
            raise ValueError(f"rotation orders end at {MAX_ORDER}")
        library = load_library()
        builder = _Builder(network, arch, dtype, tolerance or TOLERANCE[dtype])
        handle = library.trajcast_network_create(
            builder.ends,
            builder.layers,
            arch.num_mp_layers,
            dtype == torch.float64,
            _INSTRUCTIONS[instructions],
        )
        if handle == ffi.NULL:
            raise MemoryError("no memory for the tables of the network")
        self.handle = ffi.gc(handle, library.trajcast_network_free)
        self.dtype = dtype
        self.widths = [
            int(library.trajcast_network_width(handle, k)) for k in range(arch.num_mp_layers + 1)
        ]
        self.edge_rows = int(library.trajcast_network_edge_rows(handle))
        self.instructions: str = ffi.string(library.trajcast_network_instructions(handle)).decode()
        self.bytes = int(library.trajcast_network_bytes(handle))
        self.number = _register(self)


# The dispatcher passes tensors and numbers only, so an operation names its network by number.
_networks: weakref.WeakValueDictionary[int, NetworkKernels] = weakref.WeakValueDictionary()
_last_number = 0


def _register(network: NetworkKernels) -> int:
    global _last_number
    _last_number += 1
    _networks[_last_number] = network
    return _last_number


class _Builder:
    """The structures of `network.h` for a network; keeps alive what they point to."""

    def __init__(
        self, network: TrajCast, arch: Architecture, dtype: torch.dtype, tolerance: float
    ) -> None:
        self._kept: list[Any] = []
        self._arch = arch
        self._network = network
        self._order = ORDER[dtype]
        self._tolerance = tolerance
        self._species = range(arch.num_chem_elements)

        plains: list[Interaction] = list(network.interactions)  # type: ignore[arg-type]
        # The read-out reads one irrep, so most of the last layer's work would be thrown away.
        wanted = [[ir for _, ir in plain.irreps_out] for plain in plains]
        wanted[-1] = [_READ_OUT]
        messages = self._message_tables(plains)
        layers = [self._layer(*each) for each in zip(plains, messages, wanted, strict=True)]
        self.layers = self._array("trajcast_layer[]", layers)
        self.ends = self._struct("trajcast_ends *", self._ends())

    # ---- tables ----

    def _message_tables(self, plains: Sequence[Interaction]) -> list[HermiteTable]:
        """Tables with the same nodes, so that an edge finds its place once for all layers."""
        functions = [
            message_function(self._network.edge_embedding.radial_basis, layer.edge_mlp)
            for layer in plains
        ]

        first, cutoff = message_range(self._arch.edge_cutoff)
        tables: list[HermiteTable] = []
        intervals = FEWEST
        while len(tables) < len(functions):
            function = functions[len(tables)]
            table = tabulate([function], first, cutoff, self._order, self._tolerance, intervals)
            if tables and table.num_nodes > tables[0].num_nodes:
                tables.clear()  # those before need as many
            else:
                tables.append(table)
            intervals = table.num_nodes - 1
        return tables

    def _table(
        self, table: HermiteTable, permutation: NDArray[np.int64], factor: NDArray[np.float64]
    ) -> dict[str, Any]:
        """The C structure of some of a table's paths, in this order and times these factors."""
        sets, nodes, order, size = table.values.shape
        channels = self._arch.num_hidden_channels
        values = table.values.reshape(sets, nodes, order, size // channels, channels)
        values = values[:, :, :, permutation] * factor[:, None]
        return {
            "num_sets": sets,
            "num_nodes": nodes,
            "order": order,
            "first": table.first,
            "spacing": table.spacing,
            "values": self._doubles(values.transpose(0, 1, 3, 2, 4)),
        }

    # ---- layers ----

    def _layer(
        self, plain: Interaction, messages: HermiteTable, wanted: list[o3.Irrep]
    ) -> dict[str, Any]:
        """One layer, as far as the irreps that are wanted of its result need it."""
        gates = [ir for _, ir in plain.irreps_out if ir.l > 0]
        updated = [_EVEN, *(ir for ir in wanted if ir != _EVEN)]
        contracted = _inputs(plain.dtp_vel, updated)
        # Columns of the update for the even scalars: themselves, then a gate for each l > 0.
        columns = [0] if _EVEN in wanted else []
        columns += [1 + k for k, ir in enumerate(gates) if ir in wanted]
        update_rows = {_EVEN: 0}
        rows_update = len(columns)
        for ir in updated[1:]:
            update_rows[ir] = rows_update
            rows_update += ir.dim

        embedding = self._network.embedding
        speeds = tabulate(
            [velocity_function(embedding, plain.vel_mlp, s) for s in self._species],
            0.0,
            fastest(embedding),
            self._order,
            self._tolerance,
        )
        inputs = [ir for _, ir in plain.dtp_edge.tp.irreps_in1]
        message = self._product_layer(
            plain.dtp_edge,
            plain.linear_contraction,
            _first_rows(inputs),
            _first_rows(contracted),
            messages,
            scale=1.0 / plain.avg_num_neighbors,
        )
        velocity = self._product_layer(
            plain.dtp_vel,
            plain.linear_updates,
            _first_rows(contracted),
            update_rows,
            speeds,
            even_columns=columns,
        )
        gate_rows = {ir: columns.index(1 + gates.index(ir)) for ir in wanted if ir.l > 0}
        gated = self._gated(plain, wanted, update_rows, gate_rows)
        return {
            "rows_in": _num_rows(inputs),
            "rows_contracted": _num_rows(contracted),
            "rows_update": rows_update,
            "rows_out": _num_rows(wanted),
            "message": message,
            "velocity": velocity,
            "num_gated": len(gated),
            "gated": self._array("trajcast_gated[]", gated),
            "own": self._own(plain),
        }

    def _own(self, plain: Interaction) -> Any:
        """Weights (rows_in, channels) of the receiver's share of the messages."""
        if plain.own_share is None:
            return ffi.NULL
        irreps = plain.dtp_edge.tp.irreps_in1
        weight = plain.own_share.weight.detach().double().view(len(irreps), -1)
        dims = torch.tensor([ir.dim for _, ir in irreps])
        return self._doubles(weight.repeat_interleave(dims, dim=0).numpy())

    def _product_layer(
        self,
        product: DepthwiseTensorProduct,
        linear: o3.Linear,
        input_rows: dict[o3.Irrep, int],
        output_rows: dict[o3.Irrep, int],
        table: HermiteTable,
        scale: float = 1.0,
        even_columns: list[int] | None = None,
    ) -> dict[str, Any]:
        """A product from the irreps of ``input_rows`` to those of ``output_rows``, and its map.

        Args:
            even_columns: which sets of channels of the map's even scalars to keep.
        """
        tp = product.tp
        channels = self._arch.num_hidden_channels
        irreps_out: list[o3.Irrep] = [ir for _, ir in tp.irreps_out]
        kinds: list[o3.Irrep] = list(dict.fromkeys(irreps_out))  # sorted, as the linear map's
        multiplicity = {ir: mul for mul, ir in linear.irreps_out}

        groups, weights, at = [], [], 0
        used: list[o3.Irrep] = []
        for ir in kinds:
            count, columns = irreps_out.count(ir), multiplicity.get(ir, 0) // channels
            size = count * channels * columns * channels
            block = linear.weight.detach().double()[at : at + size]
            at += size
            if ir not in output_rows:
                continue
            block = block.view(count * channels, columns, channels)
            if ir == _EVEN and even_columns is not None:
                block = block[:, even_columns]
            used.append(ir)
            weights.append(block.reshape(-1) * (scale / math.sqrt(count * channels)))
            groups.append(
                {
                    "l": ir.l,
                    "num_paths": count,
                    "columns": block.size(1),
                    "output": output_rows[ir],
                }
            )

        products = []
        for number, path in enumerate(tp.instructions):
            ir_in, ir_edge = tp.irreps_in1[path.i_in1].ir, tp.irreps_in2[path.i_in2].ir
            ir_out = irreps_out[path.i_out]
            if ir_out not in used:
                continue
            # Paths of equal orders side by side: the kernels work on both parities together.
            key = (ir_in.l, ir_edge.l, ir_out.l, number)
            place = {
                "l_in": ir_in.l,
                "l_edge": ir_edge.l,
                "l_out": ir_out.l,
                "input": input_rows[ir_in],
                "group": used.index(ir_out),
                "path": irreps_out[: path.i_out].count(ir_out),
            }
            products.append((key, place, path.path_weight))
        products.sort(key=lambda entry: entry[0])
        permutation = np.array([key[3] for key, _, _ in products])
        # The normalisation of a path goes into the table of its weights.
        factor = np.array([weight for _, _, weight in products])
        return {
            "num_products": len(products),
            "num_groups": len(groups),
            "products": self._array("trajcast_product[]", [place for _, place, _ in products]),
            "groups": self._array("trajcast_group[]", groups),
            "weights": self._doubles(torch.cat(weights).numpy()),
            "table": self._table(table, permutation, factor),
        }

    def _gated(
        self,
        plain: Interaction,
        wanted: list[o3.Irrep],
        update_rows: dict[o3.Irrep, int],
        gate_rows: dict[o3.Irrep, int],
    ) -> list[dict[str, Any]]:
        channels, species = self._arch.num_hidden_channels, len(self._species)
        names = self._arch.nl_gate_kwargs
        parities = (ir.p for _, ir in plain.gate.irreps_scalars)
        scalar_acts = dict(zip(parities, plain.gate.act_scalars.acts, strict=True))
        product = plain.tp_resnet
        residual_irreps = [ir for _, ir in product.irreps_in1 if ir in plain.irreps_out]
        size = channels * species * channels
        residual = product.weight.detach().double() / math.sqrt(channels * species)

        input_rows = _first_rows([ir for _, ir in product.irreps_in1])
        output_rows = _first_rows(wanted)
        gated = []
        for ir in wanted:
            if ir.l > 0:
                name, act = names.activation_gates.e, plain.gate.act_gates.acts[0]
            else:
                scalars = names.activation_scalars
                name, act = (scalars.e if ir.p == 1 else scalars.o), scalar_acts[ir.p]
            entry = {
                "l": ir.l,
                "output": output_rows[ir],
                "update": update_rows[ir],
                "gate": gate_rows.get(ir, -1),
                "residual": -1,
                "activation": _ACTIVATION_NUMBERS[name],
                "scale": _gain(act, name),
                "residual_weights": ffi.NULL,
            }
            if ir in residual_irreps:
                at = residual_irreps.index(ir) * size
                weights = residual[at : at + size].view(channels, species, channels)
                entry["residual"] = input_rows[ir]
                entry["residual_weights"] = self._doubles(weights.transpose(0, 1).numpy())
            gated.append(entry)
        return gated

    # ---- first features and read-out ----

    def _ends(self) -> dict[str, Any]:
        embedding, read_out = self._network.embedding, self._network.read_out
        channels, lmax = self._arch.num_hidden_channels, self._arch.max_rotation_order
        scalars = tabulate(
            [scalar_function(embedding, s) for s in self._species],
            0.0,
            fastest(embedding),
            self._order,
            self._tolerance,
        )
        # The linear map of the direction: one input for each order, after those of the scalars.
        count = embedding.linear.irreps_in[0].mul * channels
        directions = embedding.linear.weight.detach().double()[count:].view(lmax, channels)
        hidden = read_out.compression.irreps_out.num_irreps
        compression = read_out.compression.weight.detach().double().view(channels, hidden)
        last = read_out.read_out.weight.detach().double().view(hidden, 2)
        combined = compression @ last / math.sqrt(channels * hidden)
        return {
            "lmax": lmax,
            "channels": channels,
            "num_species": len(self._species),
            "scalars": self._table(scalars, np.arange(1), np.ones(1)),
            "speed_limit": self._arch.speed_limit or 0.0,
            "velocity_scale": self._arch.velocity_scale or 0.0,
            "directions": self._doubles(directions.numpy()),
            "vectors": 0,
            "read_out": self._doubles(combined.numpy()),
        }

    # ---- memory ----

    def _doubles(self, values: NDArray[np.float64]) -> Any:
        array = np.ascontiguousarray(values, dtype=np.float64)
        self._kept.append(array)
        return ffi.cast("double *", array.ctypes.data)

    def _array(self, kind: str, entries: list[dict[str, Any]]) -> Any:
        array = ffi.new(kind, entries)
        self._kept.append(array)
        return array

    def _struct(self, kind: str, entries: dict[str, Any]) -> Any:
        struct = ffi.new(kind, entries)
        self._kept.append(struct)
        return struct


def _num_rows(irreps: list[o3.Irrep]) -> int:
    return sum(ir.dim for ir in irreps)


def _first_rows(irreps: list[o3.Irrep]) -> dict[o3.Irrep, int]:
    return {ir: _num_rows(irreps[:k]) for k, ir in enumerate(irreps)}


def _inputs(product: DepthwiseTensorProduct, wanted: list[o3.Irrep]) -> list[o3.Irrep]:
    """The input irreps from which some path leads to an irrep that is wanted."""
    tp = product.tp
    used = {
        tp.irreps_in1[p.i_in1].ir for p in tp.instructions if tp.irreps_out[p.i_out].ir in wanted
    }
    return [ir for _, ir in tp.irreps_in1 if ir in used]


def _gain(act: torch.nn.Module, name: str) -> float:
    """The factor by which e3nn normalises an activation function."""
    one = torch.ones(1, dtype=torch.float64)
    return float(act(one) / ACTIVATIONS[name](one))


# ---- operations ------------------------------------------------------------------------------

_library = torch.library.Library("lammps_trajcast", "FRAGMENT")
_library.define("network_edges(int network, Tensor edge_vectors) -> Tensor")
_library.define("network_first(int network, Tensor species, Tensor velocities) -> Tensor")
_library.define(
    "network_layer(int network, int layer, Tensor features, Tensor edges, Tensor first_edge, "
    "Tensor senders, Tensor species, Tensor velocities, Tensor? receivers, Tensor(a!) out) -> ()"
)
_library.define("network_read_out(int network, Tensor features, int count) -> Tensor")


def _check(name: str, tensor: Tensor, dtype: torch.dtype, *shape: int | None) -> Tensor:
    """Return the tensor, contiguous; raise ValueError if it is not what a kernel will read."""
    fits = tensor.dim() == len(shape) and all(
        wanted is None or size == wanted for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        raise ValueError(
            f"network kernels: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected {dtype} "
            f"{shape}"
        )
    return tensor.contiguous()


def _void(tensor: Tensor) -> Any:
    return ffi.cast("void *", tensor.data_ptr())


def _edges(network: int, edge_vectors: Tensor) -> Tensor:
    net = _networks[network]
    edge_vectors = _check("edge_vectors", edge_vectors, torch.float64, None, 3)
    # Kernels read whole tiles of 16 edges.
    stride = edge_vectors.size(0) + 16
    edges = torch.empty((net.edge_rows, stride), dtype=net.dtype)
    load_library().trajcast_network_edges(
        net.handle,
        edge_vectors.size(0),
        pointer(edge_vectors),
        stride,
        _void(edges),
        torch.get_num_threads(),
    )
    return edges


def _first(network: int, species: Tensor, velocities: Tensor) -> Tensor:
    net = _networks[network]
    species = _check("species", species, torch.int64, None)
    velocities = _check("velocities", velocities, net.dtype, species.size(0), 3)
    features = torch.empty((species.size(0), net.widths[0]), dtype=net.dtype)
    load_library().trajcast_network_first(
        net.handle,
        species.size(0),
        pointer(species),
        _void(velocities),
        _void(features),
        torch.get_num_threads(),
    )
    return features


def _layer(
    network: int,
    layer: int,
    features: Tensor,
    edges: Tensor,
    first_edge: Tensor,
    senders: Tensor,
    species: Tensor,
    velocities: Tensor,
    receivers: Tensor | None,
    out: Tensor,
) -> None:
    net = _networks[network]
    own = first_edge.size(0) - 1
    features = _check("features", features, net.dtype, None, net.widths[layer])
    edges = _check("edges", edges, net.dtype, net.edge_rows, senders.size(0) + 16)
    first_edge = _check("first_edge", first_edge, torch.int64, None)
    senders = _check("senders", senders, torch.int64, None)
    species = _check("species", species, torch.int64, None)
    velocities = _check("velocities", velocities, net.dtype, species.size(0), 3)
    _check("out", out, net.dtype, None, net.widths[layer + 1])
    if not out.is_contiguous():
        raise ValueError("network kernels: out is not contiguous")
    if min(species.size(0), features.size(0), out.size(0)) < own:
        raise ValueError(f"network kernels: fewer rows than the {own} receivers")
    count, chosen = own, ffi.NULL
    if receivers is not None:
        receivers = _check("receivers", receivers, torch.int64, None)
        count, chosen = receivers.size(0), pointer(receivers)
    step = ffi.new(
        "trajcast_step *",
        {
            "num_receivers": count,
            "receivers": chosen,
            "first_edge": pointer(first_edge),
            "senders": pointer(senders),
            "species": pointer(species),
            "velocities": _void(velocities),
            "edges": _void(edges),
            "stride": edges.size(1),
            "features": _void(features),
            "out": _void(out),
        },
    )
    failed = load_library().trajcast_network_layer(net.handle, layer, step, torch.get_num_threads())
    if failed:
        raise MemoryError("network kernels: no memory for a block of atoms")


def _read_out(network: int, features: Tensor, count: int) -> Tensor:
    net = _networks[network]
    features = _check("features", features, net.dtype, None, net.widths[-1])
    targets = torch.empty((count, 6), dtype=net.dtype)
    load_library().trajcast_network_read_out(
        net.handle, count, _void(features), _void(targets), torch.get_num_threads()
    )
    return targets


for _name, _function in (
    ("network_edges", _edges),
    ("network_first", _first),
    ("network_layer", _layer),
    ("network_read_out", _read_out),
):
    _library.impl(_name, _function, "CPU")


class PredictionNetwork(torch.nn.Module):
    """A network for prediction: what TorchScript compiles around the kernels.

    Nothing in it has gradients. Keep the :class:`NetworkKernels` alive as long as this module.
    """

    def __init__(self, kernels: NetworkKernels) -> None:
        super().__init__()
        # Without annotations, of which TorchScript warns here.
        self.number = kernels.number
        self.widths = kernels.widths

    @exported
    def edges(self, edge_vectors: Tensor) -> Tensor:
        """Return edge data for :meth:`layer` from edge vectors (E, 3) float64 in Angstrom."""
        return torch.ops.lammps_trajcast.network_edges(self.number, edge_vectors)

    @exported
    def first(self, species: Tensor, velocities: Tensor) -> Tensor:
        """Return the first features (N, widths[0]) of species (N,) and velocities (N, 3)."""
        return torch.ops.lammps_trajcast.network_first(self.number, species, velocities)

    @exported
    def layer(
        self,
        k: int,
        features: Tensor,
        edges: Tensor,
        first_edge: Tensor,
        senders: Tensor,
        species: Tensor,
        velocities: Tensor,
        receivers: Tensor | None,
        out: Tensor,
    ) -> None:
        """Write the features after layer k into the receivers' rows of ``out``.

        Args:
            k: number of the layer.
            features: (N, widths[k]) contiguous, atoms that receive first.
            edges: of all E edges, which are sorted by receiver.
            first_edge: (R + 1,) int64, edges of atom i are first_edge[i] to first_edge[i + 1] - 1.
            senders: (E,) int64, smaller than N.
            species, velocities: of at least the R atoms.
            receivers: (any,) int64, smaller than R; None: all R.
            out: (at least R, widths[k + 1]) contiguous.
        """
        torch.ops.lammps_trajcast.network_layer(
            self.number,
            k,
            features,
            edges,
            first_edge,
            senders,
            species,
            velocities,
            receivers,
            out,
        )

    @exported
    def read_out(self, features: Tensor, count: int) -> Tensor:
        """Return raw targets (count, 6) of the first atoms from their last features."""
        return torch.ops.lammps_trajcast.network_read_out(self.number, features, count)

    def forward(
        self,
        species: Tensor,
        velocities: Tensor,
        edge_vectors: Tensor,
        receivers: Tensor,
        senders: Tensor,
    ) -> Tensor:
        """Return raw targets (N, 6), as :meth:`TrajCast.predict` does.

        Edge vectors are in double precision and edges sorted by receiver.
        """
        count = species.size(0)
        atoms = torch.arange(count + 1, dtype=torch.int64)
        first_edge = torch.searchsorted(receivers, atoms)
        edges = self.edges(edge_vectors)
        features = self.first(species, velocities)
        for k, width in enumerate(self.widths[1:]):
            out = torch.empty((count, width), dtype=features.dtype)
            self.layer(k, features, edges, first_edge, senders, species, velocities, None, out)
            features = out
        return self.read_out(features, count)
