"""From the JSON of a run to the tables and plots of docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.rows import ROWS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "benchmarks.md"
# Parts smaller than this share of a step are drawn together.
SMALL_PART = 0.02

PARTS = {
    "convolution": ("edge convolution: couplings x features, summed over the edges", 2),
    "path_weights": ("multiplication by the path weights", 1),
    "contraction": ("contraction", 2),
    "velocity_product": ("tensor product with the velocity", 2),
    "update": ("update and gates", 2),
    "residual": ("residual", 2),
    "read_out": ("read-out", 2),
}
LEFT_OUT = {
    "couplings": ("couplings: Clebsch-Gordan coefficients x harmonics", 2),
    "table": ("table of path weights: cubic polynomials", 2),
}


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """Return a table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine_text(results: dict[str, Any]) -> str:
    """Return one paragraph: machine, versions, and when what was measured."""
    machine, versions = results["machine"], results["versions"]
    dates = sorted({row["date"] for row in results["rows"].values()})
    commits = sorted({row["commit"] for row in results["rows"].values()})
    packages = ", ".join(
        f"{name} {version}" for name, version in versions.items() if name != "commit"
    )
    return (
        f"{machine['processor']}, {machine['cores']} cores "
        f"({', '.join(machine['instructions']) or 'no vector instructions'}), "
        f"{machine['memory_gb']} GB, {machine['system']}; {packages}. "
        f"Measured on {', '.join(dates)} at commit {', '.join(commits)}."
    )


def targets_table(results: dict[str, Any]) -> str:
    """Return what | measured with | measured | target | verdict, every row of the targets."""
    lines = []
    for name, row in ROWS.items():
        result = results["rows"].get(name, {"values": {}, "note": "not run"})
        if not result["values"]:
            lines.append([row.what, "", "not measured: " + result["note"], str(row.target), ""])
        for label, value in result["values"].items():
            number = f"{value:.3g} {row.target.unit}".rstrip()
            verdict = "reached" if row.target.met_by(value) else "**missed**"
            lines.append([row.what, label, number, str(row.target), verdict])
    return markdown(["what", "measured with", "measured", "target", ""], lines)


def operations_table(results: dict[str, Any]) -> str:
    """Return the operations of one atom and step by part."""
    row = results["rows"].get("peak")
    if not row or not row["values"]:
        return "Not measured."
    count, neighbors = row["samples"]["operations_per_atom"], row["samples"].get("neighbors")
    lines = [
        [
            label,
            f"{each * count[name]:,.0f}",
            f"{100 * each * count[name] / count['counted']:.1f} %",
        ]
        for name, (label, each) in PARTS.items()
    ]
    lines.append(["**counted**", f"{count['counted']:,.0f}", "100 %"])
    for name, (label, each) in LEFT_OUT.items():
        lines.append([f"not counted: {label}", f"{each * count[name]:,.0f}", ""])
    rates = [
        [
            f"{threads} thread{'s' if threads != '1' else ''}",
            f"{row['samples']['operations_per_second'][threads] / 1e9:.0f}",
            f"{row['samples']['peak'][threads] / 1e9:.0f}",
        ]
        for threads in row["samples"]["peak"]
    ]
    parts = [
        # Rows that were not measured again may be older than this number.
        "64 channels" + (f", {neighbors:.1f} neighbors:" if neighbors else ":"),
        markdown(["part", "operations for an atom and step", "share"], lines),
        markdown(["", "GFLOP/s of a step", "GFLOP/s of the matrix product"], rates),
    ]
    return "\n\n".join(parts)


def profile_table(profile: dict[str, float]) -> str:
    """Return the parts of a step and their shares, small ones together."""
    total = sum(profile.values())
    large = {name: s for name, s in profile.items() if s >= SMALL_PART * total}
    rest = total - sum(large.values())
    lines = [
        [f"`{name}`" if ":" in name else name, f"{1e3 * s:.1f}", f"{100 * s / total:.0f} %"]
        for name, s in sorted(large.items(), key=lambda item: -item[1])
    ]
    lines.append(["everything else", f"{1e3 * rest:.1f}", f"{100 * rest / total:.0f} %"])
    lines.append(["**step**", f"{1e3 * total:.1f}", ""])
    return markdown(["part", "ms", "share"], lines)


def fill_in(page: str, sections: dict[str, str]) -> str:
    """Replace what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Raises ValueError for a section that the page has no markers for.
    """
    for name, text in sections.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, found_begin, rest = page.partition(begin)
        _, found_end, after = rest.partition(end)
        if not found_begin or not found_end:
            raise ValueError(f"the page has no markers for {name}: write {begin} and {end}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def draw_profiles(profiles: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the parts of a plain and of a fused step, each as a bar of its own scale."""
    figure, axes = plt.subplots(len(profiles), 1, figsize=(7.0, 4.2), layout="constrained")
    for axis, (kernels, profile) in zip(axes, profiles.items(), strict=True):
        total = sum(profile.values())
        left = 0.0
        for name, seconds in sorted(profile.items(), key=lambda item: -item[1]):
            if seconds < SMALL_PART * total:
                break
            axis.barh(0.0, 1e3 * seconds, left=left, label=f"{name} {100 * seconds / total:.0f} %")
            left += 1e3 * seconds
        axis.barh(0.0, 1e3 * total - left, left=left, color="lightgrey", label="everything else")
        axis.set(xlabel=f"ms of a step, {kernels} kernels", yticks=[], xlim=(0.0, 1e3 * total))
        axis.legend(fontsize=7, loc="center right")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_cost(samples: dict[str, Any], path: Path) -> None:
    """Draw time for an atom and step against the number of atoms."""
    figure, axis = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    for atoms, values in samples["seconds_per_atom_and_step"].items():
        axis.plot(
            [int(atoms)] * len(values), [1e6 * v for v in values], "o", color="tab:blue", ms=3
        )
    median = samples["median"]
    axis.plot([int(n) for n in median], [1e6 * v for v in median.values()], color="tab:blue")
    axis.set(xscale="log", xlabel="atoms", ylabel="µs for an atom and step", ylim=(0.0, None))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_steps(runs: list[list[float]], path: Path) -> None:
    """Draw the wall times of single steps of several runs."""
    figure, axis = plt.subplots(figsize=(5.0, 3.2), layout="constrained")
    for times in runs:
        axis.plot(range(1, len(times) + 1), [1e3 * t for t in times], lw=0.8)
    axis.axvline(10.5, color="gray", lw=0.5)
    axis.set(xlabel="step", ylabel="ms", ylim=(0.0, None))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_page(results: dict[str, Any], page: Path = PAGE) -> list[Path]:
    """Bring the page and its plots up to date; return the files written."""
    rows, images = results["rows"], page.parent / "images"
    images.mkdir(exist_ok=True)
    sections = {
        "machine": machine_text(results),
        "targets": targets_table(results),
        "operations": operations_table(results),
    }
    written = [page]

    def drawn(name: str) -> Path:
        written.append(images / f"benchmark_{name}.png")
        return written[-1]

    if "profile" in results:
        for kernels, profile in results["profile"].items():
            sections[f"profile {kernels}"] = profile_table(profile)
        draw_profiles(results["profile"], drawn("profile"))
    if rows.get("atoms", {}).get("values"):
        draw_cost(rows["atoms"]["samples"], drawn("cost"))
    if rows.get("regular", {}).get("values"):
        draw_steps(rows["regular"]["samples"]["seconds"], drawn("steps"))
    page.write_text(fill_in(page.read_text(), sections))
    return written
