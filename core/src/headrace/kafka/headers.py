"""The headers of records.

Every change that the gateway writes, and every record of a stage, has ``request-id``, ``operation`` and ``version``;
``run`` is the run that sent it, if the sender named one.

The other headers say that a record is read again. A record in a retry or replay topic keeps its key, value and
headers and gets these in addition:

- ``origin-topic``, ``origin-partition``, ``origin-offset``: where the stage first read it;
- ``retry-due`` (milliseconds since 1970) and ``retry-attempt`` (counts from 1): when, and as which attempt;
- ``replay``: the replay that sends it again; the record keeps it through all following stages;
- ``held-kind`` (``pause`` or ``review``), ``held-for`` (a scope and its target, as ``tenant/acme``), ``held-why`` and
  ``held-at`` (milliseconds since 1970): why it is held; ``held-target``: where a reviewed output goes after approval;
- ``redrive``: the dead letter that it comes from, as ``topic/partition/offset``.

``headrace.unreadable`` replaces all headers of a record that the client cannot read, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.kafka.broker_contract import Headers, Record

REQUEST_ID = "request-id"
OPERATION = "operation"
VERSION = "version"
RUN = "run"
ORIGIN_TOPIC = "origin-topic"
ORIGIN_PARTITION = "origin-partition"
ORIGIN_OFFSET = "origin-offset"
RETRY_DUE = "retry-due"
RETRY_ATTEMPT = "retry-attempt"
REPLAY = "replay"
REDRIVE = "redrive"
HELD_KIND = "held-kind"
HELD_FOR = "held-for"
HELD_WHY = "held-why"
HELD_AT = "held-at"
HELD_TARGET = "held-target"
UNREADABLE = "headrace.unreadable"

_RETRY = frozenset({ORIGIN_TOPIC, ORIGIN_PARTITION, ORIGIN_OFFSET, RETRY_DUE, RETRY_ATTEMPT})
_HELD = frozenset({HELD_KIND, HELD_FOR, HELD_WHY, HELD_AT, HELD_TARGET})
_RETURN = frozenset({REPLAY, REDRIVE})
_LONGEST_NUMBER = 19


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stage first read a record."""

    topic: str
    partition: int
    offset: int


def text(record: Record, name: str) -> str | None:
    """Return the newest header of that name as text, or None."""
    for key, value in reversed(record.headers):
        if key == name and value is not None:
            return value.decode("utf-8", "replace")
    return None


def texts(record: Record) -> dict[str, str]:
    """Return the headers as text, the newest of each name."""
    return {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}


def number(record: Record, name: str, default: int) -> int:
    """Return the header as a number of at least 0, or ``default`` if it is missing or invalid."""
    found = text(record, name)
    if found is None or len(found) > _LONGEST_NUMBER or not (found.isascii() and found.isdigit()):
        return default
    return int(found)


def unreadable(record: Record) -> str | None:
    """Return why the client could not read the record, or None if it could."""
    if len(record.headers) != 1 or record.headers[0][0] != UNREADABLE:
        return None
    return text(record, UNREADABLE) or "no reason given"


def attempt(record: Record) -> int:
    """Return the number of the attempt; 1 for a record that is read for the first time."""
    return max(1, number(record, RETRY_ATTEMPT, 1))


def origin(record: Record) -> Origin:
    """Return where the stage first read the record: here, unless its headers say otherwise."""
    topic = text(record, ORIGIN_TOPIC)
    if topic is None:
        return Origin(record.topic, record.partition, record.offset)
    return Origin(topic, number(record, ORIGIN_PARTITION, 0), number(record, ORIGIN_OFFSET, 0))


def for_retry(record_headers: Headers, first: Origin, *, attempt: int, due_ms: int) -> Headers:
    """Return the headers for a retry: the record's own, its due time, attempt and origin."""
    return (
        *without_retry(record_headers),
        *_said(first),
        (RETRY_ATTEMPT, str(attempt).encode()),
        (RETRY_DUE, str(due_ms).encode()),
    )


def for_replay(record_headers: Headers, first: Origin, run_id: str) -> Headers:
    """Return the headers for a replay: the record's own, its origin and the replay ID."""
    own = tuple((name, value) for name, value in without_retry(record_headers) if name != REPLAY)
    return (
        *own,
        *_said(first),
        (REPLAY, run_id.encode()),
    )


def _said(first: Origin) -> Headers:
    return (
        (ORIGIN_TOPIC, first.topic.encode()),
        (ORIGIN_PARTITION, str(first.partition).encode()),
        (ORIGIN_OFFSET, str(first.offset).encode()),
    )


def without_retry(record_headers: Headers) -> Headers:
    """Return the headers without those of a retry."""
    return tuple((name, value) for name, value in record_headers if name not in _RETRY)


def without_return(record_headers: Headers) -> Headers:
    """Return the headers without those of a replay or a redrive; a client may have set them on a live record."""
    return tuple((name, value) for name, value in record_headers if name not in _RETURN)


def for_hold(
    record_headers: Headers, first: Origin, *, kind: str, scope: str, why: str, now_ms: int, target: str | None = None
) -> Headers:
    """Return the headers of a held record: its own, and why it is held."""
    held = (
        *_said(first),
        (HELD_KIND, kind.encode()),
        (HELD_FOR, scope.encode()),
        (HELD_WHY, why.encode("utf-8", "replace")),
        (HELD_AT, str(now_ms).encode()),
    )
    destination = () if target is None else ((HELD_TARGET, target.encode()),)
    return (*without_hold(without_retry(record_headers)), *held, *destination)


def without_hold(record_headers: Headers) -> Headers:
    """Return the headers without those of a held record."""
    return tuple((name, value) for name, value in record_headers if name not in _HELD)
