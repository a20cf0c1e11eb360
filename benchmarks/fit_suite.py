"""python -m benchmarks.fit_suite: `lammps-trajcast fit` on systems that nobody tuned.

Every system runs with the defaults of `fit` in a directory of its own and goes on where it was
interrupted. What came out is written after each system, so that a cut run keeps what it has.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import yaml
from rich.console import Console

from benchmarks.machine import describe_machine, describe_versions
from benchmarks.report import fill_in, markdown

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ROOT / "examples" / "fit_suite" / "systems.yaml"
RESULTS = Path(__file__).resolve().parent / "results_fit.json"
PAGE = ROOT / "docs" / "fit_suite.md"
# Share of decided checks that each system is to pass.
TARGET = 0.95

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class System(NamedTuple):
    """A reference. elements: of LAMMPS type 1, 2, …; temperature: K."""

    name: str
    title: str
    file: Path
    elements: list[str]
    temperature: float


def systems() -> dict[str, System]:
    """Return those of the YAML file, in its order."""
    found = {}
    for name, entry in yaml.safe_load(SYSTEMS.read_text()).items():
        file = SYSTEMS.parent / entry.get("system", f"{name}.lmp")
        found[name] = System(name, entry["title"], file, entry["elements"], entry["temperature"])
    return found


def select(names: str) -> list[System]:
    """Return the systems that a list like "argon,salt" names; "all" is all of them."""
    known = systems()
    if names == "all":
        return list(known.values())
    chosen = names.replace(",", " ").split()
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise typer.BadParameter(f"no system {unknown[0]}: write some of {' '.join(known)}, or all")
    return [known[name] for name in chosen]


def fit_command(system: System, place: Path, budget: str) -> list[str]:
    """Return the words of a fit with its defaults, into a directory."""
    return [
        str(Path(sys.executable).parent / "lammps-trajcast"),
        *("fit", str(system.file), "--elements", *system.elements),
        *("--temperature", f"{system.temperature:g}", "--budget", budget, "-o", str(place)),
    ]


def run_fit(system: System, directory: Path, budget: str, threads: int) -> dict[str, Any]:
    """Fit one system; returns its row.

    The verdict of a fit that was stopped by an error is "error", with the message as its note.
    """
    place = directory / system.name
    command = fit_command(system, place, budget)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    place.mkdir(parents=True, exist_ok=True)
    with (place / "display.txt").open("a") as display:
        done = subprocess.run(command, stdout=display, stderr=subprocess.STDOUT, env=environment)
    row: dict[str, Any] = {
        "title": system.title,
        "temperature": system.temperature,
        "budget": budget,
        "threads": threads,
        "status": done.returncode,
        "date": datetime.date.today().isoformat(),
        "commit": describe_versions()["commit"],
    }
    found = place / "verdict.json"
    if done.returncode in (0, 2, 3) and found.is_file():
        return row | json.loads(found.read_text())
    lines = (place / "display.txt").read_text().strip().splitlines()
    return row | {"verdict": "error", "note": lines[-1] if lines else ""}


def share_passed(row: dict[str, Any]) -> float | None:
    """Return the share of decided checks that passed; None if none was decided."""
    decided = row.get("passed", 0) + len(row.get("fails", ()))
    return row["passed"] / decided if decided else None


def table(results: dict[str, Any]) -> str:
    """Return the rows as a Markdown table."""
    lines = []
    for row in results["rows"].values():
        share = share_passed(row)
        if share is None:
            lines.append([row["title"], f"{row['temperature']:g}", row["verdict"], *["–"] * 6])
            continue
        steps = round(row["horizon"] / row["timestep"])
        kind = "reversible" if row["reversible"] else "plain"
        speed = row["speed"]
        lines.append(
            [
                row["title"],
                f"{row['temperature']:g}",
                row["verdict"],
                f"{row['passed']} of {row['passed'] + len(row['fails'])}",
                str(len(row["undecided"])),
                f"{row['horizon']:g} fs, {kind}",
                f"{steps}",
                "–" if speed is None else f"{speed:.2g}",
                f"{row['seconds'] / 60.0:.0f} min",
            ]
        )
    header = ["system", "K", "verdict", "decided checks that pass", "undecided", "horizon"]
    header += ["over the MD step", "speed over the reference", "time of the fit"]
    return markdown(header, lines)


def failures(results: dict[str, Any]) -> str:
    """Return what failed or stopped, one line a system."""
    lines = []
    for row in results["rows"].values():
        faults = [*row.get("fails", ())] or ([row["note"]] if row.get("note") else [])
        if faults:
            lines.append(f"* {row['title']}: {'; '.join(faults)}.")
    return "\n".join(lines) or "None."


def machine(results: dict[str, Any]) -> str:
    """Return one paragraph: machine, versions, budgets."""
    known, versions = results["machine"], results["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    budgets = sorted({f"{r['budget']} on {r['threads']} threads" for r in results["rows"].values()})
    dates = sorted({row["date"] for row in results["rows"].values()})
    return (
        f"{known['processor']}, {known['cores']} cores; {packages}. Budget {', '.join(budgets)}. "
        f"Run on {', '.join(dates)}. Nothing was changed by hand."
    )


@app.command()
def run(
    names: Annotated[str, typer.Option("--systems", help="Some of them, or all.")] = "all",
    budget: Annotated[str, typer.Option(help="Wall time of each fit.")] = "2h",
    threads: Annotated[int, typer.Option(min=1, help="OpenMP threads.")] = 2,
    directory: Annotated[Path, typer.Option(help="Of the fits.")] = ROOT / "build" / "fit_suite",
) -> None:
    """Run `fit` on the systems one after the other; finished ones are not repeated."""
    console = Console()
    chosen = select(names)
    results = {"rows": {}}
    if RESULTS.is_file():
        results = json.loads(RESULTS.read_text())
    for number, system in enumerate(chosen, 1):
        console.print(f"{number} of {len(chosen)}: {system.title}, at most {budget}")
        row = run_fit(system, directory, budget, threads)
        results["rows"][system.name] = row
        results["rows"] = {
            name: results["rows"][name] for name in systems() if name in results["rows"]
        }
        results["machine"], results["versions"] = describe_machine(), describe_versions()
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        share = share_passed(row)
        decided = "" if share is None else f", {100 * share:.0f} % of the decided checks pass"
        console.print(f"   {row['verdict']}{decided}")


@app.command()
def report() -> None:
    """Fill in the page with what has been measured."""
    results = json.loads(RESULTS.read_text())
    sections = {
        "machine": machine(results),
        "results": table(results),
        "failures": failures(results),
    }
    PAGE.write_text(fill_in(PAGE.read_text(), sections))


if __name__ == "__main__":
    app()
