"""The current status of a document, derived from the store, the topics and the dead letters; pure.

``GET /v1/documents/{id}`` and ``headrace trace`` both use it, so they agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from headrace.access.readers import Reader
from headrace.envelope import Operation, StageRun
from headrace.kafka.headers import OPERATION, REQUEST_ID, VERSION
from headrace.orders.holds import Hold
from headrace.payloads import DeadLetter
from headrace.store.documents import DocumentRow, DocumentState

State = Literal["indexed", "deleted", "in_flight", "held", "dead_lettered", "unknown"]
_LONGEST_TEXT = 1000
_LONGEST_NUMBER = 19
_DELETE = Operation.DELETE.value


@dataclass(frozen=True, slots=True)
class Waiting:
    """A record that a stage has not taken yet, or that waits in ``held.<stage>``.

    ``version`` is None if the record does not contain it, and so is ``acl``.
    """

    stage: str
    version: int | None
    operation: str | None
    request_id: str | None
    partition: int
    offset: int
    history: tuple[StageRun, ...] = ()
    hold: Hold | None = None
    acl: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DeadLetterEntry:
    """The facts of a dead letter that count here; ``failed_at_ms`` is in milliseconds since 1970.

    ``acl`` is that of the failed record; None if it cannot be read.
    """

    stage: str
    reason: str
    message: str
    remedy: str
    version: int | None
    request_id: str | None
    partition: int
    offset: int
    failed_at_ms: int
    operation: str | None = None
    acl: tuple[str, ...] | None = None


Record = TypeVar("Record", Waiting, DeadLetterEntry)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of the newest known version, and the records and rows that it is derived from."""

    state: State
    version: int | None
    waiting: Waiting | None
    dead_letter: DeadLetterEntry | None


def complete_to(row: DocumentRow | DocumentState, generation: str) -> int:
    """Return the newest version that this generation of the index contains completely.

    Generations share the document's row, so the row may have a version that only another generation contains so far.
    """
    return row.version if row.deleted or generation in row.generations else row.version - 1


def judge(
    row: DocumentRow | None, waiting: Sequence[Waiting], dead: Sequence[DeadLetterEntry], generation: str
) -> Verdict:
    """Return the state of the newest known version in this generation of the index.

    A waiting record counts unless the store already has its version or a newer one, because the fence will reject it. A
    dead letter counts unless the store or a waiting record has its version or a newer one. An unknown version counts as
    newer than the store's (waiting records), or is judged by time (dead letters). A held record that was released or
    decided on may still be in its topic for a while; it no longer counts once the store, a waiting record or a later
    dead letter has its version.
    """
    stored = -1 if row is None else complete_to(row, generation)
    newest = _newest_waiting(stored, [one for one in waiting if one.hold is None])
    held = _newest_waiting(
        stored, [one for one in waiting if one.hold and not _went_on(one, one.hold, row, newest, dead)]
    )
    letter = _newest_letter(row, stored, newest, dead)
    if held is not None:
        return Verdict("held", held.version, held, None)
    if letter is not None:
        return Verdict("dead_lettered", letter.version, None, letter)
    if newest is not None:
        return Verdict("in_flight", newest.version, newest, None)
    if row is not None and stored < row.version:
        return Verdict("in_flight", row.version, None, None)
    if row is not None:
        return Verdict("deleted" if row.deleted else "indexed", row.version, None, None)
    return Verdict("unknown", None, None, None)


def visible(reader: Reader, found: Iterable[Record], row: DocumentRow | DocumentState | None) -> list[Record]:
    """Return those records of a document that the reader may know of; ``row`` is what the reader sees of the document.

    The record's own ``acl`` decides; if it is not known, only a reader of every document sees the record. A deletion
    has no ``acl``: it is seen by those who see the document.
    """
    return [one for one in found if reader.may_read(one.acl) or (one.operation == _DELETE and row is not None)]


def number(text: str | None) -> int | None:
    """Return the whole number in a header, or None."""
    return int(text) if text is not None and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None


def change_version(headers: Mapping[str, str], offset: int) -> int | None:
    """Return the version of a record of the topic ``changes``, or None if only its body contains it.

    A change from the gateway without a version takes its offset as version. Changes from the gateway have a request ID.
    """
    version = number(headers.get(VERSION))
    return offset if version is None and REQUEST_ID in headers else version


def entry_of(letter: DeadLetter, partition: int, offset: int, acl: tuple[str, ...] | None = None) -> DeadLetterEntry:
    """Return the facts of the dead letter; a missing version is taken from the failed record's headers or offset."""
    headers = {part.name: (part.value or b"").decode("utf-8", "replace") for part in letter.headers}
    version = letter.version if letter.version is not None else number(headers.get(VERSION))
    if version is None and letter.stage == "ingest":
        version = change_version(headers, letter.offset)
    return DeadLetterEntry(
        stage=letter.stage,
        reason=letter.reason,
        message=letter.message[:_LONGEST_TEXT],
        remedy=letter.remedy[:_LONGEST_TEXT],
        version=version,
        request_id=letter.request_id or headers.get(REQUEST_ID),
        partition=partition,
        offset=offset,
        failed_at_ms=round(letter.failed_at.timestamp() * 1000),
        operation=headers.get(OPERATION),
        acl=acl,
    )


def _newest_waiting(stored: int, waiting: Sequence[Waiting]) -> Waiting | None:
    live = [one for one in waiting if one.version is None or one.version > stored]
    unknown = [one for one in live if one.version is None]
    known = [one for one in live if one.version is not None]
    best = max(known, key=lambda one: one.version or 0, default=None)
    return best or (unknown[0] if unknown else None)


def _went_on(
    one: Waiting, hold: Hold, row: DocumentRow | None, newest: Waiting | None, dead: Sequence[DeadLetterEntry]
) -> bool:
    """Whether the held record was released or overtaken, according to later records; ignores the store's version."""
    if one.version is None and row is not None and row.indexed_at.timestamp() * 1000 >= hold.since_ms:
        return True
    if newest is not None and (one.version is None or newest.version is None or newest.version >= one.version):
        return True
    return any(_after(letter, one.version, hold) for letter in dead)


def _after(letter: DeadLetterEntry, version: int | None, hold: Hold) -> bool:
    """Whether the dead letter has a newer version than the held record, or the same version and a later time."""
    if letter.version is None or version is None or letter.version == version:
        return letter.failed_at_ms >= hold.since_ms
    return letter.version > version


def _newest_letter(
    row: DocumentRow | None, stored: int, newest: Waiting | None, dead: Sequence[DeadLetterEntry]
) -> DeadLetterEntry | None:
    for letter in reversed(dead):
        if letter.version is None:
            overtaken = newest is not None or (
                row is not None and row.indexed_at.timestamp() * 1000 >= letter.failed_at_ms
            )
        else:
            overtaken = stored >= letter.version or (
                newest is not None and (newest.version is None or newest.version >= letter.version)
            )
        if not overtaken:
            return letter
    return None
