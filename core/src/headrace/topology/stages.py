"""The stages of the flow: the topic that each one reads and writes, and the record type of each topic."""

from __future__ import annotations

from dataclasses import dataclass

from headrace import payloads


@dataclass(frozen=True, slots=True)
class StageFlow:
    """A stage's place in the flow; topics as :meth:`headrace.config.settings.KafkaSettings.topic` takes them."""

    name: str
    source: str
    target: str
    consumes: type[object]
    produces: type[object]
    batch_records: int = 500
    """Maximum records in a batch, unless HEADRACE_WORKER_BATCH_RECORDS is set."""


INGEST = StageFlow("ingest", "changes", "documents", payloads.ChangeEvent, payloads.SourceDocument)
CHUNKER = StageFlow("chunker", "documents", "chunks", payloads.SourceDocument, payloads.ChunkedDocument)
EMBEDDER = StageFlow("embedder", "chunks", "vectors", payloads.ChunkedDocument, payloads.EmbeddedDocument, 64)
INDEXER = StageFlow("indexer", "vectors", "indexed", payloads.EmbeddedDocument, payloads.IndexedDocument, 200)
GENERATOR = StageFlow("generator", "generation-requests", "artifacts", payloads.GenerationRequest, payloads.Artifact, 8)

STAGES = {stage.name: stage for stage in (INGEST, CHUNKER, EMBEDDER, INDEXER, GENERATOR)}
"""Every stage, by name."""
DOCUMENT_STAGES = (INGEST, CHUNKER, EMBEDDER, INDEXER)
"""The stages that a document goes through, in this order. The generator answers questions and reads no documents."""


def next_stage(flow: StageFlow) -> StageFlow | None:
    """Return the stage that reads what this one writes, or None at the end of the flow."""
    return next((stage for stage in STAGES.values() if stage.source == flow.target), None)
