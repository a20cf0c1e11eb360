"""Training at the edges: values that are accepted, jobs it runs in, what it meets at its end."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
import warnings
from pathlib import Path

import annotated_types
import h5py
import numpy as np
import pytest
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from locations import ENVIRONMENT, ROOT
from processes import PATIENCE, with_mark
from reliability import fault, workflow, wrong_input
from trainings import dataset, same_weights, trained, validation_errors, write_config  # noqa: F401
from typer.testing import CliRunner

from lammps_trajcast.child_processes import PARENT_VARIABLE
from lammps_trajcast.cli import app
from lammps_trajcast.data.dataset import TrajectoryPairs
from lammps_trajcast.data.layout import DatasetError
from lammps_trajcast.data.statistics import dataset_statistics, smallest_distance
from lammps_trajcast.equipartition.match_moments import MomentMatching
from lammps_trajcast.lock import alone_in
from lammps_trajcast.model.architecture import Architecture
from lammps_trajcast.model.file import ModelFile
from lammps_trajcast.training.config import NetworkConfig, TrainingConfig, TrainingError
from lammps_trajcast.training.preparation import make_architecture
from lammps_trajcast.training.processes import TrainingProcess, find_process, job_hidden
from lammps_trajcast.training.train import _alone, train
from lammps_trajcast.validation.config import SetupError
from lammps_trajcast.warning_filters import not_fatal, not_fatal_in_children


def with_network(directory: Path, data: Path, optimization: dict, **network: object) -> Path:
    """A short training with other hyperparameters."""
    path = write_config(directory, data, steps=2, epoch_steps=2, **optimization)
    content = yaml.safe_load(path.read_text())
    content["network"] |= network
    path.write_text(yaml.safe_dump(content))
    return path


# ---- values ------------------------------------------------------------------------------------


LONG = pytest.mark.long


@pytest.mark.parametrize("channels", [4, 7])
def test_few_channels(tmp_path: Path, dataset: Path, channels: int, record_property) -> None:
    """The read-out has a quarter of them, and the last equations are for two."""
    path = with_network(tmp_path, dataset, {}, num_hidden_channels=channels)
    with pytest.raises(TrainingError, match=rf"line \d+: network.num_hidden_channels: {channels} "):
        TrainingConfig.load(path)
    says = "network.num_hidden_channels: 4 leave the read-out a single channel"
    wrong_input(record_property, "a network of 4 to 7 channels whose read-out is solved for", says)
    path = with_network(tmp_path, dataset, {"read_out_pairs": 0}, num_hidden_channels=channels)
    config = TrainingConfig.load(path)
    assert train(config, progress=False) is not None
    built = ModelFile.load(config.output).build()
    assert built.read_out.read_out.weight.numel() == 2


def test_bounds_are_those_of_the_architecture(tmp_path: Path, dataset: Path) -> None:
    """What the YAML file may say makes an architecture, at both ends of its range."""
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    whole = make_architecture(
        config, TrajectoryPairs(dataset, "train"), dataset_statistics(dataset)
    ).model_dump()
    tried = 0
    for name, field in NetworkConfig.model_fields.items():
        ends = []
        for bound in field.metadata:
            if isinstance(bound, annotated_types.Ge):
                ends.append(bound.ge)
            elif isinstance(bound, annotated_types.Le):
                ends.append(bound.le)
            elif isinstance(bound, annotated_types.Gt):
                ends.append(np.nextafter(bound.gt, np.inf))
        if name in Architecture.model_fields and ends:
            assert len(ends) == 2, f"{name} has no upper bound"
            for value in ends:
                Architecture.model_validate({**whole, name: value})
                tried += 1
    assert tried >= 14


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        *(("network", "edge_cutoff", value) for value in (".inf", "150.0")),
        *(("network", key, "[.nan, 0, 0]") for key in ("net_lin_mom", "net_ang_mom")),
        ("network", "speed_limit_rms", "1.0e-12"),
        *(("optimization", key, ".inf") for key in ("learning_rate", "velocity_weight")),
        *(("", "seed", value) for value in ("-1", "4294967296")),
        ("", "output", "."),
    ],
)
def test_values_that_ended_in_a_traceback(
    tmp_path: Path,
    dataset: Path,
    section: str,
    key: str,
    value: str,
) -> None:
    path = write_config(tmp_path, dataset)
    content = yaml.safe_load(path.read_text())
    (content[section] if section else content)[key] = yaml.safe_load(value)
    path.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(app, ["train", str(path)])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("ERROR: ") and key in line


@pytest.mark.parametrize("key", ["directory", "output"])
def test_places_that_cannot_be_written_are_found_before_training(
    tmp_path: Path,
    dataset: Path,
    key: str,
) -> None:
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "x" if key == "output" else tmp_path / "file"
    with pytest.raises(
        TrainingError, match=f"^{key}: .*file.* cannot be written .*; write another"
    ):
        train(config.model_copy(update={key: place}), progress=False)


# ---- data --------------------------------------------------------------------------------------


def gas(path: Path, spacing: float, number: int = 4, speed: float = 5e-3, pbc: bool = True) -> Path:
    """A chain of atoms that fly freely, the nearest two so far apart when they begin."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format="lammps-trajcast dataset", format_version=1, horizon=10.0, units="real"
        )
        file.attrs["elements"], file.attrs["masses"] = ["Ne", "Ar"], [20.18, 39.95]
        for k, split in enumerate(["train"] * 2 + ["validation", "test"]):
            segment = file.create_group(f"segments/{k:06d}")
            segment.attrs.update(split=split, source="gas", first_step=0)
            velocity = speed * random.normal(size=(number, 3))
            start = np.outer(np.arange(number), [spacing, 0.0, 0.0])
            segment["species"] = np.arange(number) % 2
            segment["cell"], segment["pbc"] = np.eye(3) * 10 * spacing, np.full(3, pbc)
            segment["positions"] = start + velocity * 10.0 * np.arange(33)[:, None, None]
            segment["velocities"] = np.repeat(velocity[None], 33, axis=0)
            segment["pairs"] = np.column_stack([np.arange(32), np.arange(1, 33)])
    return path


def test_cutoff_without_neighbors(tmp_path: Path, record_property) -> None:
    data = gas(tmp_path / "gas.h5", 5.0)
    with h5py.File(data) as file:
        train_split = [file[f"segments/{k:06d}"]["positions"][:] for k in range(2)]
    pairs = itertools.combinations(range(4), 2)
    closest = min(
        np.linalg.norm(x[:, i] - x[:, j], axis=1).min() for i, j in pairs for x in train_split
    )
    config = TrainingConfig.load(with_network(tmp_path, data, {}, edge_cutoff=0.35))
    says = f"network.edge_cutoff: 0.35 Angstrom .* smallest distance in the data is {closest:.3g} "
    with pytest.raises(TrainingError, match=says):
        train(config, progress=False)
    wrong_input(record_property, "a cutoff shorter than any distance of the data", says[:35])


def test_single_atoms(tmp_path: Path) -> None:
    """No distance at all; the search for one has an end."""
    data = gas(tmp_path / "gas.h5", 5.0, number=1, pbc=False)
    assert smallest_distance(np.zeros((1, 3)), np.eye(3), np.zeros(3, bool)) == np.inf
    assert dataset_statistics(data).min_distance == np.inf
    config = TrainingConfig.load(write_config(tmp_path, data))
    with pytest.raises(TrainingError, match="no atom of the data has another one near it"):
        train(config, progress=False)
    result = CliRunner().invoke(app, ["baseline", str(gas(tmp_path / "one.h5", 5.0, number=1))])
    assert result.exit_code == 1 and "do not move about their center of mass" in result.stderr


def test_atoms_that_do_not_move(tmp_path: Path) -> None:
    data = gas(tmp_path / "gas.h5", 2.0, speed=0.0)
    with pytest.raises(TrainingError, match="its atoms hardly move .* nothing to learn"):
        train(TrainingConfig.load(write_config(tmp_path, data)), progress=False)


def test_too_few_states_to_balance(tmp_path: Path, trained: Path) -> None:
    data = [gas(tmp_path / "gas.h5", 9.0)]
    matching = MomentMatching(trained / "model.safetensors", data, [data], 100)
    with pytest.raises(SetupError, match="no kind of motion is there more than 400 times"):
        matching.run(lambda *_: None)


def test_unforeseen_values_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Should a check be missing somewhere, the exception of another library is one line, too."""

    def load(_: Path) -> None:
        Architecture.model_validate({"num_chem_elements": 0})

    monkeypatch.setattr(ModelFile, "load", load)
    result = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("ERROR: num_chem_elements: Input should be")


# ---- jobs --------------------------------------------------------------------------------------

# What batch systems and launchers leave in the environment of a script that also trains.
JOBS = {
    "Slurm": {
        "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "4", "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "4",
    },
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "x", "RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4",
        "GROUP_RANK": "0", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1",
    },
    "mpirun": {
        "PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "9", "MPI_LOCALRANKID": "1",
        "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1",
    },
    "LSF": {
        "LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/absent", "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2",
    },
    "Kubeflow": {
        "KUBERNETES_PORT": "tcp://192.0.2.1:1", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1",
        "WORLD_SIZE": "2", "RANK": "1",
    },
}  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_one_device_is_one_process_in_any_job(
    tmp_path: Path,
    trained: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: str,
    record_property,
) -> None:
    """Weights, checkpoints and logs as without the job."""
    for name, value in JOBS[job].items():
        monkeypatch.setenv(name, value)
    # As the training library sets it when it is imported in such an environment.
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    before = dict(os.environ)
    train(TrainingConfig.load(write_config(tmp_path, dataset)), progress=False)
    assert {**os.environ, "PL_GLOBAL_SEED": "", "PL_SEED_WORKERS": ""} == {
        **before, "PL_GLOBAL_SEED": "", "PL_SEED_WORKERS": "",
    }  # fmt: skip
    same_weights(tmp_path, trained, 1e-12)
    np.testing.assert_allclose(validation_errors(tmp_path), validation_errors(trained), rtol=1e-9)
    result = "one process, with the weights of one outside of the job"
    workflow(record_property, f"training on one device in a job of {job}", result)


@pytest.mark.parametrize(
    ("devices", "environment", "place"),
    [
        (1, JOBS["Slurm"], TrainingProcess(0, None)),
        (2, {}, TrainingProcess(0, None)),
        (
            2,
            {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            TrainingProcess(0, None),
        ),
        (2, JOBS["Kubeflow"], TrainingProcess(0, None)),
        (2, {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, TrainingProcess(1, "train")),
        (4, JOBS["Slurm"], TrainingProcess(3, "srun")),
        (4, JOBS["torchrun"], TrainingProcess(2, "torchrun")),
        (2, JOBS["LSF"], TrainingProcess(1, "jsrun")),
        (2, {"PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, TrainingProcess(1, "mpirun")),
        (2, JOBS["Slurm"], "devices: 2, but srun has started 4 processes; .* write devices: 4"),
        (3, JOBS["torchrun"], "devices: 3, but torchrun has started 4 processes"),
    ],
)
def test_place_in_job(
    devices: int, environment: dict[str, str], place: TrainingProcess | str
) -> None:
    if isinstance(place, str):
        with pytest.raises(TrainingError, match=place):
            find_process(devices, environment)
    else:
        assert find_process(devices, environment) == place


def test_processes_of_srun_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOBS["Slurm"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    with job_hidden(find_process(4)) as environment:
        assert environment.creates_processes_externally and environment.local_rank() == 3
        assert (environment.main_address, environment.main_port) == ("127.0.0.1", 15001)
        assert "SLURM_NTASKS" not in os.environ
    assert os.environ["SLURM_NTASKS"] == "4" and "MASTER_PORT" not in os.environ


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["train", "torchrun", "srun"])
def test_two_processes_in_a_job(tmp_path: Path, dataset: Path, launcher: str) -> None:
    """Started by the first, by torchrun or by Slurm's srun, inside of a Slurm allocation."""
    for name, devices in (("one", 1), ("two", 2)):
        # The equations of the read-out would enlarge the rounding.
        options = {"steps": 6, "epoch_steps": 3, "batch_size": 4, "read_out_pairs": 0}
        path = write_config(tmp_path / name, dataset, **options)
        path.write_text(path.read_text() + f"devices: {devices}\n")
    bin_ = Path(sys.executable).parent
    words = [str(bin_ / "lammps-trajcast"), "train"]
    job = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0",
           "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip
    assert subprocess.run([*words, tmp_path / "one" / "train.yaml"], env=job).returncode == 0
    two = str(tmp_path / "two" / "train.yaml")
    if launcher == "torchrun":
        words = [str(bin_ / "torchrun"), "--nproc-per-node", "2", *words]
    ranks = range(2 if launcher == "srun" else 1)
    started = [
        subprocess.Popen(
            [*words, two],
            env=job
            if launcher != "srun"
            else {**job, "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
                  "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in ranks
    ]  # fmt: skip
    assert [process.wait(600) for process in started] == [0] * len(started)
    same_weights(tmp_path / "one", tmp_path / "two", 1e-6)


# ---- its directory and its end -----------------------------------------------------------------


def test_two_trainings_in_one_directory(tmp_path: Path, dataset: Path) -> None:
    config = TrainingConfig.load(write_config(tmp_path, dataset))
    config.directory.mkdir()
    says = "^directory: .*run: is in use by another process .* or write another directory"
    with alone_in(config.directory, ""), pytest.raises(TrainingError, match=says):
        train(config, progress=False)
    assert not list(config.directory.iterdir())


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(n, marks=LONG) for n in (signal.SIGTERM, signal.SIGINT))],
)
def test_killed_training_leaves_nothing_running(
    tmp_path: Path,
    dataset: Path,
    number: signal.Signals,
    record_property,
) -> None:
    """Its workers end with it, and what can be said is said. With all warnings as errors."""
    path = write_config(tmp_path, dataset, steps=100_000, epoch_steps=20)
    path.write_text(path.read_text() + "workers: 1\n")
    mark = f"TRAJCAST_TEST={uuid.uuid4()}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(
        [str(ENVIRONMENT / "bin" / "lammps-trajcast"), "train", str(path)],
        env={**environment, **dict([mark.split("=")])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has it ignored, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + PATIENCE
    try:
        while not list((tmp_path / "run").glob("step*.ckpt")):
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.05)
        assert len(with_mark(mark)) >= 2
        process.send_signal(number)
        _, message = process.communicate(timeout=PATIENCE)
        while with_mark(mark) and time.monotonic() < end:
            time.sleep(0.05)
        assert not with_mark(mark)
    finally:
        for left in with_mark(mark):
            os.kill(left, signal.SIGKILL)
    if number == signal.SIGKILL:
        assert process.returncode == -9
        return
    assert process.returncode == 1
    assert "ERROR: interrupted at step" in message
    if number == signal.SIGTERM:
        result = "one line with the step, exit status 1, its worker processes end"
        fault(record_property, "training ended by a batch system (SIGTERM)", result)


# Each of these kills the process that has started it, before it could be told to end with that one.
ORPHANS = {
    "worker": """
class Pairs:
    def __init__(self):
        self.training = os.getpid()

    def __len__(self):
        return 4

    def __setstate__(self, state):
        server = os.getppid()
        os.kill(state["training"], signal.SIGKILL)
        while os.getppid() == server:
            time.sleep(0.01)

if __name__ == "__main__":
    from lammps_trajcast.training.loaders import make_loader
    next(iter(make_loader(Pairs(), 1, workers=1)))
""",
    "LAMMPS": """
if __name__ == "__main__":
    from lammps_trajcast.lammps_runs.program import start
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which children inherit
    start(["sleep", "3600"])
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "benchmark": """
def kill(parent):
    os.kill(parent, signal.SIGKILL)

if __name__ == "__main__":
    from benchmarks.child import in_child
    in_child(kill, os.getpid())
""",
}


@pytest.mark.parametrize("what", ORPHANS)
def test_kill_before_a_process_is_ready_leaves_nothing_running(tmp_path: Path, what: str) -> None:
    script = tmp_path / "orphan.py"
    script.write_text(f"import os, signal, time\n{ORPHANS[what]}")
    mark = f"TRAJCAST_TEST={uuid.uuid4()}"
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, paths))}
    try:
        killed = subprocess.run(
            [sys.executable, str(script)],
            env={**environment, **dict([mark.split("=")])},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        assert killed.returncode == -signal.SIGKILL
        end = time.monotonic() + PATIENCE
        while with_mark(mark) and time.monotonic() < end:
            time.sleep(0.05)
        assert not with_mark(mark)
    finally:
        for left in with_mark(mark):
            os.kill(left, signal.SIGKILL)


def test_fork_server_of_a_killed_training_ends() -> None:
    """It asks before it imports the rest, which takes seconds."""
    code = "import lammps_trajcast.training.worker"
    environment = {**os.environ, PARENT_VARIABLE: "1"}  # not its parent any more
    ended = subprocess.run([sys.executable, "-X", "importtime", "-c", code], env=environment,
                           capture_output=True, text=True)  # fmt: skip
    assert ended.returncode == -signal.SIGKILL
    assert "lammps_trajcast.child_processes" in ended.stderr
    assert "training.loaders" not in ended.stderr


def test_second_process_of_a_killed_training_ends(tmp_path: Path, dataset: Path) -> None:
    """It finds out however late it asks, here when another process is its parent already."""
    config = TrainingConfig.load(write_config(tmp_path, dataset))

    def begin() -> None:
        with _alone(config, TrainingProcess(1, "train")):
            os._exit(0)

    with pytest.MonkeyPatch.context() as patch:
        for parent, status in ((os.getpid(), 0), (1, -signal.SIGKILL)):
            patch.setenv(PARENT_VARIABLE, str(parent))
            process = multiprocessing.get_context("fork").Process(target=begin)
            process.start()
            process.join(PATIENCE)
            assert process.exitcode == status


# ---- warnings ----------------------------------------------------------------------------------


def test_warnings_are_not_fatal() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="known (to|by) all", module=r"tests?\.")
        before = list(warnings.filters)
        with pytest.raises(DeprecationWarning):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        with not_fatal():
            assert [entry[0] for entry in warnings.filters[:2]] == ["ignore", "default"]
            assert warnings.filters[0][1:] == before[0][1:]
            with warnings.catch_warnings(record=True) as seen:
                warnings.warn("old", DeprecationWarning, stacklevel=1)
            assert [str(warning.message) for warning in seen] == ["old"]
        assert warnings.filters == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = list(warnings.filters)
        with not_fatal():
            assert warnings.filters == before


def test_children_do_not_inherit_fatal_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "ignore::UserWarning,err::DeprecationWarning")
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    with not_fatal_in_children():
        assert os.environ["PYTHONWARNINGS"] == "ignore::UserWarning,default::DeprecationWarning"
        assert sys.warnoptions == ["default"]
    assert os.environ["PYTHONWARNINGS"].endswith("err::DeprecationWarning")
    assert sys.warnoptions == ["error"]


@pytest.mark.parametrize("command", ["info", "add-bounds", "clamp-speed", "match-moments"])
def test_commands_survive_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A warning of a library, in the middle of what a command does."""

    def load(_: Path) -> None:
        warnings.warn("a function of a library is deprecated", DeprecationWarning, stacklevel=1)
        raise DatasetError("the end") if command == "add-bounds" else SystemExit(7)

    monkeypatch.setattr(ModelFile, "load", load)
    monkeypatch.setattr("lammps_trajcast.equipartition.match_moments.MomentMatching.__init__",
                        lambda *_: load(tmp_path))  # fmt: skip
    words = {"add-bounds": ["x.h5"], "match-moments": ["--dataset", "x.h5"]}.get(command, [])
    out = [] if command == "info" else ["-o", "y"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = CliRunner().invoke(app, [command, "model", *words, *out])
    assert result.exit_code == (1 if command == "add-bounds" else 7), result.exception


@pytest.mark.own_process
def test_fix_survives_warnings(model_file, lmp, record_property) -> None:
    from systems import load_case

    quartz = load_case("quartz_l2")
    script = quartz.script(model_file("quartz_l2"), 1)
    run = lmp(script, quartz, environment={"PYTHONWARNINGS": "error"})
    assert run.returncode == 0, run.output
    plain = lmp(script, quartz)
    for one, other in zip(run.final(), plain.final(), strict=True):
        np.testing.assert_array_equal(one, other)
    result = "the warning is printed, the run goes on"
    workflow(record_property, "PYTHONWARNINGS=error with a library that warns", result)
