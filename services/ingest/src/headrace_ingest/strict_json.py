"""Strict JSON for change events: UTF-8 only, no repeated keys in an object, no numbers outside the JSON standard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

from headrace.codec.utf8 import escaped_field
from headrace.errors import InvalidRecord, PermanentError, UndecodableRecord


def parse_object(value: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in ``value``; ``what`` names it in errors.

    Raises :class:`InvalidRecord` that names the field whose text is not UTF-8, and :class:`UndecodableRecord` for
    anything else that is not such an object.
    """
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(value, error, what) from error
    return _parse(text, what)


def decode_text(value: bytes, field: str) -> str:
    """Return the text; raises :class:`InvalidRecord` that names the field if the text is not UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRecord(field, f"is not UTF-8: {_bad_byte(error)}") from error


def _parse(text: str, what: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise UndecodableRecord(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise UndecodableRecord(
            f"{what} is not a JSON object: {error}", remedy="See the guide on change events for the accepted forms."
        ) from error
    if not isinstance(parsed, dict):
        raise UndecodableRecord(f"{what} is a JSON {type(parsed).__name__}, not an object")
    return parsed


def _not_utf8(value: bytes, error: UnicodeDecodeError, what: str) -> PermanentError:
    """Return the error that names the field. A second parse that keeps the invalid bytes finds the field."""
    try:
        field = escaped_field(_parse(value.decode("utf-8", "surrogateescape"), what))
    except (UndecodableRecord, RecursionError):
        field = None
    if field is None:
        return UndecodableRecord(f"{what} is not UTF-8: {_bad_byte(error)}")
    return InvalidRecord(field, f"is not UTF-8: {_bad_byte(error)} of {what}")


def _bad_byte(error: UnicodeDecodeError) -> str:
    return f"0x{error.object[error.start]:02x} at byte {error.start}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = _first_repeated(name for name, _ in pairs)
        raise ValueError(f"the key {twice!a:.100} occurs twice in one object")
    return found


def _first_repeated(names: Iterable[str]) -> str:
    """Return the first repeated name, in one pass, because an object may have a million keys."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number:.40} is too large")
    return value
