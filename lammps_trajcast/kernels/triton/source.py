"""Source text of the Triton kernels of one depthwise tensor product.

A tensor product is a few hundred multiplications by constants, at places that differ from one
table to the next. Written out, with every coefficient a literal and every sum a variable, the
compiler keeps all of it in registers; as a table it would read an index for every number. So the
kernels are generated. The text depends on the irreps alone, never on anything in a model file.

All kernels see a program as ``LANES`` lanes in one dimension: ``WIDTH`` channels of one node next
to each other, then those of the next node. A lane sums its own channel of its own node over that
node's edges, one after the other, so that no two lanes write the same number and the order of
every sum is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Terms = tuple[tuple[int, float], ...]
"""One coupling, the sum over harmonics b of value * Y[b], as pairs (b, value)."""

Entry = tuple[int, int, int, Terms]
"""(path, input row, output row, coupling): one non-zero block of a tensor product."""

# Rows of the result (or of its gradient) that a kernel holds in registers for each lane; a tensor
# product with more is split into several kernels. A thread of a GPU has 255 registers.
ROWS_PER_KERNEL = {4: 64, 8: 40}


@dataclass(frozen=True)
class Family:
    """Paths with the same couplings, in the same order: those that differ in parity alone.

    Attributes:
        couplings: the coupling of each entry.
        paths: for each path its number and the (input row, output row) of each entry.
    """

    couplings: tuple[Terms, ...]
    paths: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]

    def inputs(self) -> list[int]:
        """Return the rows of the features that are read, ascending."""
        return sorted({a for _, places in self.paths for a, _ in places})

    def outputs(self) -> list[int]:
        """Return the rows of the result that are written; no other family writes them."""
        return sorted({c for _, places in self.paths for _, c in places})

    def harmonics(self) -> list[int]:
        """Return the columns of the harmonics that are read, ascending."""
        return sorted({b for terms in self.couplings for b, _ in terms})


def families(entries: Iterable[Entry]) -> list[Family]:
    """Sort the entries of a tensor product into families, those of low order first."""
    paths: dict[int, list[tuple[int, int, Terms]]] = {}
    for path, a, c, terms in entries:
        paths.setdefault(path, []).append((a, c, terms))
    found: dict[object, list[int]] = {}
    for path, items in paths.items():
        # Rows counted from the path's first ones: what is left is the same for its twins.
        rows = sorted({c for _, c, _ in items})
        first = min(a for a, _, _ in items)
        key = tuple(
            (a - first, rows.index(c), tuple((b, round(value, 12)) for b, value in terms))
            for a, c, terms in items
        )
        found.setdefault(key, []).append(path)
    result = [
        Family(
            couplings=tuple(terms for _, _, terms in paths[numbers[0]]),
            paths=tuple((n, tuple((a, c) for a, c, _ in paths[n])) for n in numbers),
        )
        for numbers in found.values()
    ]
    # By size of the input irrep, then by harmonic: neighbors in this order read the same features.
    return sorted(
        result, key=lambda f: (len(f.inputs()) // len(f.paths), f.harmonics(), f.outputs())
    )


def split(found: list[Family], rows: int) -> list[list[Family]]:
    """Deal families out to kernels, in order, with at most ``rows`` rows of the result in each.

    A family with more rows than that is a kernel by itself.
    """
    kernels: list[list[Family]] = [[]]
    for family in found:
        held = sum(len(f.outputs()) for f in kernels[-1])
        if kernels[-1] and held + len(family.outputs()) > rows:
            kernels.append([])
        kernels[-1].append(family)
    return kernels


def split_by_order(found: list[Family]) -> list[list[Family]]:
    """Deal families out to kernels by the order of their input, so that no two share inputs."""
    kernels: dict[int, list[Family]] = {}
    for family in found:
        kernels.setdefault(len(family.inputs()) // len(family.paths), []).append(family)
    return list(kernels.values())


@dataclass(frozen=True)
class Sizes:
    """Rows of the arrays of one node or edge."""

    inputs: int
    outputs: int
    paths: int
    harmonics: int


class _Text:
    """Lines of a kernel, with an indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.indent = ""

    def add(self, *lines: str) -> None:
        self.lines += [self.indent + line for line in lines]

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def _load(variable: str, base: str, row: int) -> str:
    return f"{variable}{row} = tl.load({base} + {row} * CHANNELS)"


def _nodes(name: str, arguments: str) -> _Text:
    """Open a kernel whose lanes are the channels of nodes."""
    text = _Text()
    text.add(f"def {name}({arguments}, num_nodes,")
    text.add("    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr):")
    text.indent = "    "
    text.add(
        "lane = tl.arange(0, LANES)",
        "node = tl.program_id(0).to(tl.int64) * (LANES // WIDTH) + lane // WIDTH",
        "channel = tl.program_id(1) * WIDTH + lane % WIDTH",
        "live = (node < num_nodes) & (channel < CHANNELS)",
        # Lanes beyond the last node or channel repeat that one and store nothing.
        "node = tl.minimum(node, num_nodes - 1)",
        "channel = tl.minimum(channel, CHANNELS - 1)",
    )
    return text


def _nodes_with_edges(name: str, arguments: str) -> _Text:
    """Open a kernel over nodes; ``first_edge`` says where each node's edges are."""
    text = _nodes(name, f"{arguments}, first_edge")
    text.add("begin = tl.load(first_edge + node)", "end = tl.load(first_edge + node + 1)")
    return text


def _some_nodes_with_edges(name: str, arguments: str) -> _Text:
    """Open a kernel over nodes whose edges need not follow each other."""
    text = _nodes(name, f"{arguments}, begins, ends")
    text.add("begin = tl.load(begins + node)", "end = tl.load(ends + node)")
    return text


def _edge_loop(text: _Text) -> None:
    """Open the loop over edges.

    Lanes whose node has fewer edges than another node of the program go on reading their last edge
    with harmonics of zero.
    """
    text.add("for k in range(tl.max(end - begin, 0)):")
    text.indent += "    "
    text.add("on = begin + k < end", "edge = tl.maximum(tl.minimum(begin + k, end - 1), 0)")


def _load_harmonics(text: _Text, part: list[Family], sizes: Sizes) -> None:
    text.add(f"y = harmonics + edge * {sizes.harmonics}")
    for b in sorted({b for family in part for b in family.harmonics()}):
        text.add(f"y{b} = tl.load(y + {b}, on, 0.0)")


def _load_features(text: _Text, part: list[Family], sizes: Sizes, own: bool = False) -> None:
    """Load the sender's features; ``own``: plus what the receiver adds to all of its senders."""
    text.add(
        "sender = tl.load(senders + edge)",
        f"x = features + sender * ({sizes.inputs} * CHANNELS) + channel",
    )
    for a in sorted({a for family in part for a in family.inputs()}):
        # The receiver's row is read again for each edge, out of the nearest cache: registers are
        # needed for the result.
        text.add(_load("x", "x", a) + (f" + tl.load(z + {a} * CHANNELS)" if own else ""))


def _edge_weights(text: _Text, sizes: Sizes) -> None:
    text.add(f"w = weights + edge * ({sizes.paths} * CHANNELS) + channel")


def _tabulated_weights(text: _Text, sizes: Sizes, order: int) -> None:
    """Prepare to interpolate: the Hermite polynomials of this edge, and where its nodes are."""
    text.add(
        "position = tl.load(positions + edge)",
        # A distance that is not a number must not become an address.
        "cell = tl.minimum(tl.maximum(position.to(tl.int32), 0), intervals - 1)",
        "t = position - cell",
        "u = 1.0 - t",
    )
    text.add(*(f"h{k} = {polynomial}" for k, polynomial in enumerate(_HERMITE[order])))
    size = f"{order * sizes.paths} * CHANNELS"
    text.add(f"w = weights + cell.to(tl.int64) * ({size}) + channel")


# Of the left node value, derivative, ..., then the same of the right node; u = 1 - t.
_HERMITE = {
    2: ("u * u * (1.0 + 2.0 * t)", "u * u * t", "t * t * (1.0 + 2.0 * u)", "-t * t * u"),
    3: (
        "u * u * u * (1.0 + t * (3.0 + 6.0 * t))",
        "u * u * u * t * (1.0 + 3.0 * t)",
        "u * u * u * t * t * 0.5",
        "t * t * t * (1.0 + u * (3.0 + 6.0 * u))",
        "-t * t * t * u * (1.0 + 3.0 * u)",
        "t * t * t * u * u * 0.5",
    ),
}


def _weight(path: int, sizes: Sizes, order: int) -> list[str]:
    """Load the weight of a path, or interpolate it (``order`` > 0)."""
    if order == 0:
        return [_load("w", "w", path)]
    # The derivatives of a node lie one after the other, the next node follows.
    rows = [path + k * sizes.paths for k in range(2 * order)]
    terms = [f"h{k} * tl.load(w + {row} * CHANNELS)" for k, row in enumerate(rows)]
    return [f"w{path} = {terms[0]}", *(f"w{path} += {term}" for term in terms[1:])]


def _coupling(terms: Terms) -> str:
    return " + ".join(f"{value!r} * y{b}" for b, value in terms)


def _entries(family: Family) -> Iterator[tuple[Terms, list[tuple[int, int, int]]]]:
    """Yield each coupling with its (path, input row, output row)."""
    for k, terms in enumerate(family.couplings):
        yield terms, [(path, *places[k]) for path, places in family.paths]


def forward(part: list[Family], sizes: Sizes) -> str:
    """Return the source of ``forward``: rows of the result that ``part`` writes."""
    text = _nodes_with_edges("forward", "features, harmonics, weights, senders, out")
    return _forward(text, part, sizes, order=0)


def tabulated(part: list[Family], sizes: Sizes, order: int, own: bool) -> str:
    """Return the source of ``tabulated``: as ``forward``, with interpolated weights.

    ``weights`` is a table (intervals + 1, order, paths, channels) of values and of derivatives
    times powers of the spacing, ``positions`` (E,) the distances in units of the spacing.
    ``own_rows``, if ``own``, are added to the features of a receiver's senders. The edges of each
    receiver are ``begins`` to ``ends``.
    """
    text = _some_nodes_with_edges(
        "tabulated",
        "features, harmonics, weights, positions, intervals, senders, "
        f"{'own_rows, ' if own else ''}out",
    )
    if own:
        text.add(f"z = own_rows + node * ({sizes.inputs} * CHANNELS) + channel")
    return _forward(text, part, sizes, order, own)


def _forward(text: _Text, part: list[Family], sizes: Sizes, order: int, own: bool = False) -> str:
    outputs = sorted({c for family in part for c in family.outputs()})
    text.add("zero = tl.zeros([LANES], features.dtype.element_ty)")
    for c in outputs:
        text.add(f"o{c} = zero")
    _edge_loop(text)
    _load_harmonics(text, part, sizes)
    _load_features(text, part, sizes, own)
    if order:
        _tabulated_weights(text, sizes, order)
    else:
        _edge_weights(text, sizes)
    for family in part:
        for path, _ in family.paths:
            text.add(*_weight(path, sizes, order))
        seen: set[tuple[int, int]] = set()
        for terms, places in _entries(family):
            text.add(f"c = {_coupling(terms)}")
            for path, a, c in places:
                if (path, a) not in seen:
                    seen.add((path, a))
                    text.add(f"p{path}_{a} = w{path} * x{a}")
                text.add(f"o{c} += c * p{path}_{a}")
    text.indent = "    "
    text.add(f"row = out + node * ({sizes.outputs} * CHANNELS) + channel")
    for c in outputs:
        text.add(f"tl.store(row + {c} * CHANNELS, o{c}, live)")
    return str(text)


def _pulled_back(family: Family) -> Iterator[str]:
    """Yield lines that form s = sum over c of coupling * g[c], for each path and input row."""
    seen: set[tuple[int, int]] = set()
    for terms, places in _entries(family):
        yield f"c = {_coupling(terms)}"
        for path, a, c in places:
            sign = "+=" if (path, a) in seen else "="
            seen.add((path, a))
            yield f"s{path}_{a} {sign} c * g{c}"


def weight_gradient(part: list[Family], sizes: Sizes) -> str:
    """Return the source of ``weight_gradient``: for each edge the paths of ``part``."""
    text = _nodes_with_edges(
        "weight_gradient", "grad_out, features, harmonics, senders, grad_weights"
    )
    text.add(f"g = grad_out + node * ({sizes.outputs} * CHANNELS) + channel")
    for c in sorted({c for family in part for c in family.outputs()}):
        text.add(_load("g", "g", c))
    _edge_loop(text)
    _load_harmonics(text, part, sizes)
    _load_features(text, part, sizes)
    text.add(f"row = grad_weights + edge * ({sizes.paths} * CHANNELS) + channel")
    for family in part:
        text.add(*_pulled_back(family))
        for path, places in family.paths:
            rows = sorted({a for a, _ in places})
            text.add(
                f"w = {' + '.join(f'x{a} * s{path}_{a}' for a in rows)}",
                f"tl.store(row + {path} * CHANNELS, w, live & on)",
            )
    return str(text)


def feature_gradient(part: list[Family], sizes: Sizes) -> str:
    """Return the source of ``feature_gradient``, over senders: the features that ``part`` reads.

    ``first_edge`` and ``edges`` list the edges of each sender, ``receivers`` is that of each edge.
    """
    text = _nodes_with_edges(
        "feature_gradient", "grad_out, harmonics, weights, edges, receivers, grad_features"
    )
    text.add("zero = tl.zeros([LANES], grad_out.dtype.element_ty)")
    inputs = sorted({a for family in part for a in family.inputs()})
    for a in inputs:
        text.add(f"x{a} = zero")
    _edge_loop(text)
    text.add(
        "edge = tl.load(edges + edge)",
        "receiver = tl.load(receivers + edge)",
        f"g = grad_out + receiver * ({sizes.outputs} * CHANNELS) + channel",
    )
    _load_harmonics(text, part, sizes)
    _edge_weights(text, sizes)
    for family in part:
        for path, _ in family.paths:
            text.add(*_weight(path, sizes, order=0))
        for c in family.outputs():
            text.add(_load("g", "g", c))
        text.add(*_pulled_back(family))
        for path, places in family.paths:
            for a in sorted({a for a, _ in places}):
                text.add(f"x{a} += w{path} * s{path}_{a}")
    text.indent = "    "
    text.add(f"row = grad_features + node * ({sizes.inputs} * CHANNELS) + channel")
    for a in inputs:
        text.add(f"tl.store(row + {a} * CHANNELS, x{a}, live)")
    return str(text)


@dataclass(frozen=True)
class GatedBlock:
    """One irrep of the features after a gate.

    Attributes:
        update: number of its block of the update.
        residual: number of its block of the residual, -1 if it has none.
        dim: 2l + 1.
        gate: number of its gate, -1 for a scalar, which is activated itself.
        activation: of the gate or the scalar, a key of ``ACTIVATIONS``.
        gain: factor of the activation.
    """

    update: int
    residual: int
    dim: int
    gate: int
    activation: str
    gain: float


ACTIVATIONS = {
    "silu": "x / (1.0 + tl.exp(-x))",
    "tanh": "2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0",
    "relu": "tl.maximum(x, 0.0)",
    "sigmoid": "1.0 / (1.0 + tl.exp(-x))",
}


def gate(blocks: list[GatedBlock], even: int, num_updates: int, num_residuals: int) -> str:
    """Return the source of ``gate``: gated update plus residual, over root 2.

    Args:
        blocks: in the order of the result.
        even: number of the update's block of even scalars, (N, 1, channels and then gates).
        num_updates: number of blocks of the update, (N, 2l+1, channels) each.
        num_residuals: number of blocks of the residual, (N, 2l+1, channels) each.
    """
    updates = [f"u{k}" for k in range(num_updates)]
    residuals = [f"r{k}" for k in range(num_residuals)]
    text = _nodes("gate", ", ".join([*updates, *residuals, "out"]))
    gates = sum(block.gate >= 0 for block in blocks)
    row = 0
    for block in blocks:
        columns = f"({1 + gates} * CHANNELS)" if block.update == even else "CHANNELS"
        if block.gate >= 0:
            place = f"node * ({1 + gates} * CHANNELS) + {1 + block.gate} * CHANNELS + channel"
            text.add(f"x = tl.load(u{even} + {place})")
        else:
            text.add(f"x = tl.load(u{block.update} + node * {columns} + channel)")
        text.add(f"factor = ({ACTIVATIONS[block.activation]}) * {block.gain / 2**0.5!r}")
        for a in range(block.dim):
            place = f"(node * {block.dim} + {a}) * CHANNELS + channel"
            value = f"factor * tl.load(u{block.update} + {place})" if block.gate >= 0 else "factor"
            if block.residual >= 0:
                value += f" + {0.5**0.5!r} * tl.load(r{block.residual} + {place})"
            text.add(f"tl.store(out + (node * TOTAL + {row}) * CHANNELS + channel, {value}, live)")
            row += 1
    return str(text).replace("TOTAL", str(row))
