"""Writes a batch of embedded documents in one transaction, with few round trips, and only rows that changed.

It reads, plans, then writes. The rows of the fence are read without a lock, :mod:`headrace.store.plan` decides, and
each document's row is written only if it is unchanged since it was read. If another writer changed it, the transaction
is rolled back and repeated. Documents are written in sorted order, so that two writers cannot deadlock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
from pgvector import SparseVector

from headrace.errors import TemporaryError
from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer, analyzer_of
from headrace.store import cache
from headrace.store.error_mapping import postgresql_errors
from headrace.store.fence import Fence
from headrace.store.generations import query_of
from headrace.store.plan import (
    Arrival,
    DocumentWrite,
    Plan,
    Stored,
    Vectors,
    by_document,
    candidates,
    carried_vectors,
    plan_tenant,
)
from headrace.store.queries import load
from headrace.store.rows import Generation, IndexChunk, IndexDocument, IndexResult, validate
from headrace.store.transactions import set_tenant
from headrace.store.uncancelled import whole

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

ATTEMPTS = 10
_FEW_ROWS = 32
"""So many lexical vectors are made without a thread: about 10 ms."""


class _OvertakenError(Exception):
    """Another writer changed a row between reading and writing it."""


async def index_batch(pool: Pool, generation: Generation, documents: Sequence[IndexDocument]) -> list[IndexResult]:
    """Write these documents to the store, all or none, and return the outcome of each, in order.

    A document may occur several times. Repeating a batch, or a part of it, writes nothing.

    Raises :class:`~headrace.errors.InvalidRecord` before anything is written for a document that the tables would
    refuse (:func:`~headrace.store.rows.validate` finds it), :class:`~headrace.errors.TemporaryError` if other writers
    changed the same rows ten times in a row, and :class:`~headrace.errors.DependencyDown` if PostgreSQL does not
    answer.
    """
    for document in documents:
        validate(document, generation)
    tenants: dict[str, list[Arrival]] = {}
    for position, document in enumerate(documents):
        tenants.setdefault(document.tenant, []).append((position, document))
    for _ in range(ATTEMPTS):
        results: dict[int, IndexResult] = {}
        try:
            with postgresql_errors():
                async with pool.acquire() as connection, connection.transaction():
                    for tenant, arrivals in sorted(tenants.items()):
                        results |= await _index_tenant(connection, generation, tenant, arrivals)
        except _OvertakenError:
            continue
        return [results[position] for position in range(len(documents))]
    raise TemporaryError(f"other writers changed the same documents {ATTEMPTS} times in a row")


async def _index_tenant(
    connection: Connection, generation: Generation, tenant: str, arrivals: Sequence[Arrival]
) -> dict[int, IndexResult]:
    await set_tenant(connection, tenant)
    groups = by_document(arrivals)
    stored = await _read_stored(connection, tenant, list(groups))
    wanted = candidates(groups, stored, generation)
    carried = carried_vectors(arrivals)
    vectors = await _find_vectors(connection, generation, tenant, documents=wanted, stored=stored, carried=carried)
    plan = plan_tenant(groups, stored, generation, vectors)
    if plan.writes:
        await _write(connection, generation, tenant, plan, vectors)
    return dict(plan.results)


async def _read_stored(connection: Connection, tenant: str, document_ids: Sequence[str]) -> dict[str, Stored]:
    rows = await connection.fetch(load("index")["stored"], tenant, document_ids)
    return {
        row["document_id"]: Stored(
            Fence(row["version"], row["content_hash"], row["deleted"], frozenset(row["generations"])),
            frozenset(chunk_id.bytes for chunk_id in row["chunk_ids"]),
        )
        for row in rows
    }


async def _find_vectors(
    connection: Connection,
    generation: Generation,
    tenant: str,
    *,
    documents: Sequence[IndexDocument],
    stored: dict[str, Stored],
    carried: dict[bytes, bytes],
) -> Vectors:
    """Find the vectors; ask the database only for those that the batch does not contain."""
    staying = {
        chunk.chunk_id
        for document in documents
        if document.document_id in stored
        for chunk in document.chunks
        if chunk.chunk_id in stored[document.document_id].chunk_ids
    }
    held: dict[bytes, bytes] = {}
    lexical: dict[bytes, bytes] = {}
    if staying:
        query = query_of("index", "embedded", generation)
        for row in await connection.fetch(query, tenant, [UUID(bytes=chunk_id) for chunk_id in sorted(staying)]):
            if row["vector_key"] is not None:
                held[row["chunk_id"].bytes] = row["vector_key"]
            if row["lexical_key"] is not None:
                lexical[row["chunk_id"].bytes] = row["lexical_key"]
    in_batch = Vectors(held, carried)
    lacking = {key for document in documents for key in in_batch.missing(document, stored.get(document.document_id))}
    known = frozenset[bytes]()
    if lacking:
        query = query_of("index", "known", generation)
        rows = await connection.fetch(query, tenant, list(lacking), generation.model)
        known = frozenset(row["vector_key"] for row in rows)
    return Vectors(held, carried, known, lexical)


async def _write(connection: Connection, generation: Generation, tenant: str, plan: Plan, vectors: Vectors) -> None:
    queries = load("index")
    weighed = await _lexical_rows(generation, plan)
    rows = [_document_row(write, generation) for write in plan.writes]
    written = await whole(connection.fetchmany(queries["write_document"], rows))
    if len(written) < len(rows):
        raise _OvertakenError
    chunks = [_chunk_row(write.document, chunk) for write in plan.writes for chunk in write.inserted]
    if chunks:
        await whole(connection.executemany(queries["insert_chunk"], chunks))
    outweighed = [UUID(bytes=chunk_id) for write in plan.writes for chunk_id in write.outweighed]
    if outweighed:
        await connection.execute(query_of("index", "delete_lexical", generation), tenant, outweighed)
    if weighed:
        await whole(connection.executemany(query_of("index", "insert_lexical", generation), weighed))
    outdated = [UUID(bytes=chunk_id) for write in plan.writes for chunk_id in write.outdated]
    unused: list[bytes] = []
    if outdated:
        found = await connection.fetch(query_of("index", "delete_embeddings", generation), tenant, outdated)
        unused = [row["vector_key"] for row in found if row["vector_key"] is not None]
    embedded = [chunk for write in plan.writes for chunk in write.embedded]
    await _write_embeddings(connection, generation, tenant, embedded, vectors)
    # Vectors go last: a text that moved from one chunk to another keeps its vector.
    if unused:
        await connection.execute(queries["drop_unused"], generation.name, unused)
    gone = [UUID(bytes=chunk_id) for write in plan.writes for chunk_id in write.gone]
    if gone:
        await connection.execute(queries["delete_chunks"], gone)


async def _write_embeddings(
    connection: Connection,
    generation: Generation,
    tenant: str,
    chunks: Sequence[IndexChunk],
    vectors: Vectors,
) -> None:
    """Write the vectors that the generation lacks, and the rows of the chunks, which refer to them."""
    if not chunks:
        return
    given = {chunk.key: vector for chunk in chunks if (vector := chunk.vector or vectors.carried.get(chunk.key))}
    if given:
        query = query_of("index", "insert_vectors", generation)
        await connection.execute(query, tenant, list(given), [cache.to_vector(one) for one in given.values()])
    others = {chunk.key for chunk in chunks if chunk.key} - given.keys()
    if others:
        query = query_of("index", "insert_cached_vectors", generation)
        await connection.execute(query, tenant, list(others), generation.model)
    query = query_of("index", "insert_embeddings", generation)
    try:
        await connection.execute(
            query, tenant, [UUID(bytes=chunk.chunk_id) for chunk in chunks], [chunk.key for chunk in chunks]
        )
    except asyncpg.ForeignKeyViolationError as gone:  # a vector was deleted or evicted since it was looked up
        raise _OvertakenError from gone


async def _lexical_rows(generation: Generation, plan: Plan) -> list[tuple[Any, ...]]:
    """Return the rows of lexical vectors to write; many are made in a thread, so that the event loop goes on."""
    analyzer = analyzer_of(generation.analyzer)
    wanted = [(write.document, chunk, key, analyzer) for write in plan.writes for chunk, key in write.weighed]
    if len(wanted) <= _FEW_ROWS:
        return [_lexical_row(*one) for one in wanted]
    return await asyncio.to_thread(lambda: [_lexical_row(*one) for one in wanted])


def _lexical_row(document: IndexDocument, chunk: IndexChunk, key: bytes, analyzer: Analyzer) -> tuple[Any, ...]:
    found = weights.passage(analyzer, document.tenant, document.lexical_texts(chunk))
    vector = SparseVector(found, weights.DIMENSIONS)
    return (document.tenant, UUID(bytes=chunk.chunk_id), key, list(found), vector)


def _document_row(write: DocumentWrite, generation: Generation) -> tuple[Any, ...]:
    document, expected = write.document, write.expected
    facts = document.facts
    return (
        document.tenant,
        document.document_id,
        document.version,
        document.deleted,
        facts.content_hash,
        sorted(write.fence.generations),
        facts.title,
        facts.source or "",
        facts.media_type,
        list(facts.acl),
        dict(facts.attributes),
        document.pipeline_id,
        document.pipeline_version,
        document.request_id,
        [dict(entry) for entry in document.history],
        dict(document.metadata),
        generation.model,
        [UUID(bytes=chunk.chunk_id) for chunk in document.chunks],
        [chunk.start for chunk in document.chunks],
        [chunk.end for chunk in document.chunks],
        facts.language or "",
        list(facts.pages),
        None if expected is None else expected.version,
        None if expected is None else sorted(expected.generations),
    )


def _chunk_row(document: IndexDocument, chunk: IndexChunk) -> tuple[Any, ...]:
    return (
        document.tenant,
        UUID(bytes=chunk.chunk_id),
        document.document_id,
        list(chunk.section),
        chunk.text,
        chunk.text_hash,
        chunk.tokens,
    )
