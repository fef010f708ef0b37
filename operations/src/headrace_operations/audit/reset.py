"""Removes a document's rows from the store, so that a replay writes them again.

The store's fence rejects a version that the store already has, so a replay does not rewrite lost or altered chunks of a
document. A reset keeps the document's row with the log's version, but without chunks or generations. The fence accepts
such a version as one whose vectors are still missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import HeadraceError
from headrace.kafka.ranges import LogReader
from headrace.store.generations import filled, kept_fresh, list_generations
from headrace.store.pool import StoreSettings, opened_pool
from headrace.store.queries import load
from headrace.store.rows import Generation
from headrace.store.transactions import tenant_transaction
from headrace_operations.audit import repairs
from headrace_operations.audit.log_view import LogView
from headrace_operations.audit.model import Key, LogDocument

if TYPE_CHECKING:
    from headrace.store.pool import Connection

_FIND = "SELECT version FROM document WHERE tenant = $1 AND document_id = $2"
_LOCK = _FIND + " FOR UPDATE"
_CHUNKS = "SELECT count(*) FROM chunk WHERE tenant = $1 AND (document_id = $2 OR chunk_id = ANY ($3::uuid[]))"
_DELETE_CHUNKS = "DELETE FROM chunk WHERE tenant = $1 AND (document_id = $2 OR chunk_id = ANY ($3::uuid[]))"
_DELETE_VECTORS = (
    "WITH gone AS (DELETE FROM {embedding} WHERE tenant = $1 AND (chunk_id = ANY ($3::uuid[]) "
    "OR chunk_id IN (SELECT chunk_id FROM chunk WHERE tenant = $1 AND document_id = $2)) RETURNING vector_key) "
    "SELECT array_agg(DISTINCT vector_key) FROM gone WHERE vector_key IS NOT NULL"
)
_RESET = """
UPDATE document SET version = $3, deleted = $4, content_hash = $5, generations = '{}', chunk_ids = '{}', starts = '{}',
       ends = '{}'
WHERE tenant = $1 AND document_id = $2"""


class NoReset(HeadraceError):
    """The document cannot be reset."""

    code = "no-reset"


@dataclass(frozen=True, slots=True)
class Reset:
    """The chunks that were or would be removed, each with its vectors; ``then`` has the commands to run next."""

    chunks: int
    version: int
    deleted: bool
    then: tuple[str, ...]


async def reset(kafka: KafkaSettings, codec: Codec, store: StoreSettings, key: Key, *, dry_run: bool = False) -> Reset:
    """Remove the document's chunks and vectors of all generations from the store, in one transaction.

    Raises :class:`NoReset` if the log does not have the document, or the store does not have it or has a newer version,
    and :class:`headrace.errors.DependencyDown` if a system does not answer.
    """
    ranges = LogReader(kafka, "audit")
    log = LogView(ranges, codec, tenant=key.tenant, document_id=key.document_id, progress=lambda _: None)
    log.advance()
    logged = log.chunk_lists([key]).get(key)
    if logged is None or logged.entry.document is None:
        raise NoReset(
            f"the log does not have the document {key.document_id} of tenant {key.tenant}",
            remedy=f"No replay could write it again. To remove it, run `{repairs.delete(key)}`.",
        )
    document = logged.entry.document
    chunk_ids = [UUID(bytes=chunk_id) for chunk_id in logged.hashes]
    async with opened_pool(store) as pool, tenant_transaction(pool, key.tenant, readonly=dry_run) as connection:
        _require(key, kafka.generation, document, await connection.fetchval(_FIND if dry_run else _LOCK, *key))
        chunks = await connection.fetchval(_CHUNKS, *key, chunk_ids)
        known = await list_generations(connection)
        if not dry_run:
            await _take_out(connection, known, key, document, chunk_ids)
    fresh = kept_fresh(known, kafka.generation)
    then = () if document.deleted else tuple(repairs.embed(key, generation) for generation in fresh)
    return Reset(chunks, document.version, document.deleted, then)


def _require(key: Key, generation: str, document: LogDocument, stored: int | None) -> None:
    if stored is None:
        raise NoReset(
            f"the store does not have the document {key.document_id} of tenant {key.tenant}",
            remedy=f"It needs no reset: run `{repairs.embed(key, generation)}`.",
        )
    if stored > document.version:
        raise NoReset(
            f"the store has version {stored} of {key.document_id}, but the log only has version {document.version}",
            remedy=f"A reset would restore the older version. Run `{repairs.ingest(key, stored)}`.",
        )


async def _take_out(
    connection: Connection, known: Sequence[Generation], key: Key, document: LogDocument, chunk_ids: list[UUID]
) -> None:
    for one in known:
        keys = await connection.fetchval(filled(_DELETE_VECTORS, one), *key, chunk_ids)
        await connection.execute(load("index")["drop_unused"], one.name, keys)
    await connection.execute(_DELETE_CHUNKS, *key, chunk_ids)
    await connection.execute(_RESET, *key, document.version, document.deleted, document.content_hash)
