"""Guards: what the fix does about predictions beyond the limits of the training data.

One LAMMPS meets all cases in turn, on one rank and on two; what it leaves is compared with the
states that it dumped.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from locations import ENVIRONMENT, EXAMPLES
from models import LIGHT_QUARTZ
from numpy.typing import NDArray
from reference import Reference
from runs import lammps_environment
from systems import System

from lammps_trajcast.model.file import ModelFile

MODEL = LIGHT_QUARTZ

POTENTIALS = next(ENVIRONMENT.glob("lib/python3*/site-packages/lammps/share/lammps/potentials"))

SETUP = f"""
clear
units metal
processors 1 1 *
read_data {EXAMPLES}/quartz/quartz.data
replicate 2 2 2
pair_style zero 4.0 full
pair_coeff * *
timestep 0.030
neighbor 2.0 bin
velocity all create 300 4928 mom yes dist gaussian
thermo 1
"""
DUMP = "thermo_style custom step temp f_1[12]\n"
DUMP += "dump 1 all custom 1 NAME.dump id xu yu zu vx vy vz\n"
DUMP += "dump_modify 1 sort id format float %.17g\n"
FINAL = "write_dump all custom NAME.final id xu yu zu vx vy vz proc "
FINAL += "modify sort id format float %.17g\n"


@dataclass
class Case:
    """Commands before the run, options of the fix, and how many steps are asked for."""

    options: str = ""
    before: str = ""
    after_fix: str = ""
    steps: int = 6

    def script(self, name: str) -> str:
        fix = f"fix 1 all python/trajcast {MODEL} Si O {self.options}\n"
        text = f"{SETUP}{self.before}\n{fix}{self.after_fix}\n{DUMP}run {self.steps}\n{FINAL}"
        return text.replace("NAME", name)


# Atoms 6 (O) and 39 (Si) are bonded across the middle of the box, where two ranks meet.
FAST = "group one id 5\nvelocity one set 60.0 0.0 0.0"
TOUCHING = "displace_atoms all move 0 0 0.1\ngroup one id 6\n"
TOUCHING += "displace_atoms one move -1.0007 -0.1651 0.4435"
# The same two, flying toward each other.
APPROACHING = "displace_atoms all move 0 0 0.1\nvelocity all set 0 0 0\ngroup one id 6\n"
APPROACHING += "velocity one set -18.08 -2.983 8.013"
NO_NUMBER = "group one id 5\nvelocity one set 1.0e200 0.0 0.0"
HEAT = "velocity all scale 50\nneigh_modify every 1 delay 0 check no"
HEATED = "fix 2 all temp/csvr 1500 1500 0.06 5813"
STRETCHED = "fix 2 all deform 1 x erate 0.5 xy erate 0.2 remap x"

# What stops each of them.
STOPPED = {
    "number": Case(before=NO_NUMBER),
    "displacement": Case("limit displacement 0.2 speed none"),
    "speed": Case(before=FAST),
    "distance": Case("limit displacement none speed none distance 1.57", before=APPROACHING),
    "nearest": Case("limit nearest 1.62"),
    "temperature": Case("limit temperature 200", before=HEAT, after_fix=HEATED, steps=12),
    "box": Case("limit displacement 0.2", after_fix=STRETCHED),
}
STOPPED_AGAIN = "temperature"
ERRORS = {
    "number": Case("guard error", before=NO_NUMBER),
    # Predictions from there are of any size, and the message is about the worst.
    "touching": Case(
        "guard error limit temperature none displacement none speed none", before=TOUCHING
    ),
}
WARNED = {
    "displacement": Case("guard warn limit displacement 0.01", steps=10),
    "off": Case("guard off limit displacement 0.01", steps=10),
    "speed": Case("guard warn limit speed 1.0", steps=1),
    "distance": Case("guard warn limit distance 2.5 displacement none", steps=1),
    "nearest": Case("guard warn limit nearest 1.0 displacement none speed none", steps=1),
    "temperature": Case("guard warn limit temperature 50", steps=1),
}
# Of the above, what two ranks do too.
ON_TWO_RANKS = (
    "stop_number",
    "stop_distance",
    "stop_nearest",
    "stop_temperature",
    "stop_box",
    "error_touching",
)
ON_TWO_RANKS += ("fallback_all", "fallback_some")

# So thin a skin that neighbor lists are built anew between small steps.
VASHISHTA = """pair_style hybrid/overlay zero 4.0 full vashishta
pair_coeff * * zero
pair_coeff * * vashishta SiO.1990.vashishta Si O
neighbor 0.2 bin
"""
WITH_POTENTIAL = SETUP.replace("pair_style zero 4.0 full\npair_coeff * *\n", "")
WITH_POTENTIAL = WITH_POTENTIAL.replace("neighbor 2.0 bin\n", VASHISHTA)
FALLBACK = f"fix 1 all python/trajcast {MODEL} Si O precision double guard fallback 10 vashishta"
COUNTS = "thermo_style custom step pe f_1[12] f_1[13]\n"
# Every step handed to small ones, the same with LAMMPS's own integrator, only some of the steps,
# and what is refused.
FALLBACKS = {
    "all": f"{WITH_POTENTIAL}{FALLBACK} limit displacement 0.001\n{COUNTS}run 2\n{FINAL}",
    "nve": f"{WITH_POTENTIAL}timestep 0.003\nfix 1 all nve\nrun 20\n{FINAL}",
    "some": f"{WITH_POTENTIAL}{FALLBACK} limit displacement 0.2\n{COUNTS}run 6\n{FINAL}",
    "no_potential": f"{SETUP}{FALLBACK}\nrun 1\n",
    "old_name": f"{WITH_POTENTIAL}{FALLBACK.replace('guard fallback', 'guard rescue')} "
    "limit isolation 5.0\nrun 0\n",
    "two_integrators": f"""{WITH_POTENTIAL}
group some id 1:30
group rest subtract all some
{FALLBACK.replace(" all ", " some ")}
fix 2 rest nve
run 1
""",
}
FALLBACKS = {name: text.replace("NAME", f"fallback_{name}") for name, text in FALLBACKS.items()}

BAD_LINES = {
    "guard nothing": "'guard stop'",
    "guard": "write one after it",
    "guard fallback 30": "'guard fallback N PAIR'",
    "guard fallback 0 vashishta": "'guard fallback N PAIR'",
    "limit mass 1.0": "'displacement', 'speed'",
    "limit speed fast": "'limit speed X'",
    "limit speed -1": "'limit speed X'",
    "limit speed": "'limit speed X'",
    "factor distance none": "'factor distance X'",
}


@dataclass
class Outcome:
    """What one case left."""

    name: str
    directory: Path
    error: str | None

    @property
    def log(self) -> str:
        return (self.directory / f"{self.name}.log").read_text()

    def warnings(self) -> list[str]:
        return re.findall(r"WARNING: (Fix 1 python/trajcast: .*) \(src", self.log)

    def states(self) -> dict[int, NDArray[np.float64]]:
        """Positions and velocities of each dumped step, exactly."""
        return _frames(self.directory / f"{self.name}.dump")

    def final(self) -> NDArray[np.float64]:
        (state,) = _frames(self.directory / f"{self.name}.final").values()
        return state

    def cell(self, step: int) -> str:
        return _cells(self.directory / f"{self.name}.dump")[step]


def _frames(path: Path) -> dict[int, NDArray[np.float64]]:
    frames = {}
    for text in path.read_text().split("ITEM: TIMESTEP\n")[1:]:
        lines = text.splitlines()
        frames[int(lines[0])] = np.array([line.split()[1:] for line in lines[8:]], float)
    return frames


def _distances(positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between all atoms, nearest images; infinite from each to itself."""
    fractional = (positions[:, None] - positions[None]) @ np.linalg.inv(cell)
    distances = np.linalg.norm((fractional - np.round(fractional)) @ cell, axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(distances)


def _cells(path: Path) -> dict[int, str]:
    texts = path.read_text().split("ITEM: TIMESTEP\n")[1:]
    return {int(t.splitlines()[0]): "\n".join(t.splitlines()[3:7]) for t in texts}


DRIVER = """
import json, sys
from mpi4py import MPI
from lammps import lammps
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=MPI.COMM_WORLD)
errors = {}
for name, script in json.load(open("cases.json")).items():
    lmp.command(f"log {name}.log")
    errors[name] = None
    try:
        lmp.commands_string(script)
    except Exception as error:
        errors[name] = str(error)
everyone = MPI.COMM_WORLD.gather(errors)
if everyone:
    json.dump(everyone, open("errors.json", "w"))
lmp.close()
"""


def run_all(scripts: dict[str, str], ranks: int, directory: Path) -> dict[str, Outcome]:
    """Run scripts one after the other in one LAMMPS."""
    (directory / "cases.json").write_text(json.dumps(scripts))
    launcher = [str(ENVIRONMENT / "bin/mpirun"), "-np", str(ranks)]
    finished = subprocess.run(
        [*launcher, sys.executable, "-c", DRIVER],
        cwd=directory,
        env=lammps_environment(LAMMPS_POTENTIALS=str(POTENTIALS)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    assert finished.returncode == 0, finished.stdout
    everyone = json.loads((directory / "errors.json").read_text())
    assert all(errors == everyone[0] for errors in everyone), "all ranks get the same error"
    return {name: Outcome(name, directory, error) for name, error in everyone[0].items()}


def without_limits(directory: Path) -> Path:
    model = ModelFile.load(MODEL)
    bare = ModelFile(model.metadata.model_copy(update={"limits": None}), model.state_dict)
    bare.save(directory / "bare.safetensors")
    return directory / "bare.safetensors"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> dict[str, str]:
    cases = {f"stop_{name}": case for name, case in STOPPED.items()}
    cases |= {f"error_{name}": case for name, case in ERRORS.items()}
    cases |= {f"warn_{name}": case for name, case in WARNED.items()}
    texts = {name: case.script(name) for name, case in cases.items()}
    texts[f"stop_{STOPPED_AGAIN}"] += f"""
write_data after.data
write_restart after.restart
undump 1
run 1
{FINAL.replace("NAME", "again")}
unfix 2
unfix 1
fix 1 all python/trajcast {MODEL} Si O
run 1
"""
    setup = SETUP.partition("velocity")[0]
    for k, line in enumerate(BAD_LINES):
        texts[f"bad{k}"] = f"{setup}fix 1 all python/trajcast {MODEL} Si O {line}\n"
    texts |= {f"fallback_{name}": text for name, text in FALLBACKS.items()}
    bare = without_limits(tmp_path_factory.mktemp("bare"))
    texts["bare"] = f"{SETUP}fix 1 all python/trajcast {bare} Si O factor speed 3\n"
    texts["bare_off"] = f"{SETUP}fix 1 all python/trajcast {bare} Si O guard off\n"
    texts["bare_stop"] = f"{SETUP}fix 1 all python/trajcast {bare} Si O limit distance 9\nrun 1\n"
    return texts


@pytest.fixture(scope="module")
def one_rank(scripts, tmp_path_factory) -> dict[str, Outcome]:
    return run_all(scripts, 1, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two_ranks(scripts, tmp_path_factory) -> dict[str, Outcome]:
    chosen = {name: scripts[name] for name in ON_TWO_RANKS}
    return run_all(chosen, 2, tmp_path_factory.mktemp("two"))


def of_ranks(ranks: int, request: pytest.FixtureRequest, name: str) -> Outcome:
    return request.getfixturevalue("one_rank" if ranks == 1 else "two_ranks")[name]


RANKS_AND_CASES = [(1, name) for name in STOPPED] + [
    (2, name.removeprefix("stop_")) for name in ON_TWO_RANKS if name.startswith("stop_")
]


def numbers(message: str) -> tuple[list[int], float, int, float]:
    """Atoms, value, step and limit in a message."""
    who = re.search(r"cast: (?:atoms? |the temperature)([0-9and ]*) (?:would|has|are|is) ", message)
    value = re.search(r"(?:by|speed|least) (\S+) Ang|(?:be|are) (\S+) (?:Ang|K)", message)
    step, limit = re.search(r"step (\d+),", message), re.search(r"limit is ([0-9.e+]+)", message)
    assert who and step and value and limit, message
    atoms = [int(x) for x in re.findall(r"\d+", who[1])]
    return atoms, float(next(filter(None, value.groups()))), int(step[1]), float(limit[1])


@pytest.mark.parametrize(("ranks", "name"), RANKS_AND_CASES)
def test_stop_leaves_the_state_before(ranks, name, request, record_property) -> None:
    """Whatever other fixes do in the step that is refused, and where they send the atoms."""
    outcome = of_ranks(ranks, request, f"stop_{name}")
    assert outcome.error is None
    message = outcome.warnings()[0]
    found = re.search(r"the run stops with the state of step (\d+)", message)
    assert found is not None, message
    valid, states, final = int(found[1]), outcome.states(), outcome.final()
    step = max(states)
    assert step == valid + 1 <= STOPPED[name].steps, "the run ends in the step that was refused"
    assert np.array_equal(final[:, 3:6], states[valid][:, 3:])
    # An atom that has crossed a face is the same one up to rounding.
    assert np.abs(final[:, :3] - states[valid][:, :3]).max() < 1e-13
    if name == "temperature":
        assert valid > 0
        # The thermostat has acted in the step that was refused: there was something to undo.
        assert not np.array_equal(states[step], states[valid])
    if name == "box":
        (left,) = _cells(outcome.directory / f"{outcome.name}.final").values()
        assert left == outcome.cell(valid) != outcome.cell(step)
    record_property(
        "reliability",
        {
            "table": "guard",
            "name": f"guard stop: {name}, {ranks} rank{'s' * (ranks - 1)}",
            "result": f"stopped at step {step}, the state of step {valid} kept",
        },
    )


def test_commands_after_a_stop(one_rank) -> None:
    """Files are written; a further run meets the same refusal; without its cause it goes on."""
    outcome = one_rank[f"stop_{STOPPED_AGAIN}"]
    assert (outcome.directory / "after.data").stat().st_size > 1000
    assert (outcome.directory / "after.restart").stat().st_size > 1000
    first, second = map(numbers, outcome.warnings())
    assert first[1] == second[1] and second[2] == first[2] + 1
    (state,) = _frames(outcome.directory / "again.final").values()
    assert np.abs(state[:, :6] - outcome.final()[:, :6]).max() < 1e-13
    assert outcome.log.count("Loop time of") == 3


def test_two_ranks_see_the_same_distance(one_rank, two_ranks) -> None:
    """Of two atoms on different ranks, to all digits that are shown; the network's, too."""
    one, two = (runs["stop_distance"].warnings() for runs in (one_rank, two_ranks))
    assert one == two
    atoms, distance, step, limit = numbers(one[0])
    assert (sorted(atoms), step, limit) == ([6, 39], 2, 1.57)
    final = two_ranks["stop_distance"].final()
    assert final[5, 6] != final[38, 6]

    cell = matrix(two_ranks["stop_distance"].cell(0))
    species = np.tile([1] * 3 + [2] * 6, 8)
    system = System(
        final[:, :3], final[:, 3:6] / 1000.0, cell, species, [28.085, 15.999], ["Si", "O"], 4.0
    )
    displacements, _ = Reference(MODEL).step(system)
    way = (final[5, :3] + displacements[5] - final[38, :3] - displacements[38]) @ np.linalg.inv(
        cell
    )
    assert distance == pytest.approx(np.linalg.norm((way - np.round(way)) @ cell), rel=1e-3)


def test_a_state_beyond_the_limits_is_no_start(one_rank) -> None:
    """However tame the prediction from there may be: the network has seen nothing like it."""
    (atom,), speed, step, limit = numbers(one_rank["stop_speed"].warnings()[0])
    limits = ModelFile.load(MODEL).metadata.limits
    assert (atom, step) == (5, 0) and speed == pytest.approx(60.0, rel=1e-3)
    assert limits is not None and limits.max_speed[1] is not None
    assert limit == pytest.approx(2.0 * 1000.0 * limits.max_speed[1], rel=1e-3)


@pytest.mark.parametrize(("ranks", "name"), [(1, "number"), (1, "touching"), (2, "touching")])
def test_error_says_which_atom_and_limit(ranks, name, request, record_property) -> None:
    """All ranks raise the same."""
    error = of_ranks(ranks, request, f"error_{name}").error
    assert error is not None and "Fix 1 python/trajcast: " in error
    if name == "number":
        assert re.search(r"atom \d+ at step 1 is not a number", error)
    else:
        atoms, distance, step, limit = numbers(error)
        assert (sorted(atoms), step) == ([6, 39], 0)
        assert distance == pytest.approx(0.3 * 1.58136, rel=1e-3)
        limits = ModelFile.load(MODEL).metadata.limits
        assert limits is not None and limits.min_distance[0][1] is not None
        assert limit == pytest.approx(0.8 * limits.min_distance[0][1], rel=1e-3)
        assert "'guard fallback N PAIR'" in error
    record_property(
        "reliability",
        {
            "table": "guard",
            "name": f"guard error: {name}, {ranks} rank{'s' * (ranks - 1)}",
            "result": "one error, the same on every rank",
        },
    )


def test_warnings_say_what_happens(one_rank, record_property) -> None:
    """The prediction is applied, and the dump of the step shows what the guard has said of it."""
    runs = {name: one_rank[f"warn_{name}"] for name in WARNED}
    message = {name: numbers(runs[name].warnings()[0]) for name in WARNED if name != "off"}

    states = runs["displacement"].states()
    moves = np.linalg.norm(states[1][:, :3] - states[0][:, :3], axis=1)
    (atom,), value, step, limit = message["displacement"]
    assert (atom, step, limit) == (int(moves.argmax()) + 1, 1, 0.01)
    # The guard comes before the momentum is corrected.
    assert value == pytest.approx(moves.max(), rel=0.02)

    (atom,), value, step, _ = message["speed"]
    speeds = np.linalg.norm(runs["speed"].states()[step][:, 3:], axis=1)
    assert atom == speeds.argmax() + 1 and value == pytest.approx(speeds.max(), rel=0.02)

    atoms, value, step, _ = message["distance"]
    positions, cell = runs["distance"].states()[step][:, :3], matrix(runs["distance"].cell(step))
    distances = _distances(positions, cell)
    closest = np.unravel_index(distances.argmin(), distances.shape)
    assert sorted(atoms) == sorted(int(k) + 1 for k in closest)
    assert value == pytest.approx(distances.min(), rel=1e-3)

    (atom,), value, step, limit = message["nearest"]
    positions, cell = runs["nearest"].states()[step][:, :3], matrix(runs["nearest"].cell(step))
    nearest = _distances(positions, cell).min(1)
    assert limit == 1.0 and atom == nearest.argmax() + 1
    assert value == pytest.approx(nearest.max(), rel=1e-3)

    shown = re.search(r"^ +1 +([0-9.]+) ", runs["temperature"].log, re.MULTILINE)
    assert shown is not None
    _, value, _, limit = message["temperature"]
    assert limit == 50.0 and value == pytest.approx(float(shown[1]), rel=1e-3)
    for name in message:
        record_property(
            "reliability",
            {
                "table": "guard",
                "name": f"guard warn: {name}",
                "result": "applied; the warning names the atom and its value",
            },
        )


def matrix(bounds: str) -> NDArray[np.float64]:
    """Lattice vectors of a dump's box bounds."""
    rows = [list(map(float, line.split())) for line in bounds.splitlines()[1:]]
    xy, xz, yz = (row[2] if len(row) > 2 else 0.0 for row in rows)
    tilts = [0.0, xy, xz, xy + xz]
    lx = rows[0][1] - rows[0][0] - (max(tilts) - min(tilts))
    ly = rows[1][1] - rows[1][0] - abs(yz)
    return np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, rows[2][1] - rows[2][0]]])


def test_warnings_are_rare_and_change_nothing(one_rank) -> None:
    """Ten predictions beyond a limit make two warnings, and the same trajectory as without."""
    outcome, off = one_rank["warn_displacement"], one_rank["warn_off"]
    assert ["(1 such", "(10 such"] == re.findall(r"\(\d+ such", "".join(outcome.warnings()))
    assert re.search(r"^ +10 +[0-9.]+ +10 *$", outcome.log, re.MULTILINE)
    assert off.warnings() == [] and off.error is None
    assert np.array_equal(outcome.final(), off.final())


def counts_at(log: str, step: int) -> tuple[float, int, int]:
    """Potential energy, violations and fallbacks in a line of thermo output."""
    line = re.search(rf"^ +{step} +(\S+) +(\d+) +(\d+) *$", log, re.MULTILINE)
    assert line is not None, log
    return float(line[1]), int(line[2]), int(line[3])


@pytest.mark.parametrize("ranks", [1, 2])
def test_fallback_is_velocity_verlet(ranks, request, one_rank, record_property) -> None:
    """Small steps in place of every prediction are what LAMMPS's own integrator does."""
    outcome = of_ranks(ranks, request, "fallback_all")
    assert outcome.error is None
    deviation = np.abs(outcome.final() - one_rank["fallback_nve"].final())[:, :6].max()
    assert deviation < 1e-10
    # Two fallback steps, in which the potential was not evaluated for output.
    assert counts_at(outcome.log, 2) == (0.0, 2, 2)
    builds = re.search(r"Neighbor list builds = (\d+)", outcome.log)
    assert builds is not None and int(builds[1]) > 2
    record_property(
        "reliability",
        {
            "table": "guard",
            "name": f"guard fallback: 2 steps of 10 x 3 fs, {ranks} rank{'s' * (ranks - 1)}",
            "result": f"differs from fix nve by {deviation:.1e} (Angstrom, Angstrom/ps)",
        },
    )


def test_fallback_goes_on_with_predictions(one_rank, two_ranks) -> None:
    """Some steps are the fallback's, the others predicted; on two ranks all are the same."""
    (_, violations, fallbacks), two = (
        counts_at(runs["fallback_some"].log, 6) for runs in (one_rank, two_ranks)
    )
    assert 0 < fallbacks == violations < 6 and two[1:] == (violations, fallbacks)
    one, other = (runs["fallback_some"].final()[:, :6] for runs in (one_rank, two_ranks))
    assert np.abs(one - other).max() < 1e-7
    assert np.abs(one - one_rank["fallback_nve"].final()[:, :6]).max() > 1e-2
    warned = one_rank["fallback_some"].warnings()
    assert "replaced by 10 steps of velocity Verlet" in warned[0] and len(warned) == 1


def test_fallback_by_its_old_name(one_rank) -> None:
    run = one_rank["fallback_old_name"]
    assert run.error is None
    assert any("'guard rescue' is deprecated: write 'guard fallback'" in w for w in run.warnings())
    assert any(
        "'limit isolation' is deprecated: write 'limit nearest'" in w for w in run.warnings()
    )


def test_fallback_that_is_impossible(one_rank) -> None:
    error = one_rank["fallback_no_potential"].error
    assert error is not None and "python/trajcast" in error and "hybrid/overlay" in error
    error = one_rank["fallback_two_integrators"].error
    assert error is not None and "python/trajcast" in error and "'unfix 2'" in error


@pytest.mark.parametrize("line", BAD_LINES)
def test_wrong_words(line, one_rank) -> None:
    error = one_rank[f"bad{list(BAD_LINES).index(line)}"].error
    assert error is not None and "python/trajcast" in error and BAD_LINES[line] in error


def test_model_without_limits(one_rank) -> None:
    """The input script can set them; the log says that it has to, if anything is to be checked."""
    note = "holds no limits of its training data"
    error = one_rank["bare"].error
    assert error is not None and "'lammps-trajcast add-bounds'" in error
    assert one_rank["bare_stop"].log.count(note) == 1 and note not in one_rank["bare_off"].log
    assert numbers(one_rank["bare_stop"].warnings()[0])[3] == 9.0


def test_example(lmp) -> None:
    """An atom is struck: the run ends before anything is applied, then small steps take over."""
    script = (EXAMPLES / "lammps_inputs/in.guard").read_text()
    script = script.replace("../quartz/", f"{EXAMPLES}/quartz/")
    potentials = {"LAMMPS_POTENTIALS": str(POTENTIALS)}
    run = lmp(script, options=["-var", "n", "3"], environment=potentials)
    assert run.returncode == 0, run.output
    warning = re.search(r"WARNING: Fix 1 python/trajcast: (.*)\n", run.output)
    assert warning is not None and "atom 5 has the speed 60 Angstrom/ps at step 0" in warning[1]
    assert (run.directory / "struck.data").exists()
    left = re.search(r"^(\d+) of 40 steps were left to the fallback", run.output, re.MULTILINE)
    assert left is not None and 0 < int(left[1]) < 40
