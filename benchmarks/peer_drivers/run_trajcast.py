"""Driver of benchmarks.peers: the TrajCast authors' engine, random weights, single precision.

Arguments: a frame, a configuration of the network (YAML), the time step in fs, the atomic numbers
in the order of the model, and where to write the weights. Displacements are scaled to nearly
nothing, since random weights do not keep a crystal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from run_pieces import read_frame, serve

# What the outputs of the network are multiplied by: Angstrom, Angstrom/fs.
SCALES = [1e-6, 0.0037]


def prepare() -> tuple[Callable[[int], None], float]:
    import torch
    from ase import Atoms, units
    from trajcast.model.forecast import Forecast
    from trajcast.model.models import EfficientTrajCastModel

    path, config, step, numbers, weights = sys.argv[1:]
    read, timestep = read_frame(path), float(step)
    # Forecast knows velocities by this name, in the units of the model.
    frame = Atoms(read.numbers, read.positions, cell=read.cell, pbc=True)
    frame.set_array("velocities", read.get_velocities() * units.fs)
    torch.manual_seed(0)
    model = EfficientTrajCastModel.build_from_yaml(config, rms_targets=SCALES)
    torch.save(model.state_dict(), weights)
    settings = {
        "configuration": frame,
        "model": model,
        "type_mapper": {int(number): i for i, number in enumerate(numbers.split(","))},
        "timestep": timestep,
        "units": "real",
        "temperature": 300.0,
        "thermostat": {"Tdamp": 100.0},
        "run": 10**9,  # steps to come before it writes a frame
    }
    engine = Forecast(settings)

    def run(steps: int) -> None:
        engine.protocol["run"] = steps
        engine.generate_trajectory()

    return run, timestep


if __name__ == "__main__":
    serve(prepare, ["trajcast", "torch", "e3nn"])
