"""Driver of benchmarks.peers: SevenNet-0, whose weights its package brings, and ASE.

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
    from sevenn.calculator import SevenNetCalculator

    frame = read_frame(sys.argv[1])
    frame.calc = SevenNetCalculator("7net-0", device="cpu")
    dynamics = VelocityVerlet(frame, TIMESTEP * units.fs)

    def run(steps: int) -> None:
        dynamics.run(steps)

    return run, TIMESTEP


if __name__ == "__main__":
    serve(prepare, ["sevenn", "torch", "ase"])
