"""The command line: lammps-trajcast fit, convert, info, limits, record, dataset, baseline, train,
validate.

Nothing heavy is imported before a command needs it: `--help` answers at once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from lammps_trajcast.units import Units

if TYPE_CHECKING:
    from lammps_trajcast.data.layout import Split
    from lammps_trajcast.data.statistics import Statistics

app = typer.Typer(
    name="lammps-trajcast",
    help="TrajCast models for LAMMPS: convert, describe, train and check them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _every_command(context: typer.Context) -> None:
    from lammps_trajcast.warning_filters import not_fatal_in_children

    context.with_resource(not_fatal_in_children())


def _looks_like_element(word: str) -> bool:
    return re.fullmatch(r"[A-Za-z]{1,3}", word) is not None


def _looks_like_number(word: str) -> bool:
    return re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?", word, re.IGNORECASE) is not None


# Options that take as many words as there are, as LAMMPS commands do: --elements Si O.
LIST_OPTIONS: dict[str, Callable[[str], bool]] = {
    "--elements": _looks_like_element,
    "--species": _looks_like_element,
    "--masses": _looks_like_number,
    "--temperatures": _looks_like_number,
}


def _spread_lists(words: list[str]) -> list[str]:
    """Repeat the name of a list option before each of its words, as click wants it."""
    spread: list[str] = []
    option: str | None = None
    for place, word in enumerate(words):
        if option is not None and LIST_OPTIONS[option](word):
            if words[place - 1] != option:
                spread.append(option)
        else:
            option = word if word in LIST_OPTIONS else None
        spread.append(word)
    return spread


class _CommandWithLists(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _spread_lists(args))


@contextmanager
def _one_line_for(*errors: type[Exception]) -> Iterator[None]:
    """Errors that the user can do something about end the program with their message alone."""
    try:
        yield
    except errors as error:
        typer.echo(f"ERROR: {error}", err=True)
        raise typer.Exit(1) from None
    except Exception as error:
        # A value that no check foresaw: what is wrong with it is known, though not which key it is
        # from. By name, as --help has to do without pydantic.
        if type(error).__name__ != "ValidationError":
            raise
        from lammps_trajcast.model.file import explain

        typer.echo(f"ERROR: {explain(error)}", err=True)  # type: ignore[arg-type]
        raise typer.Exit(1) from None


@app.command(cls=_CommandWithLists)
def fit(
    source: Annotated[
        Path,
        typer.Argument(
            help="LAMMPS input that defines units, atoms and the reference potential, or fit.yaml."
        ),
    ],
    elements: Annotated[
        list[str] | None, typer.Option(help="Element of LAMMPS type 1, 2, …: --elements Si O")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="K, at which the model is to be used and is validated.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of everything.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Wall time of everything together: 90m, 2h (the default).")
    ] = None,
    horizon: Annotated[
        float | None,
        typer.Option(help="Time step of the model, fs; default: the longest that is proven."),
    ] = None,
    temperatures: Annotated[
        list[float] | None,
        typer.Option(help="K, of the data; default: 25 % less, the same, 25 % more."),
    ] = None,
    trajectories: Annotated[
        list[Path] | None,
        typer.Option(
            "--from", help="Data set (.h5), dump or .traj to begin with; may be repeated."
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(help="fs between frames of trajectories that do not say."),
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Model file whose weights the training begins with.")
    ] = None,
    timestep: Annotated[
        float | None, typer.Option(help="fs, of the reference; default: the system's, or measured.")
    ] = None,
    masses: Annotated[list[float] | None, typer.Option(help="g/mol of each type.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    lmp: Annotated[
        str | None, typer.Option(help='Command that starts LAMMPS, as "mpirun -np 4 lmp".')
    ] = None,
) -> None:
    """From a reference to a proven model; the same command goes on after an interruption.

    Measures the reference, chooses time steps, cutoff and network, records, trains, validates, and
    ends with a verdict in three lines. The exit status is 0 if the model is proven, 2 if a check
    fails, 3 if one is undecided, 1 after an error.
    """
    from lammps_trajcast.fit.config import FitError
    from lammps_trajcast.fit.fit import fit as run_fit
    from lammps_trajcast.fit.request import make_request

    given = {
        "elements": elements,
        "temperature": temperature,
        "budget": budget,
        "horizon": horizon,
        "temperatures": temperatures,
        "trajectories": trajectories and [path.absolute() for path in trajectories],
        "interval": interval,
        "start_from": start_from and start_from.absolute(),
        "timestep": timestep,
        "masses": masses,
        "seed": seed,
        "lmp": lmp,
    }
    with _one_line_for(FitError, OSError):
        settings, directory = make_request(source, output, given)
        verdict = run_fit(settings, directory)
    typer.echo(f"{verdict}\n{directory / 'report.html'}")
    if verdict.status:
        raise typer.Exit(verdict.status)


@app.command(cls=_CommandWithLists)
def convert(
    config: Annotated[Path, typer.Option(help="Configuration of the network (YAML).")],
    weights: Annotated[Path, typer.Option(help="Its weights: a state dict saved by torch.")],
    species: Annotated[
        list[str], typer.Option(help="Elements in the order of the model: --species Si O")
    ],
    timestep: Annotated[float, typer.Option(help="Time step of the model, fs.")],
    units: Annotated[
        Units, typer.Option(help="Velocities it was trained with: Å/fs (real) or Å/ps (metal).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    masses: Annotated[
        list[float] | None,
        typer.Option(help="g/mol of each species; default: standard atomic weights."),
    ] = None,
) -> None:
    """Turn a checkpoint published by the TrajCast authors into a model file."""
    from lammps_trajcast.model.checkpoint import convert_checkpoint
    from lammps_trajcast.model.file import ModelFileError

    with _one_line_for(ModelFileError):
        model = convert_checkpoint(
            config, weights, species=species, masses=masses, timestep=timestep, units=units
        )
        model.save(output)
    typer.echo(f"{output}: TrajCast model of {' '.join(species)}, {timestep:g} fs")


@app.command()
def info(model: Annotated[Path, typer.Argument(help="Model file.")]) -> None:
    """Print what a model was made for, and the lines that a LAMMPS input needs."""
    from lammps_trajcast.describe import describe_model
    from lammps_trajcast.model.file import ModelFile, ModelFileError

    with _one_line_for(ModelFileError):
        typer.echo(describe_model(model, ModelFile.load(model)))


@app.command(name="add-bounds")
def add_bounds(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    dataset: Annotated[
        list[Path], typer.Argument(help="Files of the data set that it was trained on (HDF5).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
) -> None:
    """Store in a model file how far its training data went, which the guards of the fix need."""
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.data.limits import with_limits
    from lammps_trajcast.describe import describe_limits
    from lammps_trajcast.model.file import ModelFile, ModelFileError

    with _one_line_for(ModelFileError, DatasetError):
        limited = with_limits(ModelFile.load(model), dataset)
        limited.save(output)
    typer.echo(f"{output}\n{describe_limits(limited)}")


@app.command(name="clamp-speed")
def clamp_speed(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    factor: Annotated[
        float,
        typer.Option(help="The limit, in rms speeds of the training data.", min=1.0, max=100.0),
    ] = 2.0,
) -> None:
    """Let a network see atoms that are faster than training had enough of as less fast ones."""
    from lammps_trajcast.model.file import ModelFile, ModelFileError
    from lammps_trajcast.model.speed_limit import with_speed_limit

    with _one_line_for(ModelFileError):
        limited = with_speed_limit(ModelFile.load(model), factor)
        limited.save(output)
    typer.echo(f"{output}: speed limit {limited.metadata.architecture.speed_limit:g}")


@app.command(cls=_CommandWithLists)
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
    seed: Annotated[int, typer.Option(help="Of the random assignment of segments.")] = 0,
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
    with _one_line_for(DatasetError, TrajectoryError):
        summary = build_dataset(files, output, Species.from_types(elements, masses), options)
        statistics = dataset_statistics(output)
    typer.echo(f"{output}")
    for name in summary.segments:
        typer.echo(
            f"  {name:<11}{summary.segments[name]:>6} segments{summary.pairs[name]:>9} pairs"
        )
    typer.echo(_describe_statistics(statistics, "train"))
    _warn_of_unseen(output, statistics, list(dict.fromkeys(elements)))


@app.command(cls=_CommandWithLists)
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
    seed: Annotated[int, typer.Option(help="Of thermostats and the splits.")] = 0,
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
    from lammps_trajcast.recording.record import RecordOptions
    from lammps_trajcast.recording.record import record as run_recording

    variables: dict[str, str] = {}
    for word in var or []:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"'{word}': write NAME=VALUE", param_hint="--var")
        variables[name] = value
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
        keep=keep or (),
        variables=variables,
        lmp=lmp,
        masses=masses,
    )
    with _one_line_for(DatasetError, TrajectoryError):
        shards = run_recording(script, output, options)
        statistics = dataset_statistics(shards)
    typer.echo(f"{output}: {len(shards)} files; in a training file write  dataset: {output}")
    typer.echo(_describe_statistics(statistics, "train"))
    _warn_of_unseen(output, statistics, list(dict.fromkeys(elements)))


@app.command()
def baseline(
    dataset: Annotated[list[Path], typer.Argument(help="Data set: files, or their directory.")],
    pairs: Annotated[
        int | None, typer.Option(help="Fit to that many pairs, drawn at random; default: all.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the same figures as JSON.")
    ] = None,
) -> None:
    """Tell the error that a network has to beat: a linear map's on a crystal, straight flight's."""
    import json

    from lammps_trajcast.data.baseline import (
        Baseline,
        NoCrystalError,
        StraightFlight,
        linear_baseline,
        straight_flight,
    )
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.training.progress import Console, Teller

    with _one_line_for(DatasetError):
        console = Console()
        teller = Teller([console])
        found: Baseline | StraightFlight
        with console.alive():
            teller.stage("fitting a linear map, segments")
            try:
                found, why_not = linear_baseline(dataset, pairs, teller.part), ""
            except NoCrystalError as error:
                found, why_not = straight_flight(dataset), str(error)
        if json_file is not None:
            try:
                json_file.write_text(json.dumps(found.as_dict(), indent=2) + "\n")
            except OSError as error:
                raise DatasetError(f"{json_file}: cannot be written ({error.strerror})") from None
    if isinstance(found, StraightFlight):
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


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="What to train, on what, for how long (YAML).")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew instead of resuming from a checkpoint.")
    ] = False,
) -> None:
    """Train a network and write its model file; the same command resumes after an interruption."""
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.model.file import ModelFileError
    from lammps_trajcast.training.config import TrainingConfig, TrainingError
    from lammps_trajcast.training.train import train as run_training

    with _one_line_for(TrainingError, DatasetError, ModelFileError):
        settings = TrainingConfig.load(config)
        errors = run_training(settings, fresh=fresh)
    if errors is None:
        return
    typer.echo(
        f"{settings.output}: on unseen segments, RMSE over rms of displacement "
        f"{errors['displacement']:.4f}, of velocity {errors['velocity']:.4f}"
    )


@app.command()
def validate(
    config: Annotated[Path, typer.Argument(help="The system and what to compare on it (YAML).")],
    length: Annotated[
        Literal["short", "full"], typer.Option(help="Which of the lengths of the YAML file.")
    ] = "short",
    model: Annotated[
        Path | None, typer.Option(help="Model file instead of the one in the YAML file.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Directory of report and runs; default: validation, beside YAML.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="equilibrium (the default), one of the YAML file, or all; repeatable."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Directory to write the plots to, as PNG files.")
    ] = None,
    lmp: Annotated[
        str | None, typer.Option(help='Command that starts LAMMPS, as "mpirun -np 4 lmp".')
    ] = None,
) -> None:
    """Run a model and its reference in LAMMPS and compare them: an HTML report, and JSON.

    Each protocol has a report of its own. Runs that are finished are not repeated. The exit status
    is 0 if all checks pass, 2 if some fail, 3 if none fails but some are undecided: by chance, or
    as the reference itself does not pass them.
    """
    from lammps_trajcast.lammps_runs.errors import LaunchError
    from lammps_trajcast.lammps_runs.program import lammps_command
    from lammps_trajcast.validation.config import SetupError, ValidationConfig
    from lammps_trajcast.validation.outcome import validate_model
    from lammps_trajcast.validation.validate import with_model

    with _one_line_for(SetupError, LaunchError, OSError):
        settings = with_model(ValidationConfig.load(config), model)
        directory = output or config.resolve().parent / "validation"
        names = protocol or ["equilibrium"]
        if "all" in names:
            names = ["equilibrium", *settings.protocols]
        outcome = validate_model(
            settings,
            directory,
            length=length,
            protocols=names,
            command=lammps_command(lmp),
            images=images,
        )
    typer.echo(outcome.table())
    for page in outcome.pages:
        typer.echo(f"{page}")
    if outcome.status:
        raise typer.Exit(outcome.status)


@app.command()
def equipartition(
    config: Annotated[
        Path, typer.Argument(help="System, temperature, thermostat: the YAML file of validate.")
    ],
    dataset: Annotated[
        list[Path], typer.Option(help="Data set that the model was trained on; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    model: Annotated[
        Path | None, typer.Option(help="Model file instead of the one in the YAML file.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(help="Of the runs; default: equalized, beside YAML.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Runs, each followed by a change.")] = 12,
    duration: Annotated[float, typer.Option(min=0.0, help="Of a run, ps.")] = 20.0,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Change of an energy in one step, of its deviation.")
    ] = 1e-3,
    damping: Annotated[
        float, typer.Option(min=0.0, help="The same, of what a deviation has grown in a round.")
    ] = 0.0,
    temperature: Annotated[
        list[float] | None,
        typer.Option(min=1.0, help="Of the runs, K; default: that of the YAML file. Repeatable."),
    ] = None,
    lmp: Annotated[
        str | None, typer.Option(help='Command that starts LAMMPS, as "mpirun -np 4 lmp".')
    ] = None,
) -> None:
    """Change the last layer of a model until its runs show equipartition.

    Stretching, rotation, vibrations of each wavelength: what has too much kinetic energy in a run
    with the thermostat is made to lose a little in each step, at the least cost in accuracy.
    Finished runs are not repeated.
    """
    from lammps_trajcast.data.frames import TrajectoryError
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.equipartition.equalize import Equalizer, Round
    from lammps_trajcast.lammps_runs.errors import LaunchError
    from lammps_trajcast.lammps_runs.program import lammps_command
    from lammps_trajcast.model.file import ModelFileError
    from lammps_trajcast.validation.config import SetupError, ValidationConfig
    from lammps_trajcast.validation.validate import with_model

    def tell(number: int, seen: Round) -> None:
        temperatures = ", ".join(f"{name} {value:.1f} K" for name, value in seen.elements.items())
        of_run = f" at {seen.temperature:g} K" if temperature and len(temperature) > 1 else ""
        typer.echo(
            f"round {number:2}{of_run}: {temperatures}; kinds of motion off by "
            f"{100 * seen.deviation:.1f} % (+- {100 * seen.uncertainty:.1f}), "
            f"heat {100 * seen.heat:.3f} % a step, loss + {100 * seen.cost:.2f} %"
        )

    with _one_line_for(
        SetupError, DatasetError, TrajectoryError, ModelFileError, LaunchError, OSError
    ):
        settings = with_model(ValidationConfig.load(config), model)
        place = (directory or config.resolve().parent / "equalized").resolve()
        place.mkdir(parents=True, exist_ok=True)
        equalizer = Equalizer(
            *(settings, place, dataset, duration, rate, damping, temperature or ()),
            lammps_command(lmp),
        )
        equalizer.run(rounds, tell).save(output)
    typer.echo(f"{output}: mean of the later half")


@app.command(name="match-moments")
def match_moments(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    dataset: Annotated[
        list[Path], typer.Option(help="Data set that the model was trained on; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    states: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data set at the temperature of the runs; default: the other. Repeatable."
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(min=100, help="How many of its pairs to use.")] = 100_000,
) -> None:
    """Change the last layer of a model until single steps keep energies on the mean.

    Velocities of atoms and of pairs, and pair distances, get the second moments that they have
    after the true step, at the least cost in accuracy. For motions that hardly exchange energy,
    before equipartition.
    """
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.equipartition.balance import Balancer, Imbalance
    from lammps_trajcast.model.file import ModelFileError
    from lammps_trajcast.validation.config import SetupError

    def tell(when: str, seen: Imbalance) -> None:
        typer.echo(
            f"{when}: kinds of motion gain {seen.gain:.2e} in a step (+- {seen.uncertainty:.1e}), "
            f"at most {seen.largest:.1f} standard errors, loss + {100 * seen.cost:.2f} %"
        )

    with _one_line_for(SetupError, DatasetError, ModelFileError, OSError):
        Balancer(model, dataset, states or dataset, pairs).run(tell).save(output)
    typer.echo(str(output))


# Names of the first release, which go with the one after the next.
_OLD_NAMES: dict[str, Callable[..., None]] = {
    "limits": add_bounds,
    "limit-speed": clamp_speed,
    "equalize": equipartition,
    "balance": match_moments,
}


def _deprecated(old: str, function: Callable[..., None]) -> Callable[..., None]:
    new = function.__name__.replace("_", "-")

    @functools.wraps(function)
    def command(**options: Any) -> None:
        typer.echo(
            f"WARNING: '{old}' is deprecated: write 'lammps-trajcast {new}' instead", err=True
        )
        function(**options)

    return command


for _old, _function in _OLD_NAMES.items():
    app.command(name=_old, hidden=True)(_deprecated(_old, _function))


@app.command(name="validation-table")
def validation_table(
    reports: Annotated[list[Path], typer.Argument(help="JSON files that validate wrote.")],
) -> None:
    """Put several reports side by side, ordered by time step: a Markdown table."""
    from lammps_trajcast.validation.report import table_of_reports

    with _one_line_for(ValueError):
        typer.echo(table_of_reports(reports))


def _warn_of_unseen(path: Path, statistics: Statistics, elements: list[str]) -> None:
    from lammps_trajcast.data.statistics import unseen_elements

    for element in unseen_elements(statistics, elements):
        typer.echo(
            f"WARNING: {path}: the split 'train' holds no atom of {element}: a model trained on it "
            "will refuse this element",
            err=True,
        )


def _describe_statistics(statistics: Statistics, split: Split) -> str:
    return (
        f"  of split {split}: temperature {statistics.temperature:.1f} K, "
        f"rms displacement {statistics.rms_displacement:.4f} A, "
        f"rms velocity {statistics.rms_velocity:.6f} A/fs,\n"
        f"  largest displacement {statistics.max_displacement:.3f} A, "
        f"largest speed {statistics.max_speed:.5f} A/fs, "
        f"smallest distance {statistics.min_distance:.3f} A"
    )
