"""The report: one HTML file that needs no other, and the same checks as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata as package_metadata
from pathlib import Path
from typing import Any

import jinja2

from lammps_trajcast.model.file import ModelMetadata
from lammps_trajcast.validation.compare import (
    FAILED,
    PASSED,
    REFERENCE_FAILS,
    UNDECIDED,
    Check,
    Plot,
    ReportSection,
)
from lammps_trajcast.validation.config import EQUILIBRIUM, Length, ValidationConfig
from lammps_trajcast.validation.speed import Speeds
from lammps_trajcast.validation.system import Model

DPI = 110
# What a report rests on, each with a word that has to be in its thermostat; empty: always.
REFERENCES = (
    ("", "Network: F. L. Thiemann et al., Nature Machine Intelligence 8, 764 (2026)."),
    ("", "LAMMPS: A. P. Thompson et al., Comput. Phys. Commun. 271, 108171 (2022)."),
    (
        "csvr",
        "Thermostat: G. Bussi, D. Donadio and M. Parrinello, J. Chem. Phys. 126, 014101 (2007).",
    ),
    ("langevin", "Thermostat: T. Schneider and E. Stoll, Phys. Rev. B 17, 1302 (1978)."),
    ("", "Spectra: P. D. Welch, IEEE Trans. Audio Electroacoust. 15, 70 (1967)."),
    (
        "",
        "Standard errors, by the jackknife: B. Efron, The Jackknife, the Bootstrap and Other "
        "Resampling Plans, SIAM (1982).",
    ),
)


@dataclass(frozen=True)
class Report:
    """What a validation found with one protocol.

    Attributes:
        name: of the protocol.
        title: what it is.
        note: how the length of the runs came about, empty if it was given.
        speeds: of both, None if not measured.
    """

    config: ValidationConfig
    length: Length
    model: Model
    metadata: ModelMetadata
    name: str
    title: str
    parts: list[ReportSection]
    note: str = ""
    speeds: Speeds | None = None

    @property
    def stem(self) -> str:
        """Of its files: each protocol has its own."""
        suffix = "" if self.name == EQUILIBRIUM else f"-{self.name}"
        return f"{self.model.path.stem}-{self.length}{suffix}"

    @property
    def checks(self) -> list[Check]:
        """All of them, in the order of the sections."""
        return [check for part in self.parts for check in part.checks]

    @property
    def failed(self) -> list[Check]:
        """Checks that the model fails."""
        return [check for check in self.checks if check.passed is False]

    @property
    def undecided(self) -> list[Check]:
        """Checks that say nothing of the model, by chance or as the reference itself fails."""
        return [check for check in self.checks if check.undecided]

    @property
    def verdict(self) -> str:
        """Failed if a check fails; else undecided if one is undecided; else passed."""
        if self.failed:
            return FAILED
        return UNDECIDED if self.undecided else PASSED

    @property
    def words(self) -> str:
        """The verdict, with the names of all checks that do not pass."""
        passed = sum(check.passed is True for check in self.checks)
        judged = passed + len(self.failed) + len(self.undecided)
        words = [f"{self.verdict.capitalize()}: {passed} of {judged} checks pass."]
        for name, checks in (("Failed", self.failed), ("Undecided", self.undecided)):
            if checks:
                words.append(f"{name}: {'; '.join(check.name for check in checks)}.")
        if any(check.of_reference is False for check in self.checks):
            words.append("The reference was not in equilibrium at its start.")
        return " ".join([*words, self.note]).strip()

    def as_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return {
            "name": self.config.name,
            "protocol": self.name,
            "verdict": self.verdict,
            "failed": [check.name for check in self.failed],
            "undecided": [check.name for check in self.undecided],
            "note": self.note,
            "length": self.length,
            "chapters": [
                {
                    "title": self.title,
                    "parts": [
                        {
                            "title": part.title,
                            "limits": part.limits,
                            "checks": [check.as_dict() for check in part.checks],
                            "curves": part.curves,
                        }
                        for part in self.parts
                    ],
                }
            ],
            "lengths": self.config.lengths[self.length].model_dump(),
            "tolerances": self.config.tolerances.model_dump(),
            "reference": {
                "system": self.config.system.name,
                "timestep": self.config.reference.timestep,
                "thermostat": self.config.thermostat,
            },
            "model": {
                "file": self.model.path.name,
                "fingerprint": self.model.fingerprint,
                "timestep": self.model.timestep,
                "species": list(self.metadata.species),
                "provenance": self.metadata.provenance,
            },
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {
                name: package_metadata.version(name)
                for name in ("lammps-trajcast", "lammps", "torch")
            },
        }

    def write(self, directory: Path, images: Path | None = None) -> Path:
        """Write an HTML file and, beside it, a JSON file; images also as PNG files.

        Args:
            directory: of both files.
            images: directory of the PNG files; None: none are written.

        Returns:
            The HTML file.

        Raises:
            OSError: a file cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        html = directory / f"{self.stem}.html"
        data = self.as_dict()
        (directory / f"{self.stem}.json").write_text(json.dumps(data, indent=1) + "\n")
        template = jinja2.Environment(
            loader=jinja2.PackageLoader("lammps_trajcast.validation", "."),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        ).get_template("report.html.j2")
        used = [words for word, words in REFERENCES if word in self.config.thermostat]
        html.write_text(template.render(report=self, data=data, picture=_inline, references=used))
        if images is not None:
            self._write_images(images)
        return html

    def _write_images(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        suffix = "" if self.name == EQUILIBRIUM else f"_{self.name}"
        for part in self.parts:
            for plot in part.plots:
                (directory / f"{plot.slug}{suffix}.png").write_bytes(_png(plot, 150))

    def table(self) -> str:
        """All checks as text for a terminal."""
        rows = [
            (
                check.verdict,
                check.name,
                check.text(check.value),
                check.tolerance,
                check.uncertainty,
                "; ".join(filter(None, (check.remark, check.model)))
                if check.of_reference is None
                else check.reference,
            )
            for check in self.checks
        ]
        limits = [f"  {part.title}: {part.limits}" for part in self.parts if part.limits]
        seen = ["What these runs cannot see:", *limits] if limits else []
        return "\n".join([self.title, *_columns(rows), *seen, self.words])


def table_of_reports(files: Sequence[Path]) -> str:
    """Markdown: every check of several reports side by side, ordered by time step.

    Raises:
        ValueError: a file is not a report; the message names it.
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
    # The protocols of one model are in files of their own: they make one column.
    columns: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for data in reports:
        model = data["model"]
        key = (model["timestep"], model["file"], model.get("fingerprint"), data.get("length"))
        columns.setdefault(key, []).append(data)
    head = [f"{key[0]:g} fs ({key[1]})" for key in columns]
    found = [
        {
            (chapter["title"], check["name"]): check
            for data in group
            for chapter in data["chapters"]
            for part in chapter["parts"]
            for check in part["checks"]
        }
        for group in columns.values()
    ]
    rows = [f"| check | {' | '.join(head)} |", "|" + "---|" * (len(head) + 1)]
    names = dict.fromkeys(key for checks in found for key in checks)
    several = len({title for title, _ in names}) > 1
    for title, name in names:
        cells = [_cell(checks.get((title, name))) for checks in found]
        rows.append(f"| {title + ': ' if several else ''}{name} | {' | '.join(cells)} |")
    verdicts = [_all_pass(checks.values()) for checks in found]
    return "\n".join([*rows, f"| all pass | {' | '.join(verdicts)} |"])


def _all_pass(checks: Iterable[dict[str, Any]]) -> str:
    verdicts = [check.get("verdict") for check in checks]
    failed = sum(verdict in (FAILED, "FAIL") for verdict in verdicts)
    undecided = sum(verdict in (UNDECIDED, REFERENCE_FAILS) for verdict in verdicts)
    words = "**no**" if failed else "yes" if not undecided else "undecided"
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
    if check.get("verdict") in (UNDECIDED, REFERENCE_FAILS):
        return f"{text} ({check['verdict']})"
    return f"**{text}**" if check["passed"] is False else text


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max((len(row[k]) for row in rows), default=0) for k in range(5)]
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
