"""Driver of benchmarks.peers: CHGNet, whose weights its package brings, and velocity Verlet of ASE.

Argument: a frame.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from run_pieces import read_frame, serve

TIMESTEP = 2.0  # fs


def prepare() -> tuple[Callable[[int], None], float]:
    from ase import units
    from ase.md.verlet import VelocityVerlet
    from chgnet.model.dynamics import CHGNetCalculator

    frame = read_frame(sys.argv[1])
    frame.calc = CHGNetCalculator(use_device="cpu")
    dynamics = VelocityVerlet(frame, TIMESTEP * units.fs)

    def run(steps: int) -> None:
        dynamics.run(steps)

    return run, TIMESTEP


if __name__ == "__main__":
    serve(prepare, ["chgnet", "torch", "ase"])
