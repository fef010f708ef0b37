"""Reads a filter from its JSON form; pure. What is wrong is named by its place: ``filter.and[1].field``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from headrace.errors import InvalidRecord
from headrace.filters.model import (
    ATTRIBUTE,
    FIELDS,
    MAX_CHARACTERS,
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_VALUES,
    And,
    Condition,
    Filter,
    Kind,
    Not,
    Operator,
    Or,
    Scalar,
    Value,
    kind_of,
    operators_of,
)

_TAG = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*")
_LARGEST_WHOLE = 2**63
_LARGEST = 10**15
"""Numbers beside attributes: JSON's are exact up to about here."""
_SHOWN = 60
_LARGEST_SHOWN = 10**_SHOWN
"""Python refuses to print very large numbers."""


class InvalidFilter(InvalidRecord):
    """A filter is not one that a search accepts; ``field`` is the place of what is wrong in it."""

    code = "invalid-filter"


def parse(given: object, place: str = "filter") -> Filter:
    """Return the filter of a JSON value; ``place`` is what errors call the whole of it.

    Raises :class:`InvalidFilter`.
    """
    return _Parser().filter(given, place, 1)


def parse_text(given: str, place: str = "filter") -> Filter:
    """Return the filter of a JSON text; raises :class:`InvalidFilter`."""
    try:
        value = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InvalidFilter(place, "is not JSON") from error
    return parse(value, place)


@dataclass(slots=True)
class _Parser:
    """Counts what it has read, because a filter as a whole is bounded."""

    conditions: int = 0
    values: int = 0

    def filter(self, given: object, place: str, depth: int) -> Filter:
        if not isinstance(given, Mapping):
            raise InvalidFilter(place, f"must be an object, not {_shown(given)}")
        if depth > MAX_DEPTH:
            raise InvalidFilter(place, f"is nested more than {MAX_DEPTH} deep")
        if "field" in given:
            return self._conditions(given, place)
        if len(given) != 1 or (key := next(iter(given))) not in ("and", "or", "not"):
            raise InvalidFilter(
                place, f'must be {{"field": …}}, {{"and": […]}}, {{"or": […]}} or {{"not": …}}, not {_shown(given)}'
            )
        inner, within = given[key], f"{place}.{key}"
        if key == "not":
            return Not(self.filter(inner, within, depth + 1))
        if not isinstance(inner, list) or not inner:
            raise InvalidFilter(within, f"must be a list of one filter or more, not {_shown(inner)}")
        parts = tuple(self.filter(part, f"{within}[{at}]", depth + 1) for at, part in enumerate(inner))
        return And(parts) if key == "and" else Or(parts)

    def _conditions(self, given: Mapping[str, Any], place: str) -> Filter:
        """Return the condition of each operator of the object, all of which must hold."""
        field = given["field"]
        kind = kind_of(field) if isinstance(field, str) and len(field) <= MAX_CHARACTERS else None
        if kind is None:
            raise InvalidFilter(
                f"{place}.field",
                f"{_shown(field)} is not a known field; allowed: {', '.join(FIELDS)} and {ATTRIBUTE}NAME",
            )
        _check_text(field, f"{place}.field")
        allowed = operators_of(field, kind)
        for name in given:
            if name != "field" and name not in allowed:
                raise InvalidFilter(
                    f"{place}.{name[:_SHOWN]}", f"is not an operator of {field}; allowed: {', '.join(allowed)}"
                )
        parts = [
            Condition(field, Operator(name), self._value(kind, Operator(name), value, f"{place}.{name}"))
            for name, value in given.items()
            if name != "field"
        ]
        if not parts:
            raise InvalidFilter(place, f"has no operator; allowed for {field}: {', '.join(allowed)}")
        self.conditions += len(parts)
        if self.conditions > MAX_CONDITIONS:
            raise InvalidFilter(place, f"is one condition too many; the limit is {MAX_CONDITIONS}")
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _value(self, kind: Kind, operator: Operator, given: Any, place: str) -> Value:
        if operator is Operator.EXISTS:
            if not isinstance(given, bool):
                raise InvalidFilter(place, f"must be true or false, not {_shown(given)}")
            return given
        if operator is not Operator.IN and not (kind is Kind.HEADINGS and operator is Operator.EQ):
            return self._scalar(kind, operator, given, place)
        if not isinstance(given, list) or not given:
            raise InvalidFilter(place, f"must be a list of one value or more, not {_shown(given)}")
        found = tuple(self._scalar(kind, operator, one, f"{place}[{at}]") for at, one in enumerate(given))
        if len({type(one) for one in found}) > 1:
            raise InvalidFilter(place, "mixes text and numbers")
        return found

    def _scalar(self, kind: Kind, operator: Operator, given: Any, place: str) -> Scalar:
        self.values += 1
        if self.values > MAX_VALUES:
            raise InvalidFilter(place, f"is one value too many; the limit is {MAX_VALUES}")
        if operator is Operator.PREFIX:
            return _text(given, place)
        return _READERS[kind](given, place)


def _text(given: Any, place: str) -> str:
    """Return a text that is not empty: what has no value is asked for with ``exists``."""
    if not isinstance(given, str) or not given:
        raise InvalidFilter(place, f"must be a text of one character or more, not {_shown(given)}")
    _check_text(given, place)
    return given


def _check_text(text: str, place: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise InvalidFilter(place, f"has {len(text)} characters; the limit is {MAX_CHARACTERS}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidFilter(place, "contains a lone surrogate, which UTF-8 cannot encode") from error
    if "\0" in text:
        raise InvalidFilter(place, "contains a NUL character, which no document contains; remove it")


def _language(given: Any, place: str) -> str:
    if not isinstance(given, str) or len(given) > MAX_CHARACTERS or not _TAG.fullmatch(given):
        raise InvalidFilter(place, f"must be a BCP 47 tag such as ko or en-GB, not {_shown(given)}")
    return given.lower()


def _whole(given: Any, place: str) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < _LARGEST_WHOLE:
        raise InvalidFilter(place, f"must be a whole number from 0 to 2^63 - 1, not {_shown(given)}")
    return given


def _time(given: Any, place: str) -> datetime:
    refused = InvalidFilter(
        place, f"must be a time such as 2026-01-31T09:00:00Z or a date such as 2026-01-31, not {_shown(given)}"
    )
    if not isinstance(given, str) or len(given) > _SHOWN:
        raise refused
    try:
        found = datetime.fromisoformat(given)
        if "T" not in given.upper() and " " not in given:
            found = found.replace(tzinfo=UTC)
        if found.tzinfo is None:
            raise InvalidFilter(place, f"{_shown(given)} names no zone; append Z or an offset such as +09:00")
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise refused from error


def _attribute(given: Any, place: str) -> str | Decimal:
    if isinstance(given, int | float) and not isinstance(given, bool):
        if not -_LARGEST < given < _LARGEST:
            raise InvalidFilter(place, f"{_shown(given)} is not between -10^15 and 10^15")
        return Decimal(str(given))
    if not isinstance(given, str):
        raise InvalidFilter(place, f"must be a text or a number, not {_shown(given)}")
    _check_text(given, place)
    return given


_READERS: Mapping[Kind, Callable[[Any, str], Scalar]] = {
    Kind.TEXT: _text,
    Kind.LANGUAGE: _language,
    Kind.HEADINGS: _text,
    Kind.WHOLE: _whole,
    Kind.TIME: _time,
    Kind.ATTRIBUTE: _attribute,
}


def _shown(value: object) -> str:
    """Return the value for a message: short, and without what cannot be encoded."""
    if isinstance(value, Mapping | list):
        return "an object" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and abs(value) > _LARGEST_SHOWN:
        return "a number of many digits"
    text = repr(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return (text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…").encode("utf-8", "backslashreplace").decode()
