"""Links of all pages lead to files and headings; the site is whole; the reference is current."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from locations import ROOT
from pydantic import BaseModel

PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")]
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


# ---- the site and the reference ------------------------------------------------------------------


def reference_tool() -> Any:
    """docs/tools/reference.py, which is no module of a package."""
    path = ROOT / "docs" / "tools" / "reference.py"
    spec = importlib.util.spec_from_file_location("docs_reference", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.mark.parametrize("name", ["commands.md", "yaml_keys.md"])
def test_the_reference_is_what_the_code_says(name: str) -> None:
    """`make docs` writes these pages; an option or a key without a description is an error."""
    reference = reference_tool()
    assert (ROOT / "docs" / "reference" / name).read_text() == reference.PAGES[name]()


def test_an_undocumented_option_is_found() -> None:
    reference = reference_tool()

    class Keys(BaseModel):
        """Some.

        Attributes:
            first: documented.
        """

        first: int
        second: int

    with pytest.raises(reference.UndocumentedError, match="Keys.second"):
        reference._section(Keys)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Broken links, missing pages and pages that no navigation leads to are errors."""
    tool = ROOT / "docs" / "tools" / "site.py"
    done = subprocess.run(
        [sys.executable, tool, tmp_path / "site"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for page in tmp_path.glob("site/**/*.html"):
        text = page.read_text()
        assert not re.search(r"(src|href)=\"https?://[^\"]*\.(js|css|woff2?)\"", text), page
    method = (tmp_path / "site" / "method.html").read_text()
    assert "<math" in method and "\\frac" not in re.sub(r"aria-label=\"[^\"]*\"", "", method)
    assert (tmp_path / "site/repository/examples/lammps_inputs/in.quartz.html").is_file()


def test_every_keyword_of_the_fix_is_on_its_page() -> None:
    source = (ROOT / "fix_src" / "fix_python_trajcast_settings.cpp").read_text()
    keywords = set(re.findall(r"keyword == \"(\w+)\"", source))
    assert {"guard", "energy", "reversible"} <= keywords
    page = (ROOT / "docs" / "fix_python_trajcast.md").read_text()
    syntax = page.partition("## Examples")[0]
    for keyword in keywords:
        assert re.search(rf"^ {{6}}{keyword} values? = ", syntax, re.MULTILINE), keyword


def test_recipes_are_lines_of_the_scripts_that_they_name() -> None:
    """A block shows what is in a script that its section links to, and that a test runs."""
    page = (ROOT / "docs" / "workflows.md").read_text()
    blocks = 0
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        linked = re.findall(r"\(\.\./(examples/lammps_inputs/[\w.]+)\)", section)
        scripts = " ".join((ROOT / name).read_text() for name in linked)
        known = {" ".join(line.split()) for line in scripts.splitlines()}
        for block in re.findall(r"^```lammps\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            blocks += 1
            for line in block.splitlines():
                # In a script it may be a branch, in quotes.
                words = " ".join(line.split())
                assert any(words in other for other in known), line
    assert blocks >= 9


def test_the_system_of_the_page_is_one_that_is_fitted() -> None:
    """`your_own_system.md` shows the input of the fit suite's silicon, of which a model is made."""
    page = (ROOT / "docs" / "your_own_system.md").read_text()
    # It is to be read before the first fit.
    assert len(page.splitlines()) <= 150
    shown = re.search(r"(?m)^ {4}units .*\n(?: {4}.*\n)+", page)
    assert shown is not None
    lines = (ROOT / "examples" / "fit_suite" / "silicon.lmp").read_text().splitlines()
    wanted = [" ".join(line.split()) for line in lines if not line.startswith("#")]
    assert [" ".join(line.split()) for line in shown[0].splitlines()] == wanted
