"""Failures on one rank of several: one message, a status other than zero, and nobody waits."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from locations import ENVIRONMENT
from reliability import fault, wrong_input
from runs import lammps_environment
from systems import System, load_case

from lammps_trajcast.model.file import ModelFile

PATIENCE = 30.0  # seconds from the failure to the end of the job


@pytest.fixture
def quartz() -> System:
    return load_case("quartz_l2")


@pytest.fixture
def sabotaged(lmp, quartz, model_file, tmp_path):
    """Function: a run on two ranks, with Python code that each of them runs at its start."""

    def run(code: str, ranks: int = 2, options: str = ""):
        directory = tmp_path / "sabotage"
        directory.mkdir(exist_ok=True)
        (directory / "sitecustomize.py").write_text(code)
        return lmp(
            quartz.script(model_file("quartz_l2"), 5, options=f"guard error {options}"),
            quartz,
            ranks=ranks,
            environment={"PYTHONPATH": str(directory)},
        )

    return run


# Replaces a method on rank 1, in whose third call something is done to the result.
ON_RANK_1 = """
import os, pathlib, time
if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
    from lammps_trajcast.runtime import direct_backend, halo, kernel_backend
    calls = 0
    def replace(cls, name, act):
        plain = getattr(cls, name)
        def method(self, *arguments):
            global calls
            calls += 1
            if calls == 3:
                pathlib.Path("failed").write_text(str(time.time()))
                return act(plain(self, *arguments))
            return plain(self, *arguments)
        setattr(cls, name, method)
    def fail(error):
        raise error
"""

LONG = pytest.mark.long

FAILURES = {
    "out of memory": (
        "replace(kernel_backend.KernelBackend, 'layer', lambda _: fail(MemoryError()))",
        "out of memory with",
    ),
    "in the network": (
        "replace(kernel_backend.KernelBackend, 'layer', lambda _: fail(RuntimeError('sabotage')))",
        "unexpected RuntimeError: sabotage",
    ),
    "without torch": (
        "replace(direct_backend.DirectBackend, 'layer', lambda _: fail(MemoryError()))",
        "out of memory with",
    ),
    "in the exchange": (
        "replace(halo.MpiHalo, 'start', lambda _: fail(RuntimeError('sabotage')))",
        "unexpected RuntimeError: sabotage",
    ),
    "not a number": (
        "replace(kernel_backend.KernelBackend, 'read_out', lambda target: target * float('nan'))",
        "at step 3 is not a number",
    ),
}


USUAL = ("out of memory", "without torch", "in the exchange")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in USUAL else [LONG]) for case in FAILURES],
)
def test_failure_of_one_rank_in_a_step(case, sabotaged, tmp_path, record_property) -> None:
    act, message = FAILURES[case]
    kernels = "direct" if case == "without torch" else "fused"
    run = sabotaged(f"{ON_RANK_1}    {act}\n", options=f"kernels {kernels}")
    ended = time.time()
    assert message in run.error() and "python/trajcast" in run.error()
    assert run.returncode != 0
    seconds = ended - float((tmp_path / "failed").read_text())
    assert seconds < PATIENCE
    result = f"one message on all ranks, status {run.returncode}, {seconds:.1f} s later"
    fault(record_property, f"one MPI rank fails: {case}", result)


def test_killed_rank(sabotaged, tmp_path, record_property) -> None:
    kill = "replace(kernel_backend.KernelBackend, 'layer', lambda _: os.kill(os.getpid(), 9))"
    run = sabotaged(f"{ON_RANK_1}    {kill}\n")
    assert run.returncode != 0
    seconds = time.time() - float((tmp_path / "failed").read_text())
    assert seconds < PATIENCE
    result = f"the job ends with status {run.returncode}, {seconds:.1f} s later"
    fault(record_property, "one MPI rank killed (kill -9)", result)


def test_no_mpi4py(sabotaged, record_property) -> None:
    """One rank does without."""
    absent = "import sys\nsys.modules['mpi4py'] = None\n"
    run = sabotaged(absent)
    assert "pip install mpi4py" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "several MPI ranks without mpi4py", "pip install mpi4py")
    assert sabotaged(absent, ranks=1).returncode == 0


def test_mpi4py_of_another_mpi(sabotaged, tmp_path, record_property) -> None:
    """An MPI library that is not LAMMPS's is not called, only asked for its name."""
    (tmp_path / "other.c").write_text("int PMPI_Comm_rank(void) { return 1; }\n")
    library = tmp_path / "libother.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "other.c"], check=True)
    run = sabotaged(
        f"""
import sys, types
package, mpi = types.ModuleType("mpi4py"), types.ModuleType("mpi4py.MPI")
package.rc = types.SimpleNamespace()
package.MPI = mpi
mpi.__file__ = {str(library)!r}
mpi.Get_library_version = lambda: "Another MPI v1.2\\nof today"
sys.modules.update({{"mpi4py": package, "mpi4py.MPI": mpi}})
"""
    )
    assert "MPI" in run.error() and "'Another MPI v1.2'" in run.error()
    assert "--no-binary mpi4py" in run.error()
    assert run.returncode != 0
    wrong_input(record_property, "mpi4py of another MPI than LAMMPS's", "--no-binary mpi4py")


def run_in_directories(quartz: System, directory: Path) -> subprocess.CompletedProcess[str]:
    """Two ranks, each in a directory of its own with its own model.safetensors."""
    for rank in ("0", "1"):
        quartz.write_data(directory / rank / "system.data")
    (directory / "0" / "in.test").write_text(quartz.script(Path("model.safetensors"), 1))
    lmp = ENVIRONMENT / "bin/lmp"
    command = f'cd "${{PMI_RANK:-$OMPI_COMM_WORLD_RANK}}" && exec {lmp} -in in.test -log none'
    return subprocess.run(
        [ENVIRONMENT / "bin/mpirun", "-np", "2", "sh", "-c", command],
        cwd=directory,
        env=lammps_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )


ON_RANK_1_ONLY = {
    "cut off": (lambda path, content: path.write_bytes(content[:5000]), "not a whole model file"),
    "unreadable": (lambda path, _: path.symlink_to(path), "cannot be read"),
}


@pytest.mark.parametrize("case", ON_RANK_1_ONLY)
def test_model_file_broken_on_one_machine(
    case, quartz, model_file, tmp_path, record_property
) -> None:
    content = model_file("quartz_l2").read_bytes()
    put, says = ON_RANK_1_ONLY[case]
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    (tmp_path / "0/model.safetensors").write_bytes(content)
    put(tmp_path / "1/model.safetensors", content)
    run = run_in_directories(quartz, tmp_path)
    errors = [line for line in run.stdout.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1 and says in errors[0], run.stdout
    assert run.returncode != 0
    wrong_input(record_property, f"model file {case} on one MPI rank", says)


def test_model_file_another_on_one_machine(quartz, model_file, tmp_path, record_property) -> None:
    model = ModelFile.load(model_file("quartz_l2"))
    name = next(iter(model.state_dict))
    for rank, factor in (("0", 1.0), ("1", 1.0 + np.finfo(np.float32).eps)):
        (tmp_path / rank).mkdir()
        changed = {**model.state_dict, name: model.state_dict[name] * factor}
        ModelFile(model.metadata, changed).save(tmp_path / rank / "model.safetensors")
    run = run_in_directories(quartz, tmp_path)
    errors = [line for line in run.stdout.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1 and "not the same on all MPI ranks" in errors[0], run.stdout
    assert run.returncode != 0
    wrong_input(
        record_property, "another model file on one MPI rank", "not the same on all MPI ranks"
    )


@pytest.mark.parametrize("ranks", [1, 2])
def test_tf32_without_a_gpu(lmp, quartz, model_file, ranks) -> None:
    """The same error on all ranks, which LAMMPS prints once."""
    script = quartz.script(model_file("quartz_l2"), options="device cpu precision tf32")
    run = lmp(script, quartz, ranks=ranks)
    assert run.returncode != 0
    assert "python/trajcast" in run.error() and "write 'precision single'" in run.error()
    assert "on proc" not in run.error()  # LAMMPS's sign of an error that not all ranks have
