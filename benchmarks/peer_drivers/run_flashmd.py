"""Driver of benchmarks.peers: FlashMD, metatrain's network at its default size, random weights.

Argument: a frame. Each step begins at this frame, since random weights do not keep a crystal.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from run_pieces import read_frame, serve

# fs; what FlashMD's documentation calls aggressive for most materials (16 is conservative).
TIMESTEP = 32.0


def prepare() -> tuple[Callable[[int], None], float]:
    import torch
    from ase import units
    from flashmd.ase.velocity_verlet import VelocityVerlet
    from metatomic.torch import load_atomistic_model
    from metatrain.experimental.flashmd import __model__ as network
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_generic_target_info

    frame = read_frame(sys.argv[1])
    form = {"type": {"cartesian": {"rank": 1}}, "sample_kind": "atom", "num_subtargets": 1}
    targets = {
        name: get_generic_target_info(name, {"quantity": quantity, "unit": unit, **form})
        for name, quantity, unit in (
            ("position", "length", "A"),
            ("momentum", "momentum", "(eV*u)^(1/2)"),
        )
    }
    kinds = dict(zip(frame.numbers.tolist(), frame.get_masses().tolist(), strict=True))
    torch.manual_seed(0)
    hypers = get_default_hypers("experimental.flashmd")["model"]
    model = network(
        hypers, DatasetInfo(length_unit="A", atomic_types=sorted(kinds), targets=targets)
    )
    model.set_timestep(TIMESTEP)
    model.set_masses(kinds)
    # Saved and loaded: users have a file of TorchScript.
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "flashmd.pt"
        model.export().save(path)
        loaded = load_atomistic_model(path)
    dynamics = VelocityVerlet(
        frame, TIMESTEP * units.fs, loaded, device="cpu", rescale_energy=False
    )
    positions, momenta = frame.get_positions(), frame.get_momenta()

    def run(steps: int) -> None:
        for _ in range(steps):
            dynamics.run(1)
            frame.set_positions(positions)
            frame.set_momenta(momenta)

    return run, TIMESTEP


if __name__ == "__main__":
    serve(prepare, ["flashmd", "metatrain", "torch"])
