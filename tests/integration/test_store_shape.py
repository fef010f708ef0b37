"""The shape of answers against a real PostgreSQL: enough hits under any filter, documents, pages, neighbours."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

import asyncpg
import numpy as np
import pytest
import pytest_asyncio
from pydantic import SecretStr

from headrace.errors import InvalidRecord
from headrace.filters.model import Filter
from headrace.filters.parsing import parse
from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer
from headrace.payloads import DocumentFacts
from headrace.store.generations import create_generation
from headrace.store.index import index_batch
from headrace.store.pool import create_pool
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace.store.search import Found, Question, Shape, fingerprint, search
from headrace_testing.postgres import StoreSchema

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

ANALYZER = Analyzer()
DIMENSIONS = 8
WORDS = ("gate", "turbine", "수문", "저수지", "level", "pressure", "밸브", "intake", "spill", "flow")


@pytest_asyncio.fixture
async def generation(owner: Owner) -> Generation:
    """A generation of eight dimensions."""
    return await create_generation(owner, Generation("first", "toy", DIMENSIONS))


def vector(*values: float) -> bytes:
    """A vector, filled with zeros."""
    return np.array([*values, *([0.0] * (DIMENSIONS - len(values)))], dtype="<f4").tobytes()


def document(name: str, texts: list[tuple[str, bytes]], **facts: Any) -> IndexDocument:
    """A document of these texts, in sections of two."""
    chunks, start = [], 0
    for at, (text, embedding) in enumerate(texts):
        identity = hashlib.sha256(f"{name}/{at}".encode()).digest()[:16]
        key = hashlib.sha256(text.encode()).digest()
        chunks.append(IndexChunk(identity, (f"Section {at // 2}",), start, start + len(text), text, key, embedding))
        start += len(text) + 1
    return IndexDocument("acme", name, 7, DocumentFacts(f"Title {name}", "", b"h", **facts), chunks=tuple(chunks))


def asked(text: str, embedding: bytes, **changes: Any) -> Question:
    """A question with both legs."""
    return replace(Question(embedding, weights.query(ANALYZER, "acme", text)), **changes)


SELECTIVITIES = (1, 2, 10, 40, 100, 200, 400, 1000, 2000)
"""Of 2,000 documents with ten chunks each: from 0.05 % of the documents to all."""


async def test_there_are_never_fewer_hits_than_exist(
    store_schema: StoreSchema, pool: Pool, owner: Owner, generation: Generation
) -> None:
    """Broken: a filter leaves fewer than k hits although k exist, since an index stops before it meets them.

    ``hasty`` uses the index, which stops after 300 rows; by default, it stops after 20,000.
    """
    random = Random(3)
    noise = np.random.default_rng(3)
    matrix = noise.normal(size=(20_000, DIMENSIONS)).astype("<f4")
    documents = [
        document(
            f"d{number:04}",
            [(f"{' '.join(random.choices(WORDS, k=6))} {number}.{at}", matrix[number * 10 + at].tobytes())
             for at in range(10)],
            attributes={"rank": str(number), "kind": "one" if number == 7 else "many"},
            language="ko" if number % 2 else "en",
        )
        for number in range(2000)
    ]  # fmt: skip
    for at in range(0, len(documents), 250):
        await index_batch(pool, generation, documents[at : at + 250])
    await owner.execute("ANALYZE")
    hasty = await create_pool(
        store_schema.settings(
            dsn=SecretStr(f"{store_schema.server.runtime_dsn}&hnsw.max_scan_tuples=300&enable_sort=off")
        )
    )
    filters: list[tuple[dict[str, Any] | None, int]] = [(None, 20_000)]
    filters += [({"field": "attributes.rank", "lt": count}, count * 10) for count in SELECTIVITIES]
    filters += [
        ({"field": "attributes.kind", "eq": "one"}, 10),
        ({"field": "document", "in": ["d0003", "d0005", "none"]}, 20),
        ({"and": [{"field": "document", "prefix": "d000"}, {"field": "section", "contains": "Section 4"}]}, 20),
        ({"and": [{"field": "attributes.rank", "eq": "9"}, {"field": "section", "eq": ["Section 0"]}]}, 2),
        ({"not": {"field": "attributes.rank", "gte": 3}}, 30),
        ({"field": "language", "eq": "ko"}, 10_000),
        ({"field": "attributes.rank", "lt": 0}, 0),
    ]
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    texts = [chunk.text for one in documents for chunk in one.chunks]
    for given, existing in filters:
        near = noise.normal(size=DIMENSIONS).astype("<f4")
        tree = None if given is None else parse(given)
        vectors, hybrid = Question(near.tobytes()), asked("수문 gate", near.tobytes())
        for where, question, top_k in (*product([pool], (vectors, hybrid), (1, 10, 100)), (hasty, vectors, 10)):
            found = await search(where, "acme", generation, question, top_k=top_k, filters=tree)
            assert len(found.hits) == min(top_k, existing), (given, top_k)
            assert found.more == (existing > top_k)
            assert len({hit.chunk_id for hit in found.hits}) == len(found.hits)
        if given is None or given.get("field") != "attributes.rank":
            continue
        nearest = {texts[row] for row in sorted(range(existing), key=lambda row: -float(unit[row] @ near))[:10]}
        hits = (await search(pool, "acme", generation, vectors, top_k=10, filters=tree)).hits
        assert len(nearest & {hit.text for hit in hits}) >= min(10, existing) - 1, given
    await hasty.close()


async def test_a_filter_that_no_index_answers_is_not_judged_by_a_part_of_the_documents(
    pool: Pool, generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: documents beyond the first that are looked at are never found by a range or a prefix."""
    monkeypatch.setattr("headrace.store.legs.LOOKED_AT", 5)
    await index_batch(pool, generation, [
        document(f"d{n:02}", [("gate", vector(1, n))], attributes={"rank": str(n)}) for n in range(30)
    ])  # fmt: skip
    for low in (0, 3, 20, 29, 30):
        only = parse({"field": "attributes.rank", "gte": low})
        for question in (Question(vector(1)), asked("gate", vector(1))):
            found = await search(pool, "acme", generation, question, top_k=50, filters=only)
            assert len(found.hits) == 30 - low


async def by_document(
    pool: Pool, generation: Generation, question: Question, top_k: int, shape: Shape, filters: Filter | None = None
) -> tuple[Found, dict[str, list[str]]]:
    """A grouped search, and its texts by document."""
    found = await search(pool, "acme", generation, question, top_k=top_k, filters=filters, shape=shape)
    groups: dict[str, list[str]] = {}
    for hit in found.hits:
        groups.setdefault(hit.document_id, []).append(hit.text)
    assert [hit.document_id for hit in found.hits] == [name for name, texts in groups.items() for _ in texts]
    return found, groups


@pytest.mark.parametrize("legs", ["hybrid", "vector", "lexical"])
async def test_documents_are_counted_however_long_one_of_them_is(pool: Pool, generation: Generation, legs: str) -> None:
    """Broken: a long document has all hits to itself, and fewer documents are shown than fit."""
    long = document("long", [(f"gate number {at}", vector(1, 0.001 * at)) for at in range(400)])
    short = [
        document(f"s{number}", [(f"gate of {number} {at}", vector(1, 1 + number, at)) for at in range(3)])
        for number in range(6)
    ]
    await index_batch(pool, generation, [long, *short])
    question = asked("gate", vector(1))
    if legs != "hybrid":
        question = Question(vector(1)) if legs == "vector" else replace(question, vector=None)
    for per_document in (1, 2, 3, 5):
        found, groups = await by_document(pool, generation, question, 5, Shape(per_document))
        assert len(groups) == 5
        assert found.more
        assert {len(texts) for name, texts in groups.items() if name != "long"} == {min(per_document, 3)}
        assert len(groups["long"]) == per_document
    found, groups = await by_document(pool, generation, question, 100, Shape(2))
    assert (len(groups), found.more) == (7, False)
    if legs == "vector":
        assert list(groups) == ["long", *(f"s{number}" for number in range(6))]
        assert groups["long"] == ["gate number 0", "gate number 1"]
    only = parse({"field": "document", "in": ["s1", "s2"]})
    found, groups = await by_document(pool, generation, question, 5, Shape(10), only)
    assert set(groups) == {"s1", "s2"}
    assert found.plan.readings > 1
    assert {found.plan.dense, found.plan.lexical} - {None} == {6}


async def test_pages_show_every_hit_once_while_documents_change(pool: Pool, generation: Generation) -> None:
    """Broken: a hit stands on two pages, or on none, or a change between two pages shifts them."""
    noise = np.random.default_rng(5)
    documents = [
        document(f"d{n}", [(f"gate {n} {m} {WORDS[m]}", noise.normal(size=8).astype("<f4").tobytes())
                           for m in range(10)])
        for n in range(30)
    ]  # fmt: skip
    await index_batch(pool, generation, documents)
    question = asked("gate 수문 밸브", noise.normal(size=8).astype("<f4").tobytes())
    seen: Counter[bytes] = Counter()
    shape, pages = Shape(), 0
    while True:
        found = await search(pool, "acme", generation, question, top_k=17, shape=shape)
        seen.update(hit.chunk_id for hit in found.hits)
        shape = Shape(seen=shape.seen | {fingerprint(shape.identity(hit)) for hit in found.hits})
        pages += 1
        if not found.more:
            break
        better = document(f"new{pages}", [(f"gate 수문 밸브 {pages}", question.vector or b"")])
        await index_batch(pool, generation, [better])
    assert set(seen.values()) == {1}
    assert {chunk.chunk_id for one in documents for chunk in one.chunks} <= seen.keys()
    assert pages >= 300 // 17


async def test_pages_of_documents_show_every_document_once(pool: Pool, generation: Generation) -> None:
    """Broken: a document stands on two pages of a grouped search, or on none."""
    noise = np.random.default_rng(6)
    names = [f"d{n}" for n in range(40)]
    await index_batch(pool, generation, [
        document(name, [(f"gate {name} {m}", noise.normal(size=8).astype("<f4").tobytes()) for m in range(1 + n % 9)])
        for n, name in enumerate(names)
    ])  # fmt: skip
    shown: Counter[str] = Counter()
    shape = Shape(2)
    while True:
        found, groups = await by_document(pool, generation, asked("gate", vector(1)), 7, shape)
        shown.update(groups.keys())
        shape = Shape(2, seen=shape.seen | {fingerprint(shape.identity(hit)) for hit in found.hits})
        if not found.more:
            break
    assert shown == Counter(names)


async def test_neighbours_stand_beside_their_hit(pool: Pool, generation: Generation) -> None:
    """Broken: a reader sees other text around a hit than the document has, or that of another document."""
    texts = [(f"수문 {at}", vector(1, at)) for at in range(6)]
    await index_batch(pool, generation, [document("d", texts), document("other", [("gate", vector(0, 0, 1))])])
    found = await search(pool, "acme", generation, Question(vector(1)), top_k=7, shape=Shape(neighbours=2))
    by_text = {hit.text: hit for hit in found.hits}
    for at in range(6):
        around = by_text[f"수문 {at}"].neighbours
        assert around is not None
        assert [passage.ordinal for passage in around.before] == list(range(max(0, at - 2), at))
        assert [passage.ordinal for passage in around.after] == list(range(at + 1, min(6, at + 3)))
        for passage in (*around.before, *around.after):
            assert passage.text == f"수문 {passage.ordinal}"
            assert (passage.start, passage.end) == (passage.ordinal * 5, passage.ordinal * 5 + 4)
            assert passage.section == (f"Section {passage.ordinal // 2}",)
    alone = by_text["gate"].neighbours
    assert alone is not None
    assert (alone.before, alone.after) == ((), ())


async def test_a_search_says_how_it_was_executed(pool: Pool, generation: Generation) -> None:
    """Broken: an operator cannot see why a filtered search is slow, or which leg a hit is from."""
    texts = [(f"gate {at}" if at % 2 else f"turbine {at}", vector(1, at)) for at in range(60)]
    await index_batch(pool, generation, [document("d", texts, attributes={"kind": "x"})])
    only = parse({"field": "attributes.kind", "eq": "x"})
    found = await search(pool, "acme", generation, asked("gate", vector(1), explain=True), top_k=5, filters=only)
    assert (found.plan.exact, found.plan.documents, found.plan.readings) == (True, 1, 1)
    assert (found.plan.dense, found.plan.lexical) == (60, 30)  # as deep as for the passages that are compared
    for hit in found.hits:
        assert hit.explanation is not None
        assert hit.explanation.dense_rank == hit.ordinal + 1
        assert (hit.explanation.lexical_rank is None) == ("turbine" in hit.text)
    wide = await search(pool, "acme", generation, Question(vector(1)), top_k=5)
    assert (wide.plan.exact, wide.plan.lexical, wide.plan.documents) == (False, None, None)


@pytest.mark.parametrize("shape", [Shape(0), Shape(11), Shape(neighbours=-1), Shape(neighbours=11)])
async def test_a_shape_out_of_range_is_refused(pool: Pool, generation: Generation, shape: Shape) -> None:
    """Broken: one request reads a whole corpus into an answer."""
    with pytest.raises(InvalidRecord):
        await search(pool, "acme", generation, Question(vector(1)), shape=shape)
