"""The page of reliability: what tests recorded about themselves, and whether they passed.

A test that belongs on the page calls its fixture `record_property`:

    record_property("reliability", {"table": "fault", "name": "disk full", "result": "..."})

`make reliability` runs the tests and writes docs/reliability.md. Results lie in
docs/reliability.json, where a row stays until its test runs again.
"""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import pytest


class Table(NamedTuple):
    title: str
    about: str
    columns: tuple[str, str]


TABLES = {
    "workflow": Table(
        "Workflows", "What LAMMPS users do with any integrator.", ("workflow", "measured")
    ),
    "wrong input": Table(
        "Wrong inputs",
        "Each ends with one error, which names the fix or the command, what is wrong and what to "
        "write instead, and with an exit status other than zero (in LAMMPS's Python module: an "
        "exception, after which the process goes on).",
        ("input", "what the error says"),
    ),
    "host state": Table(
        "The process that runs the fix",
        "The fix starts Python in the process of LAMMPS, or runs in that of a Python program. What "
        "the process has set is read before the fix is defined, after that, and after a run.",
        ("process", "the same before and after"),
    ),
    "energy": Table(
        "Who asks for the energy of the reference potential",
        "With the keyword `energy` the potential is evaluated only when somebody asks for it. "
        "These evaluate the pair style themselves, at other times than output does.",
        ("fix or compute", "compared with"),
    ),
    "data set": Table(
        "Data sets that contradict themselves",
        "Each is refused with one line that names the file; no data set is left behind.",
        ("input", "what the error says"),
    ),
    "guard": Table(
        "Guards", "Predictions that cannot be right, and what is done.", ("case", "measured")
    ),
    "fault": Table("Faults", "What happens to files, processes and machines.", ("fault", "result")),
    "endurance": Table("Endurance and memory", "Long runs, and every access.", ("run", "measured")),
}

ABOUT = """# Reliability

Written by `make reliability` from the results of the tests named in the last column; a row is of
the day on which its test last ran. Times and memory are those of a machine with two cores.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability",
        metavar="DIRECTORY",
        help="write reliability.md there, with the rows that tests record",
    )


class Rows:
    """Collects the rows of this session; under pytest-xdist those of all its processes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._new: list[tuple[str, str, dict[str, str]]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or report.skipped:
            return
        for name, row in report.user_properties:
            if name == "reliability" and isinstance(row, dict):
                self._new.append(
                    (
                        row["table"],
                        row["name"],
                        {
                            "result": row["result"] if report.passed else "**failed**",
                            "test": Path(report.nodeid.partition("::")[0]).name,
                            "date": date.today().isoformat(),
                        },
                    )
                )

    def pytest_sessionfinish(self) -> None:
        stored = self._directory / "reliability.json"
        tables: dict[str, dict[str, dict[str, str]]] = (
            json.loads(stored.read_text()) if stored.is_file() else {}
        )
        for table, name, row in self._new:
            tables.setdefault(table, {})[name] = row
        stored.write_text(json.dumps(tables, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
        (self._directory / "reliability.md").write_text(page(tables))


def pytest_configure(config: pytest.Config) -> None:
    directory = config.getoption("reliability")
    if directory is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Rows(Path(directory)))


def page(tables: dict[str, dict[str, dict[str, str]]]) -> str:
    """The page as Markdown, tables in the order of TABLES and rows by name."""
    lines = [ABOUT]
    for key, table in TABLES.items():
        rows = tables.get(key, {})
        if not rows:
            continue
        lines += [f"## {table.title}", "", f"{table.about} {len(rows)} rows.", ""]
        lines += [f"| {table.columns[0]} | {table.columns[1]} | test |", "|---|---|---|"]
        for name, row in sorted(rows.items()):
            cells = [name, row["result"], f"{row['test']}, {row['date']}"]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def wrong_input(record_property: Callable[[str, object], None], name: str, says: str) -> None:
    """Record a wrong input, and part of the error that it meets."""
    record_property("reliability", {"table": "wrong input", "name": name, "result": f"… {says} …"})


def fault(record_property: Callable[[str, object], None], name: str, result: str) -> None:
    """Record a fault and what comes of it."""
    record_property("reliability", {"table": "fault", "name": name, "result": result})


def workflow(record_property: Callable[[str, object], None], name: str, result: str) -> None:
    """Record a workflow and what was measured."""
    record_property("reliability", {"table": "workflow", "name": name, "result": result})


def host_state(record_property: Callable[[str, object], None], name: str, result: str) -> None:
    """Record a process and what it keeps."""
    record_property("reliability", {"table": "host state", "name": name, "result": result})


def energy(record_property: Callable[[str, object], None], name: str, result: str) -> None:
    """Record who evaluates the pair style, and what the energies were compared with."""
    record_property("reliability", {"table": "energy", "name": name, "result": result})


def contradiction(record_property: Callable[[str, object], None], name: str, says: str) -> None:
    """Record a data set that contradicts itself, and part of the error that it meets."""
    record_property("reliability", {"table": "data set", "name": name, "result": f"… {says} …"})
