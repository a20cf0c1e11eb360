"""The modules of the package import one another in one direction."""

import ast
import graphlib
from pathlib import Path

import lammps_trajcast

PACKAGE = Path(str(lammps_trajcast.__file__)).parent


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("lammps_trajcast", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path, names: set[str]) -> set[str]:
    """What a module imports, also inside of functions, but not for annotations alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & names or {node.module}
    return found & names


def test_imports_make_no_circle() -> None:
    paths = modules()
    graph = {name: imported(path, set(paths)) - {name} for name, path in paths.items()}
    assert graph["lammps_trajcast.runtime.bridge"] and len(graph) > 100
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle
