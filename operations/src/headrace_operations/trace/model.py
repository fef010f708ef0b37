"""The frozen types of a trace; times are in milliseconds since 1970 unless a field is a datetime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from headrace.store.documents import DocumentRow
from headrace_operations.trace.log import Cost

VersionState = Literal[
    "indexed", "deleted", "superseded", "conflict", "in_flight", "dead_lettered", "discarded", "unknown"
]
Lane = Literal["live", "retry", "replay", "held"]


@dataclass(frozen=True, slots=True)
class Step:
    """One stage's run over the document; ``handlers`` with their versions, ``duration_us`` in microseconds."""

    stage: str
    handlers: tuple[str, ...]
    worker: str
    topic: str
    partition: int
    offset: int
    attempt: int
    started_at: datetime
    duration_us: int


@dataclass(frozen=True, slots=True)
class Held:
    """Why a record is held: ``kind`` is pause, cap or review; ``scope`` is like ``tenant/acme``."""

    id: str
    kind: str
    scope: str
    why: str


@dataclass(frozen=True, slots=True)
class Place:
    """A record that a stage has not processed yet, or that is held (the lane ``held``).

    ``behind`` is the number of offsets to read before it. In the lane ``retry``, ``due_ms`` is set and ``attempt`` is
    the next attempt. ``paused`` says who paused the stage and why.
    """

    lane: Lane
    stage: str
    topic: str
    partition: int
    offset: int
    behind: int
    attempt: int
    due_ms: int | None
    operation: str | None
    request_id: str | None
    paused: str | None = None
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter; ``id`` is ``stage/partition/offset``, ``redrive_of`` the record's previous dead letter."""

    id: str
    stage: str
    reason: str
    message: str
    remedy: str
    handler: str | None
    worker: str
    attempt: int
    failed_at: datetime
    origin: str
    version: int | None
    request_id: str | None
    state: Literal["open", "redriven", "discarded"] = "open"
    acted_by: str | None = None
    acted_at: datetime | None = None
    why: str | None = None
    redrive_of: str | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """A record of this version that the log still holds."""

    topic: str
    partition: int
    offset: int
    written_ms: int


@dataclass(frozen=True, slots=True)
class VersionTrace:
    """The path of one version; ``version`` is None for a change that has its version only in its body."""

    version: int | None
    state: VersionState
    operation: str | None
    request_ids: tuple[str, ...]
    runs: tuple[str, ...]
    outcome: str | None
    indexed_ms: int | None
    steps: tuple[Step, ...]
    waiting: tuple[Place, ...]
    dead_letters: tuple[Letter, ...]
    records: tuple[Copy, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DocumentTrace:
    """Everything that is still known about a document, newest version first."""

    tenant: str
    document_id: str
    state: str
    version: int | None
    stored: DocumentRow | None
    versions: tuple[VersionTrace, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Traces:
    """The traces of documents, and the cost of reading them."""

    documents: Sequence[DocumentTrace]
    cost: Cost
