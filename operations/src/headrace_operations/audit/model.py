"""The types of the audit: what it compares, and its findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

SHOWN_EXAMPLES = 3


class Kind(StrEnum):
    """The kind of a finding."""

    MISSING = "missing"
    """The log has it, but the store (or the next topic) does not."""
    DUPLICATE = "duplicate"
    """It exists more than once."""
    ORPHAN = "orphan"
    """It exists, but the log does not have it."""
    STALE = "stale"
    """It exists with a different version or content than in the log."""
    MIXED_MODEL = "mixed-model"
    """A vector, or the document's record of its vectors, does not belong to the generation's model."""


class Key(NamedTuple):
    """A document."""

    tenant: str
    document_id: str

    @property
    def record_key(self) -> bytes:
        """The key of its records in Kafka."""
        return f"{self.tenant}/{self.document_id}".encode()


class Place(NamedTuple):
    """The position of a record in its topic."""

    partition: int
    offset: int


class Rows(NamedTuple):
    """Distinct chunks as an order-independent digest: their number, and a sum over IDs and text hashes."""

    number: int
    total: int


class LogDocument(NamedTuple):
    """The newest version in the topic ``documents``; a deletion's hash is empty."""

    version: int
    deleted: bool
    content_hash: bytes
    place: Place


class LogChunks(NamedTuple):
    """The newest version in the topic ``chunks``: the order of its chunks and their texts as digests."""

    version: int
    deleted: bool
    content_hash: bytes
    layout: bytes
    rows: Rows
    place: Place


@dataclass(slots=True)
class LogEntry:
    """The log's information about one document."""

    document: LogDocument | None = None
    chunks: LogChunks | None = None


class Position(NamedTuple):
    """A chunk in its document; ``start`` and ``end`` count characters."""

    chunk_id: bytes
    start: int
    end: int


class StoredDocument(NamedTuple):
    """A row of ``document``."""

    version: int
    deleted: bool
    content_hash: bytes
    model: str
    generations: frozenset[str]
    layout: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A row of ``chunk``; ``text_fits`` is whether its text has its hash, or None if that was not checked."""

    text_hash: bytes
    text_fits: bool | None = None


@dataclass(frozen=True, slots=True)
class StoredVector:
    """A row of the generation's vectors; ``as_cached`` is None if the cache has no vector or was not asked."""

    dimensions: int
    finite: bool
    as_cached: bool | None = None


@dataclass(frozen=True, slots=True)
class LoggedDetail:
    """A document in the log with the chunks of its newest version: positions in order, text hash by id."""

    entry: LogEntry
    layout: tuple[Position, ...] = ()
    hashes: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredDetail:
    """A document in the store with its rows; ``changed`` is True if it was written during the audit."""

    document: StoredDocument | None = None
    changed: bool = False
    chunks: Mapping[bytes, StoredChunk] = field(default_factory=dict)
    vectors: Mapping[bytes, tuple[StoredVector, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """The generation that is audited; ``models`` has the models of all generations, by name.

    ``fresh`` are the generations that a repair fills again: all except retired ones, plus this one.
    """

    generation: str
    model: str
    dimensions: int
    models: Mapping[str, str]
    fresh: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One inconsistency of one document; ``count`` is the number of affected items of the ``subject``.

    A subject is a document, chunk, vector, log or cache. ``repair`` has commands, to be run in order. ``dead_letters``
    are open ones of this document that may explain it. ``replay`` is the stage whose replay is enough to repair it, or
    None if more is needed, such as a reset.
    """

    kind: Kind
    subject: str
    tenant: str
    document_id: str | None
    expected: str
    found: str
    repair: tuple[str, ...]
    count: int = 1
    examples: tuple[str, ...] = ()
    dead_letters: tuple[str, ...] = ()
    replay: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Pending:
    """A document that differs because a stage has not processed it yet."""

    tenant: str
    document_id: str
    waits_for: str


@dataclass(frozen=True, slots=True)
class Report:
    """What the audit read and found; ``all_tenants`` is False if the login sees only tenants that it names."""

    generation: str
    tenants: tuple[str, ...]
    all_tenants: bool
    documents_in_log: int
    documents: int
    chunks: int
    vectors: int
    findings: tuple[Finding, ...]
    pending: tuple[Pending, ...]
    unreadable: tuple[str, ...]
    deep: bool
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def counts(self) -> dict[str, int]:
        """Return the number of findings of each kind."""
        return {kind.value: sum(finding.kind is kind for finding in self.findings) for kind in Kind}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "clean": self.clean, "counts": self.counts()}
