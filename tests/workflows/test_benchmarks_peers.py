"""The comparison with other software, of which none is needed here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from locations import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks import peers
from benchmarks.child import in_child
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile

QUARTZ, SILICON = peers.SYSTEMS["quartz162"], peers.SYSTEMS["silicon64"]
BOLTZMANN = 0.8314462618e-6  # (Angstrom/fs)^2 g/mol per K


def row(timestep: float, seconds: float) -> dict:
    return {"timestep": timestep, "seconds": seconds, "memory": 5e8, "versions": {"torch": "2"}}


def test_simulated_time_of_a_day() -> None:
    assert peers.rate(row(30.0, 0.5)) == pytest.approx(30e-6 * 86400 / 0.5)


def test_programs_that_are_there_are_measured_and_others_are_told(tmp_path: Path) -> None:
    """The shipped model of silicon; one peer is missing, and one ends with an error."""
    broken = tmp_path / "sevenn" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho 'ImportError: no sevenn' >&2\nexit 1\n")
    broken.chmod(0o755)
    names = ["fix", "same", "sevennet", "chgnet"]
    found = peers.measure(SILICON, names, tmp_path, peers.Pieces(3, 0.02))
    assert list(found) == names
    fix = found["fix"]
    assert fix["timestep"] == 24.0 and fix["steps"] >= 2 and len(fix["samples"]) == 3
    assert 0.0 < fix["seconds"] < 1.0 and 5e7 < fix["memory"] < 5e9
    assert fix["versions"]["lammps"]
    assert "no weights" in found["same"]["note"]
    assert found["sevennet"]["note"] == "failed: ImportError: no sevenn"
    assert found["chgnet"]["note"].startswith("not installed: pip install chgnet")

    results = {"rows": {"silicon64": {"title": SILICON.title, "peers": found}}}
    assert "| not installed: pip install chgnet" in peers.table(results)


def test_frames_are_crystals_at_300_kelvin(tmp_path: Path) -> None:
    in_child(peers.make_frame, QUARTZ, tmp_path / "frame.npz")
    frame = np.load(tmp_path / "frame.npz")
    assert np.bincount(frame["numbers"])[[14, 8]].tolist() == [54, 108]
    kinetic = (frame["masses"][:, None] * frame["velocities"] ** 2).sum()
    assert kinetic / (3 * 161 * BOLTZMANN) == pytest.approx(300.0, rel=0.25)
    cell = frame["cell"]
    between = (frame["positions"][:, None] - frame["positions"]) @ np.linalg.inv(cell)
    distance = np.linalg.norm((between - between.round()) @ cell, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert np.all((distance.min(axis=1) > 1.4) & (distance.min(axis=1) < 1.8))


def test_the_published_network_has_the_same_size_and_no_options() -> None:
    own = ModelFile.load(QUARTZ.path).metadata.architecture
    other = Architecture.model_validate(peers.published(own))
    for name in ("edge_cutoff", "num_hidden_channels", "num_mp_layers", "edge_mlp_kwargs"):
        assert getattr(other, name) == getattr(own, name)
    assert other.feature_parity == "both" and other.velocity_harmonics == "unit"
    assert other.message_features == "sender" and other.speed_limit is None


def test_the_table_compares_simulated_times() -> None:
    found = {"fix": row(30.0, 0.1), "chgnet": row(2.0, 1.0), "flashmd": {"note": "not installed"}}
    lines = peers.table({"rows": {"x": {"title": "quartz", "peers": found}}}).splitlines()
    assert lines[2].endswith("| 30 fs | 100 ms | 25.9 | 1 | 0.50 GB |")
    assert lines[3].endswith("| 2 fs | 1,000 ms | 0.173 | 150 | 0.50 GB |")
    assert "| not installed |" in lines[4]


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="no system argon"):
        peers._select("argon", list(peers.SYSTEMS), "system")


def test_the_page_holds_what_was_measured() -> None:
    results = json.loads(peers.RESULTS.read_text())
    page = peers.PAGE.read_text()
    assert peers.table(results) in page and peers.versions_text(results) in page
