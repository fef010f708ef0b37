"""Turns a dead letter into its entry, and into the message that redrives its record. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from headrace.config.settings import KafkaSettings
from headrace.documents.status import entry_of
from headrace.kafka import headers
from headrace.kafka.broker_contract import Headers, Record
from headrace.kafka.constants import LATEST_MS, NO_KEY
from headrace.orders.control import TOPIC as CONTROL
from headrace.payloads import DeadLetter, DeadLetterAction
from headrace.runtime.deadletters import CUT
from headrace.topology.topics import replay_topic
from headrace_operations.dead_letters.model import UNREADABLE_REASON, Entry, Id

ORDER = "an invalid order cannot be redriven: no stage reads it again"


def entry(identity: Id, letter: DeadLetter, record: Record, action: DeadLetterAction | None) -> Entry:
    """Return the entry of a dead letter; ``record`` is the record that carries it.

    Tenant and document come from the failed record's key if its content does not name them.
    """
    tenant, document_id = _owner(letter)
    remembered = entry_of(letter, identity.partition, identity.offset)
    return Entry(
        id=identity,
        reason=letter.reason,
        handler=letter.handler,
        message=letter.message,
        remedy=letter.remedy,
        tenant=tenant,
        document_id=document_id,
        version=remembered.version,
        request_id=remembered.request_id,
        attempt=letter.attempt,
        failed_at=letter.failed_at,
        origin=f"{letter.topic}/{letter.partition}/{letter.offset}",
        redrive_of=_text(letter, headers.REDRIVE),
        size=len(letter.value or b""),
        whole=ORDER if identity.stage == CONTROL else _lacking(letter, record),
        action=action,
    )


def undecodable(identity: Id, why: str, record: Record, action: DeadLetterAction | None) -> Entry:
    """Return the entry of a record in a dead-letter topic that does not decode as a dead letter."""
    return Entry(
        id=identity,
        reason=UNREADABLE_REASON,
        handler=None,
        message=f"this record is not a dead letter: {why}",
        remedy="Export it, find out who wrote it, and discard it.",
        tenant=None,
        document_id=None,
        version=None,
        request_id=None,
        attempt=1,
        failed_at=datetime.fromtimestamp(min(max(0, record.timestamp_ms), LATEST_MS) / 1000, UTC),
        origin="",
        redrive_of=None,
        size=len(record.value or b""),
        whole="it does not decode as a dead letter",
        action=action,
    )


def retry_headers(identity: Id, letter: DeadLetter, kafka: KafkaSettings, *, now_ms: int) -> Headers:
    """Return the headers of a redriven record: the original ones, due now, with the origin and the dead letter's ID.

    A ``replay`` header stays only if the record came through a side lane. One that a client wrote meant nothing to the
    stage that first read the record, and would misdirect it in the side lane.
    """
    carried = tuple((part.name, part.value) for part in letter.headers if part.name != headers.REDRIVE)
    own = headers.without_hold(carried)
    if not _came_back(letter, kafka):
        own = tuple(pair for pair in own if pair[0] != headers.REPLAY)
    first = headers.Origin(letter.topic, letter.partition, letter.offset)
    again = headers.for_retry(own, first, attempt=1, due_ms=now_ms)
    return (*again, (headers.REDRIVE, identity.place.encode()))


def retry_key(letter: DeadLetter, kafka: KafkaSettings) -> bytes | None:
    """Return the key of a redriven record: the key that the stage first read, even if empty or missing.

    The retry topic cannot hold an empty key. It uses ``-`` instead, which is never the key of a document's record.
    """
    return None if letter.key == NO_KEY and _came_back(letter, kafka) else letter.key


def follows(earlier: DeadLetter, action: DeadLetterAction | None, later: DeadLetter) -> bool:
    """Whether the later dead letter results from redriving the earlier one; its header alone does not prove it."""
    same = (earlier.stage, earlier.topic, earlier.partition, earlier.offset)
    return same == (later.stage, later.topic, later.partition, later.offset) and action is not None


def _came_back(letter: DeadLetter, kafka: KafkaSettings) -> bool:
    """Whether the stage read the record in its side lane, as far as the dead letter shows."""
    return kafka.bare(letter.topic) == replay_topic(letter.stage) or _text(letter, headers.ORIGIN_TOPIC) is not None


def _lacking(letter: DeadLetter, record: Record) -> str | None:
    cut = headers.text(record, CUT)
    if cut is not None:
        return f"the record was cut; its full size is {cut} bytes"
    if _text(letter, headers.HELD_KIND) == "review" and _text(letter, headers.HELD_TARGET) is not None:
        return "it contains the stage's output, which a reviewer rejected, and not the stage's input"
    why = _text(letter, headers.UNREADABLE)
    return f"Kafka's client could not read the record: {why}" if why is not None and len(letter.headers) == 1 else None


def _owner(letter: DeadLetter) -> tuple[str | None, str | None]:
    if letter.stage == CONTROL:
        return None, None  # its key names scope and target
    tenant, mark, document_id = (letter.key or b"").decode("utf-8", "replace").partition("/")
    return (
        letter.tenant if letter.tenant is not None else (tenant if mark and tenant else None),
        letter.document_id if letter.document_id is not None else (document_id if mark and document_id else None),
    )


def _text(letter: DeadLetter, name: str) -> str | None:
    carried: Mapping[str, bytes | None] = {part.name: part.value for part in letter.headers}
    found = carried.get(name)
    return None if found is None else found.decode("utf-8", "replace")
