"""Settings of the process that a calculator may change: it has its own, the process keeps its."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from lammps_trajcast.runtime.matmul_precision import MatmulPrecision


class _Torch(NamedTuple):
    """Settings of torch; they are the ones that libraries of potentials set for themselves."""

    dtype: Any
    device: Any  # None: no default device was set
    threads: int | None  # None: not known
    matmul_precision: MatmulPrecision
    with_gradients: bool

    @classmethod
    def now(cls) -> _Torch | None:
        """Those of the process; None if torch is not imported."""
        torch = sys.modules.get("torch")
        if torch is None:
            return None
        device = torch.get_default_device()
        return cls(
            torch.get_default_dtype(),
            None if device == torch.device("cpu") else device,
            torch.get_num_threads(),
            MatmulPrecision.now(),
            torch.is_grad_enabled(),
        )

    @classmethod
    def of_a_new_process(cls) -> _Torch:
        torch = sys.modules["torch"]
        return cls(torch.float32, None, None, MatmulPrecision.of_a_new_process(), True)

    def apply(self) -> None:
        torch = sys.modules["torch"]
        now = _Torch.now()
        assert now is not None
        if now.dtype != self.dtype:
            torch.set_default_dtype(self.dtype)
        if now.device != self.device:
            torch.set_default_device(self.device)
        if self.threads is not None and now.threads != self.threads:
            torch.set_num_threads(self.threads)
        if now.matmul_precision != self.matmul_precision:
            self.matmul_precision.apply()
        if now.with_gradients != self.with_gradients:
            torch.set_grad_enabled(self.with_gradients)


class ProcessSettings:
    """What a calculator finds when its code runs, and what the process finds afterward.

    Settings of torch, as the default type that MACE sets when it is made, come back whenever the
    calculator's code runs, and only then. The same holds for what NumPy does with floating-point
    errors, and for where modules are looked for.

    Args:
        directories: looked into for modules before Python's own.
        alone: whether this is the only MPI rank of LAMMPS. Otherwise ASE, which would take all of
            them for its own as soon as mpi4py is imported, is told that there are no others: they
            would not answer.
    """

    def __init__(self, directories: Sequence[str], alone: bool) -> None:
        self._directories = list(dict.fromkeys(directories))
        self._alone = alone
        self._torch: _Torch | None = None
        self._errors: dict[str, Any] | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context the calculator's settings are in force."""
        with ExitStack() as stack:
            stack.enter_context(self._search_path())
            if not self._alone:
                stack.enter_context(_no_other_ranks())
            stack.enter_context(self._numpy())
            stack.enter_context(self._of_torch())
            yield

    @contextmanager
    def _search_path(self) -> Iterator[None]:
        sys.path[:0] = self._directories
        try:
            yield
        finally:
            for directory in self._directories:
                if directory in sys.path:
                    sys.path.remove(directory)

    @contextmanager
    def _numpy(self) -> Iterator[None]:
        with np.errstate():
            if self._errors is not None:
                np.seterr(**self._errors)
            try:
                yield
            finally:
                self._errors = dict(np.geterr())

    @contextmanager
    def _of_torch(self) -> Iterator[None]:
        before = _Torch.now()
        if self._torch is not None:
            self._torch.apply()
        try:
            yield
        finally:
            self._torch = _Torch.now()
            if self._torch is not None:
                (before or _Torch.of_a_new_process()).apply()


@contextmanager
def _no_other_ranks() -> Iterator[None]:
    import ase.parallel

    world = ase.parallel.world
    before = world.comm
    world.comm = ase.parallel.DummyMPI()
    try:
        yield
    finally:
        world.comm = before
