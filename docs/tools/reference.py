"""Pages of the reference that are made from the code: python docs/tools/reference.py writes them.

What has no description there is an error, so that nothing new stays undocumented.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import typer
from pydantic import BaseModel

from lammps_trajcast.cli import app
from lammps_trajcast.fit import config as fit
from lammps_trajcast.training import config as training
from lammps_trajcast.validation import config as validation

REFERENCE = Path(__file__).resolve().parent.parent / "reference"
# What a page says of itself, for those who would change it.
MADE = "<!-- Made from the code by docs/tools/reference.py: change it there. -->\n"


class UndocumentedError(Exception):
    """An option or a key without a description."""


# ---- commands ------------------------------------------------------------------------------------


def commands_page() -> str:
    """Return the Markdown page of all commands that are not hidden."""
    group: Any = typer.main.get_command(app)
    context = group.context_class(group, info_name="lammps-trajcast")
    text = [MADE, "# Commands\n", f"{_sentence(group.help)}\n"]
    text.append(
        "`lammps-trajcast --help` and `lammps-trajcast COMMAND --help` say the same. The exit "
        "status is 0 if all went well and 1 after an error, words on the command line that are not "
        "understood among them; `fit` and `validate` have 2 and 3 for their verdicts.\n"
    )
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if not command.hidden:
            text.append(_command(name, command, context))
    return "\n".join(text)


def _command(name: str, command: Any, above: Any) -> str:
    context = command.context_class(command, info_name=name, parent=above)
    usage = " ".join(command.get_usage(context).partition(": ")[2].split())
    usage = re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), usage)
    lines = [f"## {name}\n", f"    {usage}\n", f"{_paragraphs(command.help)}\n"]
    lines += ["| | | default |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        if not parameter.help:
            raise UndocumentedError(f"{name}: {parameter.name} has no help")
        if parameter.param_type_name == "argument":
            written = f"`{parameter.name.upper()}`"
        else:
            written = ", ".join(f"`{option}`" for option in parameter.opts)
        lines.append(f"| {written} | {_cell(parameter.help)} | {_default(parameter)} |")
    return "\n".join(lines) + "\n"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = parameter.default
    if value is None or value in (False, (), []):
        return ""
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"`{getattr(one, 'value', one)}`" for one in values)


def _paragraphs(text: str | None) -> str:
    if not text:
        raise UndocumentedError("a command without a description")
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def _sentence(text: str) -> str:
    return " ".join(text.split())


# ---- keys of YAML files --------------------------------------------------------------------------


def keys_page() -> str:
    """Return the Markdown page of the keys of all YAML files."""
    text = [MADE, "# Keys of the YAML files\n"]
    text.append(
        "Paths are relative to the file. A mistake is one line that names the file, the line and "
        "the key. What stands here comes from the classes that read the files; "
        "[your own system](../your_own_system.md), [training](../training.md) and "
        "[validation](../validation.md) explain how to use it.\n"
    )
    files: tuple[tuple[str, type[BaseModel]], ...] = (
        ("fit", fit.FitConfig),
        ("train", training.TrainingConfig),
        ("validate", validation.ValidationConfig),
    )
    seen: set[type[BaseModel]] = set()
    for command, model in files:
        text.append(f"## `lammps-trajcast {command}`\n")
        for key, section in _sections("", model):
            if section in seen:
                continue
            seen.add(section)
            if key:
                text.append(f"### {command}: `{key}`\n")
            text.append(_section(section))
    return "\n".join(text)


def _sections(key: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a model and all below it whose keys are written in the file, with their keys."""
    yield key, model
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation):
            if inner.__module__ == model.__module__ and not inner.__name__.startswith("_"):
                yield from _sections(f"{key}.{name}" if key else name, inner)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _section(model: type[BaseModel]) -> str:
    summary, meanings = _described(model)
    schema = model.model_json_schema()
    lines = [f"{summary}\n", "| key | values | default | meaning |", "|---|---|---|---|"]
    for name in model.model_fields:
        if name not in meanings:
            raise UndocumentedError(f"{model.__name__}.{name}: no line under Attributes")
        entry = schema["properties"][name]
        needed = name in schema.get("required", ())
        default = "needed" if needed else _value(entry.get("default"))
        values = _values(entry, schema.get("$defs", {}))
        lines.append(f"| `{name}` | {_cell(values)} | {default} | {_cell(meanings[name])} |")
    return "\n".join(lines) + "\n"


def _described(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """Return the first line of a docstring and what it says of each attribute."""
    doc = griffe.Docstring(inspect.getdoc(model) or "")
    parts = griffe.parse_google(doc, warnings=False)
    meanings: dict[str, str] = {}
    summary = ""
    for part in parts:
        if part.kind is griffe.DocstringSectionKind.attributes:
            for attribute in part.value:
                for name in attribute.name.split(", "):
                    meanings[name] = attribute.description
        elif part.kind is griffe.DocstringSectionKind.text and not summary:
            summary = _sentence(part.value.partition("\n\n")[0])
    return summary, meanings


def _values(entry: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say in words what a JSON schema allows."""
    if "$ref" in entry:
        inner = definitions[entry["$ref"].rpartition("/")[2]]
        return "a section" if inner.get("properties") else _values(inner, definitions)
    if "anyOf" in entry:
        kinds = [_values(kind, definitions) for kind in entry["anyOf"]]
        return " or ".join(kind for kind in dict.fromkeys(kinds) if kind != "null") + (
            ", or null" if "null" in kinds else ""
        )
    if "enum" in entry or "const" in entry:
        return " or ".join(f"`{value}`" for value in entry.get("enum", [entry.get("const")]))
    kind = entry.get("type")
    if kind == "array":
        inner_kinds = entry.get("prefixItems")
        if inner_kinds:
            return f"{len(inner_kinds)} of: {_values(inner_kinds[0], definitions)}"
        return f"list of: {_values(entry.get('items', {}), definitions)}"
    if kind == "object":
        inner = entry.get("additionalProperties")
        named = isinstance(inner, dict) and inner
        return f"names, each with: {_values(inner, definitions)}" if named else "keys"
    words = {
        "number": "number",
        "integer": "whole number",
        "string": "path" if entry.get("format") == "path" else "text",
        "boolean": "`true` or `false`",
        "null": "null",
    }
    bounds = (("exclusiveMinimum", "above"), ("minimum", "from"))
    upper = (("exclusiveMaximum", "below"), ("maximum", "to"))
    said = [f"{word} {entry[key]:,.12g}" for key, word in (*bounds, *upper) if key in entry]
    return " ".join([words.get(str(kind), "anything"), *said])


def _value(value: Any) -> str:
    if value is None or value in ("", []):
        return ""
    if isinstance(value, dict):
        return "" if value else "none"
    return f"`{json.dumps(value, ensure_ascii=False).strip(chr(34))}`"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


# ---- all -----------------------------------------------------------------------------------------

PAGES = {"commands.md": commands_page, "yaml_keys.md": keys_page}


def main() -> None:
    """Write all pages."""
    REFERENCE.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make())


if __name__ == "__main__":
    main()
