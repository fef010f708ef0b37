"""A filter as one writes it on a command line, turned into its JSON form; pure.

.. code-block:: text

    filter    = part {"or" part}
    part      = piece {"and" piece}
    piece     = "not" piece | "(" filter ")" | condition
    condition = field ("=" | "!=" | "<" | "<=" | ">" | ">=" | "prefix" | "contains") value
              | field "=" list | field ["not"] "in" list | field "exists"
    list      = "(" value {"," value} ")"

A value is a number, a word, or a text in single or double quotes, in which a backslash takes the next character as it
is. ``and`` binds stronger than ``or``. What the fields, operators and values may be,
:mod:`headrace.filters.parsing` decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.filters.model import MAX_DEPTH, Operator
from headrace.filters.parsing import InvalidFilter

MAX_TEXT = 20_000
"""Characters of a filter's text."""
_TOKEN = re.compile(
    r"""\s*(?: (?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
             | (?P<sign><=|>=|!=|[=<>(),])
             | (?P<word>[^\s()=<>!,"']+) )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_SIGNS: Mapping[str, Operator] = {
    "=": Operator.EQ, "<": Operator.LT, "<=": Operator.LTE, ">": Operator.GT, ">=": Operator.GTE,
    "prefix": Operator.PREFIX, "contains": Operator.CONTAINS,
}  # fmt: skip
_RESERVED = frozenset(("and", "or", "not", "in", "exists", "prefix", "contains"))


def to_json(text: str) -> dict[str, Any]:
    """Return the JSON form of a filter; a text that begins with ``{`` is taken as JSON.

    Raises :class:`InvalidFilter` that says at which character the text is not understood.
    """
    if len(text) > MAX_TEXT:
        raise InvalidFilter("filter", f"has {len(text)} characters; the limit is {MAX_TEXT}")
    if text.lstrip().startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise InvalidFilter("filter", f"is not JSON: {error}") from error
        except RecursionError as error:
            raise InvalidFilter("filter", f"is nested more than {MAX_DEPTH} deep") from error
        return found
    return _Reader(text).whole()


@dataclass(frozen=True, slots=True)
class _Token:
    """``text`` is a sign, a word as written, or what quotes contain."""

    text: str
    at: int
    kind: str

    def is_word(self, word: str) -> bool:
        return self.kind == "word" and self.text.lower() == word

    def is_sign(self, sign: str) -> bool:
        return self.kind == "sign" and self.text == sign


def _tokens(text: str) -> list[_Token]:
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _refused(
                text, at + len(text[at:]) - len(text[at:].lstrip()), "a quote without its end, or a sign alone"
            )
        kind = match.lastgroup or ""
        token = match[kind]
        found.append(_Token(_ESCAPE.sub(r"\1", token[1:-1]) if kind == "quoted" else token, match.start(kind), kind))
        at = match.end()
    return [*found, _Token("", len(text), "end")]


def _refused(text: str, at: int, what: str) -> InvalidFilter:
    return InvalidFilter("filter", f"is not understood at character {at + 1} ({text[at : at + 20]!r}): {what}")


class _Reader:
    """Reads tokens from left to right; each method reads what it is named after."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> dict[str, Any]:
        found = self._filter()
        if self._next.kind != "end":
            raise self._refused("expected `and`, `or` or the end")
        return found

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _refused(self, what: str) -> InvalidFilter:
        return _refused(self._text, self._next.at, what)

    def _take(self) -> _Token:
        token = self._next
        self._at += 1
        return token

    def _took(self, word: str) -> bool:
        """Go past the word or sign if it is next; return whether it was."""
        if self._next.is_word(word) or self._next.is_sign(word):
            self._at += 1
            return True
        return False

    def _filter(self) -> dict[str, Any]:
        parts = [self._part()]
        while self._took("or"):
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else {"or": parts}

    def _part(self) -> dict[str, Any]:
        parts = [self._piece()]
        while self._took("and"):
            parts.append(self._piece())
        return parts[0] if len(parts) == 1 else {"and": parts}

    def _piece(self) -> dict[str, Any]:
        self._depth += 1
        if self._depth > 4 * MAX_DEPTH:
            raise self._refused(f"nested more than {MAX_DEPTH} deep")
        try:
            if self._took("not"):
                return {"not": self._piece()}
            if self._took("("):
                found = self._filter()
                if not self._took(")"):
                    raise self._refused("expected `)`")
                return found
            return self._condition()
        finally:
            self._depth -= 1

    def _condition(self) -> dict[str, Any]:
        if self._next.kind not in ("word", "quoted") or self._is_reserved():
            raise self._refused("expected a field, `not` or `(`")
        field = self._take().text
        if self._took("exists"):
            return {"field": field, "exists": True}
        if self._took("!="):
            return {"not": {"field": field, "eq": self._value()}}
        if self._took("in"):
            return {"field": field, "in": self._list()}
        if self._took("not"):
            if not self._took("in"):
                raise self._refused("expected `in`")
            return {"not": {"field": field, "in": self._list()}}
        for sign, operator in _SIGNS.items():
            if self._took(sign):
                listed = operator is Operator.EQ and self._next.is_sign("(")
                return {"field": field, operator.value: self._list() if listed else self._value()}
        raise self._refused(f"expected an operator: {', '.join(_SIGNS)}, !=, in, exists")

    def _list(self) -> list[Any]:
        if not self._took("("):
            raise self._refused("expected `(`")
        found = [self._value()]
        while self._took(","):
            found.append(self._value())
        if not self._took(")"):
            raise self._refused("expected `,` or `)`")
        return found

    def _value(self) -> str | int | float:
        if self._next.kind not in ("word", "quoted") or self._is_reserved():
            raise self._refused("expected a value; put a text with signs or spaces in quotes")
        token = self._take()
        if token.kind == "word" and _NUMBER.fullmatch(token.text):
            return float(token.text) if "." in token.text else int(token.text)
        return token.text

    def _is_reserved(self) -> bool:
        return self._next.kind == "word" and self._next.text.lower() in _RESERVED
