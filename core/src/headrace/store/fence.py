"""The fence: whether a version of a document may enter the store. Pure; :mod:`headrace.store.plan` applies it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Fence:
    """What the fence compares of a stored or an incoming version.

    ``version`` comes from the source (or is the offset in the change topic), never from a clock. ``content_hash``
    covers all stored fields of the document. ``generations`` are those that have all vectors of this version.
    """

    version: int
    content_hash: bytes
    deleted: bool
    generations: frozenset[str]


class Decision(Enum):
    """The decision about an incoming version."""

    NEW = "new"
    """The store does not have the document: write it."""
    ADVANCE = "advance"
    """Newer than the stored version: write what differs."""
    REINDEX = "reindex"
    """The stored version, but this generation lacks its vectors: write only those."""
    UNCHANGED = "unchanged"
    """The stored version, complete: write nothing."""
    SUPERSEDED = "superseded"
    """Older than the stored version: write nothing."""
    CONFLICT = "conflict"
    """The stored version with different content: write nothing, and report it, because the source reused a version."""


def decide(stored: Fence | None, incoming: Fence) -> Decision:
    """Compare an incoming version with the stored one.

    ``incoming.generations`` contains the generation that is being indexed. A deletion is a version like any other:
    older versions are rejected, however late they arrive.
    """
    if stored is None:
        return Decision.NEW
    if incoming.version != stored.version:
        return Decision.ADVANCE if incoming.version > stored.version else Decision.SUPERSEDED
    if (incoming.content_hash, incoming.deleted) != (stored.content_hash, stored.deleted):
        return Decision.CONFLICT
    if stored.deleted or incoming.generations <= stored.generations:
        return Decision.UNCHANGED
    return Decision.REINDEX


def advance(stored: Fence | None, incoming: Fence) -> Fence:
    """Return the fence after ``incoming`` was accepted (NEW, ADVANCE or REINDEX) and written."""
    if decide(stored, incoming) is Decision.REINDEX:
        assert stored is not None
        return Fence(
            incoming.version,
            incoming.content_hash,
            incoming.deleted,
            stored.generations | incoming.generations,
        )
    return incoming
