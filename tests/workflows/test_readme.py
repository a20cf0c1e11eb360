"""The README shows what the repository holds."""

from __future__ import annotations

import re

from locations import ROOT


def test_the_input_script_is_the_one_of_the_demo() -> None:
    script = (ROOT / "examples" / "lammps_inputs" / "in.quartz").read_text().strip()
    assert script in (ROOT / "README.md").read_text()


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "examples" / "quartz" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"
