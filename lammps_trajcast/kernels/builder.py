"""The structures of `fix_src/kernels/network.h`, made of a network's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lammps_trajcast.kernels.library import ffi
from lammps_trajcast.kernels.tables import (
    FEWEST,
    Function,
    HermiteTable,
    SpeedEmbedding,
    message_function,
    message_range,
    scalar_function,
    tabulate,
    velocity_function,
)
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.irreps import (
    Irrep,
    Irreps,
    LayerIrreps,
    Path,
    layers,
    spherical_harmonics,
)
from lammps_trajcast.model.normalization import GAINS

_ACTIVATION_NUMBERS = {"silu": 0, "tanh": 1, "relu": 2, "sigmoid": 3}
_EVEN, _READ_OUT = Irrep(0, 1), Irrep(1, -1)


class NetworkBuilder:
    """The structures of `network.h` for a network; keeps alive what they point to."""

    def __init__(
        self,
        arch: Architecture,
        weights: Mapping[str, NDArray[Any]],
        order: int,
        tolerance: float,
    ) -> None:
        self._kept: list[Any] = []
        self._arch = arch
        self._weights = weights
        self._order = order
        self._tolerance = tolerance
        self._species = range(arch.num_chem_elements)
        self._speed = SpeedEmbedding.of(arch, weights)

        irreps = layers(arch)
        # The read-out reads one irrep, so most of the last layer's work would be thrown away.
        wanted = [[ir for _, ir in layer.outputs] for layer in irreps]
        wanted[-1] = [_READ_OUT]
        messages = self._message_tables()
        made = [
            self._layer(k, *each)
            for k, each in enumerate(zip(irreps, messages, wanted, strict=True))
        ]
        self.layers = self._array("trajcast_layer[]", made)
        self.ends = self._struct("trajcast_ends *", self._ends())

    def _weight(self, name: str) -> NDArray[np.float64]:
        return self._weights[f"{name}.weight"].astype(np.float64)

    def _perceptron(self, name: str, num_hidden: int) -> list[NDArray[np.float64]]:
        return [self._weight(f"{name}.layer{n}") for n in range(num_hidden + 1)]

    # ---- tables ----

    def _message_tables(self) -> list[HermiteTable]:
        """Tables with the same nodes, so that an edge finds its place once for all layers."""
        arch = self._arch
        roots = self._weights["edge_embedding.radial_basis.bessel_roots"]
        num_hidden = len(arch.edge_mlp_kwargs.n_neurons)
        functions = [
            message_function(
                roots,
                arch.edge_cutoff,
                arch.num_edge_poly_cutoff,
                self._perceptron(f"interactions.{k}.edge_mlp", num_hidden),
            )
            for k in range(arch.num_mp_layers)
        ]

        first, cutoff = message_range(arch.edge_cutoff)
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

    def _speed_table(self, functions: list[Function]) -> HermiteTable:
        """A table of functions of the speed, one for each species."""
        return tabulate(functions, 0.0, self._speed.fastest, self._order, self._tolerance)

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
        self, k: int, irreps: LayerIrreps, messages: HermiteTable, wanted: list[Irrep]
    ) -> dict[str, Any]:
        """One layer, as far as the irreps that are wanted of its result need it."""
        arch, prefix = self._arch, f"interactions.{k}"
        gates = [ir for _, ir in irreps.outputs if ir.l > 0]
        updated = [_EVEN, *(ir for ir in wanted if ir != _EVEN)]
        contracted = _sources(irreps, updated)
        # Columns of the update for the even scalars: themselves, then a gate for each l > 0.
        columns = [0] if _EVEN in wanted else []
        columns += [1 + n for n, ir in enumerate(gates) if ir in wanted]
        update_rows = {_EVEN: 0}
        rows_update = len(columns)
        for ir in updated[1:]:
            update_rows[ir] = rows_update
            rows_update += ir.dim

        perceptron = self._perceptron(f"{prefix}.vel_mlp", len(arch.vel_mlp_kwargs.n_neurons))
        speeds = self._speed_table(
            [velocity_function(self._speed, s, perceptron) for s in self._species]
        )
        inputs = [ir for _, ir in irreps.inputs]
        message = self._product_layer(
            _Product(irreps.inputs, irreps.message_paths, irreps.messages, irreps.contracted),
            self._weight(f"{prefix}.linear_contraction"),
            _first_rows(inputs),
            _first_rows(contracted),
            messages,
            scale=1.0 / arch.avg_num_neighbors,
        )
        velocity = self._product_layer(
            _Product(irreps.contracted, irreps.velocity_paths, irreps.conditioned, irreps.updates),
            self._weight(f"{prefix}.linear_updates"),
            _first_rows(contracted),
            update_rows,
            speeds,
            even_columns=columns,
        )
        gate_rows = {ir: columns.index(1 + gates.index(ir)) for ir in wanted if ir.l > 0}
        gated = self._gated(prefix, irreps, wanted, update_rows, gate_rows)
        return {
            "rows_in": _num_rows(inputs),
            "rows_contracted": _num_rows(contracted),
            "rows_update": rows_update,
            "rows_out": _num_rows(wanted),
            "message": message,
            "velocity": velocity,
            "num_gated": len(gated),
            "gated": self._array("trajcast_gated[]", gated),
            "own": self._own(prefix, inputs),
        }

    def _own(self, prefix: str, inputs: list[Irrep]) -> Any:
        """Weights (rows_in, channels) of the receiver's share of the messages."""
        if self._arch.message_features != "both":
            return ffi.NULL
        weight = self._weight(f"{prefix}.own_share").reshape(len(inputs), -1)
        return self._doubles(weight.repeat([ir.dim for ir in inputs], axis=0))

    def _product_layer(
        self,
        product: _Product,
        linear: NDArray[np.float64],
        input_rows: dict[Irrep, int],
        output_rows: dict[Irrep, int],
        table: HermiteTable,
        scale: float = 1.0,
        even_columns: list[int] | None = None,
    ) -> dict[str, Any]:
        """A product from the irreps of ``input_rows`` to those of ``output_rows``, and its map.

        Args:
            product: what it makes of all inputs.
            linear: weights of the map, a matrix for each irrep one after the other.
            input_rows: first row of each input that is there.
            output_rows: first row of each output that is wanted.
            table: of the weights of all paths.
            scale: for the result.
            even_columns: which sets of channels of the map's even scalars to keep.
        """
        channels = self._arch.num_hidden_channels
        irreps_out = [ir for _, ir in product.results]
        kinds = list(dict.fromkeys(irreps_out))  # sorted, as the linear map's
        multiplicity = {ir: mul for mul, ir in product.mapped}

        groups, weights, at = [], [], 0
        used: list[Irrep] = []
        for ir in kinds:
            count, columns = irreps_out.count(ir), multiplicity.get(ir, 0) // channels
            size = count * channels * columns * channels
            block = linear[at : at + size]
            at += size
            if ir not in output_rows:
                continue
            block = block.reshape(count * channels, columns, channels)
            if ir == _EVEN and even_columns is not None:
                block = block[:, even_columns]
            used.append(ir)
            weights.append(block.reshape(-1) * (scale / math.sqrt(count * channels)))
            groups.append(
                {
                    "l": ir.l,
                    "num_paths": count,
                    "columns": block.shape[1],
                    "output": output_rows[ir],
                }
            )

        directions = spherical_harmonics(self._arch.max_rotation_order)
        products = []
        for number, path in enumerate(product.paths):
            ir_in, ir_edge = product.inputs[path.node].ir, directions[path.direction].ir
            ir_out = irreps_out[path.out]
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
                "path": irreps_out[: path.out].count(ir_out),
            }
            # e3nn's "component" normalization of a path that is alone with its result.
            products.append((key, place, math.sqrt(ir_out.dim)))
        products.sort(key=lambda entry: entry[0])
        permutation = np.array([key[3] for key, _, _ in products])
        # The normalization of a path goes into the table of its weights.
        factor = np.array([weight for _, _, weight in products])
        return {
            "num_products": len(products),
            "num_groups": len(groups),
            "products": self._array("trajcast_product[]", [place for _, place, _ in products]),
            "groups": self._array("trajcast_group[]", groups),
            "weights": self._doubles(np.concatenate(weights)),
            "table": self._table(table, permutation, factor),
        }

    def _gated(
        self,
        prefix: str,
        irreps: LayerIrreps,
        wanted: list[Irrep],
        update_rows: dict[Irrep, int],
        gate_rows: dict[Irrep, int],
    ) -> list[dict[str, Any]]:
        channels, species = self._arch.num_hidden_channels, len(self._species)
        names = self._arch.nl_gate_kwargs
        inputs, outputs = ([ir for _, ir in each] for each in (irreps.inputs, irreps.outputs))
        residual_irreps = [ir for ir in inputs if ir in outputs]
        size = channels * species * channels
        residual = self._weight(f"{prefix}.tp_resnet") / math.sqrt(channels * species)

        input_rows, output_rows = _first_rows(inputs), _first_rows(wanted)
        gated = []
        for ir in wanted:
            if ir.l > 0:
                name = names.activation_gates.e
            else:
                name = names.activation_scalars.e if ir.p == 1 else names.activation_scalars.o
            entry = {
                "l": ir.l,
                "output": output_rows[ir],
                "update": update_rows[ir],
                "gate": gate_rows.get(ir, -1),
                "residual": -1,
                "activation": _ACTIVATION_NUMBERS[name],
                "scale": GAINS[name],
                "residual_weights": ffi.NULL,
            }
            if ir in residual_irreps:
                at = residual_irreps.index(ir) * size
                weights = residual[at : at + size].reshape(channels, species, channels)
                entry["residual"] = input_rows[ir]
                entry["residual_weights"] = self._doubles(weights.swapaxes(0, 1))
            gated.append(entry)
        return gated

    # ---- first features and read-out ----

    def _ends(self) -> dict[str, Any]:
        arch = self._arch
        channels, lmax = arch.num_hidden_channels, arch.max_rotation_order
        factors = arch.speed_factors
        # One input for each species, Gaussian and order above 0.
        linear = self._weight("embedding.linear").reshape(-1, channels)
        scalars = self._speed_table(
            [scalar_function(self._speed, s, linear[:-lmax]) for s in self._species]
        )
        hidden = channels // 4
        compression = self._weight("read_out.compression").reshape(channels, hidden)
        last = self._weight("read_out.read_out").reshape(hidden, 2)
        combined = compression @ last / math.sqrt(channels * hidden)
        return {
            "lmax": lmax,
            "channels": channels,
            "num_species": len(self._species),
            "scalars": self._table(scalars, np.arange(1), np.ones(1)),
            "speed_limit": arch.speed_limit or 0.0,
            "speed_factors": ffi.NULL if factors is None else self._doubles(np.array(factors)),
            "velocity_scale": arch.velocity_scale or 0.0,
            "directions": self._doubles(linear[-lmax:]),
            "vectors": 0,
            "read_out": self._doubles(combined),
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


class _Product(NamedTuple):
    """A depthwise tensor product with spherical harmonics, and what a linear map makes of it."""

    inputs: Irreps
    paths: list[Path]
    results: Irreps  # a block for each path
    mapped: Irreps


def _num_rows(irreps: list[Irrep]) -> int:
    return sum(ir.dim for ir in irreps)


def _first_rows(irreps: list[Irrep]) -> dict[Irrep, int]:
    return {ir: _num_rows(irreps[:k]) for k, ir in enumerate(irreps)}


def _sources(irreps: LayerIrreps, wanted: list[Irrep]) -> list[Irrep]:
    """The irreps from which some path of the velocity product leads to one that is wanted."""
    used = {
        path.node for path in irreps.velocity_paths if irreps.conditioned[path.out].ir in wanted
    }
    return [ir for k, (_, ir) in enumerate(irreps.contracted) if k in used]
