"""The one place that compiles networks: with TorchScript as long as torch has it.

torch has declared ``torch.jit.script`` deprecated. With a torch that no longer has it a network is
evaluated as Python code, with the same numbers: the kernels of prediction lose nothing, the plain
network and that of training lose what the calls between their operations cost.
"""

from __future__ import annotations

import copy
import functools
import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

Method = TypeVar("Method", bound=Callable[..., Any])
Module = TypeVar("Module", bound=type[torch.nn.Module])


def _torchscript(name: str) -> Any:
    """Return a function of ``torch.jit``; None where torch no longer has it."""
    return getattr(getattr(torch, "jit", None), name, None)


def scripted(module: Module) -> Module:
    """Decorate a module class that e3nn compiles as a whole, not its submodules alone."""
    from e3nn.util.jit import compile_mode

    decorated: Module = compile_mode("script")(module)
    return decorated


def exported(method: Method) -> Method:
    """Decorate a method other than ``forward`` that callers of the compiled module need."""
    export = _torchscript("export")
    marked: Method = method if export is None else export(method)
    return marked


def unoptimized() -> AbstractContextManager[Any]:
    """Return a context without TorchScript's optimization for the shapes of arguments.

    It would compile for many seconds and over and over: every step has another number of edges.
    """
    optimized_execution = _torchscript("optimized_execution")
    return nullcontext() if optimized_execution is None else optimized_execution(False)


def compile_network(network: torch.nn.Module) -> Any:
    """Return a compiled copy of a network, a module with the same attributes and methods.

    A network of e3nn's modules is compiled by e3nn, which compiles what these modules ask for; it
    takes seconds to import, and the network of the prediction kernels does without.

    A torch without ``torch.jit.script`` gets a copy that is not compiled, and the process prints
    one line of warning.

    Args:
        network: a :class:`~lammps_trajcast.model.network.TrajCast`, its fused twin, or a
            :class:`~lammps_trajcast.kernels.operators.PredictionNetwork`.
    """
    if _torchscript("script") is None:
        _warn_once()
        return copy.deepcopy(network)
    with warnings.catch_warnings():
        # Users cannot act on it: a DeprecationWarning of torch 2.13, a FutureWarning of 2.15, which
        # Python shows.
        warnings.filterwarnings("ignore", r".*torch\.jit\.\w+.* is deprecated")
        if "e3nn" not in sys.modules:  # then none of its modules is in the network
            return _torchscript("script")(network)
        from e3nn.util.jit import script

        return script(network, in_place=False)


@functools.cache
def _warn_once() -> None:
    mpi: Any = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized() or mpi.COMM_WORLD.rank == 0:
        logging.getLogger(__name__).warning(
            "WARNING: torch %s has no torch.jit.script: networks are not compiled, which makes "
            "kernels plain slower; for a compiled network install torch 2.13",
            torch.__version__,
        )
