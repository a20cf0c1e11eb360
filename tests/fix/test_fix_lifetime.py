"""Fixes that come and go: deleted, defined anew, in several instances, at the end of a process."""

import re
import signal
import subprocess

import pytest
from locations import ENVIRONMENT
from reference import assert_close
from runs import lammps_binary, lammps_environment
from systems import System, load_case, quoted

from lammps_trajcast.plugin import plugin_directory


@pytest.fixture
def quartz() -> System:
    return load_case("quartz_l2")


@pytest.fixture
def script(quartz, model_file) -> str:
    return quartz.script(model_file("quartz_l2"), 2, options="precision double")


@pytest.mark.own_process
def test_exit_is_clean(lmp, script, quartz) -> None:
    run = lmp(script, quartz)
    assert run.returncode == 0
    assert "Total wall time" in run.output.splitlines()[-1]


def test_unfix_and_define_again(lmp, script, quartz, model_file) -> None:
    again = f"fix 1 all python/trajcast {model_file('quartz_l2')} Si O precision double"
    one_run = lmp(script.replace("write_dump", "run 2\nwrite_dump"), quartz)
    whole = one_run.final()
    for between in (f"unfix 1\n{again}", again):
        run = lmp(script.replace("write_dump", f"{between}\nrun 2\nwrite_dump"), quartz)
        assert run.returncode == 0, run.output
        for one, other in zip(run.final(), whole, strict=True):
            assert_close(one, other, 1e-11)


def test_unfix_and_go_on_with_forces(lmp, script, quartz) -> None:
    go_on = (
        "unfix 1\npair_style lj/cut 5.0\npair_coeff * * 0.1 1.5\ntimestep 1.0\nfix 1 all nve\nrun 2"
    )
    run = lmp(f"{script}\n{go_on}", quartz)
    assert run.returncode == 0, run.output


@pytest.mark.long
def test_clear_and_start_again(lmp, script, quartz) -> None:
    first = lmp(script, quartz).final()
    run = lmp(f"{script}\nclear\n{script}", quartz)
    assert run.returncode == 0, run.output
    for one, other in zip(run.final(), first, strict=True):
        assert_close(one, other, 1e-14)


def test_minimize_before_the_run(lmp, script, quartz) -> None:
    """A minimization needs none of what a run needs, and leaves the fix alone."""
    early = script.replace("thermo 1", "thermo 1\ntimestep 1.0\nminimize 0 0 5 5\ntimestep 30\n")
    run = lmp(early, quartz)
    assert run.returncode == 0, run.output
    for one, other in zip(run.final(), lmp(script, quartz).final(), strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.long
def test_two_instances_in_one_process(python, lmp, script, quartz) -> None:
    """The second instance lives on after the first, with which LAMMPS forgets the plugin."""
    expected = lmp(script, quartz).final()
    run = python(
        f"""
from lammps import lammps
quiet = ["-screen", "none", "-log", "none"]
script = {quoted(script)}
first, second = lammps(cmdargs=quiet), lammps(cmdargs=quiet)
first.commands_string(script)
setup, action = script.split("run 2")
second.commands_string(setup)
first.close()
second.commands_string("run 2" + action)
second.close()
third = lammps(cmdargs=quiet)
third.commands_string(script)
print("reached the end")
""",
        quartz,
    )
    assert run.returncode == 0, run.output
    assert "reached the end" in run.output
    assert "Exception" not in run.output and "Traceback" not in run.output
    for one, other in zip(run.final(), expected, strict=True):
        assert_close(one, other, 1e-14)


def test_after_an_error_the_instance_is_usable(python, script, quartz) -> None:
    run = python(
        f"""
from lammps import lammps
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
script = {quoted(script)}
try:
    lmp.commands_string(script.replace("timestep 30.0", "timestep 1.0"))
except Exception as error:
    print("caught", error)
lmp.command("timestep 30")
lmp.command("run 2")
print("reached the end")
""",
        quartz,
    )
    assert run.returncode == 0, run.output
    assert "caught" in run.output and "reached the end" in run.output


def test_one_rank_under_mpirun(lmp, script, quartz) -> None:
    run = lmp(script, quartz, ranks=1)
    assert run.returncode == 0, run.output


def test_threads_and_their_default(lmp, script, quartz) -> None:
    """Any number of threads gives the same numbers."""
    expected = lmp(script, quartz).final()
    for options, environment in (("threads 2", {}), ("", {"OMP_NUM_THREADS": "2"})):
        line = re.sub(r"(fix 1 .*)", rf"\1 {options}", script)
        run = lmp(line, quartz, environment=environment)
        assert run.returncode == 0, run.output
        for one, other in zip(run.final(), expected, strict=True):
            assert_close(one, other, 1e-12)


def test_interrupt_stops_lmp(script, quartz, tmp_path) -> None:
    """Python takes no part in signals: Ctrl-C ends lmp as it does without the fix."""
    quartz.write_data(tmp_path / "system.data")
    (tmp_path / "in.test").write_text(script.replace("run 2", "run 1000000"))
    process = subprocess.Popen(
        [lammps_binary(), "-in", "in.test", "-log", "none", "-nonbuf"],
        cwd=tmp_path,
        env=lammps_environment(
            LD_LIBRARY_PATH=f"{ENVIRONMENT}/lib", LAMMPS_PLUGIN_PATH=plugin_directory()
        ),
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts what runs in the background with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r"\s+2\s", line):  # two steps done, so Python is running
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=3600)
    assert process.returncode == -signal.SIGINT
