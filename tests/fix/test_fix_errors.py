"""Every refusal: one error, which says what to write instead, and a non-zero exit status."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from locations import ENVIRONMENT
from reliability import wrong_input
from runs import lammps_binary, lammps_environment
from systems import System, load_case

FIX = "python/trajcast"


@pytest.fixture
def quartz() -> System:
    return load_case("quartz_l2")


@pytest.fixture
def quartz_model(model_file) -> Path:
    return model_file("quartz_l2")


PAIR = "pair_style zero 5.0 full\npair_coeff * *"
SOME = "group some id 5 10"

# Commands before a run that it has to refuse, commands that make it good again, and the remedy
# that the error has to name.
REFUSALS = {
    "timestep": ("timestep 1.0", "timestep 30.0", "timestep 30"),
    "respa": ("run_style respa 2 2", "run_style verlet", "run_style verlet"),
    "no pair style": ("pair_style none", PAIR, "pair_style zero 5 full"),
    "short cutoff": (
        "pair_style zero 4.0 full\npair_coeff * *",
        PAIR,
        "pair_style zero 5 full",
    ),
    "one short cutoff": ("pair_coeff 1 2 4.5", PAIR, "pair_style zero 5 full"),
    "exclusion": (
        "neigh_modify exclude type 1 1",
        "neigh_modify exclude none",
        "neigh_modify exclude none",
    ),
    "mass": ("mass 1 28.2", "mass 1 28.085", "mass 1 28.085"),
    "second integrator": ("fix 2 all nve", "unfix 2", "unfix 2"),
    "overlapping integrator": (f"{SOME}\nfix 2 some nve", "unfix 2", "unfix 2"),
}


@pytest.fixture(scope="module")
def refused_runs(model_file, tmp_path_factory) -> dict[str, str | None]:
    """What LAMMPS raises for each case; None if it runs. One LAMMPS meets them all in turn."""
    quartz, directory = load_case("quartz_l2"), tmp_path_factory.mktemp("refused")
    quartz.write_data(directory / "system.data")
    setup = quartz.script(model_file("quartz_l2")).partition("run 1")[0]
    (directory / "cases.json").write_text(json.dumps([setup, REFUSALS]))
    code = """
import json
from lammps import lammps
setup, cases = json.load(open("cases.json"))
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(setup)

def run():
    try:
        lmp.command("run 1")
    except Exception as error:
        return str(error)

answers = {}
for name, (bad, good, _) in cases.items():
    lmp.commands_string(bad)
    answers[name] = run()
    lmp.commands_string(good)
    answers["after " + name] = run()
json.dump(answers, open("answers.json", "w"))
"""
    subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=lammps_environment(), check=True
    )
    return json.loads((directory / "answers.json").read_text())


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_when_a_run_starts(case, refused_runs, record_property) -> None:
    """The error names the remedy, and with the remedy the run is not refused."""
    message = refused_runs[case]
    assert message is not None
    assert FIX in message and f"'{REFUSALS[case][2]}'" in message
    assert refused_runs[f"after {case}"] is None
    wrong_input(record_property, f"{case}, met by a run", f"'{REFUSALS[case][2]}'")


@pytest.mark.own_process
def test_refusal_in_lmp(lmp, quartz, quartz_model, record_property) -> None:
    """In `lmp` a refusal is one error, and a non-zero exit status; here in other units."""
    run = lmp(quartz.script(quartz_model, units="metal", timestep=0.001), quartz, units="metal")
    assert FIX in run.error() and "'timestep 0.03'" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "time step of another unit style", "'timestep 0.03'")
    assert "Traceback" not in run.output


def test_neighbor_lists_of_a_group(lmp, quartz, quartz_model, record_property) -> None:
    """`neigh_modify include` cannot be undone, so it is met alone."""
    include = f"{SOME}\natom_modify first some\nneigh_modify include some"
    run = lmp(quartz.script(quartz_model, extra=include), quartz)
    assert FIX in run.error() and "'neigh_modify include'" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "neigh_modify include", "'neigh_modify include'")


def test_a_good_script_is_not_refused(lmp, quartz, quartz_model) -> None:
    """The script that the refusals are variations of runs, without a warning of the fix."""
    run = lmp(quartz.script(quartz_model), quartz)
    assert run.returncode == 0, run.output
    assert not re.search(f"WARNING.*{FIX}", run.output)


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_cuda_without_a_gpu(lmp, quartz, quartz_model, record_property) -> None:
    run = lmp(quartz.script(quartz_model, options="device cuda"), quartz)
    assert FIX in run.error() and "'device cpu'" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "device cuda without a GPU", "'device cpu'")


MOLECULE = """
units real
atom_style bond
region box block 0 20 0 20 0 20
create_box 2 box bond/types 1 extra/bond/per/atom 2 extra/special/per/atom 4
mass 1 28.085
mass 2 15.999
create_atoms 1 single 5 5 5
create_atoms 2 single 6.6 5 5
create_atoms 2 single 3.4 5 5
pair_style zero 5.0 full
pair_coeff * *
bond_style zero
bond_coeff 1
BONDS
SPECIAL
timestep 30
fix 1 all python/trajcast MODEL Si O
thermo_style custom step f_1
run 1
"""
BONDS = "create_bonds single/bond 1 1 2\ncreate_bonds single/bond 1 1 3"


def test_bonded_exclusions(lmp, quartz_model, record_property) -> None:
    """Bonded neighbors are refused as long as they are left out, and seen with the remedy."""
    script = MOLECULE.replace("MODEL", str(quartz_model))
    refused = lmp(script.replace("BONDS", BONDS).replace("SPECIAL", ""))
    remedy = "special_bonds lj/coul 1e-50 1e-50 1e-50"
    assert FIX in refused.error() and f"'{remedy}'" in refused.error()
    assert refused.returncode != 0
    wrong_input(
        record_property,
        "bonded neighbors left out by special_bonds",
        "'special_bonds lj/coul 1e-50 1e-50 1e-50'",
    )

    for special in (remedy, "special_bonds lj/coul 1.0 1.0 1.0"):
        accepted = lmp(script.replace("BONDS", BONDS).replace("SPECIAL", special))
        assert accepted.returncode == 0, accepted.output
        # All three atoms see both others, the 1-3 pair too.
        assert re.search(r"^\s+1\s+6\s*$", accepted.output, re.MULTILINE), accepted.output


def test_atoms_without_bonds_need_no_special_bonds(lmp, quartz_model) -> None:
    """An atom style that could have bonds is no reason to refuse."""
    script = MOLECULE.replace("MODEL", str(quartz_model))
    run = lmp(script.replace("BONDS", "").replace("SPECIAL", ""))
    assert run.returncode == 0, run.output


def test_integrator_of_other_atoms(lmp, quartz, quartz_model, record_property) -> None:
    """Disjoint groups are fine in one order and refused, with that order, in the other."""
    groups = "group some id 1:30\ngroup rest subtract all some"
    ours = f"fix 1 some python/trajcast {quartz_model} Si O"
    good = lmp(quartz.script(quartz_model, fix=f"{groups}\n{ours}\nfix 2 rest nve"), quartz)
    assert good.returncode == 0, good.output

    bad = lmp(quartz.script(quartz_model, fix=f"{groups}\nfix 2 rest nve\n{ours}"), quartz)
    assert FIX in bad.error() and "define fix 1 before fix 2" in bad.error()
    assert bad.returncode != 0
    wrong_input(
        record_property, "integrator of other atoms defined before", "define fix 1 before fix 2"
    )


def test_time_step_changed_during_a_run(lmp, quartz, quartz_model) -> None:
    change = "fix 2 all dt/reset 1 0.1 1.0 0.01"
    run = lmp(quartz.script(quartz_model, 5, extra=change), quartz)
    assert FIX in run.error() and "'timestep 30'" in run.error()
    assert run.returncode != 0


def test_time_step_command_between_runs_waits_for_the_next_run(lmp, quartz, quartz_model) -> None:
    script = quartz.script(quartz_model) + "timestep 1.0\nunfix 1\nfix 1 all nve\nrun 1\n"
    run = lmp(script, quartz)
    assert run.returncode == 0, run.output


WARNINGS = {
    "late neighbor list": (dict(extra="neigh_modify delay 5 every 5"), "delay 0 check yes"),
    "forces in vain": (
        dict(pair="pair_style lj/cut 5.0\npair_coeff * * 0.1 1.0"),
        "pair_style zero 5 full",
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(case, lmp, quartz, quartz_model) -> None:
    change, remedy = WARNINGS[case]
    run = lmp(quartz.script(quartz_model, **change), quartz)
    assert run.returncode == 0, run.output
    warnings = [line for line in run.output.splitlines() if line.startswith("WARNING")]
    assert any(FIX in line and remedy in line for line in warnings), run.output


def test_forces_of_a_fix_defined_before(lmp, quartz, quartz_model) -> None:
    ours = f"fix 1 all python/trajcast {quartz_model} Si O"
    script = quartz.script(quartz_model, fix=f"fix 0 all addforce 0.1 0 0\n{ours}")
    run = lmp(script, quartz)
    assert run.returncode == 0, run.output
    warnings = [line for line in run.output.splitlines() if line.startswith("WARNING")]
    assert any("fix 0" in line and "define fix 0 after fix 1" in line for line in warnings)


# ---- the wrong LAMMPS, no Python, no package --------------------------------------------------


@pytest.fixture
def plugin_copy(tmp_path):
    """A directory with the compiled libraries, which a test can damage."""
    from lammps_trajcast.plugin import plugin_directory

    directory = tmp_path / "plugin"
    directory.mkdir()
    for library in Path(plugin_directory()).glob("*.so"):
        shutil.copy(library, directory)
    return directory


@pytest.fixture
def bare_lmp(lmp, tmp_path):
    """Function: run the `lmp` binary itself, which looks for plugins only where it is told to."""

    def run(script: str, system: System, plugins: Path, **environment: str):
        paths = {
            "LAMMPS_PLUGIN_PATH": str(plugins),
            "LD_LIBRARY_PATH": str(ENVIRONMENT / "lib"),
            **environment,
        }
        return lmp(script, system, environment=paths, command=[str(lammps_binary())])

    return run


def test_plugin_for_another_lammps(
    bare_lmp, plugin_copy, quartz, quartz_model, record_property
) -> None:
    library = plugin_copy / "trajcastplugin.so"
    content = library.read_bytes()
    marker = re.search(rb"trajcast built for LAMMPS:(\d{8})", content)
    assert marker is not None
    library.write_bytes(content.replace(marker.group(0), marker.group(0)[:-8] + b"20230802"))
    run = bare_lmp(quartz.script(quartz_model), quartz, plugin_copy)
    assert "built for LAMMPS 2 Aug 2023" in run.error() and "LAMMPS_SOURCE_DIR" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "plugin built for another LAMMPS", "built for LAMMPS 2 Aug 2023")

    other = quartz.script(quartz_model, fix="fix 1 all nve", timestep=1.0)
    unaffected = bare_lmp(other, quartz, plugin_copy)
    assert unaffected.returncode == 0, unaffected.output


@pytest.mark.parametrize(("letter", "name"), [(b"L", "bigbig"), (b"T", "smallsmall")])
def test_plugin_for_other_integers(
    bare_lmp, plugin_copy, quartz, quartz_model, record_property, letter, name
) -> None:
    library = plugin_copy / "trajcastplugin.so"
    content = library.read_bytes()
    assert content.count(b"trajcast built with IDs:S\0") == 1
    library.write_bytes(content.replace(b"built with IDs:S\0", b"built with IDs:%b\0" % letter))
    run = bare_lmp(quartz.script(quartz_model), quartz, plugin_copy)
    assert run.returncode != 0
    assert f"built for integers of the size {name} but this LAMMPS has smallbig" in run.error()
    assert "LAMMPS_SIZES=smallbig" in run.error()
    wrong_input(record_property, "plugin built with other integers", "has smallbig")


@pytest.mark.parametrize(
    ("letter", "name", "remedy"),
    [
        (b"O", "Open MPI", "MPI_CXX_COMPILER=<mpicxx of that MPI>"),
        (b"S", "no MPI (LAMMPS's STUBS)", "MPI_CXX_COMPILER=<mpicxx of that MPI>"),
    ],
)
def test_plugin_for_another_mpi(
    bare_lmp, plugin_copy, quartz, quartz_model, record_property, letter, name, remedy
) -> None:
    """Before anything that knows handles of MPI is loaded."""
    library = plugin_copy / "trajcastplugin.so"
    content = library.read_bytes()
    assert content.count(b"trajcast built with MPI:M\0") == 1
    library.write_bytes(content.replace(b"built with MPI:M\0", b"built with MPI:%b\0" % letter))
    run = bare_lmp(quartz.script(quartz_model), quartz, plugin_copy)
    assert run.returncode != 0
    assert f"was built with {name} but this LAMMPS uses MPICH" in run.error()
    assert remedy in run.error()
    if letter == b"O":
        wrong_input(record_property, "plugin built with another MPI", f"was built with {name}")


def test_plugin_without_its_fix(
    bare_lmp, plugin_copy, quartz, quartz_model, record_property
) -> None:
    (plugin_copy / "trajcast_fix.so").unlink()
    run = bare_lmp(quartz.script(quartz_model), quartz, plugin_copy)
    assert "again, with pip install --force-reinstall" in run.error()
    assert run.returncode != 0
    wrong_input(
        record_property,
        "plugin with a library missing",
        "again, with pip install --force-reinstall",
    )


def test_plugin_in_another_place_works(bare_lmp, plugin_copy, quartz, quartz_model) -> None:
    """Not beside an interpreter, the plugin takes the one of its version from PATH."""
    path = f"/nowhere:{ENVIRONMENT / 'bin'}:/usr/bin:/bin"
    run = bare_lmp(quartz.script(quartz_model), quartz, plugin_copy, PATH=path)
    assert run.returncode == 0, run.output


def test_plugin_in_another_place_without_python(
    bare_lmp, plugin_copy, quartz, quartz_model, tmp_path, record_property
) -> None:
    """Nothing remembers the interpreter that built the plugin, which other machines do not have."""
    (tmp_path / "empty").mkdir()
    path = str(tmp_path / "empty")
    run = bare_lmp(quartz.script(quartz_model), quartz, plugin_copy, PATH=path)
    assert "in the directories of PATH" in run.error() and "LAMMPS_TRAJCAST_PYTHON" in run.error()
    assert run.returncode != 0
    wrong_input(
        record_property, "no Python of the plugin's version in PATH", "LAMMPS_TRAJCAST_PYTHON"
    )


def test_no_interpreter(lmp, quartz, quartz_model, record_property) -> None:
    python = {"LAMMPS_TRAJCAST_PYTHON": "/nowhere/bin/python3"}
    run = lmp(quartz.script(quartz_model), quartz, environment=python)
    assert "/nowhere/bin/python3" in run.error() and "LAMMPS_TRAJCAST_PYTHON" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "no Python interpreter", "LAMMPS_TRAJCAST_PYTHON")


@pytest.mark.parametrize("told_by", ["name", "environment"])
def test_interpreter_of_another_version(
    lmp, quartz, quartz_model, tmp_path, record_property, told_by
) -> None:
    """It is looked at, not started: a file in its place will do."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    if told_by == "name":
        (tmp_path / "python3.9").touch(0o755)
        python.symlink_to("../python3.9")
    else:
        python.touch(0o755)
        (tmp_path / "pyvenv.cfg").write_text(
            "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.9.2\n"
        )
    environment = {"LAMMPS_TRAJCAST_PYTHON": str(python)}
    run = lmp(quartz.script(quartz_model), quartz, environment=environment)
    assert f"but {python} is Python 3.9: set LAMMPS_TRAJCAST_PYTHON" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "a Python of another version", "is Python 3.9")


def test_no_libpython(bare_lmp, plugin_copy, quartz, quartz_model, record_property) -> None:
    library = plugin_copy / "trajcast_fix.so"
    content = library.read_bytes()
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}".encode()
    library.write_bytes(content.replace(name + b".so", name.replace(b"python", b"jython") + b".so"))
    run = bare_lmp(quartz.script(quartz_model), quartz, plugin_copy)
    assert "shared library" in run.error() and "apt install" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "no libpython", "apt install")


def test_environment_without_the_package(
    lmp, quartz, quartz_model, tmp_path, record_property
) -> None:
    """A virtual environment of the same Python, with nothing installed in it."""
    import venv

    venv.create(tmp_path / "empty", with_pip=False)
    python = {"LAMMPS_TRAJCAST_PYTHON": str(tmp_path / "empty/bin/python3")}
    run = lmp(quartz.script(quartz_model), quartz, environment=python)
    assert "No module named" in run.error() and "pip install lammps-trajcast" in run.error()
    assert run.returncode != 0
    wrong_input(
        record_property, "Python environment without the package", "pip install lammps-trajcast"
    )
