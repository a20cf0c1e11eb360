"""The input script that runs the finished model."""

from __future__ import annotations

import os
from pathlib import Path

from lammps_trajcast.fit.config import FitConfig
from lammps_trajcast.lammps_runs.paths import is_plain
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.scripts import Inputs
from lammps_trajcast.validation.system import Model, System


def write_script(
    path: Path,
    config: FitConfig,
    validation: ValidationConfig,
    model: Model,
    system: System,
    energies: str = "",
) -> str:
    """Write it beside the model; returns the text.

    It is run in the directory of the system's include file, as the paths in it say.

    Args:
        path: of the script.
        config: of the fit.
        validation: how the model was validated.
        model: its file and time step, and the cutoff of the neighbor list.
        system: the include file.
        energies: what follows `fix_modify ID`; empty for a model without an energy.
    """
    home = config.system.parent
    plan = RunSchedule.make(
        validation.lengths["full"], model.timestep, validation.reference.timestep
    )
    inputs = Inputs(validation, system, model, plan, config.temperature)
    temperature = f"{config.temperature:g}"
    name = _quoted(os.path.relpath(model.path, home))
    script = os.path.relpath(path, home)
    rotation = "yes" if model.angular else "no"
    bath = validation.thermostat.format(
        start=temperature, stop=temperature, seed=4928 + config.seed
    )
    modify = "fix_modify      bath temp thermo_temp\n" if model.angular else ""
    modify += f"{inputs.still}\n" if inputs.still else ""
    body = inputs._model_system() + "\n"
    fix = inputs._model_integrator().replace("${model}", name)
    counted = f"fix_modify      integrate {energies}\n" if energies else ""
    columns = "pe etotal press" if "virial" in energies else "pe etotal" if energies else ""
    text = f"""\
# {config.name}: {" ".join(config.elements)} at {temperature} K, {model.timestep:g} fs a step.
# In the directory of {config.system.name}:
#   lmp -in {_quoted(script)}
{body.replace("${system}", _quoted(config.system.name)).rstrip()}

velocity        all create {temperature} {4928 + config.seed} mom yes rot {rotation} dist gaussian
{fix.rstrip()}
{counted}fix             bath all {bath}
{modify}
thermo          100
{f"thermo_style    custom step time temp {columns}".rstrip()} cpu
# dump            1 all custom 100 {config.name}.dump id type xu yu zu vx vy vz
variable        steps index 1000
run             ${{steps}}
"""
    path.write_text(text)
    return text


def _quoted(name: str) -> str:
    return name if is_plain(Path(name)) else f'"{name}"'
