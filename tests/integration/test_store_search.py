"""Search against a real PostgreSQL: by vector, by words, under filters, against an exact scan."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import asyncpg
import numpy as np
import pytest
import pytest_asyncio
from pydantic import SecretStr

from headrace.errors import InvalidRecord
from headrace.payloads import DocumentFacts
from headrace.store.generations import create_generation
from headrace.store.index import index_batch
from headrace.store.pool import create_pool
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace.store.search import search
from headrace.store.transactions import tenant_transaction
from headrace_testing.postgres import StoreSchema

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

DIMENSIONS = 4


@pytest_asyncio.fixture
async def generation(owner: Owner) -> Generation:
    """A generation of four dimensions."""
    return await create_generation(owner, "first", "toy", DIMENSIONS)


def direction(*values: float) -> bytes:
    """A query vector."""
    return np.array(values, dtype="<f4").tobytes()


def document(document_id: str, texts: dict[str, bytes], *, tenant: str = "acme", **attributes: str) -> IndexDocument:
    """A document of these texts with their vectors, one after another."""
    chunks, start = [], 0
    for text, vector in texts.items():
        identity = hashlib.sha256(f"{tenant}/{document_id}/{text}".encode()).digest()[:16]
        chunks.append(IndexChunk(identity, ("Top", "Sub"), start, start + len(text), text, identity, vector))
        start += len(text)
    return IndexDocument(
        tenant,
        document_id,
        7,
        DocumentFacts(f"Title {document_id}", "", b"h", source="here", attributes=attributes),
        chunks=tuple(chunks),
    )


async def test_a_hit_says_where_it_stands(pool: Pool, generation: Generation) -> None:
    """A citation could not be opened: wrong place, section, version or score."""
    texts = {"north": direction(1, 0, 0, 0), "한국어 east": direction(1, 1, 0, 0), "south": direction(-1, 0, 0, 0)}
    await index_batch(pool, generation, [document("d", texts, lang="en")])
    hits = await search(pool, "acme", generation, direction(0, 2, 0, 0), top_k=2)
    hit = hits[0]
    assert hit.text == "한국어 east"
    assert (hit.document_id, hit.title, hit.version, hit.source) == ("d", "Title d", 7, "here")
    assert (hit.section, hit.ordinal, hit.start, hit.end) == (("Top", "Sub"), 1, 5, 13)
    assert hit.attributes == {"lang": "en"}
    assert hit.score == pytest.approx(2**-0.5)
    assert len(hits) == 2


@pytest.mark.parametrize("exact_documents", [500, 0])
async def test_filters_do_not_cost_hits(
    pool: Pool, owner: Owner, generation: Generation, monkeypatch: pytest.MonkeyPatch, exact_documents: int
) -> None:
    """A narrow filter would silently return fewer hits than exist, since HNSW stops before it meets them."""
    monkeypatch.setattr("headrace.store.search.EXACT_DOCUMENTS", exact_documents)  # 0: always through the index
    random = np.random.default_rng(5)
    crowd = [
        document(f"d{n}", {f"text {n} {m}": random.normal(size=4).astype("<f4").tobytes() for m in range(20)}, kind="x")
        for n in range(60)
    ]
    away = {f"far {n}": direction(-1, 0.01 * n, 0, 0) for n in range(5)}
    await index_batch(pool, generation, [*crowd, document("rare", away, kind="y")])
    await owner.execute("ANALYZE")
    query = direction(1, 0, 0, 0)
    assert len(await search(pool, "acme", generation, query, top_k=100)) == 100
    for filters in ({"attributes": {"kind": "y"}}, {"document_ids": ["rare"]}):
        hits = await search(pool, "acme", generation, query, top_k=10, **filters)
        assert [hit.text for hit in hits] == ["far 4", "far 3", "far 2", "far 1", "far 0"]
    both = await search(pool, "acme", generation, query, document_ids=["rare", "d1"], attributes={"kind": "x"})
    assert {hit.document_id for hit in both} == {"d1"}
    assert await search(pool, "acme", generation, query, document_ids=[]) == []


async def test_a_small_tenant_beside_a_large_one_gets_all_its_hits(pool: Pool, generation: Generation) -> None:
    """The index is shared: a large tenant's nearer rows would crowd a small one's out."""
    random = np.random.default_rng(6)
    large = [
        document(
            f"d{n}",
            {f"{n} {m}": (random.normal(size=4) * 0.1 + [1, 0, 0, 0]).astype("<f4").tobytes() for m in range(50)},
        )
        for n in range(20)
    ]
    small = document("s", {f"s{n}": direction(-1, n, 0, 0) for n in range(3)}, tenant="small")
    await index_batch(pool, generation, [*large, small])
    hits = await search(pool, "small", generation, direction(1, 0, 0, 0), top_k=10)
    assert sorted(hit.text for hit in hits) == ["s0", "s1", "s2"]


async def test_an_index_that_gives_up_is_helped_out(
    store_schema: StoreSchema,
    pool: Pool,
    owner: Owner,
    generation: Generation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HNSW stops after hnsw.max_scan_tuples rows: what lies beyond would silently not be found."""
    random = np.random.default_rng(8)
    near = {f"near {n}": (random.normal(size=4) * 0.1 + [1, 0, 0, 0]).astype("<f4").tobytes() for n in range(2000)}
    far = {f"far {n}": direction(-1, n, 0, 0) for n in range(3)}
    await index_batch(pool, generation, [document("n", near, kind="x"), document("f", far, kind="y")])
    await owner.execute("ANALYZE")
    dsn = SecretStr(f"{store_schema.server.runtime_dsn}&hnsw.max_scan_tuples=1")
    hasty = await create_pool(store_schema.settings(dsn=dsn))
    assert await hasty.fetchval("SHOW hnsw.max_scan_tuples") == "1"
    monkeypatch.setattr("headrace.store.search.EXACT_DOCUMENTS", 0)
    hits = await search(hasty, "acme", generation, direction(1, 0, 0, 0), attributes={"kind": "y"})
    await hasty.close()
    assert sorted(hit.text for hit in hits) == ["far 0", "far 1", "far 2"]


async def test_index_finds_what_an_exact_scan_finds(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Approximate search would lose more than one hit in twenty (recall at 10, averaged over 20 queries)."""
    random = np.random.default_rng(7)
    matrix = random.normal(size=(2000, DIMENSIONS)).astype("<f4")
    documents = [document(f"d{n}", {f"{n} {m}": matrix[n * 100 + m].tobytes() for m in range(100)}) for n in range(20)]
    await index_batch(pool, generation, documents)
    await owner.execute("ANALYZE")
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    found = 0
    for query in random.normal(size=(20, DIMENSIONS)).astype("<f4"):
        nearest = np.argsort(-(unit @ query))[:10]
        expected = {f"{n // 100} {n % 100}" for n in nearest}
        found += len(expected & {hit.text for hit in await search(pool, "acme", generation, query.tobytes())})
    assert found >= 190


async def test_words_lift_what_vectors_miss(pool: Pool, generation: Generation) -> None:
    """A rare name in the question would not find the only chunk that holds it."""
    texts = {f"filler number {n}": direction(1, 0.001 * n, 0, 0) for n in range(60)}
    await index_batch(pool, generation, [document("d", texts | {"About Zanzibar's harbours": direction(-1, 0, 0, 0)})])
    query = direction(1, 0, 0, 0)
    plain = await search(pool, "acme", generation, query, top_k=5)
    assert all("Zanzibar" not in hit.text for hit in plain)
    hybrid = await search(pool, "acme", generation, query, top_k=5, query_text="what is a harbour in Zanzibar?")
    assert any("Zanzibar" in hit.text for hit in hybrid)
    assert [hit.score for hit in hybrid] == sorted((hit.score for hit in hybrid), reverse=True)
    filtered = await search(pool, "acme", generation, query, query_text="Zanzibar", document_ids=["other"])
    assert filtered == []


@pytest.mark.parametrize(
    "text", ["", "the of", "\0", "'; DROP TABLE chunk; --", "a' | b \\ & !(", "한국어", "x" * 5000]
)
async def test_any_query_text_is_data(pool: Pool, generation: Generation, text: str) -> None:
    """A question could be read as SQL or as a search operator, or break the search."""
    await index_batch(pool, generation, [document("d", {"north": direction(1, 0, 0, 0)})])
    hits = await search(pool, "acme", generation, direction(1, 0, 0, 0), query_text=text)
    assert [hit.text for hit in hits] == ["north"]


async def test_search_by_words_uses_its_index(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Row-level security would keep the words' index out of use, and each search read every chunk."""
    texts = {f"filler number {n}": direction(1, 0, 0, 0) for n in range(2000)}
    await index_batch(pool, generation, [document("d", texts | {"Zanzibar": direction(1, 0, 0, 0)})])
    await owner.execute("VACUUM ANALYZE chunk")
    async with tenant_transaction(pool, "acme") as connection:
        before = await connection.fetchval("SELECT pg_stat_get_xact_tuples_returned('chunk'::regclass)")
        rows = await connection.fetch("SELECT * FROM match_words('Zanzibar', NULL, NULL, 10)")
        read = await connection.fetchval("SELECT pg_stat_get_xact_tuples_returned('chunk'::regclass)") - before
    assert len(rows) == 1
    assert read < 100


@pytest.mark.parametrize("top_k", [0, 101])
async def test_bad_queries_are_refused_by_field(pool: Pool, generation: Generation, top_k: int) -> None:
    """A question would fail inside PostgreSQL, or read the whole index."""
    with pytest.raises(InvalidRecord, match="top_k"):
        await search(pool, "acme", generation, direction(1, 0, 0, 0), top_k=top_k)
    with pytest.raises(InvalidRecord, match="query_vector: has 3 dimensions; the generation needs 4"):
        await search(pool, "acme", generation, direction(1, 0, 0))
    with pytest.raises(ValueError, match="tenant"):
        await search(pool, "", generation, direction(1, 0, 0, 0))
