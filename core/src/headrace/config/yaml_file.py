"""Reads YAML files of settings with size limits; errors name the line and the problem in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from headrace.errors import ConfigurationError

MAX_FILE_BYTES = 1024 * 1024
_SHOWN = 60
"""Maximum characters of a file's content that a message quotes."""
_MEND_LINE = "Correct that line or the one above it."
_KEY = "[key]"
"""Pydantic's last location item for an unknown key."""
_KINDS = {
    "decimal_parsing": "a number", "decimal_type": "a number", "finite_number": "a number",
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "model_type": "a mapping of names to values", "dict_type": "a mapping of names to values",
    "mapping_type": "a mapping of names to values", "string_type": "text; put it in quotes",
}  # fmt: skip
_BOUNDS = {
    "greater_than_equal": ("ge", "is less than the minimum, {}"),
    "less_than_equal": ("le", "is more than the maximum, {}"),
    "greater_than": ("gt", "must be more than {}"),
    "less_than": ("lt", "must be less than {}"),
}


def read(path: Path, what: str, *, where: str | None = None, remedy: str = "") -> Any:
    """Return the file's content as :func:`parse` does; raises :class:`ConfigurationError` with the reason.

    ``what`` describes the file in messages; ``where`` is its location, if that is more than the path; ``remedy`` is
    used if the file does not exist.
    """
    where = where or str(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigurationError(f"{what} cannot be read: it is larger than {MAX_FILE_BYTES} bytes", where=where)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{what} cannot be read: file {path.name!r} does not exist", where=where,
            remedy=remedy or "Name a file that exists.",
        ) from error  # fmt: skip
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{what} cannot be read: it is not UTF-8", where=where, remedy="Save it as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{what} cannot be read: {error.strerror}", where=where, remedy="Name a readable file."
        ) from error
    return parse(text, what, str(path))


def parse(text: str, what: str, name: str) -> Any:
    """Return the content as mappings with line numbers; raises :class:`ConfigurationError`."""
    try:
        return YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(
            f"{what} cannot be read: it is not valid YAML: {error.problem}", where=f"{name}:{line}", remedy=_MEND_LINE
        ) from error
    except (YAMLError, ValueError) as error:
        raise ConfigurationError(f"{what} cannot be read: it is not valid YAML: {error}", where=name) from error


def line(node: Any, place: Sequence[int | str]) -> int:
    """Return the line, from 1, of the innermost key of the location that exists in the text."""
    found = 0
    for name in place:
        if not isinstance(node, Mapping) or name not in node:
            break
        found = int(node.lc.key(name)[0])  # type: ignore[attr-defined]  # ruamel's mappings know their lines
        node = node[name]
    return found + 1


def refusal(error: ValidationError) -> tuple[list[int | str], str]:
    """Return the location of pydantic's first error, and the problem in plain words."""
    first = error.errors()[0]
    place = [step for step in first["loc"] if step != _KEY]
    kind, given = first["type"], first["input"]
    if kind == "missing":
        return place, "is missing"
    if kind == "extra_forbidden":
        return place, "is an unknown field"
    if kind == "value_error":
        return place, first["msg"].removeprefix("Value error, ")
    if kind in _BOUNDS:
        bound, text = _BOUNDS[kind]
        return place, f"{shown(given)} {text.format(first['ctx'][bound])}"
    if kind in _KINDS:
        return place, f"{shown(given)} is not {_KINDS[kind]}"
    return place, f"{shown(given)} is not allowed: {first['msg']}"


def shown(given: object) -> str:
    """Return a value of a file as messages quote it."""
    if given is None:
        return "an empty value"
    if isinstance(given, Mapping):
        return "a mapping"
    if isinstance(given, list):
        return "a list"
    text = repr(str(given)) if isinstance(given, str) else str(given)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
