"""Filters: their JSON form, their text form, their SQL, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.filters import text
from headrace.filters.model import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_VALUES,
    And,
    Condition,
    Not,
    Operator,
    Or,
    both,
    documents,
    to_json,
)
from headrace.filters.parsing import InvalidFilter, parse, parse_text
from headrace.store.conditions import compile_filter

pytestmark = pytest.mark.unit

YEAR = {"field": "attributes.year", "gte": 2020}


def nested(depth: int) -> dict[str, Any]:
    """A filter that is nested so deep."""
    found: dict[str, Any] = YEAR
    for _ in range(depth - 1):
        found = {"not": found}
    return found


def test_json_becomes_a_tree() -> None:
    """Broken: a filter means something else than its JSON says."""
    found = parse({"and": [{**YEAR, "lt": 2024}, {"not": {"field": "language", "eq": "KO"}}]})
    year = [Condition("attributes.year", op, Decimal(at)) for op, at in ((Operator.GTE, 2020), (Operator.LT, 2024))]
    assert found == And((And(tuple(year)), Not(Condition("language", Operator.EQ, "ko"))))
    time = parse({"field": "indexed_at", "gt": "2026-01-31T09:00:00+09:00"})
    assert time == Condition("indexed_at", Operator.GT, datetime(2026, 1, 31, tzinfo=UTC))
    assert parse({"field": "indexed_at", "gt": "2026-01-31"}) == time
    assert parse({"field": "attributes.a.b", "eq": ""}) == Condition("attributes.a.b", Operator.EQ, "")


@pytest.mark.parametrize(
    ("given", "place", "reason"),
    [
        (None, "filter", "must be an object"),
        ([], "filter", "a list"),
        ({}, "filter", "must be"),
        ({"and": []}, "filter.and", "one filter or more"),
        ({"and": YEAR}, "filter.and", "not an object"),
        ({"and": [YEAR], "or": [YEAR]}, "filter", "must be"),
        ({"xor": [YEAR]}, "filter", "must be"),
        ({"and": [YEAR, {"field": "colour", "eq": 1}]}, "filter.and[1].field", "'colour' is not a known field"),
        ({"field": "attributes.", "eq": "x"}, "filter.field", "known field"),
        ({"field": ["document"], "eq": "x"}, "filter.field", "a list is not a known field"),
        ({"field": "attributes.\0", "eq": "x"}, "filter.field", "NUL"),
        ({"field": "attributes." + "x" * 1000, "eq": "x"}, "filter.field", "known field"),
        ({"field": "document"}, "filter", "has no operator"),
        ({"field": "document", "regex": "x"}, "filter.regex", "is not an operator of document; allowed: eq, in"),
        ({"field": "version", "exists": True}, "filter.exists", "is not an operator of version"),
        ({"field": "language", "lt": "ko"}, "filter.lt", "is not an operator of language"),
        ({"field": "document", "eq": 5}, "filter.eq", "must be a text"),
        ({"field": "source", "eq": ""}, "filter.eq", "one character or more"),
        ({"field": "document", "eq": "\ud800"}, "filter.eq", "lone surrogate"),
        ({"field": "document", "eq": "x" * 1001}, "filter.eq", "1001 characters"),
        ({"field": "document", "in": "x"}, "filter.in", "list of one value"),
        ({"field": "document", "in": []}, "filter.in", "list of one value"),
        ({"field": "document", "in": ["a", None]}, "filter.in[1]", "must be a text"),
        ({"field": "document", "in": ["x"] * (MAX_VALUES + 1)}, f"filter.in[{MAX_VALUES}]", "one value too many"),
        ({"field": "version", "gte": 1.5}, "filter.gte", "whole number"),
        ({"field": "version", "gte": True}, "filter.gte", "whole number"),
        ({"field": "version", "gte": -1}, "filter.gte", "whole number"),
        ({"field": "version", "gte": 10**5000}, "filter.gte", "many digits"),
        ({"field": "indexed_at", "gte": "2026-01-31T09:00:00"}, "filter.gte", "names no zone"),
        ({"field": "indexed_at", "gte": "yesterday"}, "filter.gte", "must be a time"),
        ({"field": "indexed_at", "gte": "0001-01-01T00:00:00+09:00"}, "filter.gte", "must be a time"),
        ({"field": "indexed_at", "gte": 5}, "filter.gte", "must be a time"),
        ({"field": "language", "eq": "ko_KR"}, "filter.eq", "BCP 47"),
        ({"field": "section", "eq": "Install"}, "filter.eq", "must be a list"),
        ({"field": "section", "contains": ["Install"]}, "filter.contains", "must be a text"),
        ({"field": "source", "exists": "yes"}, "filter.exists", "true or false"),
        ({"field": "attributes.x", "eq": True}, "filter.eq", "text or a number"),
        ({"field": "attributes.x", "eq": None}, "filter.eq", "text or a number"),
        ({"field": "attributes.x", "gt": 1e300}, "filter.gt", "is not between"),
        ({"field": "attributes.x", "gt": float("nan")}, "filter.gt", "is not between"),
        ({"field": "attributes.x", "in": ["a", 1]}, "filter.in", "mixes text and numbers"),
        ({"or": [YEAR] * (MAX_CONDITIONS + 1)}, f"filter.or[{MAX_CONDITIONS}]", "one condition too many"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(given: Any, place: str, reason: str) -> None:
    """Broken: a caller must guess which part of a filter was not understood, or a wrong filter finds something."""
    with pytest.raises(InvalidFilter, match="filter") as raised:
        parse(given)
    assert (raised.value.field, reason in raised.value.reason) == (place, True), raised.value
    str(raised.value).encode()


def test_depth_is_bounded() -> None:
    """Broken: a nested filter exhausts the stack, here or in PostgreSQL."""
    parse(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 10_000):
        with pytest.raises(InvalidFilter) as raised:
            parse(nested(depth))
        assert raised.value.field == "filter" + ".not" * MAX_DEPTH
    with pytest.raises(InvalidFilter, match="JSON"):
        parse_text('{"not":' * 200_000)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("language = ko", {"field": "language", "eq": "ko"}),
        (
            "attributes.year >= 2020 and not language = ko",
            {"and": [YEAR, {"not": {"field": "language", "eq": "ko"}}]},
        ),
        (
            "a=1 or b=2 AND c=3",
            {"or": [{"field": "a", "eq": 1},
                    {"and": [{"field": "b", "eq": 2}, {"field": "c", "eq": 3}]}]},
        ),
        ("(a = 1 or b < -2.5) and c != x", {"and": [{"or": [{"field": "a", "eq": 1}, {"field": "b", "lt": -2.5}]},
                                                    {"not": {"field": "c", "eq": "x"}}]}),
        ("document in ('it\\'s', \"a \\\" b\", c.md)", {"field": "document", "in": ["it's", 'a " b', "c.md"]}),
        ("document not in (a)", {"not": {"field": "document", "in": ["a"]}}),
        ('"attributes.my name" exists', {"field": "attributes.my name", "exists": True}),
        ("section contains '설치 안내'", {"field": "section", "contains": "설치 안내"}),
        ("section = (Guide, Install)", {"field": "section", "eq": ["Guide", "Install"]}),
        ("document prefix guides/", {"field": "document", "prefix": "guides/"}),
        ("indexed_at > 2026-01-31T09:00:00+09:00", {"field": "indexed_at", "gt": "2026-01-31T09:00:00+09:00"}),
        ("attributes.id = '007'", {"field": "attributes.id", "eq": "007"}),
        ("attributes.id = 007", {"field": "attributes.id", "eq": "007"}),
        (json.dumps(YEAR), YEAR),
    ],
)  # fmt: skip
def test_text_becomes_json(written: str, meant: dict[str, Any]) -> None:
    """Broken: a filter on the command line means something else than it says."""
    assert text.to_json(written) == meant


@pytest.mark.parametrize(
    ("written", "at", "expected"),
    [
        ("", 1, "a field"),
        ("   ", 4, "a field"),
        ("language", 9, "an operator"),
        ("language =", 11, "a value"),
        ("language = ko,", 14, "the end"),
        ("language = ko en", 15, "the end"),
        ("(language = ko", 15, "`)`"),
        ("language in ko", 13, "`(`"),
        ("language not ko", 14, "`in`"),
        ("language = 'ko", 12, "quote"),
        ("a = 1 and and b = 2", 11, "a field"),
        ("a ! 1", 3, "sign"),
        ("a = and", 5, "a value"),
        ("(" * 5000, 33, "deep"),
    ],
)
def test_text_that_is_not_understood_is_named_by_its_place(written: str, at: int, expected: str) -> None:
    """Broken: a person must guess where a filter on the command line is wrong."""
    with pytest.raises(InvalidFilter) as raised:
        text.to_json(written)
    assert f"at character {at} " in raised.value.reason
    assert expected in raised.value.reason


def test_wrong_json_on_the_command_line_is_refused() -> None:
    """Broken: a typing error in JSON ends in a stack trace."""
    for written in ("{", "{'a'}", '{"not":' * 2800):
        with pytest.raises(InvalidFilter):
            text.to_json(written)
    with pytest.raises(InvalidFilter, match="20001 characters"):
        text.to_json("x" * 20_001)


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8).map("§{}".format)
NUMBERS = st.one_of(st.integers(-(10**14), 10**14), st.decimals(-1000, 1000, places=3).map(float))
CONDITIONS = st.one_of(
    st.builds(lambda field, op, value: {"field": field, op: value},
              st.sampled_from(["document", "source", "media_type"]),
              st.sampled_from(["eq", "lt", "lte", "gt", "gte", "prefix"]), WORDS),
    st.builds(lambda name, op, value: {"field": f"attributes.{name}", op: value}, WORDS,
              st.sampled_from(["eq", "lt", "gte"]), st.one_of(WORDS, NUMBERS)),
    st.builds(lambda name, values: {"field": f"attributes.{name}", "in": values}, WORDS,
              st.one_of(st.lists(WORDS, min_size=1, max_size=3), st.lists(NUMBERS, min_size=1, max_size=3))),
    st.builds(lambda value: {"field": "version", "gte": value}, st.integers(0, 2**63 - 1)),
    st.builds(lambda value: {"field": "indexed_at", "lt": value.replace(tzinfo=UTC).isoformat()},
              st.datetimes()),
    st.builds(lambda value: {"field": "section", "eq": value}, st.lists(WORDS, min_size=1, max_size=3)),
)  # fmt: skip
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=6,
).filter(lambda tree: json.dumps(tree).count("{") <= MAX_DEPTH)


@given(FILTERS)
def test_a_filter_survives_its_json_form(given_filter: dict[str, Any]) -> None:
    """Broken: a question reaches the generator with another filter than it was asked with."""
    tree = parse(given_filter)
    assert parse_text(json.dumps(to_json(tree))) == tree


@given(FILTERS)
def test_nothing_of_a_filter_stands_in_the_sql(given_filter: dict[str, Any]) -> None:
    """Broken: a value or the name of an attribute is read as SQL."""
    compiled = compile_filter(parse(given_filter), first=4)
    assert "§" not in compiled.sql
    quoted = compiled.sql.split("'")[1::2]
    assert set(quoted) <= {"", "-", "{}", r"^[+-]?[0-9]{1,30}(\.[0-9]{1,30})?$"}
    assert [f"${4 + at}::" in compiled.sql for at in range(len(compiled.parameters))] == [True] * len(
        compiled.parameters
    )
    assert f"${4 + len(compiled.parameters)}" not in compiled.sql


@pytest.mark.parametrize("field", ["document", "source", "media_type", "attributes.x"])
def test_ranges_of_text_do_not_depend_on_the_collation_of_the_database(field: str) -> None:
    """Broken: a range finds other documents in a database with another locale."""
    for operator in ("lt", "lte", "gt", "gte"):
        assert ' COLLATE "C" ' in compile_filter(parse({"field": field, operator: "x"})).sql


def test_sql_says_whether_it_needs_chunks() -> None:
    """Broken: a search by sections reads documents alone, and fails."""
    assert compile_filter(None).sql == "true"
    assert not compile_filter(documents(["a"])).of_chunks
    assert compile_filter(Or((documents(["a"]), Condition("section", Operator.CONTAINS, "x")))).of_chunks
    assert both(None, None) is None
    assert both(None, documents(["a"])) == documents(["a"])
    assert both(documents(["a"]), documents(["b"])) == And((documents(["a"]), documents(["b"])))
