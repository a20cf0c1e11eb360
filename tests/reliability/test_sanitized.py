"""The kernels' own tests under AddressSanitizer, and runs of the fix under UBSan as well.

`make sanitize` builds the libraries and names their directory in TRAJCAST_SANITIZED. An error ends
the process with a status other than zero and a report.
"""

import ctypes.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from locations import ENVIRONMENT, TESTS
from runs import lammps_binary, lammps_environment
from systems import load_case

pytestmark = pytest.mark.sanitize

KERNELS = "libtrajcast_kernels.so"


@pytest.fixture
def build() -> Path:
    return Path(os.environ["TRAJCAST_SANITIZED"])


@pytest.fixture
def environment(build) -> dict[str, str]:
    """Python and LAMMPS are not instrumented: the sanitizer has to be there before them."""
    compiler = os.environ.get("CXX", "c++")
    library = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    standard = ctypes.util.find_library("stdc++")
    assert Path(library).is_file() and standard is not None
    return lammps_environment(
        LD_PRELOAD=f"{library} {standard}",
        LAMMPS_TRAJCAST_KERNELS=str(build / KERNELS),
        # Python frees little of what it holds at its end.
        ASAN_OPTIONS="detect_leaks=0:verify_asan_link_order=0:abort_on_error=0",
        UBSAN_OPTIONS="print_stacktrace=1",
    )


def run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    finished = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3600,
    )
    assert finished.returncode == 0, finished.stdout[-5000:]
    assert "Sanitizer" not in finished.stdout and "runtime error" not in finished.stdout
    return finished.stdout


def test_an_error_is_found(build, environment, tmp_path) -> None:
    """The kernels read the edge vectors that they are told of: one more than there are."""
    code = """
import sys
sys.path.append("helpers")
import numpy as np, torch
from models import kernels_of
from networks import architecture, network
from lammps_trajcast.kernels.library import ffi, load_library
arch = architecture(1, 8)
kernels = kernels_of(network(arch), arch, torch.float64)
vectors, edges = np.ones(3 * 100), np.empty((kernels.edge_rows, 128))
load_library().trajcast_network_edges(
    kernels.handle, 101, ffi.cast("double *", vectors.ctypes.data), 128,
    ffi.cast("void *", edges.ctypes.data), 1
)
"""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode != 0 and "heap-buffer-overflow" in finished.stderr


def test_kernels(environment, record_property) -> None:
    names = ["kernels/test_kernels", "kernels/test_network_kernels", "kernels/test_thread_pool"]
    names += ["runtime/test_backend", "energy/test_energy"]
    output = run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *(f"unit/{name}.py" for name in names)],
        TESTS,
        {**environment, "TRITON_INTERPRET": "1"},
    )
    result = f"{output.splitlines()[-1].strip('= ')}; no error"
    name = "kernels under AddressSanitizer"
    record_property("reliability", {"table": "endurance", "name": name, "result": result})


SCRIPTS = {
    "a rebuild of the neighbor list in each step": "neigh_modify delay 0 check no",
    "box that is deformed": "change_box all triclinic\nfix 2 all deform 1 xy erate 1e-5",
    "atoms that leave and come": "velocity all ramp vx 0 0.01 x 0 9",
}


@pytest.mark.parametrize("ranks", [0, 2])
def test_fix(ranks, build, environment, model_file, tmp_path, record_property) -> None:
    quartz = load_case("quartz_l2")
    quartz.write_data(tmp_path / "system.data")
    model = model_file("quartz_l2")
    runs = [quartz.script(model, 5, extra=extra) for extra in SCRIPTS.values()]
    benzene = load_case("benzene_angular")
    pair = replace(
        benzene,
        positions=np.concatenate([benzene.positions, benzene.positions + [0.0, 0.0, 30.0]]),
        velocities=np.concatenate([benzene.velocities] * 2),
        types=np.concatenate([benzene.types] * 2),
        cell=60.0 * np.eye(3),
    )
    pair.write_data(tmp_path / "molecules.data")
    ids = "fix ids all property/atom mol\nset group all mol 1\nset atom 13*24 mol 2\n"
    fix = (
        f"{ids}fix 1 all python/trajcast {model_file('benzene_angular')} {' '.join(pair.elements)}"
    )
    runs.append(pair.script(model, 5, fix=fix).replace("system.data", "molecules.data"))
    (tmp_path / "in.test").write_text("\nclear\n".join(runs))
    launcher = [str(ENVIRONMENT / "bin/mpirun"), "-np", str(ranks)] if ranks else []
    output = run(
        [*launcher, str(lammps_binary()), "-in", "in.test", "-log", "none"],
        tmp_path,
        {
            **environment,
            "LAMMPS_PLUGIN_PATH": str(build),
            "LD_LIBRARY_PATH": str(ENVIRONMENT / "lib"),
        },
    )
    assert output.count("Loop time") == len(runs)
    name = f"fix on {ranks or 1} rank(s) under AddressSanitizer and UBSan"
    result = f"{len(runs)} runs; no error"
    record_property("reliability", {"table": "endurance", "name": name, "result": result})
