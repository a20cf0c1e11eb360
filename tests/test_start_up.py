"""What a start of `lmp` has to load and make before the first step."""

import subprocess
import sys

import e3nn
import pytest
import torch
from e3nn import o3
from e3nn.util.codegen import CodeGenMixin
from models import tiny_model
from test_network_parity import Case

from lammps_trajcast.model import codegen
from lammps_trajcast.model.codegen import quick_construction


@pytest.mark.parametrize("name", ["quartz_l2", "benzene_angular"])
def test_quick_construction_makes_the_same_network(name: str) -> None:
    case = Case(name)
    before = e3nn.get_optimization_defaults()
    with torch.no_grad(), quick_construction():
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


def test_random_weights_do_not_depend_on_what_was_made_before(monkeypatch) -> None:
    monkeypatch.setattr(codegen, "_made", {})
    one, other = (tiny_model().state_dict for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_without_code_says_so() -> None:
    """What the kernels make of its weights: test_network_kernels.py, test_parity."""
    case = Case("quartz_l2")
    with quick_construction(evaluated=False):
        bare = case.model.build(torch.float64)
    with torch.no_grad(), pytest.raises((AssertionError, torch.jit.Error), match="evaluated=False"):
        bare(*case.inputs())
    # Networks made afterwards have their code again.
    with torch.no_grad():
        case.model.build(torch.float64)(*case.inputs())


def test_the_fix_imports_nothing_that_only_training_and_analysis_need() -> None:
    """Each of these would add from a tenth of a second to several seconds to every start."""
    code = "import sys, lammps_trajcast.runtime.bridge; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    unwanted = {
        "lightning",
        "h5py",
        "ase",
        "matplotlib",
        "vesin",
        "typer",
        "pandas",
        "torchmetrics",
        "sympy",
    }
    assert not unwanted & loaded


def test_what_e3nn_makes_with_sympy_is_right_without_it_at_the_start() -> None:
    """Spherical harmonics of angles, of sympy's polynomials, are those of the vectors."""
    code = """
import sys
import lammps_trajcast.quick_start
import torch
from e3nn import o3
assert "sympy" not in sys.modules
torch.manual_seed(0)
directions = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
degrees = [0, 1, 2, 3]
angles = o3.xyz_to_angles(directions)
found = o3.spherical_harmonics_alpha_beta(degrees, *angles, normalization="component")
wanted = o3.spherical_harmonics(degrees, directions, False, normalization="component")
print(float((found - wanted).abs().max()))
import sympy
assert sympy.diff(sympy.Symbol("x") ** 2).subs("x", 3) == 6
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    print(done.stderr)
    assert done.returncode == 0 and float(done.stdout) < 1e-12


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
