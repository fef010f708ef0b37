"""Dead letters: the record as it was, and why it was given up, as a message for the same transaction."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.avro.codec import Codec
from headrace.broker.contract import Message, Record
from headrace.envelope import Context
from headrace.errors import HeadraceError, PermanentError
from headrace.headers import Origin
from headrace.records import DeadLetter, HeaderPart

_MAX_TEXT = 4000
_NO_KEY = b"-"
_LATEST_MS = 253_402_300_799_000
"""The end of the year 9999, the last that Python's dates know, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record was given up, at which handler, and its context where it was decoded."""

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
) -> Message:
    """Return the message that carries the record to the stage's dead letters, bytes and headers unchanged.

    ``first`` is where the stage read it first, ``attempt`` the one that failed last.
    """
    error = failure.error
    declared = isinstance(error, HeadraceError)
    context = failure.context
    letter = DeadLetter(
        stage=stage,
        reason=error.code if isinstance(error, HeadraceError) else "unforeseen",
        message=_bounded(str(error) if declared else f"{type(error).__name__}: {error}"),
        remedy=_bounded(error.remedy) if isinstance(error, HeadraceError) else "Read the stack; repair the handler.",
        stack=None if isinstance(error, PermanentError) else _bounded("".join(traceback.format_exception(error))),
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
        tenant=_bounded(context.change.tenant) if context else None,
        document_id=_bounded(context.change.document_id) if context else None,
        version=context.change.version if context else None,
        request_id=_bounded(context.trace.request_id) if context else _header(record, "request-id"),
    )
    headers = [("reason", letter.reason.encode()), ("source-topic", first.topic.encode())]
    headers += [
        ("source-partition", str(first.partition).encode()),
        ("source-offset", str(first.offset).encode()),
    ]
    if letter.request_id:
        headers.append(("request-id", letter.request_id.encode("utf-8", "replace")))
    return Message(topic, record.key or _NO_KEY, codec.encode_plain(letter), tuple(headers))


def _timestamp(milliseconds: int) -> datetime:
    """Return the time, or the nearest there is: a producer may have written microseconds, or anything."""
    return datetime.fromtimestamp(min(max(milliseconds, 0), _LATEST_MS) / 1000, UTC)


def _header(record: Record, name: str) -> str | None:
    for key, value in record.headers:
        if key == name and value is not None:
            return value.decode("utf-8", "replace")
    return None


def _bounded(text: str) -> str:
    """Cut the text to what fits, and make it encodable: an error may quote a lone surrogate."""
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()
