"""Trajectories that contradict themselves are refused; whatever form they have, they are read.

Molecular dynamics of stock LAMMPS is the reference, and free flight, where all is known.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ase
import ase.io
import h5py
import numpy as np
import pytest
from locations import ENVIRONMENT, POTENTIALS
from numpy.typing import NDArray
from reliability import contradiction
from runs import lammps_environment
from trainings import write_config
from typer.testing import CliRunner

from lammps_trajcast.cli import app
from lammps_trajcast.data.build import DatasetOptions, build_dataset
from lammps_trajcast.data.check import check_dataset
from lammps_trajcast.data.consistency import Fault, MotionCheck
from lammps_trajcast.data.frames import Species, TrajectoryError
from lammps_trajcast.data.layout import DatasetError, open_dataset
from lammps_trajcast.data.trajectory import checked, read_frames
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.runtime.predictor import Predictor, PredictorError
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.train import train
from lammps_trajcast.units import Units

SI_O = Species.from_types(["Si", "O"])
ASE_UNIT = 0.0982269478  # Angstrom/fs, sqrt(eV/u): 1.602177e-19 J / 1.660539e-27 kg, in m/s
KINDS = [1, 2, 2, 1, 2, 2, 1, 2]  # LAMMPS types of the flying atoms


class Flight(NamedTuple):
    """Atoms that fly freely in a periodic box of 20 Angstrom, a frame each 10 fs.

    positions (F, N, 3) Angstrom, velocities (N, 3) Angstrom/fs.
    """

    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]


@pytest.fixture(scope="module")
def flight() -> Flight:
    dice = np.random.default_rng(1)
    velocities = dice.normal(size=(8, 3)) * 4e-3
    start = dice.uniform(0, 20, size=(8, 3))
    times = 10.0 * np.arange(31)
    return Flight(start + times[:, None, None] * velocities, velocities)


def write_dump(
    path: Path,
    flight: Flight,
    columns: str = "type",
    values: Sequence[Sequence[object]] = (KINDS,),
    factor: float = 1e3,
    orders: dict[int, Sequence[int]] | None = None,
) -> Path:
    """A dump with columns id, `columns`, xu yu zu vx vy vz; velocities are times `factor`.

    orders: of the atoms under the same IDs, in some frames.
    """
    lines = []
    for k, positions in enumerate(flight.positions):
        lines += ["ITEM: TIMESTEP", str(10 * k), "ITEM: NUMBER OF ATOMS", str(len(positions))]
        lines += ["ITEM: BOX BOUNDS pp pp pp", "0 20", "0 20", "0 20"]
        lines += [f"ITEM: ATOMS id {columns} xu yu zu vx vy vz"]
        order = (orders or {}).get(k, range(len(positions)))
        for i, j in enumerate(order):
            numbers = (*positions[j], *(factor * flight.velocities[j]))
            words = [str(column[i]) for column in values]
            lines.append(" ".join([str(i + 1), *words, *(f"{x:.10g}" for x in numbers)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_xyz(
    path: Path,
    flight: Flight,
    *,
    column: str = "velocities",
    factor: float | NDArray[np.float64] = 1e3,
    time: float | None = 1.0,
    orders: dict[int, Sequence[int]] | None = None,
    **more: object,
) -> Path:
    """Extended XYZ by ASE; `time` is the length of a fs in the file's unit."""
    frames = []
    for k, positions in enumerate(flight.positions):
        order = list((orders or {}).get(k, range(len(positions))))
        atoms = ase.Atoms(
            [("Si", "O")[kind - 1] for kind in KINDS], positions[order], cell=[20.0] * 3, pbc=True
        )
        atoms.wrap()
        velocities = (np.reshape(factor, (-1, 1)) * flight.velocities)[order]
        if column == "momenta":
            atoms.set_momenta(velocities)
        else:
            atoms.set_array(column, velocities)
        for name, values in more.items():
            atoms.set_array(name, np.asarray(values))
        if time is not None:
            atoms.info["time"] = 10.0 * k * time
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return path


def build(
    path: Path | Sequence[Path], species: Species = SI_O, **changes: object
) -> dict[str, NDArray[np.float64]]:
    """What a data set of all frames holds."""
    files = [path] if isinstance(path, Path) else list(path)
    output = files[0].with_name("built.h5")
    options: dict[str, object] = {"horizon": 30.0, "segment_length": 10.0, "split": (1.0, 0.0, 0.0)}
    build_dataset(
        files,
        output,
        species,
        DatasetOptions(**{**options, **changes}),  # type: ignore[arg-type]
        progress=False,
    )
    with open_dataset(output) as file:
        segment = file["segments/000000"]
        return {
            "masses": np.array(file.attrs["masses"]),
            **{name: segment[name][:] for name in ("species", "positions", "velocities", "cell")},
        }


# ---- velocities and displacements ---------------------------------------------------------------

# What is done to a good trajectory, the options, and what the error has to say.
WRONG_TIMES: dict[str, tuple[Callable[[Path, Flight], Path], dict[str, object], str]] = {
    "dump, --timestep half of the true one": (
        lambda path, f: write_dump(path, f),
        {"timestep": 0.5},
        "a time step of 1 fs instead of 0.5 (write --timestep 1)",
    ),
    "dump, --timestep twice the true one": (
        lambda path, f: write_dump(path, f),
        {"timestep": 2.0, "horizon": 60.0},
        "a time step of 1 fs instead of 2 (write --timestep 1)",
    ),
    "dump, velocities in nm/ps": (
        lambda path, f: write_dump(path, f, factor=100.0),
        {"timestep": 1.0},
        "velocities in nm/ps instead of Angstrom/ps (multiply them by 10)",
    ),
    "dump, velocities in nm/ps, --units real": (
        lambda path, f: write_dump(path, f, factor=100.0),
        {"timestep": 1.0, "units": "real"},
        "write --units metal",
    ),
    "extended XYZ, velocities in ASE's unit": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, factor=1 / ASE_UNIT),
        {},
        "ASE's unit (Angstrom sqrt(eV/u)) instead of Angstrom/ps (multiply them by 98.23",
    ),
    "extended XYZ, velocities in ASE's unit, --units real": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, factor=1 / ASE_UNIT),
        {"units": "real"},
        "ASE's unit (Angstrom sqrt(eV/u)) instead of Angstrom/fs (multiply them by 0.09823",
    ),
    "extended XYZ, velocities in m/s": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, factor=1e5),
        {},
        "K: they are not in units metal",
    ),
    "extended XYZ, velocities in Angstrom/fs": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, factor=1.0),
        {},
        "write --units real",
    ),
    "extended XYZ, times in ps": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, time=1e-3),
        {},
        "times in ps instead of fs (write --interval 10)",
    ),
    "extended XYZ, times in ASE's unit": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, time=ASE_UNIT),
        {"horizon": 30.0 * ASE_UNIT},
        "times in ASE's unit (Angstrom sqrt(u/eV)) instead of fs (write --interval 10)",
    ),
    "extended XYZ, wrong --interval": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, time=None),
        {"interval": 5.0},
        "a time between frames of 10 fs instead of 5 (write --interval 10)",
    ),
    "velocities that are zero": (
        lambda path, f: write_dump(path, f, factor=0.0),
        {"timestep": 1.0},
        "the velocities of atoms are zero, but they move",
    ),
    "velocities of other atoms": (
        lambda path, f: write_dump(path, f._replace(velocities=f.velocities[::-1])),
        {"timestep": 1.0},
        "do not move where their velocities point",
    ),
    "velocities in the opposite direction": (
        lambda path, f: write_dump(path, f, factor=-1e3),
        {"timestep": 1.0},
        "write the frames in the order of time",
    ),
    "dump, two atoms exchanged from frame 17 on": (
        lambda path, f: write_dump(
            path, f, orders={k: [0, 2, 1, 3, 4, 5, 6, 7] for k in range(17, 31)}
        ),
        {"timestep": 1.0},
        "step 170: atom ",
    ),
    "extended XYZ, atoms of an element in another order from frame 17 on": (
        lambda path, f: write_xyz(
            path.with_suffix(".xyz"),
            f,
            orders={k: [3, 5, 7, 6, 1, 2, 0, 4] for k in range(17, 31)},
        ),
        {},
        "step 17: atom",
    ),
    "one atom's momenta over another mass": (
        lambda path, f: write_xyz(
            path.with_suffix(".xyz"), f, factor=np.where(np.array(KINDS) == 2, 1.125e3, 1e3)
        ),
        {},
        "atoms of O move 0.889 times as far",
    ),
}


@pytest.mark.parametrize("case", WRONG_TIMES)
def test_velocities_that_are_not_those_of_the_displacements(
    case: str, flight: Flight, tmp_path: Path, record_property
) -> None:
    write, options, says = WRONG_TIMES[case]
    path = write(tmp_path / "case.dump", flight)
    with pytest.raises(TrajectoryError) as error:
        build(path, **options)
    assert says in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.h5*"))
    contradiction(record_property, case, says)


def test_what_the_messages_say_to_write_is_right(flight: Flight, tmp_path: Path) -> None:
    expected = build(write_dump(tmp_path / "a.dump", flight), timestep=1.0)
    for path, options in (
        (write_xyz(tmp_path / "ps.xyz", flight, time=1e-3), {"interval": 10.0}),
        (write_xyz(tmp_path / "none.xyz", flight, time=None), {"interval": 10.0}),
        (write_xyz(tmp_path / "real.xyz", flight, factor=1.0), {"units": "real"}),
    ):
        found = build(path, **options)
        np.testing.assert_allclose(found["velocities"], expected["velocities"], atol=1e-8)
        moved, wanted = (np.diff(data["positions"], axis=0) for data in (found, expected))
        np.testing.assert_allclose(moved, wanted, atol=1e-7)


def test_interval_does_not_hide_a_gap(flight: Flight, tmp_path: Path) -> None:
    """Times in another unit still tell that a frame is missing."""
    path = write_xyz(tmp_path / "gap.xyz", flight, time=1e-3)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:50] + lines[60:]))
    with pytest.raises(TrajectoryError, match="20 fs after the frame before.*a frame is missing"):
        build(path, interval=10.0)


def test_stored_data_sets_are_compared_as_well(
    flight: Flight, tmp_path: Path, record_property
) -> None:
    """Those that were made before this was looked at."""
    build(write_dump(tmp_path / "a.dump", flight), timestep=1.0)
    path = tmp_path / "built.h5"
    check_dataset(path)
    with h5py.File(path, "a") as file:
        file["segments/000000/velocities"][:] *= 1e3 * ASE_UNIT
    says = "atoms move 0.0102 times as far as velocity times time"
    with pytest.raises(DatasetError, match=says):
        check_dataset(path)
    with h5py.File(path, "a") as file:
        file["segments/000000/velocities"][:] /= 1e3 * ASE_UNIT
        positions = file["segments/000000/positions"]
        positions[9:] = positions[9:][:, [0, 2, 1, 3, 4, 5, 6, 7]]
    with pytest.raises(DatasetError, match="step 90: an atom is .* changed their order"):
        check_dataset(path)
    contradiction(record_property, "stored data set, velocities in ASE's unit: train", says)


def test_velocities_of_a_recording_are_compared(tmp_path: Path, record_property) -> None:
    """An integrator that stays on beside that of the segments moves atoms twice."""
    script = tmp_path / "in.argon"
    script.write_text(f"""{SYSTEMS["a liquid"]}
fix integrate all nve
fix again all nve
fix bath all langevin 60 60 0.1 815
run 10
""")
    words = f"record {script} --elements Ar --horizon 20 --segments 3 --segment-length 0.2"
    for keep, says in (([], ""), (["--keep", "again"], "atoms move 2 times as far")):
        output = tmp_path / f"data{len(keep)}"
        done = CliRunner().invoke(
            app, [*words.split(), "--decorrelate", "0.1", "-o", str(output), *keep]
        )
        assert says in done.stderr and done.exit_code == bool(keep), done.stderr
    contradiction(record_property, "record with an integrator left on", says)


# Temperatures, integrators, frame distances: whatever is right has to pass.
SYSTEMS = {
    "silicon": """
units metal
lattice diamond 5.43
region b block 0 2 0 2 0 2
create_box 1 b
create_atoms 1 box
mass 1 28.085
pair_style sw
pair_coeff * * Si.sw Si
timestep 0.001
velocity all create 600 12 loop geom
""",
    "a liquid": """
units metal
lattice fcc 5.9
region b block 0 3 0 3 0 3
create_box 1 b
create_atoms 1 box
mass 1 39.95
pair_style lj/cut 8.0
pair_coeff * * 0.0104 3.4
timestep 0.001
velocity all create 220 12 loop geom
""",
}
INTEGRATORS = {
    "NVE": "fix 1 all nve",
    "Langevin of 10 fs": "fix 1 all nve\nfix 2 all langevin 300 300 0.01 815",
    "Nose-Hoover": "fix 1 all nvt temp 300 300 0.02",
    "velocity rescaling": "fix 1 all nve\nfix 2 all temp/csvr 300 300 0.01 815",
}


class Run(NamedTuple):
    """Frames of a run, 1 fs apart: positions and velocities (F, N, 3) in Angstrom and fs."""

    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]


@pytest.fixture(scope="module", params=[f"{a}, {b}" for a in SYSTEMS for b in INTEGRATORS])
def run(request, tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("run")
    system, integrator = request.param.split(", ")
    script = f"""{SYSTEMS[system]}
{INTEGRATORS[integrator]}
run 300
dump 1 all custom 1 run.dump id type xu yu zu vx vy vz
dump_modify 1 sort id format float %.10g
run 400
"""
    lmp(directory, script)
    species = Species.from_types(["Si" if system == "silicon" else "Ar"])
    frames = list(
        checked(read_frames(directory / "run.dump", species, "metal", 1.0), velocities=False)
    )
    return Run(*(np.array([getattr(f, name) for f in frames]) for name in Run._fields))


def lmp(directory: Path, script: str) -> None:
    (directory / "in.run").write_text(script)
    done = subprocess.run(
        [str(ENVIRONMENT / "bin" / "lmp"), "-in", "in.run", "-log", "none"],
        cwd=directory,
        env=lammps_environment(**POTENTIALS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def look(run: Run, spacing: int, frames: int, factor: float = 1.0, digits: int = 8) -> object:
    species = np.zeros(run.positions.shape[1], dtype=np.int64)
    check = MotionCheck(species, np.full(len(species), 28.0))
    x = np.round(run.positions[::spacing], digits)
    for k in range(min(frames, len(x))):
        found = check.add(k, x[k], run.velocities[k * spacing] / factor, float(spacing))
        if found is not None:
            return found
    return check.finish()


def test_true_dynamics_pass(run: Run) -> None:
    """Also frames so far apart that atoms turn around in between, and few of them."""
    for spacing in (1, 2, 5, 10, 20, 30, 40, 60, 100):
        for frames in (2, 3, 4, 7, 10, 20, 400):
            assert look(run, spacing, frames) is None, (spacing, frames)
    assert look(run, 5, 80, digits=3) is None


@pytest.mark.parametrize(
    "factor",
    [
        2.0,
        0.5,
        98.2,
        *(pytest.param(f, marks=pytest.mark.long) for f in (1.15, 10, 0.1, 1e-3, 1e3)),
    ],
)
def test_a_factor_shows_in_true_dynamics(run: Run, factor: float) -> None:
    """The factor itself: to a tenth if frames are 5, 10 fs apart."""
    # A strong friction makes velocities noise for displacements over longer times.
    for spacing in (1, 2, 5, 10) if factor != 1.15 else (1, 2):
        found = look(run, spacing, 80, factor)
        assert isinstance(found, Fault) and found.kind == "factor"
        assert found.factor == pytest.approx(factor, rel=0.1)
    if factor >= 2.0:
        assert isinstance(look(run, 20, 80, factor), Fault)


# ---- what an atom is ----------------------------------------------------------------------------

SYMBOLS = [("Si", "O")[kind - 1] for kind in KINDS]
SWAPPED = [("O", "Si")[kind - 1] for kind in KINDS]
MASSES = [(28.085, 15.999)[kind - 1] for kind in KINDS]
O_SI = Species.from_types(["O", "Si"])
HEAVY = Species.from_types(["Si", "O"], [28.085, 17.999])

ELEMENTS: dict[str, tuple[Callable[[Path, Flight], object], Species, str]] = {
    "dump, column element against --elements": (
        lambda path, f: write_dump(path, f, "type element", (KINDS, SYMBOLS)),
        O_SI,
        "column element says that type 1 is Si, but --elements says O; write --elements Si O",
    ),
    "dump, column element as LAMMPS writes it without dump_modify": (
        lambda path, f: write_dump(path, f, "element type", (["C"] * 8, KINDS)),
        SI_O,
        "'dump_modify ID element' (LAMMPS writes C without it)",
    ),
    "dump, column typelabel against --elements": (
        lambda path, f: write_dump(path, f, "type typelabel", (KINDS, SYMBOLS)),
        O_SI,
        "column typelabel says that type 1 is Si, but --elements says O",
    ),
    "dump, column typelabel against column element": (
        lambda path, f: write_dump(path, f, "typelabel element", (SWAPPED, SYMBOLS)),
        SI_O,
        "column typelabel says O where another column says Si",
    ),
    "dump, labels of types that are no elements": (
        lambda path, f: write_dump(path, f, "typelabel", (["CT"] * 8,)),
        SI_O,
        "'CT' in column typelabel is not a chemical element; dump the column type",
    ),
    "dump, column type with labels that are no elements": (
        lambda path, f: write_dump(path, f, "type", (["s1"] * 8,)),
        SI_O,
        "'s1' in column type is not a chemical element",
    ),
    "dump, masses of the elements in the other order": (
        lambda path, f: write_dump(path, f, "type mass", (KINDS, MASSES)),
        O_SI,
        "the mass of O is 28.085 g/mol, but the element has 15.999; correct the order of "
        "--elements, or write --masses 28.085 15.999",
    ),
    "dump, column mass against --masses": (
        lambda path, f: write_dump(path, f, "type mass", (KINDS, MASSES)),
        HEAVY,
        "the mass of O is 15.999 g/mol, but --masses says 17.999",
    ),
    "dump, an atom of another mass": (
        lambda path, f: write_dump(path, f, "type mass", (KINDS, [*MASSES[:-1], 17.999])),
        SI_O,
        "atoms of element O have different masses",
    ),
    "extended XYZ, column type against species": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, type=KINDS),
        O_SI,
        "column species says that type 1 is Si, but --elements says O",
    ),
    "extended XYZ, column Z against species": (
        lambda path, f: with_column(path.with_suffix(".xyz"), f, "Z:I:1", ["8"] * 8),
        SI_O,
        "column numbers says O where another column says Si",
    ),
    "extended XYZ, masses against the element": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, masses=[16.0] * 8),
        SI_O,
        "the mass of Si is 16 g/mol, but the element has 28.085",
    ),
    "extended XYZ, masses against --masses": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, masses=MASSES),
        HEAVY,
        "--masses says 17.999",
    ),
    "extended XYZ, LAMMPS's column mass against --masses": (
        lambda path, f: write_xyz(path.with_suffix(".xyz"), f, mass=MASSES),
        HEAVY,
        "--masses says 17.999",
    ),
    "extended XYZ without elements": (
        lambda path, f: with_column(path.with_suffix(".xyz"), f, "Z:I:1", ["300"] * 8, "X:S:1"),
        SI_O,
        "'X' in column numbers is not a chemical element",
    ),
}


def with_column(
    path: Path, flight: Flight, column: str, words: Sequence[str], species: str = "species:S:1"
) -> Path:
    """Extended XYZ with another column at the end of its lines."""
    write_xyz(path, flight)
    lines = path.read_text().splitlines()
    for k in range(0, len(lines), 10):
        lines[k + 1] = lines[k + 1].replace("velocities:R:3", f"velocities:R:3:{column}")
        lines[k + 1] = lines[k + 1].replace("species:S:1", species)
        for i, word in enumerate(words):
            lines[k + 2 + i] += f" {word}"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("case", ELEMENTS)
def test_columns_that_contradict(
    case: str, flight: Flight, tmp_path: Path, record_property
) -> None:
    write, species, says = ELEMENTS[case]
    path = write(tmp_path / "case.dump", flight)
    assert isinstance(path, Path)
    with pytest.raises(TrajectoryError) as error:
        build(path, species, timestep=1.0)
    assert says in str(error.value) and str(path) in str(error.value)
    assert not list(tmp_path.glob("*.h5*"))
    contradiction(record_property, case, says)


def test_an_element_that_changes_in_the_middle(flight: Flight, tmp_path: Path) -> None:
    """Elements without types were read from the first frame alone."""
    path = write_dump(tmp_path / "a.dump", flight, "element", (SYMBOLS,))
    head, tail = path.read_text().split("ITEM: TIMESTEP\n150\n")
    path.write_text(head + "ITEM: TIMESTEP\n150\n" + tail.replace("4 Si", "4 O"))
    with pytest.raises(TrajectoryError, match="step 150: the element of atom 4 has changed"):
        build(path, timestep=1.0)


def test_columns_that_agree_are_read(flight: Flight, tmp_path: Path) -> None:
    """Each way to say what an atom is makes the same data set."""
    expected = build(write_dump(tmp_path / "a.dump", flight), timestep=1.0)
    labels = [("s1", "o1")[kind - 1] for kind in KINDS]
    for columns, values in (
        ("element type typelabel", (SYMBOLS, KINDS, SYMBOLS)),
        ("typelabel", (SYMBOLS,)),
        ("typelabel type", (labels, KINDS)),  # names of a force field
        ("element typelabel", (SYMBOLS, labels)),
        ("type", (SYMBOLS,)),
        ("mass element", (MASSES, SYMBOLS)),
    ):
        found = build(write_dump(tmp_path / "b.dump", flight, columns, values), timestep=1.0)
        for name in ("species", "positions", "velocities", "masses"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=columns)
    path = with_column(
        tmp_path / "c.xyz", flight, "Z:I:1", [str(14 if s == "Si" else 8) for s in SYMBOLS]
    )
    np.testing.assert_array_equal(build(path)["species"], expected["species"])
    # Without labels LAMMPS writes the number of the type in place of the element.
    text = path.read_text().replace("Si  ", "1   ").replace("O   ", "2   ")
    (tmp_path / "types.xyz").write_text(text.replace(":Z:I:1", ":q:I:1"))
    np.testing.assert_array_equal(build(tmp_path / "types.xyz")["species"], expected["species"])


# ---- masses and momenta -------------------------------------------------------------------------


@pytest.mark.parametrize("oxygen", [15.999, 17.999])
@pytest.mark.parametrize("in_file", [False, True])
def test_momenta_are_divided_by_the_masses_of_the_data_set(
    oxygen: float, in_file: bool, flight: Flight, tmp_path: Path
) -> None:
    masses = np.where(np.array(KINDS) == 2, oxygen, 28.085)
    more = {"masses": masses} if in_file else {}
    path = write_xyz(
        tmp_path / "momenta.xyz", flight, column="momenta", factor=masses / ASE_UNIT, **more
    )
    species = Species.from_types(["Si", "O"], [28.085, oxygen])
    found = build(path, species)
    np.testing.assert_allclose(found["velocities"][0], flight.velocities, rtol=1e-5, atol=1e-9)
    assert found["masses"].tolist() == [28.085, oxygen]


def test_momenta_of_other_masses_are_refused(
    flight: Flight, tmp_path: Path, record_property
) -> None:
    """Displacements tell, and so do masses in another file."""
    masses = np.where(np.array(KINDS) == 2, 17.999, 28.085)
    path = write_xyz(tmp_path / "a.xyz", flight, column="momenta", factor=masses / ASE_UNIT)
    says = "made of momenta with another mass? write --masses"
    with pytest.raises(TrajectoryError, match="atoms of O move 0.88. times") as error:
        build(path)
    assert says in str(error.value)
    contradiction(record_property, "ASE's momenta of atoms of another mass", says)
    standard = np.array(MASSES)
    first = write_xyz(tmp_path / "b.xyz", flight, column="momenta", factor=standard / ASE_UNIT)
    second = write_dump(
        tmp_path / "c.dump", flight, "type mass", (KINDS, [m * 1.01 for m in MASSES])
    )
    says = "were divided by 28.085; write --masses"
    for files in ([first, second], [second, first]):
        with pytest.raises(TrajectoryError) as error:
            build(files, timestep=1.0)
        assert says in str(error.value)
    contradiction(record_property, "momenta, and other masses in another file", says)


# ---- files of every form ------------------------------------------------------------------------

# Dynamics in a triclinic box whose corner is not the origin, written in every form at once.
FORMS = """
units {units}
atom_style atomic
atom_modify sort 0 0
region box prism -1 5 2 8 -3 4 1.5 -1 0.5 units box
create_box 2 box
labelmap atom 1 Si 2 O
create_atoms 1 random 10 4711 box
create_atoms 2 random 15 815 box
mass 1 28.0855
mass 2 15.9994
velocity all create 1500 1234 loop geom
pair_style zero 2.0
pair_coeff * *
timestep {timestep}
fix 1 all nve
variable f string %.15g
dump xu all custom 5 xu.dump id type xu yu zu vx vy vz
dump xsu all custom 5 xsu.dump id type xsu ysu zsu vx vy vz
dump xs all custom 5 xs.dump id typelabel xs ys zs vx vy vz
dump images all custom 5 images.dump id type mass xs ys zs ix iy iz vx vy vz
dump all all custom 5 all.dump id type xs ys zs x y z xu yu zu xsu ysu zsu ix iy iz vx vy vz
dump gz all custom 5 packed.dump.gz id type xsu ysu zsu vx vy vz
dump gz2 all custom/gz 5 packed2.dump.gz id type x y z ix iy iz vx vy vz
dump ext all extxyz 5 lammps.xyz
dump_modify ext vel yes
dump ext2 all extxyz 5 lammps.extxyz
dump_modify ext2 vel yes mass yes forces no element Si O
dump_modify xu format float $f
dump_modify xsu format float $f
dump_modify xs format float $f
dump_modify images format float $f
dump_modify all format float $f
dump_modify gz format float $f sort id
dump_modify gz2 format float $f
dump_modify ext sort id
dump_modify ext2 sort id
run 400
"""


@pytest.fixture(scope="module", params=["metal", "real"])
def forms(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("forms") / request.param
    directory.mkdir()
    timestep = {"metal": 0.001, "real": 1.0}[request.param]
    lmp(directory, FORMS.format(units=request.param, timestep=timestep))
    for name in ("xs.dump", "lammps.xyz"):
        text = (directory / name).read_bytes()
        (directory / f"{name}.gz").write_bytes(gzip.compress(text))
    return directory


@pytest.mark.parametrize(
    ("name", "timestep"),
    [
        *((name, 1.0) for name in ("xsu.dump", "xs.dump", "images.dump", "all.dump")),
        *((name, 1.0) for name in ("packed.dump.gz", "packed2.dump.gz", "xs.dump.gz")),
        *((name, None) for name in ("lammps.xyz", "lammps.extxyz", "lammps.xyz.gz")),
        ("lammps.extxyz", 1.0),
    ],
)
def test_every_form_is_the_same_trajectory(name: str, timestep: float | None, forms: Path) -> None:
    units: Units = forms.name  # type: ignore[assignment]
    frames = list(checked(read_frames(forms / name, SI_O, units, timestep)))
    expected = list(checked(read_frames(forms / "xu.dump", SI_O, units, 1.0)))
    assert len(frames) == len(expected) == 81
    far = np.abs(expected[-1].positions - expected[0].positions).max()
    assert far > 6.0, "atoms have crossed the box"
    digits = 5e-5 if "xyz" in name else 1e-9  # LAMMPS writes six digits
    # Wrapped ones, and those without an origin, begin elsewhere.
    free = "xs.dump" in name or "xyz" in name
    for frame, other in zip(frames, expected, strict=True):
        assert frame.time == pytest.approx(other.time) and frame.step == other.step
        np.testing.assert_array_equal(frame.ids, other.ids)
        np.testing.assert_array_equal(frame.species, other.species)
        np.testing.assert_allclose(frame.cell, other.cell, atol=digits)
        np.testing.assert_allclose(frame.velocities, other.velocities, rtol=1e-5, atol=1e-8)
        ours, theirs = frame.positions, other.positions
        if free:
            ours, theirs = ours - frames[0].positions, theirs - expected[0].positions
        np.testing.assert_allclose(ours, theirs, atol=digits)


def test_damaged_compressed_files(forms: Path, tmp_path: Path) -> None:
    whole = (forms / "packed.dump.gz").read_bytes()
    for name, content in {
        "cut.dump.gz": whole[: len(whole) // 2],
        "bit.dump.gz": whole[:2000] + bytes([whole[2000] ^ 255]) + whole[2001:],
        "no.dump.gz": b"\x1f\x8b" + b"no archive at all",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrajectoryError) as error:
            build(tmp_path / name, units=forms.name, timestep=1.0)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_zstandard_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "a.dump.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    with pytest.raises(TrajectoryError, match="'pip install zstandard'.*'zstd -d'"):
        build(tmp_path / "a.dump.zst", timestep=1.0)


def test_lammps_extended_xyz_with_a_wrong_timestep(forms: Path, record_property) -> None:
    """Its times and steps say what the time step was."""
    says = "10 fs by --timestep 2; leave --timestep out"
    with pytest.raises(TrajectoryError) as error:
        list(checked(read_frames(forms / "lammps.xyz", SI_O, forms.name, 2.0)))  # type: ignore[arg-type]
    assert says in str(error.value)
    contradiction(record_property, "--timestep against the times in the file", says)


def test_other_units_of_lammps_extended_xyz(forms: Path, tmp_path: Path) -> None:
    other = {"metal": "real", "real": "metal"}[forms.name]
    with pytest.raises(TrajectoryError, match=f"write --units {forms.name}"):
        list(checked(read_frames(forms / "lammps.xyz", SI_O, other, None)))  # type: ignore[arg-type]


def test_an_element_without_atoms_is_told(flight: Flight, tmp_path: Path) -> None:
    path = write_dump(tmp_path / "a.dump", flight)
    words = f"dataset {path} --elements Si O H --horizon 30 --timestep 1 --split 1 0 0"
    done = CliRunner().invoke(app, [*words.split(), "-o", str(tmp_path / "a.h5")])
    assert done.exit_code == 0
    assert "holds no atom of H: a model trained on it will refuse this element" in done.stderr
    assert "no atom of O" not in done.stderr


def test_an_element_without_atoms_is_never_trained(
    flight: Flight, tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property
) -> None:
    """From the trajectory to the run: the model knows which of its elements it has never seen."""
    species = Species.from_types(["Si", "O", "H"])
    options = {"segment_length": 0.08, "split": (0.4, 0.3, 0.3)}
    build(write_dump(tmp_path / "a.dump", flight), species, timestep=1.0, **options)
    config = write_config(tmp_path, tmp_path / "built.h5", steps=2, epoch_steps=1, warmup_steps=1)
    # The atoms are far from each other.
    text = config.read_text().replace("edge_cutoff: 3.0", "edge_cutoff: 9.0\n  net_lin_mom: null")
    config.write_text(text)
    train(TrainingConfig.load(config), progress=False)
    assert "the split 'train' holds no atom of H: the model will refuse this" in caplog.text
    model = ModelFile.load(tmp_path / "model.safetensors")
    limits = model.metadata.limits
    assert limits is not None
    assert [limits.has_seen(k) for k in range(3)] == [True, True, False]
    Predictor(model, ["O", "Si"])
    says = "the model was never trained on H"
    with pytest.raises(PredictorError, match=says):
        Predictor(model, ["Si", "H"])
    contradiction(record_property, "run with an element of which the data hold no atom", says)
