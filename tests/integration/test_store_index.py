"""The indexer's writes against a real PostgreSQL, as a service's login."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import numpy as np
import pytest
import pytest_asyncio
from pgvector import Vector

from headrace.errors import InvalidRecord
from headrace.payloads import DocumentFacts
from headrace.store import cache, statistics
from headrace.store.conditions import Filters
from headrace.store.generations import activate, create_generation, get_generation
from headrace.store.index import index_batch
from headrace.store.rows import Generation, IndexChunk, IndexDocument, IndexResult, Outcome
from headrace.store.schema import migrate
from headrace.store.search import Question, search
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool
    from headrace_testing.postgres import StoreSchema

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

DIMENSIONS = 8
MODEL = "toy"


@pytest_asyncio.fixture
async def generation(owner: Owner) -> Generation:
    """The first generation, with eight dimensions, active."""
    created = await create_generation(owner, Generation("first", MODEL, DIMENSIONS))
    await activate(owner, "first")
    return created


def text_hash(text: str) -> bytes:
    """What the chunker would compute."""
    return hashlib.sha256(text.encode()).digest()[:16]


def vector(text: str) -> bytes:
    """A vector that depends on the text alone."""
    seed = int.from_bytes(text_hash(text)[:8], "big")
    return np.random.default_rng(seed).normal(size=DIMENSIONS).astype("<f4").tobytes()


def document(
    document_id: str,
    version: int,
    texts: Sequence[str] = (),
    *,
    tenant: str = "acme",
    with_vectors: bool = True,
    **changes: object,
) -> IndexDocument:
    """A document whose chunks stand one after another, each a text of its own."""
    chunks, start = [], 0
    for text in texts:
        identity = hashlib.sha256(f"{tenant}/{document_id}/{text}".encode()).digest()[:16]
        given = vector(text) if with_vectors else None
        chunks.append(IndexChunk(identity, ("A",), start, start + len(text), text, text_hash(text), given))
        start += len(text)
    values = {
        "facts": DocumentFacts("", "", text_hash("|".join(texts))),
        "chunks": tuple(chunks),
        "deleted": not texts,
    } | changes
    return IndexDocument(tenant=tenant, document_id=document_id, version=version, **values)  # type: ignore[arg-type]


def embedded(text: str, prepared: str | None) -> IndexDocument:
    """A document of one chunk, of which ``prepared`` was embedded; of None, nothing was."""
    one = document("d", 1, [text], with_vectors=False)
    key, given = (b"", None) if prepared is None else (text_hash(prepared), vector(prepared))
    return replace(one, chunks=(replace(one.chunks[0], vector=given, vector_key=key),))


KEYS = {
    "document": "document_id",
    "chunk": "chunk_id",
    "embedding_first": "chunk_id",
    "vector_first": "vector_key",
    "lexical_first": "chunk_id",
}


async def rows(owner: Owner) -> dict[str, dict[tuple[str, object], str]]:
    """Who wrote (xmin) and last locked (xmax) every row, by table and key: unchanged means that nothing was
    written.
    """
    found = {}
    for table, key in KEYS.items():
        records = await owner.fetch(f"SELECT tenant, {key} AS key, xmin || '/' || xmax AS mark FROM {table}")
        found[table] = {(record["tenant"], record["key"]): record["mark"] for record in records}
    return found


def outcomes(results: Sequence[IndexResult]) -> list[Outcome]:
    """The outcomes alone."""
    return [result.outcome for result in results]


async def test_edit_keeps_the_rows_of_untouched_chunks(pool: Pool, owner: Owner, generation: Generation) -> None:
    """An edit would rewrite (and re-index in HNSW) chunks that it did not touch, although they moved."""
    await index_batch(pool, generation, [document("d", 1, ["one", "two", "three"])])
    before = await rows(owner)
    (result,) = await index_batch(pool, generation, [document("d", 2, ["zero", "one", "three"])])
    after = await rows(owner)

    assert result == IndexResult(Outcome.INDEXED, inserted=1, deleted=1, kept=2)
    for table in ("chunk", "embedding_first"):
        kept = before[table].keys() & after[table].keys()
        assert len(kept) == 2
        assert all(before[table][key] == after[table][key] for key in kept)
    row = await owner.fetchrow("SELECT version, starts, ends FROM document")
    assert row is not None
    assert (row["version"], row["starts"], row["ends"]) == (2, [0, 4, 7], [4, 7, 12])


async def test_replay_writes_nothing(pool: Pool, owner: Owner, generation: Generation) -> None:
    """A replay of the log would leave dead rows behind, or lock rows, which writes to their pages."""
    batch = [document(f"d{n}", 1, [f"text {n}", "shared"]) for n in range(5)] + [document("d9", 3)]
    assert set(outcomes(await index_batch(pool, generation, batch))) == {Outcome.INDEXED, Outcome.DELETED}
    before = await rows(owner)
    assert set(outcomes(await index_batch(pool, generation, batch))) == {Outcome.UNCHANGED}
    assert await rows(owner) == before


async def test_delete_removes_chunks_and_stays(pool: Pool, owner: Owner, generation: Generation) -> None:
    """A deleted document would still be found, or an older upsert that comes late would bring it back."""
    await index_batch(pool, generation, [document("d", 1, ["one"]), document("e", 1, ["two"])])
    (result,) = await index_batch(pool, generation, [document("d", 3)])
    assert result == IndexResult(Outcome.DELETED, deleted=1)
    (late,) = await index_batch(pool, generation, [document("d", 2, ["back again"])])
    assert late.outcome is Outcome.SUPERSEDED
    assert await owner.fetchval("SELECT array_agg(document_id) FROM chunk") == ["e"]
    assert await owner.fetchval("SELECT count(*) FROM embedding_first") == 1
    assert await owner.fetchval("SELECT deleted FROM document WHERE document_id = 'd'") is True


async def test_same_version_with_another_content_is_a_conflict(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """A source that reuses a version number would overwrite silently."""
    await index_batch(pool, generation, [document("d", 1, ["one"])])
    (result,) = await index_batch(pool, generation, [document("d", 1, ["other"])])
    assert result.outcome is Outcome.CONFLICT
    assert await owner.fetchval("SELECT text FROM chunk") == "one"


async def test_one_batch_with_many_versions_writes_the_last(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Versions of one document inside a batch would be lost, written in the wrong order, or written each."""
    batch = [
        document("d", 1, ["a"]),
        document("d", 3, ["c"]),
        document("d", 2, ["b"]),
        document("d", 3, ["c"]),
    ]
    results = await index_batch(pool, generation, batch)
    assert outcomes(results) == [Outcome.SUPERSEDED, Outcome.INDEXED, Outcome.SUPERSEDED, Outcome.UNCHANGED]
    assert await owner.fetchval("SELECT array_agg(text) FROM chunk") == ["c"]


async def test_vectors_come_from_the_cache_and_from_the_batch(pool: Pool, owner: Owner, generation: Generation) -> None:
    """A text that was embedded before would have to travel again, or get another text's vector."""
    async with tenant_transaction(pool, "acme") as connection:
        assert await cache.put(connection, "acme", MODEL, {text_hash("one"): vector("one")}) == 1
    batch = [document("d", 1, ["one", "two"], with_vectors=False), document("e", 1, ["two"])]
    assert outcomes(await index_batch(pool, generation, batch)) == [Outcome.INDEXED, Outcome.INDEXED]
    found = await owner.fetch(
        "SELECT text, embedding FROM chunk JOIN embedding_first USING (tenant, chunk_id) "
        "JOIN vector_first USING (tenant, vector_key)"
    )
    assert len(found) == 3
    assert all(cache.to_bytes(row["embedding"]) == vector(row["text"]) for row in found)


async def test_missing_vectors_write_nothing_for_that_document(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """A document would be half indexed, its neighbours held up, or another tenant's cache used."""
    async with tenant_transaction(pool, "other") as connection:
        await cache.put(connection, "other", MODEL, {text_hash("one"): vector("one")})
    batch = [document("d", 1, ["one"], with_vectors=False), document("e", 1, ["two"])]
    first, second = await index_batch(pool, generation, batch)
    assert first == IndexResult(Outcome.MISSING_VECTORS, missing=(text_hash("one"),))
    assert second.outcome is Outcome.INDEXED
    assert await owner.fetchval("SELECT array_agg(document_id) FROM document") == ["e"]


async def test_kept_chunks_need_no_vector(pool: Pool, generation: Generation) -> None:
    """A chunk that has its row in the generation would be asked for again although the cache was pruned."""
    await index_batch(pool, generation, [document("d", 1, ["one", "two"])])
    (result,) = await index_batch(pool, generation, [document("d", 2, ["two"], with_vectors=False)])
    assert result == IndexResult(Outcome.INDEXED, deleted=1, kept=1)


async def test_second_generation_is_filled_without_touching_the_first(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """A rebuild into a new generation would be taken for a replay and stay empty, or churn the live rows."""
    second = await create_generation(owner, Generation("second", MODEL, DIMENSIONS))
    batch = [document("d", 1, ["one", "two"]), document("e", 2)]
    await index_batch(pool, generation, batch)
    before, written = await rows(owner), await owner.fetch("SELECT DISTINCT xmin::text FROM chunk")
    assert outcomes(await index_batch(pool, second, batch)) == [Outcome.INDEXED, Outcome.UNCHANGED]
    after = await rows(owner)
    assert after["embedding_first"] == before["embedding_first"]
    assert await owner.fetch("SELECT DISTINCT xmin::text FROM chunk") == written
    assert await owner.fetchval("SELECT count(*) FROM embedding_second") == 2
    assert set(outcomes(await index_batch(pool, generation, batch))) == {Outcome.UNCHANGED}


async def test_the_same_version_cut_otherwise_leaves_the_first_generation_to_be_replayed(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """The first generation would be called complete without its vectors, and no replay would bring them back."""
    second = await create_generation(owner, Generation("second", MODEL, DIMENSIONS))
    content = DocumentFacts("", "", text_hash("both"))
    await index_batch(pool, generation, [document("d", 1, ["one", "two"], facts=content)])
    again = document("d", 1, ["one", "three"], facts=content)
    assert outcomes(await index_batch(pool, second, [again])) == [Outcome.INDEXED]
    assert await owner.fetchval("SELECT generations FROM document") == ["second"]
    assert outcomes(await index_batch(pool, generation, [again])) == [Outcome.INDEXED]
    assert await owner.fetchval("SELECT generations FROM document") == ["first", "second"]
    for table in ("embedding_first", "embedding_second"):
        assert await owner.fetchval(f"SELECT count(*) FROM {table}") == 2


async def test_concurrent_writers_end_in_the_fold(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Two indexers with the same documents would deadlock, lose an update, or let an older version win."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    events = [
        document(f"d{generator.randrange(6)}", version, [f"{version} {n}" for n in range(generator.randrange(4))])
        for version in range(120)
    ]
    shuffled = generator.sample(events, len(events))
    batches = [shuffled[n : n + 10] for n in range(0, len(shuffled), 10)]
    await asyncio.gather(*(index_batch(pool, generation, batch) for batch in batches))

    newest = {event.document_id: event for event in events}
    stored = {row["document_id"]: row["version"] for row in await owner.fetch("SELECT * FROM document")}
    assert stored == {document_id: event.version for document_id, event in newest.items()}
    expected = {chunk.chunk_id for event in newest.values() for chunk in event.chunks}
    for table in ("chunk", "embedding_first"):
        found = await owner.fetch(f"SELECT chunk_id FROM {table}")
        assert {row["chunk_id"].bytes for row in found} == expected
        assert len(found) == len(expected)


async def test_bad_vector_is_named_before_anything_is_written(pool: Pool, owner: Owner, generation: Generation) -> None:
    """A vector of another model would surface as a database error that names no document."""
    short = document("d", 1, ["one"])
    (chunk,) = short.chunks
    broken = IndexChunk(chunk.chunk_id, (), 0, 3, "one", chunk.text_hash, b"\0" * 12)
    with pytest.raises(InvalidRecord, match=r"chunks\[0\]\.vector: has 12 bytes, but 8 dimensions need 32 .*=d"):
        await index_batch(pool, generation, [document("e", 1, ["two"]), document("d", 1, ["x"], chunks=(broken,))])
    assert await owner.fetchval("SELECT count(*) FROM document") == 0


async def test_a_chunk_whose_prepared_text_changed_gets_its_new_vector(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """Broken: after a change of title a document is found by the vector of its old one, in this or another index."""
    second = await create_generation(owner, Generation("second", MODEL, DIMENSIONS))
    for one in (generation, second):
        await index_batch(pool, one, [embedded("one", "A: one")])
    renamed = replace(embedded("one", "B: one"), version=2, facts=DocumentFacts("", "", b"other"))
    for one in (generation, second):
        (result,) = await index_batch(pool, one, [renamed])
        assert result == IndexResult(Outcome.INDEXED, kept=1)
        (row,) = await owner.fetch(
            f"SELECT * FROM vector_{one.name} JOIN embedding_{one.name} USING (tenant, vector_key)"
        )
        assert row["vector_key"] == text_hash("B: one")
        np.testing.assert_array_equal(row["embedding"].to_numpy(), np.frombuffer(vector("B: one"), "<f4"))
    again = replace(renamed, version=3, facts=DocumentFacts("", "", b"third"))
    before = await rows(owner)
    await index_batch(pool, generation, [replace(again, chunks=(replace(again.chunks[0], vector=None),))])
    assert (await rows(owner))["embedding_first"] == before["embedding_first"]


async def test_a_chunk_without_a_vector_by_decision_is_stored_and_not_waited_for(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """Broken: a document with a blank chunk is dead-lettered by the indexer, or a search by vector trips over it."""
    (result,) = await index_batch(pool, generation, [embedded(" ", None)])
    assert result.outcome is Outcome.INDEXED
    assert await owner.fetchval("SELECT vector_key IS NULL FROM embedding_first")
    assert await owner.fetchval("SELECT count(*) FROM vector_first") == 0
    for only in (None, ("d",)):
        assert await search(pool, "acme", generation, Question(vector("x")), filters=Filters(only)) == []
    now_with_one = replace(embedded(" ", "title"), version=2, facts=DocumentFacts("", "", b"other"))
    await index_batch(pool, generation, [now_with_one])
    assert await owner.fetchval("SELECT vector_key FROM embedding_first") == text_hash("title")


BEFORE = """
INSERT INTO generation (name, model, dimensions, distance, state) VALUES ('first', 'toy', 8, 'cosine', 'active');
INSERT INTO document VALUES
    ('acme', 'd', 1, false, 'h', '{first}', '', '', '', '{}', '{}', '', '', '', '[]', '{}', 'toy', '{}', '{}', '{}');
CREATE TABLE embedding_first (
    tenant text, chunk_id uuid, embedding public.vector(8) NOT NULL, PRIMARY KEY (tenant, chunk_id),
    FOREIGN KEY (tenant, chunk_id) REFERENCES chunk ON DELETE CASCADE
);
CREATE INDEX embedding_first_nearest ON embedding_first USING hnsw (embedding public.vector_cosine_ops);
ALTER TABLE embedding_first ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY one_tenant ON embedding_first USING (tenant = current_tenant());
"""


async def test_a_store_of_before_takes_its_vectors_along(store_schema: StoreSchema, owner: Owner) -> None:
    """Broken: the migration loses which text a vector is of, and an edit embeds a whole index again."""
    server, name = store_schema.server, store_schema.name + "_before"
    await asyncio.to_thread(migrate, server.dsn, name, "0003")
    await owner.execute(f"SET search_path TO \"{name}\", public; SET headrace.tenant = 'acme'")
    await owner.execute(BEFORE)
    for n, text in enumerate(("one", "two", "one")):
        row = (UUID(int=n), text, text_hash(text))
        await owner.execute("INSERT INTO chunk VALUES ('acme', $1, 'd', '{}', $2, $3)", *row)
        given = Vector(np.frombuffer(vector(text), "<f4"))
        await owner.execute("INSERT INTO embedding_first VALUES ('acme', $1, $2)", UUID(int=n), given)
    assert (await asyncio.to_thread(migrate, server.dsn, name)).changed
    found = await owner.fetch(
        "SELECT text, vector_key, embedding FROM chunk JOIN embedding_first USING (tenant, chunk_id) "
        "JOIN vector_first USING (tenant, vector_key) ORDER BY chunk_id"
    )
    assert [row["text"] for row in found] == ["one", "two", "one"]
    for one in found:
        assert one["vector_key"] == text_hash(one["text"])
        np.testing.assert_array_equal(one["embedding"].to_numpy(), np.frombuffer(vector(one["text"]), "<f4"))
    assert await owner.fetchval("SELECT count(*) FROM vector_first") == 2
    assert await get_generation(owner, "first") == Generation("first", "toy", DIMENSIONS, state="active")
    await owner.execute(f'DROP SCHEMA "{name}" CASCADE')


async def test_a_text_has_one_vector_however_many_chunks_have_it(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """A text that stands in a thousand documents would be a thousand equal points that hide their surroundings."""
    await index_batch(pool, generation, [document(f"d{n}", 1, ["same", f"own {n}"]) for n in range(3)])
    assert await owner.fetchval("SELECT count(*) FROM vector_first") == 4
    hits = await search(pool, "acme", generation, Question(vector("same")), top_k=3)
    assert sorted((hit.document_id, hit.text) for hit in hits) == [(f"d{n}", "same") for n in range(3)]
    (result,) = await index_batch(pool, generation, [document("d3", 1, ["same"], with_vectors=False)])
    assert result.outcome is Outcome.INDEXED  # the generation itself has the vector, without the cache
    before = await rows(owner)
    await index_batch(pool, generation, [document("d0", 2), document("d1", 2, ["own 1"])])
    after = await rows(owner)
    assert after["vector_first"].keys() == before["vector_first"].keys() - {("acme", text_hash("own 0"))}
    await index_batch(pool, generation, [document("d2", 2, ["own 2"]), document("d3", 2)])
    assert {key for _, key in (await rows(owner))["vector_first"]} == {text_hash("own 1"), text_hash("own 2")}


async def test_writers_of_one_text_leave_its_vector_as_long_as_it_is_used(
    pool: Pool, owner: Owner, generation: Generation
) -> None:
    """An indexer that removes the last chunk of a text while another adds one would take its vector away."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    texts = ["boilerplate", "imprint", "한국어 안내"]
    for turn in range(12):
        batches = [
            [document(f"d{n}", turn, generator.sample(texts, generator.randrange(4)) or [f"own {turn}"])]
            for n in range(6)
        ]
        await asyncio.gather(*(index_batch(pool, generation, batch) for batch in batches))
        used = {row[0] for row in await owner.fetch("SELECT DISTINCT vector_key FROM embedding_first")}
        await statistics.sweep(pool, "acme", generation)
        assert {key for _, key in (await rows(owner))["vector_first"]} == used
    expected = {chunk.chunk_id for (one,) in batches for chunk in one.chunks}
    assert {row["chunk_id"].bytes for row in await owner.fetch("SELECT chunk_id FROM embedding_first")} == expected


async def test_a_batch_that_is_cancelled_lets_its_connection_go(pool: Pool, generation: Generation) -> None:
    """Broken: a rebalance that meets the writing of many rows stops the indexer for three minutes."""
    texts = [f"{number} " * 150 for number in range(100)]
    batch = [document(f"d{number}", 1, [f"{number} {text}" for text in texts]) for number in range(8)]
    begun = time.monotonic()
    results = await index_batch(pool, generation, batch)
    whole_s = time.monotonic() - begun
    assert set(outcomes(results)) == {Outcome.INDEXED}
    for step in range(8):
        again = [replace(one, version=2 + step, document_id=f"{step}/{one.document_id}") for one in batch]
        chunks = [
            replace(one, chunks=tuple(replace(chunk, chunk_id=text_hash(f"{step}{one.document_id}{chunk.text}"))
                                      for chunk in one.chunks))
            for one in again
        ]  # fmt: skip
        task = asyncio.create_task(index_batch(pool, generation, chunks))
        await asyncio.sleep(whole_s * (step + 0.5) / 8)
        task.cancel()
        ended, _ = await asyncio.wait({task}, timeout=10 + 2 * whole_s)
        assert ended, f"cancelled after {step + 0.5} eighths, it still holds its connection"
