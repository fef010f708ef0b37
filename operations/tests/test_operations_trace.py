"""From records of one document's partition to its trace."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.envelope import StageRun
from headrace.kafka.broker_contract import Headers, Record
from headrace.payloads import DeadLetter, DeadLetterAction, HeaderPart
from headrace.store.documents import DocumentRow
from headrace_operations.trace.assembly import Material, Seen, SeenLetter, assemble
from headrace_operations.trace.log import Limits
from headrace_operations.trace.tracer import Tracer

pytestmark = pytest.mark.unit

KEY = b"acme/a.md"
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def record(topic: str, offset: int, *, version: int | None = None, more: Headers = ()) -> Record:
    """A record of the document, written a second after the one before."""
    headers: Headers = (("request-id", b"r-1"), ("operation", b"UPSERT"), *more)
    if version is not None:
        headers = (*headers, ("version", str(version).encode()))
    return Record(topic, 3, offset, KEY, b"", headers, 1000 * offset)


def run(stage: str, topic: str, offset: int, seconds: int, attempt: int = 1) -> StageRun:
    """A stage's run over the record at that offset."""
    return StageRun(stage, (f"{stage}@1",), "w", topic, 3, offset, attempt, T0 + timedelta(seconds=seconds), 5000)


def row(version: int, *, deleted: bool = False) -> DocumentRow:
    """What the store holds."""
    history = [
        {"stage": "ingest", "handlers": ["ingest@1"], "worker": "w", "topic": "changes", "partition": 3, "offset": 7,
         "attempt": 1, "started_at": T0.isoformat(), "duration_us": 5000}
    ]  # fmt: skip
    return DocumentRow(
        "a.md", version, deleted, b"", "", "", "", (), {}, "index", "1", "r-0", history, {}, "m", ("g1",), T0, 2
    )


def letter(version: int | None = 9, reason: str = "unforeseen", headers: tuple[HeaderPart, ...] = ()) -> DeadLetter:
    """A dead letter of the chunker."""
    return DeadLetter(
        "chunker", reason, "boom", "", None, "sections@1", 8, "documents", 3, 5, T0, KEY, b"", headers, T0, "w",
        "acme", "a.md", version, "r-1",
    )  # fmt: skip


def material(*seen: Seen, stored: DocumentRow | None = None, letters: tuple[SeenLetter, ...] = ()) -> Material:
    """What was found of the document."""
    return Material("acme", "a.md", stored, seen, letters, {})


def test_the_runs_of_a_version_are_told_once_in_the_order_of_time() -> None:
    """If it failed, a run that travels in every later record's history would be shown several times."""
    ingest, chunker = run("ingest", "changes", 7, 0), run("chunker", "documents", 5, 1)
    trace = assemble(
        material(
            Seen(record("chunks", 6), "live", "embedder", None, 9, (ingest, chunker)),
            Seen(record("documents", 5), "live", "chunker", None, 9, (ingest,)),
            Seen(record("changes", 7, version=9), "live", "ingest", None),
        )
    )
    assert [(step.stage, step.topic, step.offset) for step in trace.versions[0].steps] == [
        ("ingest", "changes", 7),
        ("chunker", "documents", 5),
    ]
    assert len(trace.versions) == 1


def test_a_change_without_a_header_gets_its_version_from_the_run_that_followed() -> None:
    """If it failed, an upstream's own event would be shown as a version of its own that leads nowhere."""
    change = Record("changes", 3, 7, KEY, b"{}", (), 0)
    retried = Record(
        "retry.ingest", 3, 2, KEY, b"{}",
        (("origin-topic", b"p-changes"), ("origin-partition", b"3"), ("origin-offset", b"7")), 1,
    )  # fmt: skip
    after = Seen(record("documents", 5), "live", "chunker", None, 42, (run("ingest", "retry.ingest", 2, 0, 2),))
    trace = assemble(material(Seen(change, "live", "ingest", None), Seen(retried, "retry", "ingest", None), after))
    assert [one.version for one in trace.versions] == [42]
    assert [copy.topic for copy in trace.versions[0].records] == ["changes", "retry.ingest", "documents"]


def test_a_change_that_nothing_tells_the_version_of_stands_by_itself() -> None:
    """If it failed, a version would be made up for an event that only ingest can read."""
    trace = assemble(material(Seen(Record("changes", 3, 7, KEY, b"{}", (), 0), "live", "ingest", 4)))
    assert (trace.state, trace.versions[0].version, trace.versions[0].waiting[0].behind) == ("in_flight", None, 4)


def test_a_retried_record_waits_with_due_time_and_attempt() -> None:
    """If it failed, nobody could see when a record that failed for now is tried again."""
    headers: Headers = (("retry-due", b"1700000000000"), ("retry-attempt", b"3"))
    again = Seen(record("retry.chunker", 9, version=9, more=headers), "retry", "chunker", 0, 9)
    trace = assemble(material(again))
    place = trace.versions[0].waiting[0]
    assert (place.lane, place.due_ms, place.attempt, place.stage) == ("retry", 1_700_000_000_000, 3, "chunker")
    assert trace.state == "in_flight"


@pytest.mark.parametrize(
    ("reason", "command"), [("unforeseen", "headrace dlq redrive chunker/1/8"), ("invalid-record", "dlq discard")]
)
def test_an_open_dead_letter_says_the_command_that_ends_it(reason: str, command: str) -> None:
    """If it failed, an operator would have to look up how to send the record again."""
    trace = assemble(material(letters=(SeenLetter(letter(reason=reason), 1, 8),)))
    assert (trace.state, trace.versions[0].state, trace.versions[0].dead_letters[0].id) == (
        "dead_lettered",
        "dead_lettered",
        "chunker/1/8",
    )
    assert command in trace.versions[0].advice[0]


def test_a_redriven_dead_letter_no_longer_decides() -> None:
    """If it failed, a document on its way again would still be called given up."""
    action = DeadLetterAction("REDRIVEN", "chunker", 1, 8, "b", "ann", T0, "fixed")
    again = Seen(record("retry.chunker", 9, version=9), "retry", "chunker", 2, 9)
    trace = assemble(material(again, letters=(SeenLetter(letter(), 1, 8, action),)))
    told = trace.versions[0].dead_letters[0]
    assert (trace.state, told.state, told.acted_by, told.why) == ("in_flight", "redriven", "ann", "fixed")


def test_a_discarded_dead_letter_is_told_with_who_did_it() -> None:
    """If it failed, a document that was given up on purpose would look like a loss."""
    action = DeadLetterAction("DISCARDED", "chunker", 1, 8, "b", "ann", T0, "rubbish")
    trace = assemble(material(letters=(SeenLetter(letter(), 1, 8, action),)))
    assert (trace.state, trace.versions[0].state) == ("unknown", "discarded")


def test_the_store_is_believed_before_the_log() -> None:
    """If it failed, an older version that still lies in the log would hide what the index holds."""
    old = Seen(record("documents", 5), "live", "chunker", 3, 4)
    trace = assemble(material(old, stored=row(9)))
    assert trace.state == "indexed"
    assert [(one.version, one.state) for one in trace.versions] == [(9, "indexed"), (4, "superseded")]
    assert [step.stage for step in trace.versions[0].steps] == ["ingest"]


def test_a_deleted_document_is_told_as_deleted() -> None:
    """If it failed, a delete that arrived would look like a document in the index."""
    trace = assemble(material(stored=row(9, deleted=True)))
    assert (trace.state, trace.versions[0].state, trace.versions[0].operation) == ("deleted", "deleted", "DELETE")


def test_a_version_that_is_nowhere_says_how_to_send_it_again() -> None:
    """If it failed, a lost record would be shown without a way to repair it."""
    trace = assemble(material(Seen(record("documents", 5), "live", "chunker", None, 9)))
    assert trace.versions[0].state == "unknown"
    assert "headrace replay start --stage chunker --document a.md --tenant acme" in trace.versions[0].advice[0]


def test_a_stage_that_was_paused_is_named_with_the_order_that_ends_it() -> None:
    """If it failed, a document would wait without anybody seeing that an operator stopped its stage."""
    waiting = Seen(record("documents", 5), "live", "chunker", 3, 9)
    trace = assemble(replace(material(waiting), paused={"chunker": "paused by ann: upgrade"}))
    assert trace.versions[0].waiting[0].paused == "paused by ann: upgrade"
    assert "headrace resume" in trace.versions[0].advice[0]


@pytest.mark.parametrize(
    ("kind", "scope", "waits_for", "command"),
    [
        (b"pause", b"tenant/acme", "pause", "headrace resume --tenant acme"),
        (b"pause", b"cap/acme", "cap", "headrace embeddings release"),
        (b"review", b"tenant/acme", "review", "headrace review approve chunker/3/9"),
    ],
)
def test_what_a_person_holds_back_says_how_it_goes_on(kind: bytes, scope: bytes, waits_for: str, command: str) -> None:
    """If it failed, a document that waits for a person would look lost, and be sent again by a replay."""
    said: Headers = (("held-kind", kind), ("held-for", scope), ("held-why", b"audit"))
    trace = assemble(material(Seen(record("held.chunker", 9, version=9, more=said), "held", "chunker", 0, 9)))
    (place,) = trace.versions[0].waiting
    assert place.held is not None
    assert (trace.versions[0].state, place.held.why) == ("in_flight", "audit")
    assert (trace.state, place.held.kind) == ("held", waits_for)
    assert len(trace.versions[0].advice) == 1
    assert command in trace.versions[0].advice[0]


def test_an_action_that_does_not_decode_is_skipped() -> None:
    """Broken: one bad record in the topic of actions makes the trace of every document fail."""
    codec = Codec(FixedIds())
    action = DeadLetterAction("DISCARDED", "chunker", 3, 8, "b", "olga", T0, "")
    records = [
        Record("dead-letter-actions", 0, 0, b"chunker/3/7", b"not Avro"),
        Record("dead-letter-actions", 0, 1, b"chunker/3/8", codec.encode_plain(action)),
    ]
    assert Tracer(KafkaSettings(), codec, None, Limits())._actions(records) == {"chunker/3/8": action}
