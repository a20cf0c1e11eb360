"""kill -9, after which the same command, or the last restart file, leads to the same result."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from locations import ENVIRONMENT
from reference import assert_close
from reliability import fault
from runs import lammps_binary, lammps_environment, read_dump
from systems import load_case
from trainings import dataset, same_weights, validation_errors, write_config  # noqa: F401

from lammps_trajcast.plugin import plugin_directory

EVERY = 10  # steps between restart files
PATIENCE = 3600.0  # seconds until there are two restart files


@pytest.fixture
def killed(model_file, tmp_path: Path) -> Path:
    """A directory in which LAMMPS was killed after its second restart file."""
    quartz = load_case("quartz_l2")
    quartz.write_data(tmp_path / "system.data")
    output = f"""
restart {EVERY} state.*.restart
dump 1 all custom 1 state.*.dump id xu yu zu vx vy vz
dump_modify 1 sort id format float %.17g
"""
    script = quartz.script(
        model_file("quartz_l2"), 100_000, options="precision double", extra=output
    )
    (tmp_path / "in.test").write_text(script)
    # The program itself: bin/lmp is a script that starts it, and would be killed in its place.
    process = subprocess.Popen(
        [lammps_binary(), "-in", "in.test", "-log", "none", "-screen", "none"],
        cwd=tmp_path,
        env=lammps_environment(
            LAMMPS_PLUGIN_PATH=plugin_directory(), LD_LIBRARY_PATH=str(ENVIRONMENT / "lib")
        ),
    )
    end = time.monotonic() + PATIENCE
    while not (tmp_path / f"state.{2 * EVERY + 5}.dump").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9
    return tmp_path


def test_killed_run_goes_on_from_its_restart(killed, lmp, model_file, record_property) -> None:
    """The killed run's own states after the restart are the ones to come to."""
    run = lmp(f"""
read_restart state.{2 * EVERY}.restart
pair_style zero 5.0 full
pair_coeff * *
timestep 30
fix 1 all python/trajcast {model_file("quartz_l2")} Si O precision double
run 4
write_dump all custom final.dump id xu yu zu vx vy vz modify sort id format float %.17g
""")
    assert run.returncode == 0, run.output
    wanted = read_dump(killed / f"state.{2 * EVERY + 4}.dump")
    largest = 0.0
    for one, other in zip(run.final(), wanted, strict=True):
        assert_close(one, other, 1e-10)
        largest = max(largest, float(np.abs(one - other).max() / np.abs(other).max()))
    result = f"the last restart file leads to the same states, relative difference {largest:.0e}"
    name = "LAMMPS killed (kill -9) between restarts"
    fault(record_property, name, result)


# ---- training ----------------------------------------------------------------------------------

# Trains in children that know all modules already: the first is left alone, the others are killed
# at random moments and started anew until enough were killed and the last one is through.
TRAINER = """
import json, os, random, signal, sys, time
from pathlib import Path
from lammps_trajcast.training.config import TrainingConfig
from lammps_trajcast.training.train import train
import lightning.pytorch.loggers, matplotlib.figure

def child(directory):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        train(TrainingConfig.load(directory / "train.yaml"), progress=False)
        status = 0
    finally:
        os._exit(status)

kills, here = int(sys.argv[1]), Path.cwd()
began = time.monotonic()
assert os.waitpid(child(here / "whole"), 0)[1] == 0
duration = time.monotonic() - began
dice, survivors, done = random.Random(1), [], 0
while done < kills:
    directory = here / f"killed_{len(survivors)}"
    directory.mkdir()
    (directory / "train.yaml").write_text((here / "whole/train.yaml").read_text())
    while True:
        pid = child(directory)
        if done < kills:
            time.sleep(dice.uniform(0.0, 0.7) * duration)
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0
            break
        done += 1
    survivors.append(directory.name)
json.dump({"killed": done, "survivors": survivors}, open("report.json", "w"))
"""


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_killed_training(kills, tmp_path, dataset, record_property) -> None:
    """The same command goes on, to the same weights and the same learning curve."""
    write_config(tmp_path / "whole", dataset)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINER, str(kills)],
        cwd=tmp_path,
        env=lammps_environment(),
        check=True,
        timeout=3600,
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["killed"] == kills and report["survivors"]
    for name in report["survivors"]:
        same_weights(tmp_path / name, tmp_path / "whole", 1e-12)
        # The log has not lost what came before the kills.
        whole, resumed = (validation_errors(tmp_path / n) for n in ("whole", name))
        np.testing.assert_allclose(resumed, whole, rtol=1e-9)
    result = "the same command goes on to the same weights, within 1e-12, and learning curve"
    name = f"training killed (kill -9) at {kills} random times"
    fault(record_property, name, result)
