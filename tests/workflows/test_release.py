"""What a release needs: one version, a citation, hooks, and continuous integration.

`make wheel` and `make sdist` prove the packages themselves, with release/check.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from locations import ROOT

import lammps_trajcast
from lammps_trajcast.kernels.library import LIBRARY_NAME, LIBRARY_VARIABLE

MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(scope="module")
def check() -> ModuleType:
    specification = importlib.util.spec_from_file_location("check", ROOT / "release" / "check.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None, target
    return [line.strip() for line in found.group(1).splitlines()]


# ---- the version ----


def test_one_source_of_the_version(check) -> None:
    version = lammps_trajcast.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", version)
    assert check.version() == version
    assert metadata.version("lammps-trajcast") == version
    # Nothing else in the files that describe the package says one.
    for name in ("pyproject.toml", "CMakeLists.txt", "CITATION.cff", "Makefile"):
        lines = (ROOT / name).read_text().splitlines()
        assert not [line for line in lines if re.match(r"\s*version *[:=] *[\"']?\d", line)], name
        assert f'"{version}"' not in (ROOT / name).read_text(), name
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] in ("Unreleased", version)


# ---- the citation ----


def test_citation() -> None:
    """The keys that CFF 1.2.0 asks for, and the article of the README's network."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    article = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= article.keys()
    names = [author["family-names"] for author in article["authors"]]
    assert names[0] == "Thiemann" and len(names) == 6
    assert article["journal"] == "Nature Machine Intelligence"
    assert (article["volume"], article["start"], article["year"]) == (8, 764, 2026)
    words = " ".join((ROOT / "docs" / "fix_python_trajcast.md").read_text().split())
    assert article["title"] in words
    assert f'\nlicense = "{citation["license"]}"\n' in (ROOT / "pyproject.toml").read_text()


# ---- hooks and continuous integration ----


def test_hooks_run_what_make_lint_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # nothing is downloaded
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    # clang-format gets the changed files from pre-commit, from make all of them.
    lint = [
        line.replace("$(BIN)", ".venv/bin").removesuffix(" $(sources)") for line in recipe("lint")
    ]
    assert [hook["entry"] for hook in repository["hooks"]] == lint
    (cpp,) = [hook for hook in repository["hooks"] if "clang-format" in hook["entry"]]
    patterns = re.findall(r"fix_src/[^\s)]*", re.search(r"^sources := (.+)$", MAKEFILE, re.M)[1])
    from_make = {
        file
        for pattern in patterns
        for letters in (re.search(r"\[(\w+)\]", pattern) or ["", ""])[1] or [None]
        for file in ROOT.glob(re.sub(r"\[\w+\]", letters or "", pattern))
    }
    tracked = {file for file in (ROOT / "fix_src").rglob("*") if file.is_file()}
    from_hook = {file for file in tracked if re.search(cpp["files"], str(file.relative_to(ROOT)))}
    assert from_hook == from_make


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_make_and_nothing_else(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1, which this parser reads, takes `on` for a truth value.
    assert workflow["name"] == path.stem and workflow[True]
    targets = set(re.findall(r"^([\w-]+)(?= [\w-]+:|:)", MAKEFILE, re.MULTILINE))
    for name, job in workflow["jobs"].items():
        assert job["runs-on"].startswith("ubuntu-") and job["timeout-minutes"] <= 90, name
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert commands, f"{name} runs nothing"
        for command in commands:
            made = re.fullmatch(r"make ([\w-]+)", command)
            assert made is not None and made[1] in targets, f"{name}: {command}"
        actions = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), f"{name}: {step}"


def test_workflows_are_there() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "tests", "wheels"]


def test_each_python_that_the_package_names_is_in_the_matrix() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    assert named and f'requires-python = ">={named[0]}"' in project
    for path, job in (("tests", "test"), ("wheels", "wheel")):
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{path}.yml").read_text())
        assert workflow["jobs"][job]["strategy"]["matrix"]["python"] == named


# ---- compiled libraries ----


def libraries() -> list[Path]:
    names = {LIBRARY_NAME, "trajcast_fix.so", "trajcastplugin.so", "_trajcast_bridge.so"}
    files = metadata.files("lammps-trajcast") or []
    found = [Path(str(file.locate())) for file in files if file.name in names]
    assert {path.name for path in found} == names
    return found


def test_installed_libraries_name_no_path_of_the_machine(check) -> None:
    own = (ROOT, Path(sys.prefix), Path(sys.base_prefix))
    for path in libraries():
        found = check.paths_of_a_machine(path.read_bytes(), own)
        assert not found, f"{path.name}: {found}"


def test_the_demo_runs_in_few_steps(check, lmp, tmp_path) -> None:
    """What proves a package is the script of the demo, cut short; LAMMPS has to take it."""
    script = check.first_steps((ROOT / "examples/lammps_inputs/in.quartz").read_text())
    run = lmp(script.replace("../quartz/", f"{ROOT}/examples/quartz/"))
    assert run.returncode == 0, run.output
    rows = check.thermo(run.output)
    assert [row[0] for row in rows] == list(range(check.STEPS + 1))
    assert all(200.0 < row[2] < 400.0 for row in rows)


def test_paths_of_a_machine_are_found(check, tmp_path) -> None:
    content = b"\0/home/somebody/fix_src/fix.cpp\0/proc/self/maps\0/bin/python3\0/usr/lib/x\0"
    assert check.paths_of_a_machine(content, ()) == ["/home/somebody/fix_src/fix.cpp"]
    content = b"\x48\xb8/srv/y\0\0"  # in the code
    assert check.paths_of_a_machine(content, ()) == []
    assert check.paths_of_a_machine(content, (Path("/srv/y"),)) == ["/srv/y"]


def test_kernels_without_openmp(tmp_path) -> None:
    """A copy of the kernels that needs an OpenMP library nobody has: one line says what to do."""
    (library,) = [path for path in libraries() if path.name == LIBRARY_NAME]
    copy = tmp_path / LIBRARY_NAME
    content = library.read_bytes()
    assert b"\0libgomp.so.1\0" in content
    copy.write_bytes(content.replace(b"\0libgomp.so.1\0", b"\0libgimp.so.1\0"))
    code = "from lammps_trajcast.kernels.library import load_library; load_library()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, LIBRARY_VARIABLE: str(copy)},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode != 0 and last.startswith("ImportError: lammps-trajcast")
    assert "libgimp.so.1" in last and "libgomp1" in last


def bindings(kernels: str, torch: str) -> str:
    line = "  17:\tbinding file /e/{} [0] to {} [0]: normal symbol `GOMP_parallel' [GOMP_4.0]\n"
    return line.format("libtrajcast_kernels.so", kernels) + line.format("libtorch_cpu.so", torch)


@pytest.mark.parametrize(
    "maps,kernels,torch,fault",
    [
        (["/e/torch/libgomp.so.1"], "/e/torch/libgomp.so.1", "/e/torch/libgomp.so.1", None),
        (
            ["/e/torch/libgomp.so.1", "/e/lammps.libs/libgomp-1.so"],
            "/e/torch/libgomp.so.1",
            "/e/lammps.libs/libgomp-1.so",
            "several OpenMP libraries",
        ),
        (["/usr/lib/libgomp.so.1"], "/usr/lib/libgomp.so.1", "/usr/lib/libgomp.so.1", "neither"),
        (
            ["/e/lammps_trajcast.libs/libgomp-2.so"],
            "/e/lammps_trajcast.libs/libgomp-2.so",
            "/e/lammps_trajcast.libs/libgomp-2.so",
            "neither",
        ),
        ([], "/e/torch/libgomp.so.1", "/e/torch/libgomp.so.1", "no OpenMP"),
    ],
)
def test_a_second_openmp_is_found(check, tmp_path, maps, kernels, torch, fault) -> None:
    (tmp_path / "maps").write_text("".join(f"7f-80 r-xp 0 fe:0 1 {file}\n" for file in maps))
    (tmp_path / "bindings").write_text(bindings(kernels, torch))
    arguments = (tmp_path / "maps", [tmp_path / "bindings"], Path("/e"))
    if fault is None:
        check.check_openmp(*arguments)
    else:
        with pytest.raises(check.PackageError, match=fault):
            check.check_openmp(*arguments)
