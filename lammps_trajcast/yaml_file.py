"""Reading of YAML files that users write."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

# Where an entry stands: the keys, and the places in lists, that lead to it.
Location = tuple[str | int, ...]

# What to write instead of a value of another type.
REMEDIES = {
    "string_type": "write text, in quotes if it looks like a number",
    "list_type": "write a list, as [Si, O]",
    "float_type": "write a number, as 300",
    "float_parsing": "write a number, as 300",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "dict_type": "write keys below it, as in name: value",
}

Schema = TypeVar("Schema", bound=BaseModel)


def read_yaml(path: Path, failure: type[Exception]) -> Any:
    """Return the content of a YAML file.

    Raises ``failure``, with one line that names the file, if it cannot be read or is no YAML.
    """
    return read_yaml_with_lines(path, failure)[0]


def read_checked(
    path: Path, schema: type[Schema], failure: type[Exception]
) -> tuple[Schema, dict[Location, int]]:
    """Return a YAML file as ``schema`` says, and the line of every key and list entry.

    Raises ``failure``, with one line that names the file, the line, the key and what is wrong.
    """
    content, lines = read_yaml_with_lines(path, failure)
    if not isinstance(content, dict):
        keys = ", ".join([name for name, key in schema.model_fields.items() if key.is_required()])
        raise failure(f"{path}: must have lines 'key: value' with the keys {keys}")
    try:
        return schema(**content), lines
    except ValidationError as error:
        raise failure(f"{path}, {describe_problems(error, lines, schema)}") from None
    except TypeError as error:
        raise failure(f"{path}: keys must be names ({error})") from None


def read_yaml_with_lines(path: Path, failure: type[Exception]) -> tuple[Any, dict[Location, int]]:
    """Return the content of a YAML file and the line, from 1, of every key and list entry.

    Raises ``failure``, with one line that names the file, if it cannot be read or is no YAML.
    """
    try:
        loader = yaml.SafeLoader(path.read_text())
        try:
            node = loader.get_single_node()
            content = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except OSError as error:
        raise failure(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise failure(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    lines: dict[Location, int] = {}
    try:
        if node is not None:
            _collect_lines(node, (), lines, frozenset())
    except yaml.MarkedYAMLError as error:
        assert error.problem_mark is not None
        raise failure(f"{path}, line {error.problem_mark.line + 1}: {error.problem}") from None
    return content, lines


def _collect_lines(
    node: yaml.Node, place: Location, lines: dict[Location, int], above: frozenset[int]
) -> None:
    if id(node) in above:  # an anchor that holds itself
        return
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if (*place, key.value) in lines:
                first = lines[(*place, key.value)]
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value} was given on line {first} already; leave one of them out",
                    problem_mark=key.start_mark,
                )
            lines[(*place, key.value)] = key.start_mark.line + 1
            _collect_lines(value, (*place, key.value), lines, above)
    elif isinstance(node, yaml.SequenceNode):
        for number, entry in enumerate(node.value):
            lines[(*place, number)] = entry.start_mark.line + 1
            _collect_lines(entry, (*place, number), lines, above)


def describe_problems(
    error: ValidationError, lines: dict[Location, int], schema: type[BaseModel]
) -> str:
    """Return 'line 3: optimization.steps: what is wrong', one after another.

    lines: of the file, from :func:`read_yaml_with_lines`. schema: what the file was checked with.
    """
    problems: list[dict[str, Any]] = [dict(each) for each in error.errors()]
    # A key with a typo is two problems, of which the one that is missing says nothing more.
    unknown = [each for each in problems if each["type"] == "extra_forbidden"]
    meant = {(*each["loc"][:-1], _nearest(each["loc"], schema)) for each in unknown}
    others = [
        each
        for each in problems
        if each not in unknown and not (each["type"] == "missing" and each["loc"] in meant)
    ]
    return "; ".join(_describe_problem(each, lines, schema) for each in [*unknown, *others])


def _nearest(place: Location, schema: type[BaseModel]) -> str | None:
    """The key that an unknown one resembles, None if there is none."""
    keys = getattr(_section_of(place, schema), "model_fields", ())
    return next(iter(difflib.get_close_matches(str(place[-1]), keys, n=1)), None)


def _describe_problem(
    problem: dict[str, Any], lines: dict[Location, int], schema: type[BaseModel]
) -> str:
    place: Location = problem["loc"]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        section, near = _section_of(place, schema), _nearest(place, schema)
        message = "no such key; " + (f"did you mean {near}?" if near else "leave it out")
        # Keys of earlier versions, and what to write instead.
        message = getattr(section, "moved", {}).get(place[-1], message)
    elif problem["type"] in REMEDIES:
        given = " ".join(str(problem.get("input")).split())[:40]
        message = f"{message}, not {given}: {REMEDIES[problem['type']]}"
    known = place
    while known and known not in lines:  # a key that is missing has no line, its section does
        known = known[:-1]
    where = f"line {lines[known]}: " if known else ""
    name = ".".join(map(str, place))
    return f"{where}{name}: {message}" if name else f"{where}{message}"


def _section_of(place: Location, schema: type[BaseModel]) -> Any:
    """The section that an unknown key stands in, None if that is not a section."""
    section: Any = schema
    for key in place[:-1]:
        section = section.model_fields[key].annotation
        if not hasattr(section, "model_fields"):
            return None
    return section
