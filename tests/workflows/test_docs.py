"""Links of all pages lead to files, and to headings in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from locations import ROOT

PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What a forge names the headings of a page: lower case, no punctuation, dashes for blanks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in LINK.findall(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        other = page.parent / file if file else page
        assert other.exists(), f"{name}: {target}"
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other), f"{name}: {target} is no heading there"


def test_anchors_are_those_of_forges() -> None:
    found = anchors(ROOT / "docs" / "fix_python_trajcast.md")
    assert {"restart-fix_modify-output-run-startstop-minimize-info", "references"} <= found
