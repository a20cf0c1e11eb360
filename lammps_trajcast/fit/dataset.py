"""The data set: NVE segments of the reference, or trajectories that are there already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lammps_trajcast.data.build import DatasetOptions, build_dataset
from lammps_trajcast.data.frames import Species, TrajectoryError
from lammps_trajcast.data.layout import DatasetError, open_dataset
from lammps_trajcast.fit.config import FitConfig, FitError, write_whole
from lammps_trajcast.fit.reference import Inspected, SurveyRuns
from lammps_trajcast.lammps_runs.paths import is_plain
from lammps_trajcast.lammps_runs.script import READ
from lammps_trajcast.recording.options import RecordOptions
from lammps_trajcast.recording.record import record

SEGMENTS_OF_A_SHARD = 5
# ps, of the Langevin bath: strong enough to draw new starts soon.
DAMPING = 0.1


def record_segments(
    runs: SurveyRuns,
    inspected: Inspected,
    output: Path,
    *,
    horizon: float,
    timestep: float,
    initial_factor: float,
    segments: int,
    times: dict[str, float],
    interval: float,
    start: Path | None,
) -> list[Path]:
    """Record NVE segments of the reference, or go on with a recording that was interrupted.

    Args:
        runs: of the reference, with their configuration.
        inspected: what LAMMPS said of the system.
        output: directory of the data set.
        horizon: time between the frames of a pair, fs.
        timestep: of the reference, fs.
        initial_factor: of the temperature of the first velocities; 2 for atoms at rest.
        segments: number for each temperature.
        times: segment_length, decorrelate, equilibration, ps; and strain.
        interval: between stored frames, fs.
        start: dump of an equilibrated state to begin with, see :func:`start_of`; None: the atoms
            of the system, with new velocities.

    Returns:
        The files of the data set.

    Raises:
        DatasetError: the directory holds another data set, or a damaged one.
        TrajectoryError: the recorded frames are not usable.
    """
    config = runs.config
    script = output.with_name(f"{output.name}.lmp")
    text = _script(runs, inspected, timestep, initial_factor, times["equilibration"], start)
    if not script.is_file() or script.read_text() != text:
        write_whole(script, text)
    options = RecordOptions(
        horizon=horizon,
        elements=config.elements,
        masses=config.masses,
        temperatures=config.recorded,
        segments=segments,
        segment_length=times["segment_length"],
        decorrelate=times["decorrelate"],
        interval=interval,
        segments_per_shard=SEGMENTS_OF_A_SHARD,
        seed=config.seed,
        lmp=config.lmp,
        # A fit of an earlier release goes on without.
        strain=times.get("strain", 0.0),
    )
    with _inside(config.system.parent):
        return record(script, output, options, progress=False)


def start_of(runs: SurveyRuns, directory: Path) -> Path | None:
    """The state at the end of an equilibration, as a script beside the system may name it.

    None if LAMMPS takes no such path.
    """
    state = Path(os.path.relpath(directory / "state.dump", runs.config.system.parent))
    return state if is_plain(state) else None


def _script(
    runs: SurveyRuns,
    inspected: Inspected,
    timestep: float,
    factor: float,
    equilibration: float,
    start: Path | None,
) -> str:
    # The text of the system itself: no command could include a file of any name.
    system = runs.config.system.read_text(errors="replace")
    unit = runs.time_unit
    seed = 1000 + runs.config.seed
    rotation = "yes" if inspected.isolated else "no"
    # Unlike `zero yes`, fix momentum leaves the rest canonical where masses differ. A molecule may
    # turn, as it does in a Langevin bath: the network keeps its angular momentum, whatever it is.
    if start is None:
        begin = (
            f"velocity        all create $({factor:g}*v_T) $({seed}+round(v_T)) &\n"
            f"                mom yes rot {rotation} dist gaussian"
        )
    else:
        begin = (
            f"read_dump       {start} 0 {READ} box {'yes' if runs.system.box else 'no'}\n"
            "velocity        all scale $T"
        )
    return f"""\
# {runs.config.name}: what `lammps-trajcast record` takes over from. Written by lammps-trajcast fit.
{system.rstrip()}

timestep        {timestep / unit:.12g}
variable        T index {runs.config.temperature:g}
{begin}
fix             fit_integrate all nve
fix             fit_bath all langevin $T $T {DAMPING * 1e3 / unit:.6g} $({seed}+round(v_T))
fix             fit_still all momentum 1 linear 1 1 1
thermo          1000
run             {round(equilibration * 1e3 / timestep)}
"""


@contextmanager
def _inside(directory: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def from_trajectories(
    config: FitConfig, units: str, output: Path, horizon: float, timestep: float
) -> list[Path]:
    """Make a data set of the trajectories that the configuration names.

    Args:
        config: of the fit; files among its trajectories that are data sets are taken as they are.
        units: LAMMPS units of the trajectories.
        output: HDF5 file.
        horizon: time between the frames of a pair, fs.
        timestep: of the reference, fs.

    Returns:
        The files of the data set.

    Raises:
        FitError: the data sets among the trajectories do not fit the configuration.
        DatasetError: a data set cannot be read, or the new one not written.
        TrajectoryError: a trajectory is at fault.
    """
    ready = [path for path in config.trajectories if path.suffix in (".h5", ".hdf5")]
    for path in ready:
        _check_ready(path, config, horizon)
    others = [path for path in config.trajectories if path not in ready]
    if not others:
        return ready
    if not output.is_file():
        output.parent.mkdir(parents=True, exist_ok=True)
        readable = [_readable(path, output.parent) for path in others]
        options = DatasetOptions(
            horizon=horizon,
            units=units,  # type: ignore[arg-type]
            timestep=timestep,
            interval=config.interval,
            segment_length=max(20.0 * horizon * 1e-3, 0.2),
            seed=config.seed,
        )
        species = Species.from_types(config.elements, config.masses)
        build_dataset(readable, output, species, options)
    return [*ready, output]


def horizon_of(config: FitConfig) -> float | None:
    """The horizon, fs, of the data sets among the trajectories; None without one.

    Raises:
        FitError: they differ.
        DatasetError: one cannot be read.
    """
    found = set()
    for path in config.trajectories:
        if path.suffix in (".h5", ".hdf5"):
            with open_dataset(path) as file:
                found.add(float(file.attrs["horizon"]))
    if len(found) > 1:
        raise FitError(
            f"trajectories: the data sets have horizons of {' and '.join(map(str, sorted(found)))} "
            "fs; name those of one horizon"
        )
    return found.pop() if found else None


def _check_ready(path: Path, config: FitConfig, horizon: float) -> None:
    with open_dataset(path) as file:
        found = float(file.attrs["horizon"])
        elements = [str(element) for element in file.attrs["elements"]]
    if abs(found - horizon) > 1e-6 * horizon:
        raise DatasetError(
            f"{path}: its horizon is {found:g} fs, not {horizon:g}; write horizon {found:g}"
        )
    if elements != list(dict.fromkeys(config.elements)):
        raise DatasetError(
            f"{path}: is for {' '.join(elements)}, not for {' '.join(config.elements)}; write the "
            "elements in the order of the data set, or name another data set"
        )


def _readable(path: Path, directory: Path) -> Path:
    """The trajectory itself, or an extended XYZ file with the same frames as an ASE trajectory."""
    if not path.is_file():
        raise TrajectoryError(f"{path}: no such file")
    if path.suffix != ".traj":
        return path
    import ase.io

    try:
        frames = ase.io.read(path, ":")
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        raise TrajectoryError(f"{path}: not an ASE trajectory ({what})") from None
    for number, atoms in enumerate(frames):
        if not atoms.has("momenta"):
            raise TrajectoryError(
                f"{path}: frame {number} has no momenta; write the trajectory from a run with "
                "velocities"
            )
        # Energies and forces of a calculator are not needed.
        atoms.calc = None
    target = directory / f"{path.stem}.extxyz"
    ase.io.write(target, frames, format="extxyz", columns=["symbols", "positions", "momenta"])
    return target
