"""Fixtures of several topics; they and their helpers are in tests/helpers."""

import os
from pathlib import Path

import pytest
from reliability import pytest_addoption, pytest_configure  # noqa: F401
from runs import fork_server, forked_runs, lmp, python  # noqa: F401
from systems import model_file  # noqa: F401

# Before anything imports Triton: without a GPU its kernels run in its interpreter.
os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def fuzz_seconds() -> float:
    """How long each of the long fuzz tests goes on."""
    return float(os.environ.get("FUZZ_SECONDS", "600"))


@pytest.fixture
def unoptimized():
    """TorchScript as the fix runs it: compiled, without an optimization for each shape."""
    from lammps_trajcast.model.torchscript import unoptimized

    with unoptimized():
        yield


@pytest.fixture(scope="session", autouse=True)
def clean_checkout(request: pytest.FixtureRequest):
    """A test writes into directories of its own: what it leaves here could get into a commit."""
    root = Path(request.config.rootpath)
    before = {path.name for path in root.iterdir()}
    yield
    left = {path.name for path in root.iterdir() if path.name[0] != "."} - before
    assert left <= {"build"}, f"tests have written {sorted(left)} into the checkout"
