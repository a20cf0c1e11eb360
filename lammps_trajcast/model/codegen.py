"""What e3nn makes anew for each module of a network, made once for all that are alike.

e3nn writes the code of every tensor product and linear map anew, searches for the best order of
its contractions, and integrates the second moment of every activation function. That takes seconds
for a network, although its layers are mostly alike, and so are networks of one architecture. e3nn
has neither a cache nor a setting for one. Therefore, while a network is being made, its functions
that do this work are replaced by functions that call them once for each set of arguments. Nothing
is computed differently, and afterward e3nn is as it was.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import e3nn
import torch
from torch import fx

# Networks of a few architectures; more, in a process that lives long, begin anew.
_MOST = 500
_made: dict[str, Any] = {}

Codegen = Callable[..., Any]


@contextmanager
def remembered_code() -> Iterator[None]:
    """Modules of e3nn made inside copy the code and the moments of those that are alike."""
    # The packages hide modules of these names behind functions.
    linears = sys.modules.get("e3nn.o3._linear")
    products = sys.modules.get("e3nn.o3._tensor_product._tensor_product")
    activations = sys.modules.get("e3nn.math._normalize_activation")
    with ExitStack() as changes:

        def change(module: Any, name: str, instead: Callable[[Any], Any]) -> None:
            # In a version of e3nn that has another name for it nothing is replaced, no other harm.
            if hasattr(module, name):
                before = getattr(module, name)
                changes.callback(setattr, module, name, before)
                setattr(module, name, instead(before))

        change(linears, "_codegen_linear", _once)
        for name in ("_CODEGEN_PROVIDERS_LEFT_RIGHT", "_CODEGEN_PROVIDERS_RIGHT"):
            change(products, name, lambda before: [_once(provider) for provider in before])
        change(activations, "moment", _moment_once)
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


_moments: dict[Any, Any] = {}


def _moment_once(moment: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that returns what ``moment`` did for the same function before."""

    @functools.wraps(moment)
    def remember(f: Any, n: int, dtype: Any = None, device: Any = None) -> Any:
        case = (f, n, dtype, device, torch.get_default_dtype(), torch.get_default_device())
        if case not in _moments:
            _moments[case] = moment(f, n, dtype=dtype, device=device)
        return _moments[case]

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
def without_optimized_einsums() -> Iterator[None]:
    """Networks made inside skip e3nn's search for the best order of contractions.

    That takes half of the time of construction, and is in vain where the fused kernels evaluate the
    tensor products.
    """
    before = e3nn.get_optimization_defaults()["optimize_einsums"]
    e3nn.set_optimization_defaults(optimize_einsums=False)
    try:
        yield
    finally:
        e3nn.set_optimization_defaults(optimize_einsums=before)
