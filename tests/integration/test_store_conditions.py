"""Filters against a real PostgreSQL: what the compiled condition selects, against a plain evaluation of the tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from headrace.filters.model import And, Condition, Filter, Kind, Not, Operator, Or, kind_of
from headrace.filters.parsing import InvalidFilter, parse
from headrace.payloads import DocumentFacts
from headrace.store.conditions import compile_filter
from headrace.store.generations import create_generation
from headrace.store.index import index_batch
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

FILTERS = 1500
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = (
    "",
    "a",
    "b",
    "aa",
    "Z",
    "é",
    "한국어",
    "한",
    "10",
    "9",
    "-3.50",
    "+7",
    "007",
    "1e3",
    "2026-01-31",
    "％",
    "_%",
    "'; --",
)
TAGS = ("", "ko", "KO-kr", "en", "en-GB", "k")
HEADINGS = ("Install", "설치", "install", "It's")
NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?")
COMPARE: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: lambda have, want: bool(have == want),
    Operator.IN: lambda have, want: have in want,
    Operator.LT: lambda have, want: bool(have < want),
    Operator.LTE: lambda have, want: bool(have <= want),
    Operator.GT: lambda have, want: bool(have > want),
    Operator.GTE: lambda have, want: bool(have >= want),
    Operator.PREFIX: lambda have, want: have.startswith(want),
}


@dataclass(frozen=True)
class Row:
    """A chunk and what a filter may say of it."""

    document: str
    source: str
    media_type: str
    language: str
    version: int
    indexed_at: datetime
    attributes: Mapping[str, str]
    section: tuple[str, ...]


def fits(given: Filter, row: Row) -> bool:
    """The meaning of a filter, said a second time and in the plainest way."""
    match given:
        case And(parts):
            return all(fits(part, row) for part in parts)
        case Or(parts):
            return any(fits(part, row) for part in parts)
        case Not(part):
            return not fits(part, row)
        case Condition(field, operator, value):
            return condition_fits(field, operator, value, row)


def condition_fits(field: str, operator: Operator, value: Any, row: Row) -> bool:
    """The meaning of one condition."""
    kind = kind_of(field)
    have: Any = row.attributes.get(field.removeprefix("attributes.")) if kind is Kind.ATTRIBUTE else getattr(row, field)
    absent = have is None or (kind is not Kind.ATTRIBUTE and have in ("", ()))
    if operator is Operator.EXISTS:
        return bool(value) is not absent
    if absent:
        return False
    if operator is Operator.CONTAINS:
        return value in have
    if kind is Kind.LANGUAGE:
        wanted = value if isinstance(value, tuple) else (value,)
        return any(f"{have.lower()}-".startswith(f"{tag}-") for tag in wanted)
    first = value[0] if isinstance(value, tuple) else value
    if isinstance(first, Decimal):
        return NUMBER.fullmatch(have) is not None and COMPARE[operator](Decimal(have), value)
    return COMPARE[operator](have, value)


def random_document(random: Random, number: int) -> tuple[IndexDocument, list[Row]]:
    """A document of up to three chunks in different sections."""
    names = [name for name in ("year", "team", "a.b", "한글 이름", "$1") if random.random() < 0.6]
    facts = DocumentFacts(
        "t", random.choice(["", "text/plain", "text/html"]), b"h", source=random.choice(WORDS) or None,
        attributes={name: random.choice(WORDS) for name in names}, language=random.choice(TAGS) or None,
    )  # fmt: skip
    name, version = f"{random.choice(WORDS)}/{number:03}", random.randrange(50)
    chunks, rows = [], []
    for ordinal in range(random.randrange(1, 4)):
        section = tuple(random.choices(HEADINGS, k=random.randrange(3)))
        identity = f"{number:08}{ordinal:08}".encode()
        chunks.append(IndexChunk(identity, section, ordinal, ordinal + 1, "x", b""))
        rows.append(
            Row(name, facts.source or "", facts.media_type, facts.language or "", version,
                BEGIN + timedelta(hours=number % 60), facts.attributes, section)
        )  # fmt: skip
    return IndexDocument("acme", name, version, facts, chunks=tuple(chunks)), rows


def value_maker(random: Random, field: str, operator: str) -> Callable[[], Any]:
    """What makes values of one type for the field."""
    if field == "version":
        return lambda: random.randrange(50)
    if field == "indexed_at":
        return lambda: f"{BEGIN + timedelta(hours=random.randrange(-1, 61)):%Y-%m-%dT%H:%MZ}"
    if field == "language":
        return lambda: random.choice(TAGS[1:])
    if field.startswith("attributes.") and random.random() < 0.5 and operator != "prefix":
        return lambda: random.choice([10, -3.5, 7, 1000, 0, 9.99])
    return lambda: random.choice(WORDS)


def random_value(random: Random, field: str, operator: str) -> Any:
    """A value that suits the field, or nearly."""
    if operator == "exists":
        return random.random() < 0.5
    if field == "section":
        return random.choice(HEADINGS) if operator == "contains" else random.choices(HEADINGS, k=random.randrange(1, 3))
    one = value_maker(random, field, operator)
    if operator != "in":
        return one()
    first = one()
    return [first, *(next_ for _ in range(2) if type(next_ := one()) is type(first))]


def random_filter(random: Random, documents: Sequence[str], depth: int = 3) -> dict[str, Any]:
    """A filter in JSON, sometimes one that is refused."""
    kind = random.random()
    if depth and kind < 0.35:
        parts = [random_filter(random, documents, depth - 1) for _ in range(random.randrange(1, 4))]
        return {random.choice(["and", "or"]): parts}
    if depth and kind < 0.5:
        return {"not": random_filter(random, documents, depth - 1)}
    field = random.choice(
        ["document", "source", "media_type", "language", "section", "version", "indexed_at", "attributes.year",
         "attributes.team", "attributes.a.b", "attributes.한글 이름", "attributes.$1", "attributes.none"]
    )  # fmt: skip
    operator = random.choice(["eq", "in", "lt", "lte", "gt", "gte", "prefix", "contains", "exists"])
    if field == "document" and operator == "in":
        return {"field": field, operator: random.sample(documents, 5)}
    return {"field": field, operator: random_value(random, field, operator)}


async def test_a_filter_selects_what_it_says(pool: Pool, owner: Owner) -> None:
    """Broken: a search leaves out what fits its filter, or shows what does not."""
    random = Random(14)
    generation = await create_generation(owner, Generation("first", "toy", 2))
    made = [random_document(random, number) for number in range(120)]
    await index_batch(pool, generation, [document for document, _ in made])
    expected = {
        chunk.chunk_id: row for document, rows in made for chunk, row in zip(document.chunks, rows, strict=True)
    }
    names = [document.document_id for document, _ in made]
    selective = refused = 0
    async with tenant_transaction(pool, "acme") as connection:
        times = [rows[0].indexed_at for _, rows in made]
        await connection.execute(
            "UPDATE document AS d SET indexed_at = given.at "
            "FROM unnest($1::text[], $2::timestamptz[]) AS given (id, at) "
            "WHERE d.tenant = 'acme' AND d.document_id = given.id", names, times)  # fmt: skip
        for _ in range(FILTERS):
            written = random_filter(random, names)
            try:
                tree = parse(written)
            except InvalidFilter:
                refused += 1
                continue
            compiled = compile_filter(tree, first=2)
            rows = await connection.fetch(
                "SELECT c.chunk_id FROM document AS d JOIN chunk AS c USING (tenant, document_id) "
                f"WHERE d.tenant = $1 AND {compiled.sql}", "acme", *compiled.parameters)  # fmt: skip
            found = {row["chunk_id"].bytes for row in rows}
            wanted = {chunk_id for chunk_id, row in expected.items() if fits(tree, row)}
            assert found == wanted, written
            negated = await connection.fetchval(
                "SELECT count(*) FROM document AS d JOIN chunk AS c USING (tenant, document_id) "
                f"WHERE d.tenant = $1 AND NOT {compiled.sql}", "acme", *compiled.parameters)  # fmt: skip
            assert negated == len(expected) - len(found), written
            selective += 0 < len(found) < len(expected)
    assert selective > FILTERS / 4, (selective, refused)
