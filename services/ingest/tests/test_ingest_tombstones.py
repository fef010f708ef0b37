"""A change without a value: what it means to ingest, and that a second reading means the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.envelope import StageRun
from headrace.errors import InvalidRecord, TemporaryError, UndecodableRecord
from headrace.kafka.broker_contract import Message, Record
from headrace.kafka.headers import Origin
from headrace.runtime.batch_records import Held, Result
from headrace.runtime.deadletters import Failure
from headrace.runtime.outcomes import OutcomeKind, Outcomes, Wiring
from headrace.runtime.retry import RetryPolicy, retry_message
from headrace.topology.stages import INGEST
from headrace_ingest.events import decode
from headrace_ingest.settings import IngestSettings

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CODEC = Codec(FixedIds())
KEY = b"acme/a.md"
EVENT = (
    ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/wiki/7"),
    ("ce_type", b"com.example.document.deleted"),
    ("ce_version", b"7"), ("content-type", b"text/plain"),
)  # fmt: skip
WIRING = Wiring(
    INGEST, "documents", "dead-letters.ingest", "retry.ingest", "replay.ingest", "replay.chunker", "held.ingest",
    "ingest-0", 10_000,
)  # fmt: skip


def first() -> Record:
    """A delete as a CloudEvent in binary mode, without data."""
    return Record("changes", 0, 41, KEY, None, EVENT)


def again(message: Message | None) -> Record:
    """The record as the side lane reads it."""
    assert message is not None
    return Record(message.topic, 0, 0, message.key, message.value, message.headers)


def retried(result: Result) -> Record:
    """What the stage writes for the record, as it is read again."""
    outcomes = Outcomes(WIRING, CODEC, now=lambda: NOW, jitter=lambda: 0.0)
    run = StageRun("ingest", (), "ingest-0", "changes", 0, 41, 1, NOW, 0)
    outcome = outcomes.outcome(first(), result, run, review=False)
    assert outcome.kind in (OutcomeKind.RETRIED, OutcomeKind.HELD)
    return again(outcome.message)


def test_a_delete_without_data_is_the_same_delete_when_it_is_read_again() -> None:
    """Broken: the delete comes back with a text that it never had."""
    form, event = decode(first(), CODEC, IngestSettings())
    assert (form, event.operation.value, event.content) == ("cloudevents-binary", "DELETE", None)
    policy = RetryPolicy()
    message = retry_message(
        first(), TemporaryError("later"), first=Origin("changes", 0, 41), attempt=1, topic="retry.ingest",
        policy=policy, now_ms=0, jitter=0.0,
    )  # fmt: skip
    for record in (
        again(message), retried(Failure(TemporaryError("later"))), retried(Held("tenant/acme", "paused")),
    ):  # fmt: skip
        assert record.value is None
        assert decode(record, CODEC, IngestSettings()) == (form, event)


def test_an_update_without_data_is_no_update_to_an_empty_text() -> None:
    """Broken: whoever writes an empty value for a missing one (a replay) has the document's text emptied."""
    told = tuple((name, b"com.example.document.updated" if name == "ce_type" else value) for name, value in EVENT)
    update = first()._replace(headers=told)
    with pytest.raises(InvalidRecord, match="content: is missing"):
        decode(update, CODEC, IngestSettings())
    assert decode(update._replace(value=b""), CODEC, IngestSettings())[1].content == ""


def test_a_bare_tombstone_is_refused_at_every_reading() -> None:
    """Broken: a null, which other tools write as a delete, is taken for one, or holds up its partition."""
    bare = Record("changes", 0, 41, KEY, None)
    for record in (bare, bare._replace(value=b"")):
        with pytest.raises(UndecodableRecord, match="has no value"):
            decode(record, CODEC, IngestSettings())
