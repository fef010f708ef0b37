"""A filter as a frozen tree, the fields that it may name, and what may be asked of each of them.

:mod:`headrace.filters.parsing` reads it from JSON, and :mod:`headrace.store.conditions` compiles it to SQL. It is
two-valued: a condition on a value that is absent is false, and its negation is true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, TypeAlias

ATTRIBUTE = "attributes."
"""What the name of an attribute's field begins with; the rest is the attribute's name."""
MAX_DEPTH = 8
"""Nested ``and``, ``or`` and ``not``."""
MAX_CONDITIONS = 64
MAX_VALUES = 1000
"""Values of a whole filter, those of every ``in`` counted."""
MAX_CHARACTERS = 1000
"""Characters of a value or of a field's name."""


class Operator(StrEnum):
    """What a condition asks of a field."""

    EQ = "eq"
    IN = "in"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    PREFIX = "prefix"
    CONTAINS = "contains"
    EXISTS = "exists"


RANGES = (Operator.LT, Operator.LTE, Operator.GT, Operator.GTE)


class Kind(Enum):
    """The values of a field, and how they compare."""

    TEXT = "text"
    """By code points; an ID is never absent."""
    LANGUAGE = "language"
    """A BCP 47 tag, which a range matches as RFC 4647 says (basic filtering): ``ko`` matches ``ko`` and ``ko-KR``."""
    HEADINGS = "headings"
    """The section path of a chunk, from the outermost heading to the innermost."""
    WHOLE = "whole number"
    TIME = "time"
    """ISO 8601 with a zone; a date alone begins at midnight UTC."""
    ATTRIBUTE = "attribute"
    """Text; beside a number, the attributes that are decimal numbers compare as numbers, and no other matches."""


FIELDS: Mapping[str, Kind] = {
    "document": Kind.TEXT,
    "source": Kind.TEXT,
    "section": Kind.HEADINGS,
    "language": Kind.LANGUAGE,
    "media_type": Kind.TEXT,
    "indexed_at": Kind.TIME,
    "version": Kind.WHOLE,
}
ALWAYS = frozenset(("document", "version", "indexed_at"))
"""Fields that every document has, so that ``exists`` says nothing."""
_COMPARED = (Operator.EQ, Operator.IN, *RANGES)
OPERATORS: Mapping[Kind, tuple[Operator, ...]] = {
    Kind.TEXT: (*_COMPARED, Operator.PREFIX, Operator.EXISTS),
    Kind.LANGUAGE: (Operator.EQ, Operator.IN, Operator.EXISTS),
    Kind.HEADINGS: (Operator.EQ, Operator.CONTAINS, Operator.EXISTS),
    Kind.WHOLE: _COMPARED,
    Kind.TIME: _COMPARED,
    Kind.ATTRIBUTE: (*_COMPARED, Operator.PREFIX, Operator.EXISTS),
}

Scalar: TypeAlias = str | int | Decimal | datetime
Value: TypeAlias = Scalar | tuple[Scalar, ...] | bool
"""A tuple beside ``in`` and beside ``eq`` of a section path; a bool beside ``exists``."""


def kind_of(field: str) -> Kind | None:
    """Return the kind of the field's values, or None for a field that does not exist."""
    if field.startswith(ATTRIBUTE) and len(field) > len(ATTRIBUTE):
        return Kind.ATTRIBUTE
    return FIELDS.get(field)


def operators_of(field: str, kind: Kind) -> tuple[Operator, ...]:
    """Return the operators that the field allows."""
    return tuple(one for one in OPERATORS[kind] if one is not Operator.EXISTS or field not in ALWAYS)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on one field."""

    field: str
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class And:
    """True if all of its parts are; true without any."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True if one of its parts is; false without any."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True if its part is false."""

    part: Filter


Filter: TypeAlias = And | Or | Not | Condition


def documents(identifiers: Sequence[str]) -> Condition:
    """Return the filter for these documents."""
    return Condition("document", Operator.IN, tuple(identifiers))


def both(*filters: Filter | None) -> Filter | None:
    """Return the filter that all of these make together; None, which filters nothing, is left out."""
    parts = tuple(one for one in filters if one is not None)
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else And(parts)


def to_json(given: Filter) -> dict[str, Any]:
    """Return the filter in its JSON form, which :func:`headrace.filters.parsing.parse` reads as the same filter."""
    match given:
        case And(parts):
            return {"and": [to_json(part) for part in parts]}
        case Or(parts):
            return {"or": [to_json(part) for part in parts]}
        case Not(part):
            return {"not": to_json(part)}
        case Condition(field, operator, value):
            plain = [_plain(one) for one in value] if isinstance(value, tuple) else _plain(value)
            return {"field": field, operator.value: plain}


def _plain(value: Scalar | bool) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if isinstance(value, datetime) else value
