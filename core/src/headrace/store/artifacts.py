"""Generated documents and their versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from headrace.access.readers import EVERY_DOCUMENT, Reader
from headrace.store.queries import load
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of a generated document.

    ``citations`` lists the chunks that the text cites; ``prompt`` has the prompt's name and version; ``created_at`` is
    set by the store, and None before that. ``reader`` has the names of the reader who asked, and ``sources`` the IDs of
    the documents that the text was made from.
    """

    tenant: str
    artifact_id: UUID
    version: int
    request_id: str
    kind: str
    title: str
    mime_type: str
    text: str
    citations: Sequence[Mapping[str, Any]] = ()
    provider: str = ""
    model: str = ""
    prompt: str = ""
    pipeline_id: str = ""
    pipeline_version: str = ""
    created_by: str = ""
    created_at: datetime | None = None
    reader: Sequence[str] = ()
    sources: Sequence[str] = ()


def artifact_id(tenant: str, request_id: str) -> UUID:
    """Return the ID of a request's artifact, so that the request ID is enough to look it up."""
    return uuid5(NAMESPACE_URL, f"headrace:artifact:{tenant}/{request_id}")


async def put(pool: Pool, artifact: Artifact) -> bool:
    """Store a version of an artifact; return False, without a change, if this version exists."""
    async with tenant_transaction(pool, artifact.tenant, reader=EVERY_DOCUMENT) as connection:
        status = await connection.execute(
            load("artifacts")["put"],
            artifact.tenant,
            artifact.artifact_id,
            artifact.version,
            artifact.request_id,
            artifact.kind,
            artifact.title,
            artifact.mime_type,
            artifact.text,
            [dict(citation) for citation in artifact.citations],
            artifact.provider,
            artifact.model,
            artifact.prompt,
            artifact.pipeline_id,
            artifact.pipeline_version,
            artifact.created_by,
            artifact.reader,
            artifact.sources,
        )
    return status == "INSERT 0 1"


async def get(
    pool: Pool, tenant: str, reader: Reader, artifact_id: UUID, version: int | None = None
) -> Artifact | None:
    """Return the newest version, or the requested one; None if it does not exist or the reader may not read it.

    A reader may read an artifact if he has all principals of the reader who asked, and may still read every document
    that the text was made from.
    """
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:
        row = await connection.fetchrow(load("artifacts")["get"], tenant, artifact_id, version)
    return None if row is None else Artifact(**row)


async def by_request(pool: Pool, tenant: str, reader: Reader, request_id: str) -> list[Artifact]:
    """Return the artifacts of a request that the reader may read, oldest first."""
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:
        rows = await connection.fetch(load("artifacts")["by_request"], tenant, request_id)
    return [Artifact(**row) for row in rows]
