"""Builds the site: python docs/tools/site.py DIRECTORY. Nothing comes from the network.

The pages of docs/ are written for a forge, too. Their links to inputs, job scripts and notes
outside of docs/ become pages of the site, so that it is complete by itself.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import yaml
from sphinx.cmd.build import main as sphinx

TOOLS = Path(__file__).resolve().parent
DOCS = TOOLS.parent
ROOT = DOCS.parent
# Where files from outside docs/ lie on the site.
OUTSIDE = "repository"
CHANGELOG = ROOT / "CHANGELOG.md"
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
# Fenced and indented blocks, in which nothing is a link.
CODE = re.compile(r"(^(`{3,})[^`\n]*\n.*?^\2`*\s*?$|(?<=\n\n)(?:(?: {4}[^\n]*)?\n)+)", re.M | re.S)
# Marks links to what is not a file of the repository.
MADE_HERE = "made-here:"
# As forges write it.
INLINE_FORMULA = re.compile(r"\$`(.+?)`\$")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".slurm": "bash", ".cff": "yaml"}
SHOWN_AS_IT_IS = (".png", ".svg", ".csv")


class SiteError(Exception):
    """A page that is not in the navigation, or an entry there without a page."""


def prepare(source: Path) -> None:
    """Write what Sphinx makes the site of into an empty directory."""
    pages = [page for page in DOCS.rglob("*.md") if TOOLS not in page.parents]
    waiting: list[Path] = [*pages, CHANGELOG]
    known = set(waiting)
    while waiting:
        file = waiting.pop()
        _write(file, source / _place(file))
        if file.suffix != ".md":
            continue
        for target in _targets(file):
            if target.exists() and target not in known:
                known.add(target)
                waiting.append(target)
    for image in (DOCS / "images").rglob("*.png"):
        _write(image, source / _place(image))
    with (source / "index.md").open("a") as index:
        index.write(_navigation(pages))


def _navigation(pages: list[Path]) -> str:
    chapters: dict[str, list[str]] = yaml.safe_load((TOOLS / "navigation.yaml").read_text())
    named = [entry for entries in chapters.values() for entry in entries]
    there = {page.relative_to(DOCS).with_suffix("").as_posix() for page in pages} - {"index"}
    there.add("changelog")
    for entry in sorted(there ^ set(named)):
        where = "is not in the navigation" if entry in there else "does not exist"
        raise SiteError(f"docs/tools/navigation.yaml: page {entry} {where}")
    blocks = []
    for caption, entries in chapters.items():
        lines = "\n".join(entries)
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n")
    return "\n" + "\n".join(blocks)


def _targets(page: Path) -> Iterator[Path]:
    """The files that a page leads to."""
    for match in LINK.finditer(CODE.sub("", page.read_text())):
        if not _elsewhere(match[2]):
            yield Path(os.path.normpath(page.parent / match[2]))


def _elsewhere(target: str) -> bool:
    return "://" in target or target.startswith("mailto:")


def _place(file: Path) -> str:
    """Where a file of the repository is among the sources of the site."""
    if file == CHANGELOG:
        return "changelog.md"
    if DOCS in file.parents:
        return file.relative_to(DOCS).as_posix()
    name = f"{OUTSIDE}/{file.relative_to(ROOT).as_posix()}"
    if file.is_dir():
        return f"{name}/index.md"
    return name if file.suffix in (".md", *SHOWN_AS_IT_IS) else f"{name}.md"


def _write(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in SHOWN_AS_IT_IS:
        shutil.copyfile(file, place)
        return
    name = file.relative_to(ROOT).as_posix()
    if file.is_dir():
        entries = sorted(entry.name for entry in file.iterdir() if entry.name[0] not in "._")
        text = f"# {name}\n\n" + "".join(f"* `{entry}`\n" for entry in entries)
    elif file.suffix == ".md":
        text = _for_the_site(file, file.read_text())
    elif file.suffix == ".ipynb":
        text = _for_the_site(file, _notebook(file, place))
    else:
        language = LANGUAGES.get(file.suffix, "none")
        text = f"# {name}\n\n`````{language}\n{file.read_text().rstrip()}\n`````\n"
    if DOCS not in file.parents and file != CHANGELOG:
        text = f"---\norphan: true\n---\n\n{text}"
    place.write_text(text)


def _notebook(file: Path, place: Path) -> str:
    """Return a notebook as Markdown; its plots are written beside the page."""
    parts = []
    for number, cell in enumerate(json.loads(file.read_text())["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```none\n{''.join(output['text']).rstrip()}\n```")
            elif "image/png" in output.get("data", {}):
                name = f"{place.stem}_{number}.png"
                (place.parent / name).write_bytes(b64decode(output["data"]["image/png"]))
                parts.append(f"![the plot of the cell above]({MADE_HERE}{name})")
    return "\n\n".join(parts)


def _for_the_site(page: Path, text: str) -> str:
    """Return the text of a page with links that lead to pages of the site."""
    here = posixpath.dirname(_place(page))

    def link(match: re.Match[str]) -> str:
        if _elsewhere(match[2]) or match[2].startswith(MADE_HERE):
            return match[0].replace(MADE_HERE, "")
        place = _place(Path(os.path.normpath(page.parent / match[2])))
        return match[1] + posixpath.relpath(place, here or ".") + match[3]

    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(link, text[end : code.start()]), code[0]]
        end = code.end()
    text = "".join([*parts, LINK.sub(link, text[end:])])
    return INLINE_FORMULA.sub(r"$\1$", text.replace("```math", "```{math}"))


def main() -> int:
    """Build; returns the exit status of Sphinx, which takes warnings for errors."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            prepare(Path(directory))
        except SiteError as error:
            print(f"ERROR: {error}", file=sys.stderr)
            return 1
        options = ["-W", "--keep-going", "-q", "-E", "-j", "2", "-c", str(TOOLS)]
        return sphinx([*options, "-d", f"{directory}/.doctrees", directory, sys.argv[1]])


if __name__ == "__main__":
    sys.exit(main())
