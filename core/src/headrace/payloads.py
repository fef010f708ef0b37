"""The payload of each topic as frozen types, with the fields of ``schemas/avro``.

Vectors are bytes (float32, little endian). Offsets count characters (Unicode code points) of the document's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from headrace.envelope import Operation

__all__ = [
    "FLAT",
    "Artifact",
    "ChangeEvent",
    "Chunk",
    "ChunkedDocument",
    "Citation",
    "Control",
    "DeadLetter",
    "DeadLetterAction",
    "DocumentFacts",
    "EmbeddedDocument",
    "GenerationRequest",
    "HeaderPart",
    "HeldAction",
    "IndexedDocument",
    "PipelineVersion",
    "ReplayPosition",
    "ReplayRun",
    "SourceDocument",
]

_NOTHING: Mapping[str, str] = {}
FLAT = {"flat": True}
"""Metadata of a dataclass field whose own fields are direct fields of the Avro record, without a nested record."""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """A source upserted or deleted a document."""

    tenant: str
    document_id: str
    operation: Operation
    version: int | None = None
    title: str | None = None
    content: str | None = None
    media_type: str | None = None
    source: str | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    acl: tuple[str, ...] = ()
    pipeline: str | None = None
    request_id: str | None = None
    requested_by: str | None = None
    occurred_at: datetime | None = None
    data: bytes | None = None
    reference: str | None = None
    language: str | None = None
    pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """What every stage knows about a document except its text; stages pass it on unchanged.

    ``content_hash`` has 16 bytes and covers text and facts; ``pages`` is the first character of each page in the text.
    """

    title: str
    media_type: str
    content_hash: bytes
    source: str | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    acl: tuple[str, ...] = ()
    language: str | None = None
    pages: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A parsed document with its text."""

    facts: DocumentFacts = field(metadata=FLAT)
    text: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: ``text`` is ``[start:end]`` of the document's text; ids and hashes have 16 bytes."""

    chunk_id: bytes
    section: tuple[str, ...]
    start: int
    end: int
    text: str
    text_hash: bytes


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document split into chunks, in the order of the text."""

    facts: DocumentFacts = field(metadata=FLAT)
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class EmbeddedDocument:
    """A document with the vectors that were computed for it.

    ``vectors`` maps a key in hex to float32 little-endian bytes (4 x ``dimensions``);
    the vector of a missing key was embedded before and is in the cache.
    ``vector_keys`` has the key of each chunk, in order: the hash of its prepared text, or empty if it has no vector.
    Without vector keys, each chunk uses its own text hash.
    """

    facts: DocumentFacts = field(metadata=FLAT)
    chunks: tuple[Chunk, ...]
    generation: str
    model: str
    dimensions: int
    vectors: Mapping[str, bytes]
    vector_keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexedDocument:
    """What the index did with one version of a document, in numbers of chunks."""

    outcome: str
    generation: str
    inserted: int
    deleted: int
    kept: int


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for a text generated from the documents that its reader may read.

    ``reader`` has the names of the reader (:attr:`headrace.access.readers.Reader.names`). Without names, only documents
    without an ``acl`` are used. ``filter`` is the JSON text of the filter that its passages must meet
    (:mod:`headrace.filters.parsing`).
    """

    question: str
    kind: str = "answer"
    top_k: int = 5
    reader: tuple[str, ...] = ()
    filter: str | None = None
    minimum_fit: float | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that an artifact cites; ``marker`` is its number in the text, from 1."""

    marker: int
    document_id: str
    version: int
    chunk_id: bytes
    title: str
    section: tuple[str, ...]
    start: int
    end: int
    source: str | None
    score: float
    quote: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A generated text with the passages that it cites."""

    artifact_id: str
    kind: str
    title: str
    mime_type: str
    text: str
    provider: str
    model: str
    citations: tuple[Citation, ...]


@dataclass(frozen=True, slots=True)
class HeaderPart:
    """One header of a Kafka record."""

    name: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The unchanged record that could not be processed, and the reason; ``attempt`` counts from 1."""

    stage: str
    reason: str
    message: str
    remedy: str
    stack: str | None
    handler: str | None
    attempt: int
    topic: str
    partition: int
    offset: int
    timestamp: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[HeaderPart, ...]
    failed_at: datetime
    worker: str
    tenant: str | None = None
    document_id: str | None = None
    version: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class PipelineVersion:
    """One version of a pipeline template, as applied; ``template`` is canonical JSON."""

    pipeline_id: str
    version: int
    template: str
    digest: str
    applied_by: str
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class Control:
    """An order to the workers; the newest one for a scope and target is in force."""

    action: str
    scope: str
    target: str
    reason: str
    issued_by: str
    issued_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetterAction:
    """What an operator did with a dead letter: ``action`` is REDRIVEN or DISCARDED."""

    action: str
    stage: str
    partition: int
    offset: int
    batch: str
    acted_by: str
    acted_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class HeldAction:
    """What an operator did with a held record: ``action`` is RELEASED, APPROVED or REJECTED."""

    action: str
    stage: str
    partition: int
    offset: int
    batch: str
    acted_by: str
    acted_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class ReplayPosition:
    """How far a replay has read one partition; offsets, ``end`` exclusive."""

    partition: int
    start: int
    next: int
    end: int


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """A replay: what it sends, and its progress."""

    run_id: str
    stage: str
    selection: str
    tenant: str | None
    document_id: str | None
    records_per_second: int | None
    positions: tuple[ReplayPosition, ...]
    sent: int
    state: str
    asked_by: str
    asked_at: datetime
    updated_at: datetime
    source: str = ""
    generation: str = "g1"
