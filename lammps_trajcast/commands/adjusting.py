"""Changes of a model's last layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lammps_trajcast.commands.common import one_line_for


def _default_directory(home: Path) -> Path:
    """Return where the runs are; releases before 0.2 began them in a directory of another name."""
    older = home / "equalized"
    return older if older.is_dir() else home / "equipartition"


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
        Path | None,
        typer.Option(help="Directory of the runs; default: equipartition, beside the YAML file."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Runs, each followed by a change.")] = 12,
    duration: Annotated[float, typer.Option(min=0.0, help="Length of a run, ps.")] = 20.0,
    rate: Annotated[
        float,
        typer.Option(min=0.0, help="Change of an energy in one step, as a share of its deviation."),
    ] = 1e-3,
    damping: Annotated[
        float,
        typer.Option(
            min=0.0, help="The same, as a share of what the deviation has grown since the last run."
        ),
    ] = 0.0,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            min=1.0, help="Of the runs, K; default: that of the YAML file; may be repeated."
        ),
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
    from lammps_trajcast.equipartition.iterate import EquipartitionCorrector, Round
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

    with one_line_for(
        SetupError, DatasetError, TrajectoryError, ModelFileError, LaunchError, OSError
    ):
        settings = with_model(ValidationConfig.load(config), model)
        place = (directory or _default_directory(config.resolve().parent)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        corrector = EquipartitionCorrector(
            *(settings, place, dataset, duration, rate, damping, temperature or ()),
            lammps_command(lmp),
        )
        corrector.run(rounds, tell).save(output)
    typer.echo(f"{output}: mean of the models of the later half of the rounds")


def match_moments(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    dataset: Annotated[
        list[Path], typer.Option(help="Data set that the model was trained on; repeatable.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")],
    states: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data set at the temperature of the runs; default: --dataset. Repeatable, for "
            "several temperatures: energies are kept in each."
        ),
    ] = None,
    pairs: Annotated[
        int, typer.Option(min=100, help="Number of the pairs of each to use.")
    ] = 100_000,
    loss_growth: Annotated[
        float, typer.Option(min=0.0, help="Largest growth of the loss, in percent.")
    ] = 3.0,
) -> None:
    """Change the last layer of a model until single steps keep energies on the mean.

    Velocities of atoms and of pairs, and pair distances, get the second moments that they have
    after the true step, at the least cost in accuracy. For motions that hardly exchange energy,
    before equipartition.
    """
    from lammps_trajcast.data.layout import DatasetError
    from lammps_trajcast.equipartition.match_moments import MomentErrors, MomentMatching
    from lammps_trajcast.model.file import ModelFileError
    from lammps_trajcast.validation.config import SetupError

    def tell(when: str, seen: MomentErrors) -> None:
        typer.echo(
            f"{when}: kinds of motion gain {seen.gain:.2e} in a step (+- {seen.uncertainty:.1e}), "
            f"at most {seen.largest:.1f} standard errors, loss + {100 * seen.cost:.2f} %"
        )

    with one_line_for(SetupError, DatasetError, ModelFileError, OSError):
        groups = [[path] for path in states] if states else [dataset]
        matching = MomentMatching(model, dataset, groups, pairs, loss_growth / 100)
        matching.run(tell).save(output)
    typer.echo(str(output))
