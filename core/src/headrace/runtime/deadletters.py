"""Dead letters: the unchanged record and the reason, as a message for the transaction of its batch."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from headrace.codec.codec import Codec
from headrace.envelope import Context
from headrace.errors import HeadraceError, PermanentError
from headrace.kafka.broker_contract import Headers, Message, Record
from headrace.kafka.constants import LATEST_MS, NO_KEY
from headrace.kafka.headers import REQUEST_ID, Origin
from headrace.payloads import DeadLetter, HeaderPart
from headrace.topology.topics import CARRIER_ALLOWANCE_BYTES

ALLOWANCE_BYTES = CARRIER_ALLOWANCE_BYTES // 2
"""Bytes by which a dead letter may exceed the maximum message size; its topic and producer allow twice this."""
CUT = "cut"
"""Header of a dead letter that contains only part of its record: the size of the whole record in bytes."""
_MAX_TEXT = 4000
_KEPT_VALUE = 64 * 1024
_KEPT_KEY = 8 * 1024
_KEPT_HEADERS = 32
_KEPT_HEADER = 1024


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record failed, in which handler, and its context if it was decoded."""

    error: BaseException
    handler: str | None = None
    context: Context | None = None


def dead_letter(
    record: Record,
    failure: Failure,
    *,
    stage: str,
    topic: str,
    worker: str,
    first: Origin,
    attempt: int,
    now: datetime,
    codec: Codec,
    max_message_bytes: int,
) -> Message:
    """Return the message that puts the record into the stage's dead letters, with unchanged bytes and headers.

    ``first`` is where the stage first read it, ``attempt`` the last attempt. A record that is too large for any
    message, such as a compressed record of zeros, is cut and says so; the whole record is still at its origin.
    """
    size = record_size(record)
    cut = size > max_message_bytes + ALLOWANCE_BYTES
    record = _cut(record) if cut else record
    explained = _explained(failure.error)
    note = f"The record has {size} bytes; only its beginning is stored here. " if cut else ""
    context = failure.context
    payload = DeadLetter(
        stage=stage,
        reason=explained.reason,
        message=bounded(note + explained.message),
        remedy=bounded(explained.remedy),
        stack=explained.stack and bounded(explained.stack),
        handler=failure.handler,
        attempt=attempt,
        topic=first.topic,
        partition=first.partition,
        offset=first.offset,
        timestamp=_timestamp(record.timestamp_ms),
        key=record.key,
        value=record.value,
        headers=tuple(HeaderPart(name, value) for name, value in record.headers),
        failed_at=now,
        worker=worker,
        tenant=bounded(context.change.tenant) if context else None,
        document_id=bounded(context.change.document_id) if context else None,
        version=context.change.version if context else None,
        request_id=bounded(context.trace.request_id) if context else _header(record, REQUEST_ID),
    )
    return Message(topic, record.key or NO_KEY, codec.encode_plain(payload), _headers(payload, size if cut else None))


class _Explained(NamedTuple):
    """An error in the words of a dead letter."""

    reason: str
    message: str
    remedy: str
    stack: str | None
    """The stack trace; None for an error that a handler chose."""


def _explained(error: BaseException) -> _Explained:
    stack = None if isinstance(error, PermanentError) else "".join(traceback.format_exception(error))
    if isinstance(error, HeadraceError):
        return _Explained(error.code, str(error), error.remedy, stack)
    remedy = "Read the stack trace and fix the handler."
    return _Explained("unforeseen", f"{type(error).__name__}: {error}", remedy, stack)


def _headers(payload: DeadLetter, cut_from: int | None) -> Headers:
    """Return the headers by which dead letters are found; ``cut_from`` is the size in bytes of a record that is cut."""
    headers = [
        ("reason", payload.reason.encode()),
        ("source-topic", payload.topic.encode()),
        ("source-partition", str(payload.partition).encode()),
        ("source-offset", str(payload.offset).encode()),
    ]
    if cut_from is not None:
        headers.append((CUT, str(cut_from).encode()))
    if payload.request_id:
        headers.append((REQUEST_ID, payload.request_id.encode("utf-8", "replace")))
    return tuple(headers)


def record_size(record: Record | Message) -> int:
    """Return an upper bound of the bytes of a message with the record's key that has the whole record in its value."""
    headers = sum(len(name) * 4 + len(value or b"") for name, value in record.headers)
    return len(record.value or b"") + 2 * len(record.key or b"") + headers


def _cut(record: Record) -> Record:
    """Return the beginning of the record, enough to recognize it."""
    kept = tuple((name[:_KEPT_HEADER], value and value[:_KEPT_HEADER]) for name, value in record.headers)
    return record._replace(
        key=record.key and record.key[:_KEPT_KEY],
        value=record.value and record.value[:_KEPT_VALUE],
        headers=kept[:_KEPT_HEADERS],
    )


def _timestamp(milliseconds: int) -> datetime:
    """Return the time, or the nearest possible one: a producer may have written microseconds or any number."""
    return datetime.fromtimestamp(min(max(milliseconds, 0), LATEST_MS) / 1000, UTC)


def _header(record: Record, name: str) -> str | None:
    for key, value in record.headers:
        if key == name and value is not None:
            return bounded(value[:_MAX_TEXT].decode("utf-8", "replace"))
    return None


def bounded(text: str) -> str:
    """Truncate the text and make it encodable, because an error may quote a lone surrogate."""
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()
