"""python -m benchmarks: measure, print the table, write JSON; `report` fills in the page."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.child import BenchmarkError, in_child
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.rows import ROWS, Outcome, Session, Sizes

RESULTS = Path(__file__).resolve().parent / "results.json"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def select_rows(names: str) -> list[str]:
    """Return the rows that a list like "wide,start" names; "all" is all of them."""
    if names == "all":
        return list(ROWS)
    chosen = names.replace(",", " ").split()
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        raise typer.BadParameter(f"no row {unknown[0]}: write some of {' '.join(ROWS)}, or all")
    return chosen


def measure_rows(names: list[str], sizes: Sizes) -> dict[str, Any]:
    """Measure rows one after the other; one that fails says why and does not stop the others.

    Returns:
        by name, what the JSON file holds of a row.
    """
    session = Session(sizes)
    versions = describe_versions()
    results: dict[str, Any] = {}
    for name in (bar := tqdm(names, unit="row", leave=False)):
        bar.set_postfix_str(f"{name}, about {ROWS[name].minutes:g} min")
        load = os.getloadavg()[0]
        begin = datetime.datetime.now(datetime.timezone.utc)
        try:
            outcome = ROWS[name].measure(session)
        except BenchmarkError as error:
            outcome = Outcome({}, note=f"failed: {error}")
        except Exception as error:  # what the other rows have measured must not be lost
            outcome = Outcome({}, note=f"failed: {type(error).__name__}: {error}")
        end = datetime.datetime.now(datetime.timezone.utc)
        results[name] = {
            **dataclasses.asdict(outcome),
            "date": begin.date().isoformat(),
            "commit": versions["commit"],
            "load_before": round(load, 2),
            "seconds": round((end - begin).total_seconds(), 1),
        }
    return results


def print_table(results: dict[str, Any], console: Console) -> None:
    """Print what was measured beside the targets."""
    table = Table("what", "measured with", "measured", "target", "")
    for name, result in results.items():
        row = ROWS[name]
        if not result["values"]:
            table.add_row(row.what, "", result["note"], str(row.target), "not measured")
        for label, value in result["values"].items():
            verdict = "pass" if row.target.met_by(value) else "FAIL"
            number = f"{value:.3g} {row.target.unit}".rstrip()
            table.add_row(row.what, label, number, str(row.target), verdict)
    console.print(table)


@app.command()
def run(
    rows: Annotated[
        str, typer.Option(help=f"Which rows: all, or some of {', '.join(ROWS)}.")
    ] = "all",
    output: Annotated[Path, typer.Option(help="Results; rows not measured keep theirs.")] = RESULTS,
    rounds: Annotated[int, typer.Option(help="Repetitions, in turns.", min=1)] = Sizes.rounds,
    profiles: Annotated[bool, typer.Option(help="Profile a step of either kernels too.")] = True,
) -> None:
    """Measure rows of the table of targets and write the raw numbers as JSON."""
    chosen = select_rows(rows)
    sizes = Sizes(rounds=rounds)
    content = json.loads(output.read_text()) if output.is_file() else {"rows": {}}
    results = measure_rows(chosen, sizes)
    content["machine"], content["versions"] = describe_machine(), describe_versions()
    content["rows"] = {
        name: results.get(name) or content["rows"].get(name)
        for name in ROWS
        if name in results or name in content["rows"]
    }
    if profiles:
        from benchmarks.profile import profile_fused, profile_plain

        content["profile"] = {
            "plain": in_child(profile_plain, "wide", sizes.small, 1),
            "fused": in_child(profile_fused, "wide", sizes.small, 10),
        }
    output.write_text(json.dumps(content, indent=1) + "\n")
    print_table(results, Console(width=None if sys.stdout.isatty() else 150))
    typer.echo(f"{output}: written; 'python -m benchmarks report' brings the page up to date")


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="What `run` wrote.", exists=True)] = RESULTS,
) -> None:
    """Write the tables and plots of docs/benchmarks.md anew from the results."""
    from benchmarks.report import write_page

    for path in write_page(json.loads(results.read_text())):
        typer.echo(path)


if __name__ == "__main__":
    app()
