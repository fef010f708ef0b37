"""What the store knows about a tenant's documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headrace.store.queries import load
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """The newest version of a document, how it came here and by which pipeline and model."""

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
    """What the store holds of a document, in short; ``request_id`` is of the change that made this version.

    ``generations`` are those that contain it completely.
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
    """How much a tenant has: live documents, deleted ones whose fence stays, chunks of the live ones."""

    documents: int
    deleted: int
    chunks: int


async def get(pool: Pool, tenant: str, document_id: str) -> DocumentRow | None:
    """The document, deleted or not; None when it was never indexed."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        row = await connection.fetchrow(load("documents")["get"], tenant, document_id)
    return None if row is None else DocumentRow(**row)


async def states(pool: Pool, tenant: str, document_ids: Sequence[str]) -> dict[str, DocumentState]:
    """The state of each document, in one query; those never indexed are absent."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        rows = await connection.fetch(load("documents")["states"], tenant, list(document_ids))
    return {
        row["document_id"]: DocumentState(row["version"], row["deleted"], row["request_id"], row["generations"])
        for row in rows
    }


async def having(
    pool: Pool, tenant: str, attributes: Mapping[str, str], *, after: str | None = None, limit: int = 100
) -> list[Listed]:
    """The live documents with all of these attributes, by id, from the one after ``after`` on; no attribute: all."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        rows = await connection.fetch(load("documents")["having"], tenant, dict(attributes), after, limit)
    return [Listed(**row) for row in rows]


async def by_request(pool: Pool, tenant: str, request_id: str, *, limit: int = 1000) -> list[str]:
    """The documents whose newest version came with this request, by id."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        rows = await connection.fetch(load("documents")["by_request"], tenant, request_id, limit)
    return [row["document_id"] for row in rows]


async def count(pool: Pool, tenant: str) -> Counts:
    """How many documents and chunks the tenant has."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        row = await connection.fetchrow(load("documents")["count"], tenant)
    assert row is not None
    return Counts(**row)
