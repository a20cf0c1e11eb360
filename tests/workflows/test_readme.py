"""The README shows what the repository holds."""

from __future__ import annotations

import re

from locations import EXAMPLES, ROOT


def test_the_input_script_runs(lmp) -> None:
    """The block of code that is LAMMPS's, with few steps."""
    (script,) = re.findall(r"```lammps\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "run             3000" in script and len(script.splitlines()) <= 16
    script = script.replace("../", f"{EXAMPLES}/").replace("3000", "2")
    run = lmp(script)
    assert run.returncode == 0, run.output
    assert re.search(r"^ +2 +\d", run.output, re.MULTILINE)


def test_it_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples/quartz/README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"
