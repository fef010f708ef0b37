"""Compiles a filter to an SQL condition with numbered parameters; pure.

The condition speaks of the row of a document as ``d`` and of the row of a chunk as ``c``. It is true or false, never
NULL. Nothing that a filter contains stands in the SQL: fields become fixed expressions, and values, the names of
attributes among them, become parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from headrace.filters.model import ALWAYS, ATTRIBUTE, RANGES, And, Condition, Filter, Kind, Not, Operator, kind_of

_TEXTS: Mapping[str, str] = {"document": "d.document_id", "source": "d.source", "media_type": "d.media_type"}
_SIGNS = {Operator.EQ: "=", Operator.LT: "<", Operator.LTE: "<=", Operator.GT: ">", Operator.GTE: ">="}
_NUMBER = r"'^[+-]?[0-9]{1,30}(\.[0-9]{1,30})?$'"
"""The attributes that are numbers; PostgreSQL reads each of them."""


@dataclass(frozen=True, slots=True)
class SqlCondition:
    """A condition, its parameters in the order of their numbers, and whether it speaks of chunks (``c``)."""

    sql: str
    parameters: tuple[Any, ...]
    of_chunks: bool


def compile_filter(given: Filter | None, first: int = 1) -> SqlCondition:
    """Return the condition of a filter, true for None; its parameters are ``$first`` and those after it."""
    if given is None:
        return SqlCondition("true", (), of_chunks=False)
    compiler = _Compiler(first)
    sql = compiler.filter(given)
    return SqlCondition(sql, tuple(compiler.parameters), compiler.of_chunks)


@dataclass(slots=True)
class _Compiler:
    first: int
    parameters: list[Any] = field(default_factory=list)
    of_chunks: bool = False

    def filter(self, given: Filter) -> str:
        match given:
            case Condition():
                return self._condition(given)
            case Not(part):
                return f"NOT {self.filter(part)}"
            case _:
                joint = " AND " if isinstance(given, And) else " OR "
                empty = "true" if isinstance(given, And) else "false"
                return f"({joint.join(map(self.filter, given.parts)) or empty})"

    def _condition(self, given: Condition) -> str:
        match kind_of(given.field):
            case Kind.TEXT:
                return self._of_text(given)
            case Kind.LANGUAGE:
                return self._of_language(given)
            case Kind.HEADINGS:
                return self._of_headings(given)
            case Kind.WHOLE:
                return self._compared("d.version", given, "bigint")
            case Kind.TIME:
                return self._compared("d.indexed_at", given, "timestamptz")
            case Kind.ATTRIBUTE:
                return self._of_attribute(given)
            case None:
                raise ValueError(f"unknown field {given.field!r}")  # parsing refused it

    def _of_text(self, given: Condition) -> str:
        column = _TEXTS[given.field]
        if given.operator is Operator.EXISTS:
            return self._exists(f"{column} <> ''", given)
        if given.operator is Operator.PREFIX:
            return f"starts_with({column}, {self._bound(given.value, 'text')})"
        if given.operator in RANGES and given.field not in ALWAYS:
            return f"({column} <> '' AND {self._compared(column, given, 'text')})"
        return self._compared(column, given, "text")

    def _of_language(self, given: Condition) -> str:
        if given.operator is Operator.EXISTS:
            return self._exists("d.language <> ''", given)
        tags = given.value if isinstance(given.value, tuple) else (given.value,)
        wanted = self._bound(list(tags), "text[]")
        return (
            f"EXISTS (SELECT FROM unnest({wanted}) AS tag "
            "WHERE lower(d.language) = tag OR starts_with(lower(d.language), tag || '-'))"
        )

    def _of_headings(self, given: Condition) -> str:
        self.of_chunks = True
        if given.operator is Operator.EXISTS:
            return self._exists("c.section <> '{}'", given)
        if given.operator is Operator.CONTAINS:
            return f"{self._bound(given.value, 'text')} = ANY (c.section)"
        assert isinstance(given.value, tuple)
        return f"c.section = {self._bound(list(given.value), 'text[]')}"

    def _of_attribute(self, given: Condition) -> str:
        name, value = given.field.removeprefix(ATTRIBUTE), given.value
        if given.operator is Operator.EQ and isinstance(value, str):
            return f"d.attributes @> {self._bound({name: value}, 'jsonb')}"  # which its index answers
        key = self._bound(name, "text")
        if given.operator is Operator.EXISTS:
            return self._exists(f"d.attributes ? {key}", given)
        text = f"(d.attributes ->> {key})"
        if given.operator is Operator.PREFIX:
            return f"coalesce(starts_with({text}, {self._bound(value, 'text')}), false)"
        if isinstance(value[0] if isinstance(value, tuple) else value, Decimal):
            compared = self._compared(f"{text}::numeric", given, "numeric")
            return f"CASE WHEN {text} ~ {_NUMBER} THEN {compared} ELSE false END"
        return f"coalesce({self._compared(text, given, 'text')}, false)"

    def _compared(self, expression: str, given: Condition, sql_type: str) -> str:
        if given.operator is Operator.IN:
            assert isinstance(given.value, tuple)
            return f"{expression} = ANY ({self._bound(list(given.value), f'{sql_type}[]')})"
        by_code_points = ' COLLATE "C"' if sql_type == "text" and given.operator in RANGES else ""
        return f"{expression}{by_code_points} {_SIGNS[given.operator]} {self._bound(given.value, sql_type)}"

    def _exists(self, sql: str, given: Condition) -> str:
        return f"({sql})" if given.value else f"NOT ({sql})"

    def _bound(self, value: Any, sql_type: str) -> str:
        """Return the parameter that stands for the value."""
        self.parameters.append(value)
        return f"${self.first + len(self.parameters) - 1}::{sql_type}"
