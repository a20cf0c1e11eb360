"""What a command line asks for, together with the YAML file of an earlier call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lammps_trajcast.fit.config import FitConfig, FitError, plain
from lammps_trajcast.model.file import explain

YAML = (".yaml", ".yml")


def make_request(
    source: Path, output: Path | None, given: Mapping[str, Any]
) -> tuple[FitConfig, Path]:
    """Return the configuration and the directory of a fit.

    Args:
        source: LAMMPS include file, or a YAML file.
        output: directory; None: that of the YAML file.
        given: options of the command line by key, None where there is none.

    Raises:
        FitError: something is missing, wrong, or other than in an earlier call.
    """
    options = {key: value for key, value in given.items() if value is not None}
    if "trajectories" in options:
        options["trajectories"] = tuple(plain(path) for path in options["trajectories"])
    if "start_from" in options:
        options["start_from"] = plain(options["start_from"])
    if source.suffix in YAML:
        config = FitConfig.load(source)
        budget = options.pop("budget", config.budget)
        if options:
            raise FitError(
                f"--{_option(next(iter(options)))}: everything is in {source}; write "
                f"'{next(iter(options))}' there"
            )
        directory = output or source.resolve().parent
        before = directory / "fit.yaml"
        if not before.is_file() or before.samefile(source):
            return _checked(config, {"budget": budget}), directory
        # Another file began this directory, and what was chosen then still holds.
        known = FitConfig.load(before)
        for key in {**config.asked, **known.asked}:
            _check_same(before, key, config.asked.get(key), known.asked.get(key))
        return _checked(known, {"budget": budget}), directory
    if output is None:
        raise FitError("--output: is missing; write -o and the name of a directory for the model")
    for key in ("elements", "temperature"):
        if key not in options:
            raise FitError(f"--{key}: is missing; write it as in --elements Si O --temperature 300")
    content = {"name": output.resolve().name, "system": plain(source), **options}
    before = output / "fit.yaml"
    if not before.is_file():
        return _make(content), output
    known = FitConfig.load(before)
    asked = _make({**content, "budget": options.get("budget", known.budget)})
    for key in ("name", *given, "system"):
        if key == "budget" or key not in content:
            continue
        now, then = getattr(asked, key), getattr(known, key)
        if key == "system":
            now, then = Path(now).resolve(), Path(then).resolve()
        _check_same(before, key, now, then)
    return _checked(known, {"budget": asked.budget}), output


def _make(content: dict[str, Any]) -> FitConfig:
    try:
        return FitConfig(**content)
    except ValidationError as error:
        raise FitError(explain(error).replace("Value error, ", "")) from None


def _checked(config: FitConfig, update: dict[str, Any]) -> FitConfig:
    return _make({**{k: getattr(config, k) for k in config.model_fields_set}, **update})


def _check_same(before: Path, key: str, now: Any, then: Any) -> None:
    if now != then:
        raise FitError(
            f"{before}: was begun with {key} {_words(then)}, not {_words(now)}; name another "
            f"--output, or change it there and run 'lammps-trajcast fit {before}'"
        )


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "not given" if value is None else str(value)


def _option(key: str) -> str:
    return {"trajectories": "from"}.get(key, key.replace("_", "-"))
