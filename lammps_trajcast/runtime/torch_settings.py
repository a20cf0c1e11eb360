"""Settings of torch that belong to the process: the network has its own, the host keeps its."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from lammps_trajcast.runtime.matmul_precision import highest_matmul_precision


@contextmanager
def own_torch_settings(num_threads: int | None = None) -> Iterator[None]:
    """Within this context torch works as the network needs it, whatever the process has set.

    A notebook may have called `torch.set_default_device("cuda")` or `torch.set_default_dtype`, or
    run LAMMPS inside `torch.autocast`. Afterward all is as it was before.

    Args:
        num_threads: CPU threads of torch; None leaves them as they are.
    """
    with ExitStack() as stack:
        # A device context costs Python code in each call of torch: only where it is needed.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        threads = torch.get_num_threads()
        if num_threads is not None and num_threads != threads:
            stack.callback(torch.set_num_threads, threads)
            torch.set_num_threads(num_threads)
        stack.enter_context(highest_matmul_precision())
        yield
