"""Files that appear under their names only when they are complete; units against ASE's."""

import subprocess
import sys
from pathlib import Path

import pytest
from ase import units

from lammps_trajcast.atomic_file import replacing
from lammps_trajcast.units import (
    ASE_VELOCITY,
    BOLTZMANN,
    BOLTZMANN_PER_MASS,
    MILLI_EV,
    TIME_IN_FS,
    VELOCITY_IN_ANGSTROM_PER_FS,
)


def test_a_complete_file_takes_the_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with replacing(path) as partial:
            partial.write_text(text)
        assert path.read_text() == text
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyError), replacing(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    """What it has begun is removed by the next one that writes the file."""
    path = tmp_path / "file[1]"
    path.write_text("before")
    code = (
        "import os, pathlib, sys\n"
        "from lammps_trajcast.atomic_file import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 2
    with replacing(path) as partial:
        partial.write_text("after")
    assert path.read_text() == "after" and list(tmp_path.iterdir()) == [path]


def test_units_are_those_of_ase() -> None:
    """ASE's units are made of CODATA values of another year: they agree to 7 digits."""
    energy = {"metal": units.eV, "real": units.kcal / units.mol}
    time = {"metal": 1000.0 * units.fs, "real": units.fs}
    for style in ("metal", "real"):
        assert BOLTZMANN[style] == pytest.approx(units.kB / energy[style], rel=1e-6)
        assert MILLI_EV[style] == pytest.approx(1e-3 * units.eV / energy[style], rel=1e-6)
        assert TIME_IN_FS[style] == pytest.approx(time[style] / units.fs, rel=1e-12)
        velocity = VELOCITY_IN_ANGSTROM_PER_FS[style]
        assert velocity == pytest.approx(units.fs / time[style], rel=1e-12)
    assert pytest.approx(units.fs, rel=1e-6) == ASE_VELOCITY
    assert BOLTZMANN_PER_MASS == pytest.approx(units.kB * units.fs**2, rel=1e-6)
