"""Stores artifacts, and converts them between the topic's record and the store's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from headrace.access.readers import EVERY_DOCUMENT, Reader
from headrace.envelope import Context
from headrace.payloads import Artifact, Citation, GenerationRequest
from headrace.store import artifacts
from headrace.store.search import Hit

if TYPE_CHECKING:
    from headrace.store.pool import Pool


class Archive(Protocol):
    """The storage for artifacts; both methods raise :class:`headrace.errors.DependencyDown`."""

    async def get(self, tenant: str, artifact_id: UUID) -> artifacts.Artifact | None:
        """Return the artifact, or None if it is not stored."""

    async def put(self, artifact: artifacts.Artifact) -> bool:
        """Store the artifact; return False, and change nothing, if it is already stored."""


class StoreArchive:
    """Keeps artifacts in PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, tenant: str, artifact_id: UUID) -> artifacts.Artifact | None:
        """Return the first version of the artifact, whoever may read it."""
        return await artifacts.get(self._pool, tenant, EVERY_DOCUMENT, artifact_id, 1)

    async def put(self, artifact: artifacts.Artifact) -> bool:
        """Store the artifact."""
        return await artifacts.put(self._pool, artifact)


def citation(number: int, hit: Hit) -> Citation:
    """Return the passage as citation ``number``."""
    return Citation(
        marker=number,
        document_id=hit.document_id,
        version=hit.version,
        chunk_id=hit.chunk_id,
        title=hit.title,
        section=hit.section,
        start=hit.start,
        end=hit.end,
        source=hit.source or None,
        score=hit.score,
        quote=hit.text,
    )


def record_of(row: artifacts.Artifact) -> Artifact:
    """Return the stored artifact as the record to publish."""
    return Artifact(
        artifact_id=str(row.artifact_id),
        kind=row.kind,
        title=row.title,
        mime_type=row.mime_type,
        text=row.text,
        provider=row.provider,
        model=row.model,
        citations=tuple(
            Citation(**{**one, "chunk_id": bytes.fromhex(one["chunk_id"]), "section": tuple(one["section"])})
            for one in row.citations
        ),
    )


def row_of(
    context: Context[GenerationRequest], artifact: Artifact, prompt: str, passages: Sequence[Hit]
) -> artifacts.Artifact:
    """Return the artifact as a row of the store; ``passages`` are all that the provider was shown."""
    trace = context.trace
    return artifacts.Artifact(
        tenant=context.change.tenant,
        artifact_id=UUID(artifact.artifact_id),
        version=1,
        request_id=trace.request_id,
        kind=artifact.kind,
        title=artifact.title,
        mime_type=artifact.mime_type,
        text=artifact.text,
        citations=_plain(artifact.citations),
        provider=artifact.provider,
        model=artifact.model,
        prompt=prompt,
        pipeline_id=trace.pipeline_id,
        pipeline_version=str(trace.pipeline_version),
        created_by=trace.requested_by or "",
        reader=Reader.of(context.payload.reader).names,
        sources=sorted({hit.document_id for hit in passages}),
    )


def _plain(citations: Sequence[Citation]) -> list[Mapping[str, Any]]:
    """Return citations in a form that JSON can represent: chunk IDs in hex, sections as lists."""
    return [{**asdict(one), "chunk_id": one.chunk_id.hex(), "section": list(one.section)} for one in citations]
