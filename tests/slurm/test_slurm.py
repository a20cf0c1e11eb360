"""The job scripts of examples/hpc, through a Slurm of two nodes that these tests start.

`make test-slurm` installs Slurm and munge (Debian packages) and runs them, as root. Both nodes are
this machine: they have ports and names of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from locations import ENVIRONMENT, EXAMPLES
from models import LIGHT_QUARTZ
from runs import lammps_environment

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="needs Slurm"),
]

HPC = EXAMPLES / "hpc"
DATA = EXAMPLES / "quartz" / "quartz.data"
SMALL = ["-var", "model", str(LIGHT_QUARTZ), "-var", "data", str(DATA)]
CONFIGURATION = """\
ClusterName=trajcast
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/%n
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
MpiDefault=none
KillWait=5
MinJobAge=3600
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of commands for a Slurm with two nodes, which is stopped at the end."""
    place = tmp_path_factory.mktemp("slurm")
    for name in ("state", "node1", "node2", "munge"):
        (place / name).mkdir()
    # Anybody has to reach the socket; munge itself trusts only directories of root or its own.
    for parent in (place, *place.parents):
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(0o755 if parent != Path("/tmp") else 0o1777)
    (place / "munge.key").write_bytes(os.urandom(128))
    (place / "munge.key").chmod(0o600)
    configuration = place / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=socket.gethostname(), ports=free_ports(3), place=place)
    )
    environment = {
        **lammps_environment(SLURM_CONF=str(configuration)),
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
    }
    environment.pop("OMP_NUM_THREADS", None)
    daemons = []

    def start(*words: str) -> None:
        output = (place / f"{Path(words[0]).name}-{len(daemons)}.out").open("w")
        daemons.append(
            subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)
        )

    try:
        start(
            *("/usr/sbin/munged", "--foreground", "--force"),
            *(f"--key-file={place / 'munge.key'}", f"--socket={place / 'munge' / 'socket'}"),
            *(f"--log-file={place / 'munged.log'}", f"--pid-file={place / 'munged.pid'}"),
            f"--seed-file={place / 'munged.seed'}",
        )
        wait_for(lambda: (place / "munge" / "socket").exists(), "munged")
        start("slurmctld", "-D", "-f", str(configuration))
        for node in ("node1", "node2"):
            start("slurmd", "-D", "-f", str(configuration), "-N", node)
        wait_for(lambda: slurm(environment, "sinfo", "-h", "-o", "%T %D") == "idle 2", "slurmd")
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=60)


def slurm(environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(words, env=environment, text=True, capture_output=True)
    return done.stdout.strip()


def wait_for(condition, what: str, seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} took more than {seconds:g} s"
        time.sleep(0.3)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for path in HPC.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def submit(cluster: dict[str, str], directory: Path, *words: str) -> str:
    """Wait for a job; its number. Its output is in the error message if it fails."""
    done = subprocess.run(
        ["sbatch", "--parsable", "--wait", *words],
        cwd=directory,
        env=cluster,
        text=True,
        capture_output=True,
    )
    outputs = "\n".join(path.read_text()[-3000:] for path in directory.glob("*.out"))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{outputs}"
    return done.stdout.split()[0].split(";")[0]


def only_output(directory: Path) -> str:
    (path,) = directory.glob("*.out")
    return path.read_text()


def table(output: str) -> list[str]:
    """Lines of the thermo output, without times."""
    (body,) = re.findall(r"\n *Step .*?\n(.*?)Loop time", output, re.DOTALL)
    return [" ".join(line.split()[:3]) for line in body.splitlines()]


def alone(directory: Path, cluster: dict[str, str], *words: str) -> str:
    return subprocess.run(
        ["lmp", "-in", "in.hpc", "-log", "none", *SMALL, *words],
        cwd=directory,
        env={**cluster, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        check=True,
    ).stdout


def test_one_node(cluster: dict[str, str], directory: Path) -> None:
    """Two ranks with a thread each; the same temperatures as without Slurm."""
    words = ["-var", "cells", "3", "-var", "steps", "20", "-var", "options", "precision double"]
    options = ("--ntasks=2", "--cpus-per-task=1")
    submit(cluster, directory, *options, "one_node.slurm", *SMALL, *words)
    output = only_output(directory)
    assert "1 thread on each of 2 MPI ranks" in output and "WARNING: Fix" not in output
    assert table(output) == table(alone(directory, cluster, *words))


def test_a_rank_that_fails_at_once_ends_the_others(
    cluster: dict[str, str], directory: Path
) -> None:
    """The one that is left waited for it in MPI_Init, until the time limit of the job."""
    programs = directory / "programs"
    programs.mkdir()
    lmp = '#!/bin/sh\nif [ "$SLURM_PROCID" = 1 ]; then exit 15; fi\necho waiting\nsleep 3000\n'
    (programs / "lmp").write_text(lmp)
    (programs / "lmp").chmod(0o755)
    done = subprocess.run(
        ["sbatch", "--wait", "--ntasks=2", "--cpus-per-task=1", "one_node.slurm"],
        cwd=directory,
        env={**cluster, "PATH": f"{programs}:{cluster['PATH']}"},
        timeout=1500,
    )
    assert done.returncode != 0
    assert "task 1: Exited with exit code 15" in only_output(directory)


def test_threads_are_those_of_the_task(cluster: dict[str, str], directory: Path) -> None:
    options = ("--ntasks=1", "--cpus-per-task=2")
    words = ("-var", "cells", "2", "-var", "steps", "1")
    submit(cluster, directory, *options, "one_node.slurm", *SMALL, *words)
    assert "python/trajcast: 2 threads" in only_output(directory)


def test_two_nodes(cluster: dict[str, str], directory: Path) -> None:
    words = ["-var", "cells", "4", "-var", "steps", "20", "-var", "options", "precision double"]
    submit(cluster, directory, "--ntasks-per-node=1", "many_nodes.slurm", *SMALL, *words)
    output = only_output(directory)
    assert re.search(r"\d by \d by \d MPI processor grid", output)
    assert "on each of 2 MPI ranks" in output
    assert table(output) == table(alone(directory, cluster, *words))


def test_environment_is_copied_to_the_node(cluster: dict[str, str], directory: Path) -> None:
    """The lmp that runs is that of the archive. One node: both unpack to the same /tmp here."""
    unpacked, archive = Path("/tmp/trajcast"), directory / "trajcast.tar"
    if unpacked.exists():
        pytest.skip(f"{unpacked} is there already")
    programs = directory / "tree" / unpacked.relative_to("/") / "bin"
    programs.mkdir(parents=True)
    lmp = ENVIRONMENT / "bin" / "lmp"
    (programs / "lmp").write_text(f'#!/bin/sh\necho "this is $0"\nexec {lmp} "$@"\n')
    (programs / "lmp").chmod(0o755)
    subprocess.run(["tar", "-C", directory / "tree", "-cf", archive, "tmp/trajcast"], check=True)
    Path("/tmp/trajcast-environment.tar").unlink(missing_ok=True)
    variables = {**cluster, "TRAJCAST_ENVIRONMENT": str(archive)}
    options = ("--nodes=1", "--ntasks-per-node=2", "many_nodes.slurm", *SMALL)
    words = ("-var", "cells", "4", "-var", "steps", "1")
    try:
        submit(variables, directory, *options, *words)
        output = only_output(directory)
        assert output.count(f"this is {unpacked}/bin/lmp") == 2
        assert "on each of 2 MPI ranks" in output
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
        Path("/tmp/trajcast-environment.tar").unlink(missing_ok=True)


def test_an_array_of_replicas(cluster: dict[str, str], directory: Path) -> None:
    """Two jobs of two replicas: four different trajectories."""
    options = ("--array=0-1", "--ntasks=2")
    submit(cluster, directory, *options, "replicas.slurm", *SMALL, "-var", "steps", "10")
    states = [(directory / f"replica.{number}.dump").read_text() for number in range(4)]
    assert len(set(states)) == 4
    for number in range(4):
        assert "Loop time" in (directory / f"log.replica.{number}").read_text()


def test_no_gpu_is_an_error_of_the_job(cluster: dict[str, str], directory: Path) -> None:
    done = subprocess.run(
        ["sbatch", "--wait", "--gres=none", "--cpus-per-task=1", "gpu.slurm", *SMALL],
        **{"cwd": directory, "env": cluster, "text": True, "capture_output": True},
    )
    assert done.returncode != 0
    assert "device cuda" in only_output(directory)


def test_a_job_that_requeues_itself(cluster: dict[str, str], directory: Path) -> None:
    """Stopped by Slurm's signal, it ends at the same state as one that was never interrupted."""
    text = (directory / "in.requeue").read_text()
    text = text.replace("replicate 4 4 4", "replicate 2 2 2").replace("custom 1000", "custom 300")
    (directory / "in.requeue").write_text(text)
    whole = directory / "whole"
    whole.mkdir()
    shutil.copy(directory / "in.requeue", whole)
    words = [*SMALL, "-var", "total", "1500", "-var", "precision", "double"]
    subprocess.run(
        ["mpirun", "-np", "2", "lmp", "-in", "in.requeue", "-log", "none", *words],
        **{"cwd": whole, "env": {**cluster, "OMP_NUM_THREADS": "1"}, "capture_output": True},
        check=True,
    )
    job = slurm_submit(cluster, directory, "--ntasks=2", "requeue.slurm", *words)
    wait_for(lambda: has_step(directory / "log.lammps.0", 100), "the first run")
    slurm(cluster, "scancel", "--signal=USR1", "--batch", job)
    wait_for(lambda: (directory / "finished").exists(), "the requeued job")
    wait_for(lambda: not slurm(cluster, "squeue", "-h", "-j", job), "its end")
    assert (directory / "log.lammps.1").exists()
    frames = [
        list(dict.fromkeys((place / "quartz.dump").read_text().split("ITEM: TIMESTEP\n")))
        for place in (directory, whole)
    ]
    # A restart puts atoms in another order, and sums round otherwise: chaos makes more of it later.
    assert len(frames[0]) == len(frames[1]) == 7
    for interrupted, uninterrupted in zip(*frames, strict=True):
        assert read_atoms(interrupted) == pytest.approx(read_atoms(uninterrupted), abs=1e-6)


def read_atoms(frame: str) -> list[float]:
    rows = frame.partition("ITEM: ATOMS")[2].splitlines()[1:]
    return [float(word) for row in rows for word in row.split()]


def slurm_submit(cluster: dict[str, str], directory: Path, *words: str) -> str:
    return subprocess.run(
        ["sbatch", "--parsable", *words],
        **{"cwd": directory, "env": cluster, "text": True, "capture_output": True},
        check=True,
    ).stdout.strip()


def has_step(log: Path, step: int) -> bool:
    return log.exists() and re.search(rf"^ *{step} ", log.read_text(), re.MULTILINE) is not None


def test_a_killed_job_leaves_no_process(cluster: dict[str, str], directory: Path) -> None:
    words = ["-var", "cells", "3", "-var", "steps", "1000000"]
    job = slurm_submit(cluster, directory, "--ntasks=2", "--cpus-per-task=1", "one_node.slurm",
                       *SMALL, *words)  # fmt: skip
    wait_for(lambda: has_step(directory / "log.lammps", 100), "the run")
    assert processes_in(directory)
    slurm(cluster, "scancel", job)
    wait_for(lambda: not processes_in(directory), "the end of its processes", 60.0)


def processes_in(directory: Path) -> list[str]:
    found = []
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and (place / "cwd").resolve() == directory:
                found.append((place / "cmdline").read_text())
        except OSError:
            continue
    return [command for command in found if "lmp" in command]


def test_an_array_of_commands(cluster: dict[str, str], directory: Path) -> None:
    """Each line is one task; a task that is told to stop goes on where it was."""
    (directory / "fluid.lmp").write_text(
        "units real\natom_style atomic\nlattice fcc 5.5\nregion box block 0 3 0 3 0 3\n"
        "create_box 1 box\ncreate_atoms 1 box\nmass 1 39.948\n"
        "pair_style lj/cut 8.0\npair_coeff 1 1 0.238 3.405\ntimestep 5\n"
        "velocity all create $T 4711\nfix 1 all nve\nfix 2 all langevin $T $T 100 5 zero yes\n"
    )
    options = "--elements Ar --horizon 20 --temperatures 40 --decorrelate 0.5 --segment-length 0.4"
    (directory / "commands.txt").write_text(
        f"record fluid.lmp {options} --segments 20 -o one\n"
        f"record fluid.lmp {options} --segments 8 -o two\n"
    )
    submit(cluster, directory, "--array=0-1", "--cpus-per-task=1", "array.slurm", "commands.txt")
    for name, number in (("one", 20), ("two", 8)):
        segments = 0
        for path in (directory / name).glob("*.h5"):
            with h5py.File(path) as file:
                segments += len(file["segments"])
        assert segments == number
