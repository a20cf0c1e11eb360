"""Data sets: from trajectories, from a LAMMPS input, and what a linear map makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lammps_trajcast.commands.common import describe_statistics, one_line_for, warn_of_unseen
from lammps_trajcast.units import Units


def dataset(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Trajectories of NVE runs, one run each: LAMMPS text dumps "
            "(dump custom: id type xu yu zu vx vy vz), extended XYZ (.xyz, .extxyz) or "
            "ASE trajectories (.traj), which may be compressed (.gz)."
        ),
    ],
    elements: Annotated[
        list[str], typer.Option(help="Element of LAMMPS type 1, 2, …: --elements Si O")
    ],
    horizon: Annotated[float, typer.Option(help="Time between the two states of a pair, fs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Data set to write (HDF5).")],
    units: Annotated[Units, typer.Option(help="LAMMPS units of the velocities.")] = "metal",
    timestep: Annotated[
        float | None, typer.Option(help="MD time step in fs; not needed if the files hold times.")
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            help="fs between frames, for files without times or with times in other units."
        ),
    ] = None,
    masses: Annotated[
        list[float] | None,
        typer.Option(
            help="g/mol of each type; default: those in the files, else standard atomic weights."
        ),
    ] = None,
    stride: Annotated[int, typer.Option(help="Every n-th frame starts a pair.")] = 1,
    segment_length: Annotated[
        float, typer.Option(help="Length in ps of the segments that are shared out to the splits.")
    ] = 3.0,
    split: Annotated[
        tuple[float, float, float],
        typer.Option(help="Shares of the segments for training, validation and test."),
    ] = (0.8, 0.1, 0.1),
    seed: Annotated[int, typer.Option(help="Seed of the random assignment of segments.")] = 0,
) -> None:
    """Make a data set of pairs (state at t, state at t + horizon) from ordinary NVE runs."""
    from lammps_trajcast.data.build import DatasetOptions, build_dataset
    from lammps_trajcast.data.frames import Species, TrajectoryError
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.data.statistics import dataset_statistics

    options = DatasetOptions(
        horizon=horizon,
        units=units,
        timestep=timestep,
        interval=interval,
        stride=stride,
        segment_length=segment_length,
        split=split,
        seed=seed,
    )
    with one_line_for(DatasetError, TrajectoryError):
        summary = build_dataset(files, output, Species.from_types(elements, masses), options)
        statistics = dataset_statistics(output)
    typer.echo(f"{output}")
    for name in summary.segments:
        typer.echo(
            f"  {name:<11}{summary.segments[name]:>6} segments{summary.pairs[name]:>9} pairs"
        )
    typer.echo(describe_statistics(statistics, "train"))
    warn_of_unseen(output, statistics, list(dict.fromkeys(elements)))


def record(
    script: Annotated[
        Path, typer.Argument(help="LAMMPS input that equilibrates and leaves its thermostat on.")
    ],
    elements: Annotated[
        list[str], typer.Option(help="Element of LAMMPS type 1, 2, …: --elements Si O")
    ],
    horizon: Annotated[float, typer.Option(help="Time between the two states of a pair, fs.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Directory for the data set's files.")
    ],
    temperatures: Annotated[
        list[float] | None,
        typer.Option(help="Values of the script's variable T, K, one run each: 200 300 400"),
    ] = None,
    segments: Annotated[int, typer.Option(help="NVE segments for each temperature.")] = 40,
    segment_length: Annotated[float, typer.Option(help="Length of a segment, ps.")] = 3.0,
    decorrelate: Annotated[
        float, typer.Option(help="ps with the script's thermostat before each segment.")
    ] = 1.0,
    interval: Annotated[
        float | None,
        typer.Option(help="fs between stored frames; default: a third of the horizon or more."),
    ] = None,
    segments_per_shard: Annotated[int, typer.Option(help="Segments in a file.")] = 10,
    split: Annotated[
        tuple[float, float, float],
        typer.Option(help="Shares of the segments for training, validation and test."),
    ] = (0.8, 0.1, 0.1),
    seed: Annotated[int, typer.Option(help="Seed of thermostats, strains and splits.")] = 0,
    strain: Annotated[
        float,
        typer.Option(
            help="Largest strain of the cell, drawn anew for each segment: 0.01 for 1 %; with it a "
            "model knows the stress."
        ),
    ] = 0.0,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="ID of a fix to leave on during segments; may be repeated."),
    ] = None,
    var: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of a variable of the script; may be repeated."),
    ] = None,
    lmp: Annotated[
        str | None, typer.Option(help='Command that starts LAMMPS: "mpirun -np 4 lmp"')
    ] = None,
    masses: Annotated[
        list[float] | None,
        typer.Option(
            help="g/mol of each type; needed where the script's are not near standard weights."
        ),
    ] = None,
) -> None:
    """Run a LAMMPS input and record NVE segments after it as a data set; run again to go on."""
    from lammps_trajcast.data.frames import TrajectoryError
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.data.statistics import dataset_statistics
    from lammps_trajcast.recording.options import RecordOptions
    from lammps_trajcast.recording.record import record as run_recording

    options = RecordOptions(
        horizon=horizon,
        elements=elements,
        temperatures=temperatures or (),
        segments=segments,
        segment_length=segment_length,
        decorrelate=decorrelate,
        interval=interval,
        segments_per_shard=segments_per_shard,
        split=split,
        seed=seed,
        strain=strain,
        keep=keep or (),
        variables=_variables(var),
        lmp=lmp,
        masses=masses,
    )
    with one_line_for(DatasetError, TrajectoryError, OSError):
        shards = run_recording(script, output, options)
        statistics = dataset_statistics(shards)
    typer.echo(f"{output}: {len(shards)} files; in a training file write  dataset: {output}")
    typer.echo(describe_statistics(statistics, "train"))
    warn_of_unseen(output, statistics, list(dict.fromkeys(elements)))


def label(
    dataset: Annotated[list[Path], typer.Argument(help="Data set: files, or their directory.")],
    system: Annotated[
        Path,
        typer.Option(
            help="LAMMPS input with units, atoms and potential: the reference, for the same atoms."
        ),
    ],
    var: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of a variable of the input; may be repeated."),
    ] = None,
    lmp: Annotated[
        str | None, typer.Option(help='Command that starts LAMMPS: "mpirun -np 4 lmp"')
    ] = None,
) -> None:
    """Add energy, virial and forces of each frame to a data set; run again to go on."""
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.recording.label import label as run_labeling

    with one_line_for(DatasetError, OSError):
        written = run_labeling(dataset, system, _variables(var), lmp)
    for path in written:
        typer.echo(f"{path}")
    if not written:
        typer.echo("all files have energies and forces already")


def _variables(words: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"'{word}': write NAME=VALUE", param_hint="--var")
        found[name] = value
    return found


def baseline(
    dataset: Annotated[list[Path], typer.Argument(help="Data set: files, or their directory.")],
    pairs: Annotated[
        int | None, typer.Option(help="Fit to that many pairs, drawn at random; default: all.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the same numbers as JSON.")
    ] = None,
) -> None:
    """Print the error that a network has to beat: that of a linear map, or of straight flight."""
    import json

    from lammps_trajcast.data.baseline import (
        BallisticBaseline,
        Baseline,
        NoCrystalError,
        ballistic_baseline,
        linear_baseline,
    )
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.training.progress import Console, ProgressReporter

    with one_line_for(DatasetError):
        console = Console()
        reporter = ProgressReporter([console])
        found: Baseline | BallisticBaseline
        with console.alive():
            reporter.stage("fitting a linear map, segments")
            try:
                found, why_not = linear_baseline(dataset, pairs, reporter.part), ""
            except NoCrystalError as error:
                found, why_not = ballistic_baseline(dataset), str(error)
        if json_file is not None:
            try:
                json_file.write_text(json.dumps(found.as_dict(), indent=2) + "\n")
            except OSError as error:
                raise DatasetError(f"{json_file}: cannot be written ({error.strerror})") from None
    if isinstance(found, BallisticBaseline):
        typer.echo(
            f"no linear map: {why_not}\n"
            f"{found.horizon:g} fs, RMSE over rms on {found.pairs} pairs of unseen segments:\n"
            f"  straight on, x + v t   displacement {found.displacement:.4f}, "
            f"velocity {found.velocity:.4f}"
        )
        return
    typer.echo(
        f"{found.atoms} atoms, {found.horizon:g} fs: linear map from (x - x0, v), fitted to "
        f"{found.training_pairs} pairs ({found.unknowns} unknowns for each component),\n"
        f"  RMSE over rms on {found.test_pairs} pairs of unseen segments:\n"
        f"  linear map             displacement {found.displacement:.4f}, "
        f"velocity {found.velocity:.4f}  (ridge {found.ridge:.1e})\n"
        f"  straight on, x + v t   displacement {found.ballistic_displacement:.4f}, "
        f"velocity {found.ballistic_velocity:.4f}"
    )
