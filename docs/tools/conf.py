"""Settings of Sphinx for the site; `make docs` runs it by site.py."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

from lammps_trajcast import __version__

project = "lammps-trajcast"
copyright = "the developers of lammps-trajcast; GNU General Public License, version 2 or later"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath", "deflist"]
# Lines that stand for themselves in LAMMPS and in a shell are neither.
highlight_language = "none"
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"lammps-trajcast {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None
# Names of weights and of systems are code, not prose.
smartquotes = False


def _mathml(display: str) -> Any:
    # Every browser shows MathML by itself: no script, nothing from the network.
    def visit(self: Any, node: nodes.Element) -> None:
        formula = convert(node.astext(), display=display)
        text = html.escape(node.astext(), quote=True)
        formula = formula.replace("<math ", f'<math aria-label="{text}" ', 1)
        self.body.append(formula if display == "inline" else f'<div class="math">{formula}</div>')
        raise nodes.SkipNode

    return visit


def setup(app: Any) -> dict[str, Any]:
    """Show formulas as MathML."""
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(_mathml("inline"), None),
        block_renderers=(_mathml("block"), None),
    )
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
