"""The context envelope: what travels between stages, as frozen types.

``trace`` belongs to the runtime and is immutable for handlers; ``metadata`` is append-only under ``{stage}.{key}``;
``change`` says which document changed; ``payload`` is the stage's own record (:mod:`headrace.payloads`). A handler
receives a :class:`Context` and returns a new one; :func:`check_transition` checks the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Generic, Self
from uuid import NAMESPACE_URL, uuid5

from typing_extensions import TypeVar

from headrace.errors import InvalidRecord, MetadataError

__all__ = [
    "MAX_ID_LENGTH",
    "Change",
    "Context",
    "Metadata",
    "MetadataValue",
    "Operation",
    "Reference",
    "StageRun",
    "Trace",
    "check_change",
    "check_transition",
    "derived_request_id",
]

MetadataValue = str | int | float | bool
"""Allowed types of a metadata value."""

P_co = TypeVar("P_co", covariant=True, default=object)
Q = TypeVar("Q")

_KEY = re.compile(r"[a-z][a-z0-9_-]*(\.[A-Za-z0-9_-]+)+")
_RESERVED = ("system", "trace")
_EMPTY: Mapping[str, MetadataValue] = MappingProxyType({})


class Operation(StrEnum):
    """What the source did to the document."""

    UPSERT = "UPSERT"
    DELETE = "DELETE"


@dataclass(frozen=True, slots=True)
class Change:
    """Which document changed, to which version (at least 0), and how."""

    tenant: str
    document_id: str
    version: int
    operation: Operation

    @property
    def key(self) -> bytes:
        """The Kafka key, ``tenant/document_id`` in UTF-8."""
        return f"{self.tenant}/{self.document_id}".encode()


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage's run over a record; ``duration_us`` in microseconds, times in UTC."""

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
class Trace:
    """Where a record comes from and which stages it passed, oldest first."""

    request_id: str
    pipeline_id: str
    pipeline_version: int
    started_at: datetime
    requested_by: str | None = None
    history: tuple[StageRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """Replaces a payload that is in the object store (:mod:`headrace.objects`).

    ``uri`` is its location there, ``sha256`` the digest of its bytes, ``size`` their number, and ``record`` the full
    name of the Avro record that they contain.
    """

    uri: str
    sha256: bytes
    size: int
    record: str


def derived_request_id(topic: str, partition: int, offset: int) -> str:
    """Return the request ID of a change without one: a UUID made of topic, partition and offset."""
    return str(uuid5(NAMESPACE_URL, f"{topic}/{partition}/{offset}"))


class Metadata(Mapping[str, MetadataValue]):
    """Append-only facts about a record under ``{stage}.{key}``; ``user.*`` came from the client."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, MetadataValue] = _EMPTY) -> None:
        self._items = items

    def __getitem__(self, key: str) -> MetadataValue:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"Metadata({dict(self._items)!r})"

    def to_dict(self) -> dict[str, MetadataValue]:
        """Return the values by key, in a dict of its own."""
        return dict(self._items)

    def with_values(self, stage: str, **values: MetadataValue) -> Metadata:
        """Return a copy with ``{stage}.{key}`` added for each value.

        Raises :class:`MetadataError` naming stage and key if a key already exists or the stage is reserved.
        """
        added = {f"{stage}.{key}": value for key, value in values.items()}
        for key in added:
            if stage in _RESERVED:
                raise MetadataError(f"stage {stage!r} may not write metadata key {key!r}: it is read-only", where=key)
            if key in self._items:
                raise MetadataError(f"stage {stage!r} may not overwrite metadata key {key!r}", where=key)
        return Metadata({**self._items, **added})


@dataclass(frozen=True, slots=True)
class Context(Generic[P_co]):
    """What a handler receives and returns: trace, metadata, change and the stage's record.

    ``payload`` is a frozen record of :mod:`headrace.payloads`, or None for a delete: ``Context[SourceDocument]``
    always has its document, ``Context[SourceDocument | None]`` may be a delete, and plain ``Context`` is one whose
    payload does not matter.
    """

    trace: Trace
    change: Change
    payload: P_co
    metadata: Metadata = field(default_factory=Metadata)

    def with_run(self, run: StageRun) -> Self:
        """Return a copy with another run at the end of its history; only the runtime writes it."""
        before = self.trace
        trace = Trace(
            before.request_id, before.pipeline_id, before.pipeline_version, before.started_at, before.requested_by,
            (*before.history, run),
        )  # fmt: skip
        return type(self)(trace, self.change, self.payload, self.metadata)

    def with_payload(self, payload: Q) -> Context[Q]:
        """Return a copy with another payload."""
        return Context(self.trace, self.change, payload, self.metadata)

    def with_metadata(self, stage: str, **values: MetadataValue) -> Self:
        """Return a copy with metadata added under ``{stage}.{key}``; see :meth:`Metadata.with_values`."""
        return replace(self, metadata=self.metadata.with_values(stage, **values))


def check_transition(before: Context, after: Context, stage: str) -> None:
    """Check that a handler did not change the trace or the change, or overwrite or remove metadata.

    Raises :class:`MetadataError` naming the stage and the key or field.
    """
    if after.trace is not before.trace and after.trace != before.trace:
        raise MetadataError(f"stage {stage!r} changed the trace, which is immutable", where="trace")
    if after.change is not before.change and after.change != before.change:
        raise MetadataError(f"stage {stage!r} changed tenant, document, version or operation", where="change")
    if after.metadata is before.metadata:
        return
    for key, value in before.metadata.items():
        if key not in after.metadata:
            raise MetadataError(f"stage {stage!r} removed metadata key {key!r}", where=key)
        if after.metadata[key] != value:
            raise MetadataError(f"stage {stage!r} overwrote metadata key {key!r}", where=key)
    for key in after.metadata:
        if key not in before.metadata:
            _check_new_key(key, stage)


def _check_new_key(key: str, stage: str) -> None:
    owner = key.partition(".")[0]
    if owner in _RESERVED:
        raise MetadataError(f"stage {stage!r} wrote metadata key {key!r}: {owner}.* is read-only", where=key)
    if owner != stage:
        raise MetadataError(
            f"stage {stage!r} wrote metadata key {key!r}: a stage may only write keys that start with its own name",
            where=key,
        )
    if not _KEY.fullmatch(key):
        raise MetadataError(f"stage {stage!r} wrote metadata key {key!r}: use the form {{stage}}.{{key}}", where=key)


MAX_ID_LENGTH = 512
"""Maximum length of a tenant or document ID, in characters."""


def check_change(change: Change) -> Change:
    """Return the change if its fields are valid; otherwise raise :class:`InvalidRecord` naming the field."""
    for name, value in (("tenant", change.tenant), ("document_id", change.document_id)):
        if not value:
            raise InvalidRecord(name, "is missing or empty", remedy="Name the tenant and the document in every change.")
        if len(value) > MAX_ID_LENGTH:
            raise InvalidRecord(name, f"has {len(value)} characters; the limit is {MAX_ID_LENGTH}")
        if "\x00" in value:
            raise InvalidRecord(name, "contains a NUL character")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRecord(name, "contains a lone surrogate, which UTF-8 cannot encode")
    if "/" in change.tenant:
        raise InvalidRecord(
            "tenant", f"{change.tenant!r} contains '/', which is reserved: it separates tenant and document in keys"
        )
    if not 0 <= change.version < 2**63:
        raise InvalidRecord("version", f"is {change.version}; allowed are 0 to 2^63-1")
    return change
