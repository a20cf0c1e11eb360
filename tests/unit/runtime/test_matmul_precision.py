"""How torch multiplies matrices of single precision: a step has its way, the process keeps its."""

from collections.abc import Iterator

import pytest
import torch

from lammps_trajcast.runtime.matmul_precision import MatmulPrecision
from lammps_trajcast.runtime.process_settings import ProcessSettings
from lammps_trajcast.runtime.torch_settings import own_torch_settings

CUDA = torch.backends.cuda.matmul
newer = pytest.mark.skipif(not hasattr(CUDA, "fp32_precision"), reason="torch before 2.9")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = MatmulPrecision.now()
    yield
    before.apply()
    assert MatmulPrecision.now() == before


@pytest.mark.parametrize("name", ["highest", "high", "medium"])
def test_a_step_has_the_highest_precision(name: str) -> None:
    torch.set_float32_matmul_precision(name)
    before = MatmulPrecision.now()
    with own_torch_settings():
        assert torch.get_float32_matmul_precision() == "highest"
    assert MatmulPrecision.now() == before and before.name == name


@newer
def test_the_newer_setting_of_a_process() -> None:
    """Of one backend alone: torch raises if it is asked for the old one."""
    CUDA.fp32_precision = "tf32"
    assert MatmulPrecision.now().name is None
    with own_torch_settings():
        assert torch.get_float32_matmul_precision() == "highest" and CUDA.fp32_precision != "tf32"
    assert CUDA.fp32_precision == "tf32"


def test_a_calculator_keeps_its_own() -> None:
    settings = ProcessSettings([], alone=True)
    with settings.active():
        torch.set_float32_matmul_precision("medium")
    assert torch.get_float32_matmul_precision() == "highest"
    with settings.active():
        assert torch.get_float32_matmul_precision() == "medium"


@newer
def test_a_calculator_keeps_its_newer_setting() -> None:
    settings = ProcessSettings([], alone=True)
    with settings.active():
        CUDA.fp32_precision = "tf32"
    assert torch.get_float32_matmul_precision() == "highest" and CUDA.fp32_precision == "none"
    with settings.active():
        assert CUDA.fp32_precision == "tf32"
