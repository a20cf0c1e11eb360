"""The input script that runs the finished model, and the data file that it begins with."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from lammps_trajcast.fit.config import FitConfig, FitError
from lammps_trajcast.fit.reference import SurveyRuns
from lammps_trajcast.lammps_runs.paths import is_plain
from lammps_trajcast.lammps_runs.runner import FinishedRun, file_key
from lammps_trajcast.lammps_runs.script import READ
from lammps_trajcast.units import TIME_IN_FS
from lammps_trajcast.validation.config import ValidationConfig
from lammps_trajcast.validation.plan import RunSchedule
from lammps_trajcast.validation.scripts import Inputs
from lammps_trajcast.validation.system import Model, System


def write_data_file(path: Path, runs: SurveyRuns, start: Path) -> tuple[str, str]:
    """Write the equilibrated atoms, with which a run needs neither the system nor the reference.

    Args:
        path: of the data file.
        runs: of the survey.
        start: directory of the equilibration.

    Returns:
        The atom style, and the arguments of `boundary`.

    Raises:
        FitError: LAMMPS fails.
    """
    state = start / "state.dump"
    box = "yes" if runs.system.box else "no"
    text = f"""\
# {runs.config.name}: the equilibrated atoms as a data file. Written by lammps-trajcast fit.
include         {runs.system.include}
read_dump       ${{start}} 0 {READ} box {box}
run             0
info            system out log
write_data      ${{out}}/start.data nocoeff nofix
"""
    done = runs.run("start", text, FinishedRun(start, file_key(state)))
    log = (done.directory / "log.lammps").read_text(errors="replace")
    style = re.search(r"^Atom style\s+= (.+?)\s*$", log, re.MULTILINE)
    boundary = re.search(r"^Boundaries = (\S+) (\S+) (\S+)", log, re.MULTILINE)
    if style is None or boundary is None:
        raise FitError(f"{done.directory / 'log.lammps'}: tells no atom style and boundaries")
    shutil.copyfile(done.directory / "start.data", path)
    # p,p and f,s as the command has them: p and fs.
    sides = ("".join(dict.fromkeys(each.split(","))) for each in boundary.groups())
    return style[1], " ".join(sides)


def write_script(
    path: Path,
    config: FitConfig,
    validation: ValidationConfig,
    model: Model,
    system: System,
    data: tuple[Path, str, str],
    energies: str = "",
) -> str:
    """Write it beside the model; returns the text.

    It is run in its own directory, and needs the model and the data file alone.

    Args:
        path: of the script.
        config: of the fit.
        validation: how the model was validated.
        model: its file and time step, and the cutoff of the neighbor list.
        system: the include file.
        data: the data file, its atom style and the arguments of `boundary`.
        energies: what follows `fix_modify ID`; empty for a model without an energy.
    """
    plan = RunSchedule.make(
        validation.lengths["full"], model.timestep, validation.reference.timestep
    )
    inputs = Inputs(validation, system, model, plan, config.temperature)
    temperature = f"{config.temperature:g}"
    file, style, boundary = data
    bath = validation.thermostat.format(
        start=temperature, stop=temperature, seed=4928 + config.seed
    )
    modify = "fix_modify      bath temp thermo_temp\n" if model.angular else ""
    modify += f"{inputs.still}\n" if inputs.still else ""
    bonded = "special_bonds   lj/coul 1e-50 1e-50 1e-50\n" if system.molecular else ""
    fix = inputs._model_integrator().replace("${model}", _quoted(model.path.name))
    counted = f"fix_modify      integrate {energies}\n" if energies else ""
    columns = "pe etotal press" if "virial" in energies else "pe etotal" if energies else ""
    text = f"""\
# {config.name}: {" ".join(config.elements)} at {temperature} K, {model.timestep:g} fs a step.
# In the directory of this file, from atoms in equilibrium:
#   lmp -in {_quoted(path.name)}
units           {system.units}
atom_style      {style}
boundary        {boundary}
read_data       {_quoted(file.name)}
pair_style      zero {model.cutoff:.12g} full
pair_coeff      * *
{bonded}timestep        {model.timestep / TIME_IN_FS[system.units]:.12g}

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
