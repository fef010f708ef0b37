"""Queries for the documents of a tenant that a reader may read; all others are as if they did not exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headrace.access.readers import Reader
from headrace.store.queries import load
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """The newest version of a document, how it arrived, and its pipeline and model."""

    document_id: str
    version: int
    deleted: bool
    content_hash: bytes
    title: str
    source: str
    media_type: str
    acl: Sequence[str]
    attributes: Mapping[str, str]
    pipeline_id: str
    pipeline_version: str
    request_id: str
    history: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, Any]
    model: str
    generations: Sequence[str]
    indexed_at: datetime
    chunks: int


@dataclass(frozen=True, slots=True)
class DocumentState:
    """A summary of a document's row; ``request_id`` is that of the change that made this version.

    ``generations`` are those that contain the version completely.
    """

    version: int
    deleted: bool
    request_id: str
    generations: Sequence[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A live document in a list."""

    document_id: str
    version: int
    title: str
    source: str
    attributes: Mapping[str, str]
    request_id: str
    indexed_at: datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of a tenant: live documents, deleted documents (their fence stays), and chunks of live documents."""

    documents: int
    deleted: int
    chunks: int


async def get(pool: Pool, tenant: str, reader: Reader, document_id: str) -> DocumentRow | None:
    """Return the document, which may be deleted, or None if it was never indexed."""
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:
        row = await connection.fetchrow(load("documents")["get"], tenant, document_id)
    return None if row is None else DocumentRow(**row)


async def states(pool: Pool, tenant: str, reader: Reader, document_ids: Sequence[str]) -> dict[str, DocumentState]:
    """Return the state of each document, in one query; documents that were never indexed are absent."""
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:
        rows = await connection.fetch(load("documents")["states"], tenant, list(document_ids))
    return {
        row["document_id"]: DocumentState(row["version"], row["deleted"], row["request_id"], row["generations"])
        for row in rows
    }


async def having(
    pool: Pool,
    tenant: str,
    reader: Reader,
    attributes: Mapping[str, str],
    *,
    after: str | None = None,
    limit: int = 100,
) -> list[Listed]:
    """Return up to ``limit`` live documents after the ID ``after`` that have all these attributes, sorted by ID."""
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:
        rows = await connection.fetch(load("documents")["having"], tenant, dict(attributes), after, limit)
    return [Listed(**row) for row in rows]


async def by_request(pool: Pool, tenant: str, reader: Reader, request_id: str, *, limit: int = 1000) -> list[str]:
    """Return the IDs of documents whose newest version is from this request, sorted."""
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:
        rows = await connection.fetch(load("documents")["by_request"], tenant, request_id, limit)
    return [row["document_id"] for row in rows]


async def count(pool: Pool, tenant: str, reader: Reader) -> Counts:
    """Return the numbers of the tenant's documents and chunks."""
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:
        row = await connection.fetchrow(load("documents")["count"], tenant)
    assert row is not None
    return Counts(**row)
