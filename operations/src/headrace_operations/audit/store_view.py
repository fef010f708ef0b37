"""Reads one tenant's rows from the store, in pages by primary key, with one or two statements per page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from headrace.store.error_mapping import postgresql_errors
from headrace.store.generations import STORAGES, embedding_table, filled, list_generations
from headrace.store.rows import Generation
from headrace.store.transactions import sees_all, set_tenant, tenant_transaction
from headrace_operations.audit.digests import text_hash
from headrace_operations.audit.model import Key, Position, StoredChunk, StoredDetail, StoredDocument, StoredVector

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

PAGE = 2000
DOCUMENT_PAGE = 200
_FIRST, _LAST = UUID(int=0), UUID(int=2**128 - 1)

_TENANTS = "SELECT tenant FROM document UNION SELECT tenant FROM chunk UNION SELECT tenant FROM {embedding}"
_DOCUMENT_FIELDS = (
    "document_id, version, deleted, content_hash, generations, model, chunk_ids, starts, ends, indexed_at"
)
_DOCUMENT = "SELECT {fields} FROM document WHERE tenant = $1 AND ".replace("{fields}", _DOCUMENT_FIELDS)
_DOCUMENTS = _DOCUMENT + "document_id > $2 ORDER BY document_id LIMIT $3"
_DOCUMENTS_NAMED = _DOCUMENT + "document_id = ANY ($2::text[])"
_CHUNKS = (
    "SELECT chunk_id, document_id, text_hash, {text} AS text FROM chunk "
    "WHERE tenant = $1 AND chunk_id > $2 ORDER BY chunk_id LIMIT $3"
)
_CHUNKS_NAMED = (
    "SELECT chunk_id, document_id, text_hash, {text} AS text FROM chunk "
    "WHERE tenant = $1 AND document_id = ANY ($2::text[])"
)
_VECTOR_FIELDS = (
    "e.chunk_id, coalesce(vector_dims(v.embedding), {dimensions}) AS dimensions, "
    "coalesce({norm}(v.embedding) < 'infinity', true) AS finite"
)
"""A row without a vector says that its chunk is not embedded on purpose, so it is not a finding."""
_VECTORS = (
    "SELECT {fields}, NULL::boolean AS as_cached FROM {embedding} AS e "
    "LEFT JOIN {vectors} AS v ON v.tenant = e.tenant AND v.vector_key = e.vector_key "
    "WHERE e.tenant = $1 AND {which} AND $3::text <> ''"
).replace("{fields}", _VECTOR_FIELDS)
_VECTORS_DEEP = (
    "SELECT {fields}, v.embedding = k.embedding::{type} AS as_cached FROM {embedding} AS e "
    "LEFT JOIN {vectors} AS v ON v.tenant = e.tenant AND v.vector_key = e.vector_key "
    "LEFT JOIN vector_cache AS k ON k.tenant = e.tenant AND k.model = $3 AND k.text_hash = e.vector_key "
    "WHERE e.tenant = $1 AND {which}"
).replace("{fields}", _VECTOR_FIELDS)
_BETWEEN, _AMONG = "e.chunk_id > $2 AND e.chunk_id <= $4", "e.chunk_id = ANY ($2::uuid[])"
_LOOSE = (
    "SELECT e.chunk_id FROM {embedding} AS e WHERE e.tenant = $1 AND e.chunk_id = ANY ($2::uuid[]) "
    "AND NOT EXISTS (SELECT FROM chunk AS c WHERE c.tenant = e.tenant AND c.chunk_id = e.chunk_id)"
)
_CACHE = (
    "SELECT text_hash, vector_dims(embedding) AS dimensions FROM vector_cache WHERE tenant = $1 AND model = $2 "
    "AND (vector_dims(embedding) <> $3 OR NOT vector_norm(embedding) < 'infinity') ORDER BY text_hash"
)


class ChunkRow(NamedTuple):
    """A chunk with the vectors of its ID."""

    chunk_id: bytes
    document_id: str
    chunk: StoredChunk
    vectors: tuple[StoredVector, ...]


class ChunkPage(NamedTuple):
    """Chunks sorted by ID, and the IDs in the same range that have a vector but no chunk."""

    chunks: Sequence[ChunkRow]
    loose: Sequence[bytes]


class StoreView:
    """Reads the store. Every method raises :class:`headrace.errors.DependencyDown` if PostgreSQL does not answer."""

    def __init__(self, pool: Pool, generation: Generation, *, deep: bool) -> None:
        self.generation = generation
        self._pool = pool
        self._table = embedding_table(generation.name)
        query = filled(_VECTORS_DEEP if deep else _VECTORS, generation).replace(
            "{dimensions}", str(generation.dimensions)
        )
        norm = "vector_norm" if STORAGES[generation.storage].type == "vector" else "l2_norm"
        self._vectors = query.replace("{norm}", norm)
        self._text = "text" if deep else "NULL::text"

    async def tenants(self) -> set[str] | None:
        """Return every tenant that has a row, or None if the login sees only the tenants that it names."""
        with postgresql_errors():
            async with self._pool.acquire() as connection:
                if not await sees_all(connection):
                    return None
                rows = await connection.fetch(_TENANTS.replace("{embedding}", self._table))
        return {row["tenant"] for row in rows}

    async def now(self) -> datetime:
        """Return the database's time."""
        with postgresql_errors():
            found: datetime = await self._pool.fetchval("SELECT now()")
        return found

    async def documents(self, tenant: str) -> AsyncIterator[tuple[str, StoredDocument]]:
        """Yield every document's row."""
        after = ""
        while True:
            async with tenant_transaction(self._pool, tenant, readonly=True) as connection:
                rows = await connection.fetch(_DOCUMENTS, tenant, after, DOCUMENT_PAGE)
            for row in rows:
                yield row["document_id"], _document(row)
            if len(rows) < DOCUMENT_PAGE:
                return
            after = rows[-1]["document_id"]

    async def chunk_pages(self, tenant: str) -> AsyncIterator[ChunkPage]:
        """Yield every chunk and every vector."""
        after = _FIRST
        while True:
            async with tenant_transaction(self._pool, tenant, readonly=True) as connection:
                rows = await connection.fetch(_CHUNKS.replace("{text}", self._text), tenant, after, PAGE)
                until = rows[-1]["chunk_id"] if len(rows) == PAGE else _LAST
                query = self._vectors.replace("{which}", _BETWEEN)
                vectors = _by_chunk(await connection.fetch(query, tenant, after, self.generation.model, until))
            chunks = [_chunk(row, vectors.pop(row["chunk_id"].bytes, ())) for row in rows]
            yield ChunkPage(chunks, sorted(vectors))
            if until == _LAST:
                return
            after = until

    async def details(self, tenant: str, document_ids: Collection[str], since: datetime) -> dict[Key, StoredDetail]:
        """Return the documents with all their rows in one snapshot; reads all of the tenant's chunks to find them."""
        async with self._snapshot(tenant) as connection:
            names = list(document_ids)
            documents = {row["document_id"]: row for row in await connection.fetch(_DOCUMENTS_NAMED, tenant, names)}
            rows = await connection.fetch(_CHUNKS_NAMED.replace("{text}", self._text), tenant, names)
            wanted = sorted(row["chunk_id"] for row in rows)
            query = self._vectors.replace("{which}", _AMONG)
            found = await connection.fetch(query, tenant, wanted, self.generation.model)
        vectors = _by_chunk(found)
        chunks: dict[str, dict[bytes, StoredChunk]] = {}
        for row in rows:
            chunks.setdefault(row["document_id"], {})[row["chunk_id"].bytes] = _chunk(row, ()).chunk
        return {Key(tenant, name): _detail(documents.get(name), chunks.get(name, {}), vectors, since) for name in names}

    async def still_loose(self, tenant: str, chunk_ids: Collection[bytes]) -> list[bytes]:
        """Return those of the chunk IDs that now have a vector but no chunk."""
        wanted = [UUID(bytes=chunk_id) for chunk_id in sorted(chunk_ids)]
        async with tenant_transaction(self._pool, tenant, readonly=True) as connection:
            rows = await connection.fetch(_LOOSE.replace("{embedding}", self._table), tenant, wanted)
        return sorted({row["chunk_id"].bytes for row in rows})

    async def alien_cache(self, tenant: str) -> list[tuple[bytes, int]]:
        """Return text hash and dimensions of the cached vectors that do not match the generation."""
        async with tenant_transaction(self._pool, tenant, readonly=True) as connection:
            rows = await connection.fetch(_CACHE, tenant, self.generation.model, self.generation.dimensions)
        return [(bytes(row["text_hash"]), row["dimensions"]) for row in rows]

    @asynccontextmanager
    async def _snapshot(self, tenant: str) -> AsyncIterator[Connection]:
        with postgresql_errors():
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                await set_tenant(connection, tenant)
                yield connection


async def generations(pool: Pool) -> list[Generation]:
    """Return all generations."""
    with postgresql_errors():
        async with pool.acquire() as connection:
            return await list_generations(connection)


def _document(row: Any) -> StoredDocument:
    layout = zip(row["chunk_ids"], row["starts"], row["ends"], strict=True)
    return StoredDocument(
        row["version"], row["deleted"], bytes(row["content_hash"]), row["model"], frozenset(row["generations"]),
        tuple(Position(chunk_id.bytes, start, end) for chunk_id, start, end in layout),
    )  # fmt: skip


def _chunk(row: Any, vectors: tuple[StoredVector, ...]) -> ChunkRow:
    stored = bytes(row["text_hash"])
    fits = None if row["text"] is None else text_hash(row["text"]) == stored
    return ChunkRow(row["chunk_id"].bytes, row["document_id"], StoredChunk(stored, fits), vectors)


def _by_chunk(rows: Sequence[Any]) -> dict[bytes, tuple[StoredVector, ...]]:
    found: dict[bytes, tuple[StoredVector, ...]] = {}
    for row in rows:
        one = StoredVector(row["dimensions"], row["finite"], row["as_cached"])
        found[row["chunk_id"].bytes] = (*found.get(row["chunk_id"].bytes, ()), one)
    return found


def _detail(
    row: Any, chunks: dict[bytes, StoredChunk], vectors: dict[bytes, tuple[StoredVector, ...]], since: datetime
) -> StoredDetail:
    return StoredDetail(
        None if row is None else _document(row),
        row is not None and row["indexed_at"] >= since,
        chunks,
        {chunk_id: vectors[chunk_id] for chunk_id in chunks if chunk_id in vectors},
    )
