"""The handler ``index``: writes embedded documents to PostgreSQL, behind the version fence.

PostgreSQL commits first, Kafka second; a batch that runs again writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import structlog

from headrace.codec.mapping import to_dict
from headrace.config import failpoints
from headrace.config.settings import KafkaSettings
from headrace.envelope import Context, Operation
from headrace.errors import ConfigurationError, HeadraceError, InvalidRecord, PermanentError
from headrace.handler import BatchHandler
from headrace.payloads import EmbeddedDocument, IndexedDocument
from headrace.store.error_mapping import postgresql_errors
from headrace.store.generations import get_generation
from headrace.store.index import index_batch
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.rows import Generation, IndexChunk, IndexDocument, IndexResult, Outcome, validate
from headrace_indexer.statistics import TermStatistics

if TYPE_CHECKING:
    from headrace.store.pool import Pool

log = structlog.get_logger(__name__)


class IndexHandler(BatchHandler[EmbeddedDocument | None, IndexedDocument]):
    """Writes a batch of documents in one transaction and returns the outcome of each."""

    name: ClassVar[str] = "index"
    stage: ClassVar[str] = "indexer"

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._generation: Generation | None = None
        self._statistics: TermStatistics | None = None

    async def start(self) -> None:
        """Connect to PostgreSQL and look up the generation to write.

        Raises :class:`headrace.errors.DependencyDown`, and :class:`ConfigurationError` if the generation is missing.
        """
        name = KafkaSettings().generation
        self._pool = await create_pool(StoreSettings())
        with postgresql_errors():
            async with self._pool.acquire() as connection:
                self._generation = await get_generation(connection, name)
        if self._generation is None:
            raise ConfigurationError(
                f"generation {name} does not exist",
                remedy=f"Run `headrace generations create {name}`, or `headrace bootstrap` for the first generation.",
            )
        self._statistics = TermStatistics(self._pool, self._generation)

    async def close(self) -> None:
        """Close the connections."""
        if self._statistics is not None:
            await self._statistics.close()
        if self._pool is not None:
            await self._pool.close()

    async def process_batch(
        self, contexts: Sequence[Context[EmbeddedDocument | None]]
    ) -> Sequence[Context[IndexedDocument] | HeadraceError]:
        """Write the valid documents. An invalid document fails alone."""
        assert self._pool is not None
        assert self._generation is not None
        outcomes: list[Context[IndexedDocument] | HeadraceError | None] = [None] * len(contexts)
        accepted: list[tuple[int, IndexDocument]] = []
        for position, context in enumerate(contexts):
            try:
                document = index_document(context, self._generation)
                validate(document, self._generation)
                accepted.append((position, document))
            except PermanentError as error:
                outcomes[position] = error
        results = await index_batch(self._pool, self._generation, [document for _, document in accepted])
        failpoints.reach("store.committed")
        assert self._statistics is not None
        for (position, document), result in zip(accepted, results, strict=True):
            self._statistics.wrote(document.tenant, result.weighed + result.deleted)
            outcomes[position] = outcome_of(contexts[position], result, self._generation.name)
        return [outcome for outcome in outcomes if outcome is not None]


def index_document(context: Context[EmbeddedDocument | None], generation: Generation) -> IndexDocument:
    """Return the document for the store; raises :class:`InvalidRecord` for vectors of another model."""
    change, trace, payload = context.change, context.trace, context.payload
    common: dict[str, Any] = {
        "tenant": change.tenant,
        "document_id": change.document_id,
        "version": change.version,
        "pipeline_id": trace.pipeline_id,
        "pipeline_version": str(trace.pipeline_version),
        "request_id": trace.request_id,
        "history": [history_entry(to_dict(run)) for run in trace.history],
        "metadata": dict(context.metadata),
    }
    if change.operation is Operation.DELETE:
        return IndexDocument(**common, deleted=True)
    if payload is None:
        raise InvalidRecord("payload", "is missing; an upsert must carry a document")
    if (payload.model, payload.dimensions, payload.generation) != (
        generation.model,
        generation.dimensions,
        generation.name,
    ):
        raise InvalidRecord(
            "model",
            f"is {payload.model} with {payload.dimensions} dimensions for generation {payload.generation}; this "
            f"indexer writes {generation.model} with {generation.dimensions} dimensions for {generation.name}",
            remedy="Configure the embedder and the indexer with the same generation and model.",
        )
    keys = payload.vector_keys or tuple(chunk.text_hash for chunk in payload.chunks)
    if len(keys) != len(payload.chunks):
        raise InvalidRecord("vector_keys", f"has {len(keys)} keys for {len(payload.chunks)} chunks")
    return IndexDocument(
        **common,
        facts=payload.facts,
        chunks=tuple(
            IndexChunk(
                chunk.chunk_id, chunk.section, chunk.start, chunk.end, chunk.text, chunk.text_hash,
                payload.vectors.get(key.hex()) if key else None, vector_key=key,
            )
            for chunk, key in zip(payload.chunks, keys, strict=True)
        ),
    )  # fmt: skip


def history_entry(run: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's run with values that JSON supports."""
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in run.items()}


def outcome_of(context: Context, result: IndexResult, generation: str) -> Context[IndexedDocument] | HeadraceError:
    """Return the outcome of the document, or its error; raises nothing."""
    change = context.change
    if result.outcome is Outcome.MISSING_VECTORS:
        return PermanentError(
            f"no vector for {len(result.missing)} texts, first {result.missing[0].hex()}",
            where=f"document={change.document_id} version={change.version}",
            remedy="The vectors are no longer in the vector cache. Embed the document again: run "
            "`headrace replay start --stage embedder` with --tenant and --document.",
        )
    if result.outcome is Outcome.CONFLICT:
        log.error(
            "a stored version arrived again with different content; the first content stays",
            tenant=change.tenant, document_id=change.document_id, version=change.version,
            request_id=context.trace.request_id,
        )  # fmt: skip
    payload = IndexedDocument(result.outcome.name, generation, result.inserted, result.deleted, result.kept)
    return context.with_payload(payload)
