"""What a start of `lmp` has to load and make before the first step."""

import subprocess
import sys
from pathlib import Path

import e3nn
import pytest
import torch
from e3nn import o3
from e3nn.math import _normalize_activation, normalize2mom
from e3nn.util.codegen import CodeGenMixin
from models import tiny_model
from networks import Case

from lammps_trajcast.model import codegen
from lammps_trajcast.model.codegen import without_optimized_einsums

# Each of these would add from a tenth of a second to several seconds to every start.
UNWANTED = {
    "ase",
    "e3nn",
    "h5py",
    "lightning",
    "matplotlib",
    "opt_einsum_fx",
    "pandas",
    "scipy",
    "sympy",
    "torch._dynamo",
    "torch._inductor",
    "torchmetrics",
    "triton",
    "typer",
    "vesin",
    "yaml",
}


@pytest.mark.parametrize("name", ["quartz_l2", "benzene_angular"])
def test_networks_without_optimized_einsums_are_the_same(name: str) -> None:
    case = Case(name)
    before = e3nn.get_optimization_defaults()
    with torch.no_grad(), without_optimized_einsums():
        found = case.model.build(torch.float64)(*case.inputs())
    assert e3nn.get_optimization_defaults() == before
    for field in ("displacement", "velocity"):
        wanted = torch.from_numpy(case.expected[field])
        assert float((getattr(found, field) - wanted).abs().max() / wanted.abs().max()) < 1e-11


def test_code_is_written_once_and_shared_by_no_two_networks(monkeypatch) -> None:
    """A second network has its own copy: one in single precision does not change the other."""
    monkeypatch.setattr(codegen, "_made", {})
    made, written = [], []
    for _ in range(2):
        made.append(Case("quartz_l2").model.build(torch.float64))
        written.append(len(codegen._made))
    # Layers that are alike share their code, and a second network needs no other.
    modules = sum(isinstance(module, CodeGenMixin) for module in made[0].modules())
    assert written[0] == written[1] < 0.7 * modules
    made[0].to(torch.float32)
    case = Case("quartz_l2")
    with torch.no_grad():
        found = made[1](*case.inputs())
    for field in ("displacement", "velocity"):
        wanted = torch.from_numpy(case.expected[field])
        assert float((getattr(found, field) - wanted).abs().max() / wanted.abs().max()) < 1e-11


def test_code_of_a_type_is_of_this_type(monkeypatch) -> None:
    """Coefficients have the type that was the default when they were made."""
    monkeypatch.setattr(codegen, "_made", {})
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            with codegen.remembered_code():
                product = o3.FullTensorProduct("1o", "1o")
        finally:
            torch.set_default_dtype(torch.float32)
        assert {buffer.dtype for buffer in product.buffers() if buffer.is_floating_point()} == {
            dtype
        }


def test_moments_are_integrated_once_and_are_e3nns(monkeypatch) -> None:
    monkeypatch.setattr(codegen, "_moments", {})
    original, calls = _normalize_activation.moment, []

    def counted(*arguments, **options):
        calls.append(arguments)
        return original(*arguments, **options)

    monkeypatch.setattr(_normalize_activation, "moment", counted)
    with codegen.remembered_code():
        found = [normalize2mom(f).cst for f in (torch.tanh, torch.relu, torch.tanh)]
    assert len(calls) == 2 and _normalize_activation.moment is counted
    assert found == [normalize2mom(f).cst for f in (torch.tanh, torch.relu, torch.tanh)]
    assert len(calls) == 5


def test_random_weights_do_not_depend_on_what_was_made_before(monkeypatch) -> None:
    monkeypatch.setattr(codegen, "_made", {})
    one, other = (tiny_model().state_dict for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def after_a_step(path: Path, prepare: str = "", answer: str = "", kernels: str = "fused") -> str:
    """What a fresh process prints after a step of the model, by default with the fix's kernels."""
    code = f"""
import sys
{prepare}
import lammps_trajcast.runtime.bridge
import numpy as np
from lammps_trajcast.runtime.predictor import Frame, Predictor
for precision in ("single", "double"):
    predictor = Predictor.from_file({str(path)!r}, ["Si", "O"], precision=precision, device="cpu",
        kernels={kernels!r})
    predictor.step(Frame(
        types=np.array([1, 2], np.int32), positions=np.zeros((2, 3)), velocities=np.zeros((2, 3)),
        masses=np.ones(2), first_edge=np.array([0, 1, 2]), senders=np.array([1, 0]),
        edge_vectors=np.array([[1.6, 0, 0], [-1.6, 0, 0]]),
    ))
{answer}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_step_imports_nothing_that_only_training_and_analysis_need(model_file) -> None:
    loaded = set(after_a_step(model_file("quartz_l2"), answer="print(*sys.modules)").split())
    assert "lammps_trajcast.kernels.network" in loaded
    assert not UNWANTED & loaded


def test_a_step_without_torch_does_not_import_it(model_file) -> None:
    answer = "print(*sys.modules)"
    loaded = set(after_a_step(model_file("quartz_l2"), answer=answer, kernels="direct").split())
    assert "lammps_trajcast.kernels.network" in loaded
    assert not (UNWANTED | {"torch"}) & loaded


def test_model_file_and_kernels_need_no_torch(model_file) -> None:
    """What they are made of is NumPy; torch serves the step."""
    code = f"""
import sys
from lammps_trajcast.kernels.network import NetworkKernels
from lammps_trajcast.model.file import ModelFile
model = ModelFile.load({str(model_file("quartz_l2"))!r})
NetworkKernels(model.metadata.architecture, model.weights, "single")
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (UNWANTED | {"torch"}) & set(done.stdout.split())


def test_a_step_changes_nothing_in_python_torch_or_e3nn(model_file) -> None:
    """Not for a moment either: whoever sets an attribute of a package that is there is recorded."""
    prepare = """
import builtins, types
import torch, e3nn, e3nn.o3, e3nn.math._normalize_activation
changed = []
class Watched(types.ModuleType):
    def __setattr__(self, name, value):
        if name in vars(self) and not isinstance(vars(self)[name], types.ModuleType):
            changed.append(self.__name__ + "." + name)
        super().__setattr__(name, value)
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in ("builtins", "torch", "e3nn") and type(module) is types.ModuleType:
        module.__class__ = Watched
before = builtins.__import__, list(sys.meta_path)
"""
    answer = "print(changed, before == (builtins.__import__, list(sys.meta_path)))"
    assert after_a_step(model_file("quartz_l2"), prepare, answer).strip() == "[] True"


@pytest.mark.own_process
def test_a_start_prints_no_warnings(lmp, model_file) -> None:
    """What users cannot change is no news to them."""
    path = model_file("quartz_l2")
    done = lmp(
        f"""\
units           metal
region          box block 0 20 0 20 0 20
create_box      2 box
create_atoms    1 random 10 1 box overlap 2.0
create_atoms    2 random 20 2 box overlap 1.5
mass            1 28.085
mass            2 15.999
pair_style      zero 5.0
pair_coeff      * *
fix             1 all python/trajcast {path} Si O guard off
"""
    )
    assert done.returncode == 0, done.output
    assert "Warning" not in done.output


def test_few_files_are_looked_up() -> None:
    """Each module's own, not the real paths of all of them again for some functions of torch."""
    code = """
import inspect, os
found, before = [], inspect.getmodule
real = os.path.realpath
def counted(path, **options):
    found.append(path)
    return real(path, **options)
os.path.realpath = counted
from lammps_trajcast.runtime.imports import few_look_ups
with few_look_ups():
    import torch.nn.functional
assert inspect.getmodule is before
assert inspect.getmodule(torch.nn.functional.relu) is torch.nn.functional
print(len(found))
"""
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert int(run.stdout) < 200


def test_kernels_without_torch_leave_it_its_openmp(model_file) -> None:
    """One library of that name, torch's, whichever comes first; then torch works as ever."""
    answer = """
maps = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp.so.1" in line}
import pathlib, torch
expected = pathlib.Path(torch.__file__).parent / "lib/libgomp.so.1"
assert not expected.exists() or maps == {str(expected)}, maps
assert float((torch.ones(300, 300) @ torch.ones(300, 300)).sum()) == 300**3
print("one library")
"""
    printed = after_a_step(model_file("quartz_l2"), answer=answer, kernels="direct")
    assert printed.strip() == "one library"
