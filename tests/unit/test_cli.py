"""The command line: what it prints, and one line for every mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from locations import PARITY
from typer.testing import CliRunner

from lammps_trajcast.cli import app, main
from lammps_trajcast.commands.common import spread_lists
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.layout import open_dataset
from lammps_trajcast.model.file import ModelFile

RUNNER = CliRunner()


def invoke(*words: object) -> tuple[int, str, str]:
    result = RUNNER.invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hydrogen atoms and an oxygen flying freely, 601 frames 10 fs apart, units metal."""
    random = np.random.default_rng(1)
    start = np.array([[2.0, 2.0, 2.0], [5.0, 5.0, 5.0], [8.0, 8.0, 8.0]])
    velocities = random.normal(scale=5.0, size=(3, 3))
    lines = []
    for frame in range(601):
        positions = start + velocities * frame * 0.01
        lines += ["ITEM: TIMESTEP", str(20 * frame), "ITEM: NUMBER OF ATOMS", "3"]
        lines += ["ITEM: BOX BOUNDS pp pp pp", "0 10", "0 10", "0 10"]
        lines += ["ITEM: ATOMS id type xu yu zu vx vy vz"]
        for k, kind in enumerate((1, 1, 2)):
            numbers = " ".join(f"{x:.10g}" for x in (*positions[k], *velocities[k]))
            lines.append(f"{k + 1} {kind} {numbers}")
    path = tmp_path_factory.mktemp("dump") / "water.dump"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_dataset(dump: Path, tmp_path: Path) -> None:
    output = tmp_path / "water.h5"
    status, out, err = invoke(
        *("dataset", dump, "--elements", "H", "O", "--horizon", 40, "--timestep", 0.5),
        *("--segment-length", 0.5, "--split", 0.6, 0.2, 0.2, "--masses", 2.014, 15.999),
        *("--stride", 3, "--seed", 7, "-o", output),
    )
    assert status == 0, err
    counts = {
        name: (int(a), int(b)) for name, a, b in re.findall(r"(\w+) +(\d+) seg.* (\d+) pai", out)
    }
    # 6 ps in segments of 0.5 ps (51 frames, none shared): 11 whole ones and one of 40 frames.
    assert sum(segments for segments, _ in counts.values()) == 12
    assert counts["validation"][0] == counts["test"][0] == 2
    for split, (_, number) in counts.items():
        pairs = TrajectoryPairs(output, split)  # type: ignore[arg-type]
        assert len(pairs) == number > 0
        np.testing.assert_allclose(
            pairs[0].displacement, 40.0 * pairs[0].velocity_after, rtol=1e-6, atol=1e-8
        )
    with open_dataset(output) as file:
        assert file.attrs["masses"].tolist() == [2.014, 15.999]
    momenta = 3
    masses = np.array([2.014, 2.014, 15.999])
    velocities = TrajectoryPairs(output, "train")[0].velocities.numpy()
    relative = velocities - masses @ velocities / masses.sum()
    kinetic = 0.5 * np.sum(masses[:, None] * relative**2) * 1.66053906660e-27 * 1e10
    temperature = 2.0 * kinetic / ((3 * 3 - momenta) * 1.380649e-23)
    assert f"temperature {temperature:.1f} K" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.dump", "--elements", "H", "O", "--timestep", "0.5"], "absent.dump: no such file"),
        (["DUMP", "--elements", "H", "--timestep", "0.5"], "atom type 2, but --elements names 1"),
        (["DUMP", "--elements", "H", "Ox", "--timestep", "0.5"], "'Ox' is not a chemical element"),
        (["DUMP", "--elements", "H", "O"], "write --timestep"),
        (["DUMP", "--elements", "H", "O", "--timestep", "0.7"], "not a multiple of"),
        (["DUMP", "--elements", "H", "O", "--timestep", "0.5", "--stride", "0"], "--stride 0"),
        (
            ["DUMP", "--elements", "H", "O", "--timestep", "0.5", "--units", "real"],
            "write --units metal",
        ),
    ],
)
def test_dataset_mistakes_are_one_line(
    dump: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    words = [str(dump) if word == "DUMP" else word for word in words]
    status, out, err = invoke("dataset", *words, "--horizon", 30, "-o", tmp_path / "x.h5")
    assert status == 1
    errors = [line for line in err.splitlines() if not line.startswith(("\r", " "))]
    assert len([line for line in errors if "ERROR: " in line]) == 1
    assert message in err and "Traceback" not in err + out


def test_dataset_into_nowhere(dump: Path, tmp_path: Path) -> None:
    words = [dump, "--elements", "H", "O", "--timestep", 0.5, "--horizon", 30]
    status, _, err = invoke("dataset", *words, "-o", tmp_path / "absent" / "x.h5")
    assert status == 1 and "make it first" in err


def test_list_options_take_as_many_words_as_there_are() -> None:
    given = "a.dump --elements Si O b.dump --masses 28.1 16 c.dump --seed 1 --species C".split()
    expected = (
        "a.dump --elements Si --elements O b.dump --masses 28.1 --masses 16 c.dump --seed 1 "
        "--species C"
    )
    assert " ".join(spread_lists(given)) == expected


def test_convert_then_info(tmp_path: Path) -> None:
    """A published checkpoint becomes a model file whose description is an input script."""
    case = PARITY / "tiny_cell"
    config = yaml.safe_load((case / "config.yaml").read_text())
    config = config.get("model", config)
    inputs = np.load(case / "expected.npz")
    order = {int(t): int(z) for t, z in zip(inputs["types"], inputs["numbers"], strict=True)}
    from ase.data import chemical_symbols

    species = [chemical_symbols[order[t]] for t in sorted(order)]
    output = tmp_path / "tiny.safetensors"
    status, _, err = invoke(
        *("convert", "--config", case / "config.yaml", "--weights", case / "state_dict.pt"),
        *("--species", *species, "--timestep", 5, "--units", "real", "-o", output),
    )
    assert status == 0, err
    status, out, err = invoke("info", output)
    assert status == 0, err
    assert f"fix             1 all python/trajcast {output} {' '.join(species)}\n" in out
    assert f"pair_style      zero {config['edge_cutoff']:g} full" in out
    assert "timestep        0.005" in out and "timestep 5)" in out


def test_limits_then_info(dump: Path, tmp_path: Path) -> None:
    """A model of other units and another order of elements than the data set that it gets."""
    build = ("dataset", dump, "--elements", "H", "O", "--timestep", 0.5, "--split", 1, 0, 0)
    for horizon in (40, 50):
        status, _, err = invoke(*build, "--horizon", horizon, "-o", tmp_path / f"{horizon}.h5")
        assert status == 0, err
    case, model = PARITY / "water_l1", tmp_path / "water.safetensors"
    status, _, err = invoke(
        *("convert", "--config", case / "config.yaml", "--weights", case / "state_dict.pt"),
        *("--species", "O", "H", "--timestep", 40, "--units", "metal", "-o", model),
    )
    assert status == 0, err
    assert "Extremes" not in invoke("info", model)[1]

    limited = tmp_path / "limited.safetensors"
    status, out, err = invoke("add-bounds", model, tmp_path / "40.h5", "-o", limited)
    assert status == 0, err
    assert invoke("info", limited)[1].count(out.partition("\n")[2].rstrip()) == 1
    velocities = TrajectoryPairs(tmp_path / "40.h5", "train")[0].velocities.numpy()
    speeds = 1000.0 * np.linalg.norm(velocities, axis=1)
    assert f"speed of O         {speeds[2]:.4g}, rms {speeds[2]:.4g} Angstrom/ps" in out
    assert f"displacement of O  {0.04 * speeds[2]:.4g}," in out
    rms = np.sqrt((speeds[:2] ** 2).mean())
    assert f"speed of H         {speeds[:2].max():.4g}, rms {rms:.4g} Angstrom/ps" in out
    assert "distance O-H" in out and "distance O-O" not in out

    status, _, err = invoke(
        "add-bounds", model, tmp_path / "50.h5", "-o", tmp_path / "no.safetensors"
    )
    assert status == 1 and "50 fs apart" in err and err.count("\n") == 1


def test_limit_speed(tmp_path: Path) -> None:
    """Slow atoms are embedded as before, fast ones are not."""
    case, model = PARITY / "quartz_l2", tmp_path / "quartz.safetensors"
    status, _, err = invoke(
        *("convert", "--config", case / "config.yaml", "--weights", case / "state_dict.pt"),
        *("--species", "Si", "O", "--timestep", 30, "--units", "real", "-o", model),
    )
    assert status == 0, err
    limited = tmp_path / "limited.safetensors"
    status, out, err = invoke("clamp-speed", model, "-o", limited, "--factor", 3)
    assert status == 0 and str(limited) in out, err
    assert "speed_limit" in invoke("info", limited)[1]
    before, after = ModelFile.load(model), ModelFile.load(limited)
    limit = after.metadata.architecture.speed_limit
    assert limit is not None and limit == pytest.approx(3.0 * 3**0.5 * before.metadata.rms_velocity)
    frame = np.load(case / "expected.npz")
    species = torch.from_numpy(frame["types"]).long()
    velocities = torch.from_numpy(frame["velocities"])
    slow, fast = (
        velocities * factor * limit / velocities.norm(dim=1).max() for factor in (0.3, 3.0)
    )
    networks = [file.build(torch.float64).embedding for file in (before, after)]
    with torch.no_grad():
        for speeds, same in ((slow, True), (fast, False)):
            a, b = (network(species, speeds).speed for network in networks)
            assert (float((a - b).abs().max() / a.abs().max()) < 1e-3) == same
    status, _, err = invoke("clamp-speed", model, "-o", limited, "--factor", 0.5)
    assert status == 1 and "--factor" in err


@pytest.mark.parametrize("words", ["fit --nope", "nosuch", "fit", "fit --seed x in.system"])
def test_words_that_are_not_understood_are_no_verdict(words: str) -> None:
    """2 says that a check has failed."""
    program = [sys.executable, "-m", "lammps_trajcast", *words.split()]
    assert subprocess.run(program, capture_output=True, check=False).returncode == 1


def test_info_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    for name in ("broken.safetensors", "absent.safetensors"):
        status, out, err = invoke("info", tmp_path / name)
        assert status == 1
        assert err.count("\n") == 1 and err.startswith("ERROR: ") and name in err


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["convert"],
        ["info"],
        ["add-bounds"],
        ["clamp-speed"],
        ["record"],
        ["dataset"],
        ["baseline"],
        ["train"],
    ],
)
def test_help(command: list[str]) -> None:
    status, out, _ = invoke(*command, "--help")
    assert status == 0 and "Usage:" in out


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom lammps_trajcast.cli import app\n"
        "try:\n    app(['dataset', '--help'])\n"
        "except SystemExit as done:\n    assert not done.code\n"
        "assert not {'torch', 'e3nn', 'h5py'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("limits", "add-bounds"),
        ("limit-speed", "clamp-speed"),
        ("equalize", "equipartition"),
        ("balance", "match-moments"),
    ],
)
def test_old_names_of_commands(tmp_path: Path, old: str, new: str) -> None:
    """They do the same, here refuse the same, after one line; `--help` names the new ones alone."""
    words = [tmp_path / "absent", "--dataset", tmp_path / "absent.h5"]
    if old == "limits":
        words = [tmp_path / "absent", tmp_path / "absent.h5"]
    elif old == "limit-speed":
        words = [tmp_path / "absent"]
    results = [invoke(name, *words, "-o", tmp_path / "out") for name in (old, new)]
    (status, _, err), (wanted, _, same) = results
    line = f"WARNING: '{old}' is deprecated: write 'lammps-trajcast {new}' instead\n"
    assert status == wanted == 1 and same and err == line + same
    listed = invoke("--help")[1]
    assert f" {new} " in listed and f" {old} " not in listed


def test_versions() -> None:
    """Those of the packages that a run depends on, for a report."""
    code, out, _ = invoke("--version")
    assert code == 0
    assert out.startswith(f"lammps-trajcast {metadata.version('lammps-trajcast')}, Python 3.")
    for package in ("lammps", "torch", "numpy", "mpi4py"):
        assert f"\n{package} {metadata.version(package)}\n" in out


def test_an_error_that_nobody_foresaw_ends_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise KeyError("group")

    monkeypatch.setattr("lammps_trajcast.cli.app", fails)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("ERROR: KeyError: 'group': this is a fault of lammps-trajcast")


def test_started_from_a_notebook_of_another_environment(tmp_path: Path) -> None:
    """Its kernel sets MPLBACKEND to a module that is not there, which Matplotlib refuses."""
    done = subprocess.run(
        [Path(sys.executable).parent / "lammps-trajcast", "train", tmp_path / "none.yaml"],
        env={**os.environ, "MPLBACKEND": "module://not_there.backend_inline"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: ") and "none.yaml" in done.stderr
