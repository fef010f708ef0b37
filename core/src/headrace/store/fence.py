"""The fence: may this version of a document enter the store? Pure; :mod:`headrace.store.plan` acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Fence:
    """What the store knows about one document, or receives.

    ``version`` comes from the source (or from the change topic's offset), never from a clock;
    ``content_hash`` covers everything of the document that is stored;
    ``generations`` are those whose vectors of this very version are complete.
    """

    version: int
    content_hash: bytes
    deleted: bool
    generations: frozenset[str]


class Decision(Enum):
    """The outcome of an incoming version."""

    NEW = "new"
    """The store has never seen the document: write it."""
    ADVANCE = "advance"
    """A higher version than the stored one: write what differs."""
    REINDEX = "reindex"
    """The stored version itself, but this generation lacks vectors of it: write those alone."""
    UNCHANGED = "unchanged"
    """The stored version itself, complete: write nothing."""
    SUPERSEDED = "superseded"
    """A lower version than the stored one: write nothing."""
    CONFLICT = "conflict"
    """The stored version with another content: write nothing and raise the alarm, for the source broke its word."""


def decide(stored: Fence | None, incoming: Fence) -> Decision:
    """Compare an incoming version with the stored one.

    ``incoming.generations`` names the generation that is being indexed.
    A deletion is a version like any other: what is older than it stays out, however late it comes.
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
    """The fence after ``incoming`` was accepted (NEW, ADVANCE or REINDEX) and written."""
    if decide(stored, incoming) is Decision.REINDEX:
        assert stored is not None
        return Fence(
            incoming.version,
            incoming.content_hash,
            incoming.deleted,
            stored.generations | incoming.generations,
        )
    return incoming
