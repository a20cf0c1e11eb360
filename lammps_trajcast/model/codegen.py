"""e3nn's code for tensor products and linear maps: made once for all that are alike, or not at all.

e3nn writes the code of every such module anew and searches for the best order of its contractions:
seconds for a network. The layers of a network are mostly alike, and so are networks of one
architecture.
"""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import e3nn
import torch
from torch import fx

# Networks of a few architectures; more, in a process that lives long, begin anew.
_MOST = 500
_made: dict[str, Any] = {}

Codegen = Callable[..., Any]


@contextmanager
def _replaced(
    linear: Callable[[Codegen], Codegen], product: Callable[[Codegen], Codegen]
) -> Iterator[None]:
    """Functions of e3nn that write code, replaced by what is made of them."""
    # The packages hide modules of these names behind functions.
    linears = sys.modules.get("e3nn.o3._linear")
    products = sys.modules.get("e3nn.o3._tensor_product._tensor_product")
    with ExitStack() as changes:

        def change(module: Any, name: str, instead: Callable[[Any], Any]) -> None:
            # In a version of e3nn that has another name for it nothing is replaced, no other harm.
            if hasattr(module, name):
                before = getattr(module, name)
                changes.callback(setattr, module, name, before)
                setattr(module, name, instead(before))

        change(linears, "_codegen_linear", linear)
        for name in ("_CODEGEN_PROVIDERS_LEFT_RIGHT", "_CODEGEN_PROVIDERS_RIGHT"):
            change(products, name, lambda before: [product(provider) for provider in before])
        yield


def _once(write: Codegen) -> Codegen:
    """Return a function that copies what ``write`` returned for the same arguments before."""

    @functools.wraps(write)
    def remember(*arguments: Any, **options: Any) -> Any:
        # Numbers in the code are of the default type.
        case = (write.__module__, write.__name__, torch.get_default_dtype(), arguments, options)
        key = repr(case)
        if key not in _made:
            if len(_made) >= _MOST:
                _made.clear()
            _made[key] = write(*arguments, **options)
        made = _made[key]
        return (_copied(made[0]), *made[1:]) if isinstance(made, tuple) else _copied(made)

    return remember


def _copied(code: fx.GraphModule) -> fx.GraphModule:
    """Return a module with the same code and buffers of its own.

    One network may become single precision, or move to a GPU. (Other copies compile anew.)
    """
    found: fx.GraphModule = object.__new__(type(code))
    found.__dict__.update(code.__dict__)
    found._buffers = {
        name: None if buffer is None else buffer.clone() for name, buffer in code._buffers.items()
    }
    found._modules = {name: copy.deepcopy(module) for name, module in code._modules.items()}
    found._parameters = copy.deepcopy(code._parameters)
    return found


@contextmanager
def remembered_code() -> Iterator[None]:
    """Modules of e3nn made inside copy the code of those that are alike."""
    with _replaced(_once, _once):
        yield


@contextmanager
def quick_construction(evaluated: bool = True) -> Iterator[None]:
    """Networks made inside skip e3nn's search for the best order of contractions.

    That takes half of the time of construction, and is in vain where only the weights and paths of
    a network are wanted: the fused kernels evaluate it.

    Args:
        evaluated: False if not even e3nn's code for tensor products and linear maps is wanted, most
            of the rest of the time. Layers of such a network raise AssertionError.
    """
    before = e3nn.get_optimization_defaults()["optimize_einsums"]
    e3nn.set_optimization_defaults(optimize_einsums=False)
    try:
        with nullcontext() if evaluated else _replaced(_no_linear, _no_product):
            yield
    finally:
        e3nn.set_optimization_defaults(optimize_einsums=before)


def _no_linear(_: Codegen) -> Codegen:
    def linear(_in: Any, _out: Any, instructions: Any, *_: Any, **__: Any) -> tuple[Any, int, int]:
        weights = sum(math.prod(path.path_shape) for path in instructions if path.i_in != -1)
        biases = sum(math.prod(path.path_shape) for path in instructions if path.i_in == -1)
        return _code_that_fails(), weights, biases

    return linear


def _no_product(_: Codegen) -> Codegen:
    return lambda *_: _code_that_fails()


@functools.cache
def _code_that_fails() -> fx.GraphModule:
    graph = fx.Graph()
    inputs = [graph.placeholder(name, torch.Tensor) for name in ("x", "y", "z")]
    graph.call_function(torch._assert, args=(False, "made by quick_construction(evaluated=False)"))
    graph.output(inputs[0])
    return fx.GraphModule(torch.nn.Module(), graph)
