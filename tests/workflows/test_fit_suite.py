"""The systems that `make fit-suite` fits: do they run, and is what came out counted rightly?"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from locations import POTENTIALS, ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import fit_suite

ROW = {
    "title": "argon", "temperature": 90.0, "budget": "2h", "threads": 2, "status": 2,
    "date": "2026-11-29", "commit": "abc", "verdict": "fails", "passed": 11,
    "fails": ["spectrum 0.9 (≥ 0.97)"], "undecided": ["diffusion"], "horizon": 110.0,
    "timestep": 5.0, "reversible": True, "speed": 0.31, "seconds": 5400.0,
}  # fmt: skip


@pytest.mark.parametrize("name", fit_suite.systems())
def test_systems_keep_their_energy(name: str, lmp, tmp_path: Path) -> None:
    """LAMMPS's own integrator, small steps, atoms of the elements that are named."""
    system = fit_suite.systems()[name]
    if name == "ethanol":
        pytest.importorskip("tblite")
    text = system.file.read_text()
    step = 0.1 if "units           real" in text else 0.0001
    after = (
        f"velocity all create {system.temperature} 4711 mom yes\ntimestep {step}\n"
        "fix 1 all nve\nthermo_style custom step temp pe etotal atoms\nthermo 10\nrun 20\n"
        f'print "types $(count(all)) {" ".join(system.elements)}"\n'
    )
    home = Path(os.path.relpath(system.file.parent, tmp_path))
    script = f"shell cd {home}\n{text}\n{after}"
    run = lmp(script, environment=POTENTIALS)
    assert run.returncode == 0, run.output
    loop = [line.split() for line in run.output.splitlines()]
    rows = np.array(
        [row[:5] for row in loop if len(row) == 5 and row[0] in ("0", "10", "20")], float
    )
    assert len(rows) == 3 and rows[0, 4] >= 9
    kinetic = rows[0, 3] - rows[0, 2]
    assert np.abs(rows[:, 3] - rows[0, 3]).max() < 2e-3 * kinetic


def test_every_element_is_a_word_of_the_command(tmp_path: Path) -> None:
    words = fit_suite.fit_command(fit_suite.systems()["salt"], tmp_path / "salt", "1h")
    first = words.index("--elements") + 1
    assert words[first : first + 3] == ["Na", "Cl", "--temperature"]


def test_only_decided_checks_count() -> None:
    assert fit_suite.share_passed(ROW) == pytest.approx(11 / 12)
    assert fit_suite.share_passed({"verdict": "error"}) is None
    assert fit_suite.share_passed({"passed": 0, "fails": [], "undecided": ["x"]}) is None
    lines = fit_suite.table({"rows": {"argon": ROW, "salt": ERROR}}).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        *("argon", "90", "fails", "11 of 12", "1", "110 fs, reversible", "22", "0.31", "90 min")
    ]
    assert "error" in lines[3]
    text = fit_suite.failures({"rows": {"argon": ROW, "salt": ERROR}})
    assert "* argon: spectrum 0.9 (≥ 0.97)." in text and "* salt: Error: no." in text


ERROR: dict[str, Any] = {
    **{"title": "salt", "temperature": 300.0, "verdict": "error", "note": "Error: no"},
}


def test_what_a_fit_says_becomes_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in place of `lammps-trajcast` that writes a verdict, and one that fails."""
    system = fit_suite.systems()["argon"]
    program = tmp_path / "lammps-trajcast"
    verdict = {"verdict": "proven", "passed": 12, "fails": [], "undecided": []}
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "place = sys.argv[sys.argv.index('-o') + 1]\n"
        "assert os.environ['OMP_NUM_THREADS'] == '3' and '--budget' in sys.argv\n"
        f"open(place + '/verdict.json', 'w').write({json.dumps(verdict)!r})\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    row = fit_suite.run_fit(system, tmp_path / "fits", "1h", 3)
    assert row["verdict"] == "proven" and row["passed"] == 12 and row["budget"] == "1h"
    program.write_text("#!/bin/sh\necho ERROR: nothing there\nexit 1\n")
    row = fit_suite.run_fit(system, tmp_path / "fits", "1h", 3)
    assert (row["verdict"], row["note"]) == ("error", "ERROR: nothing there")


def test_unknown_systems_are_named() -> None:
    import typer

    with pytest.raises(typer.BadParameter, match="no system gold: write some of silicon"):
        fit_suite.select("argon, gold")
    assert [system.name for system in fit_suite.select("salt argon")] == ["salt", "argon"]
