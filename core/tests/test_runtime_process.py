"""From sealed records to messages: a record that fails fails alone, and carries all that is needed to repair it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.errors import (
    ConfigurationError,
    Deferred,
    DependencyDown,
    HeadraceError,
    HoldRecord,
    NoChange,
    PermanentError,
    TemporaryError,
    UnknownPipeline,
)
from headrace.handler import READ_AGAIN, BatchHandler, Handler, In, Out
from headrace.kafka.broker_contract import Record, Snapshot
from headrace.kafka.headers import Origin
from headrace.payloads import ChunkedDocument, DeadLetter, DocumentFacts, HeaderPart, SourceDocument
from headrace.runtime.deadletters import ALLOWANCE_BYTES, Failure, dead_letter
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.outcomes import Wiring
from headrace.runtime.process import StageProcessor, run_handler
from headrace.runtime.retry import RetryPolicy
from headrace.topology.stages import StageFlow

pytestmark = pytest.mark.unit

CODEC = Codec(FixedIds())
FLOW = StageFlow("chunker", "documents", "chunks", SourceDocument, SourceDocument)
WIRING = Wiring(
    FLOW, "p-chunks", "p-dead-letters.chunker", "p-retry.chunker", "p-replay.chunker", "p-replay.embedder",
    "p-held.chunker", "chunker-0", 10_000, RetryPolicy(attempts=3, first_s=1.0, longest_s=60.0),
)  # fmt: skip
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Acting(Handler[In, Out]):
    """Does what the test wants, by text of the document."""

    name = "step"
    stage = "chunker"

    def __init__(self, act: Callable[[Context], Any] = lambda context: context) -> None:
        self.act = act
        self.seen: list[str] = []

    async def process(self, context: Context) -> Any:
        self.seen.append(context.change.document_id)
        return self.act(context)


class Step(Acting[SourceDocument, SourceDocument]):
    """Sees documents only."""


class Deleting(Acting[SourceDocument | None, SourceDocument | None]):
    """Sees deletes."""


class BatchStep(BatchHandler[SourceDocument, SourceDocument]):
    """Fails as a whole where a document at fault is in the batch."""

    name = "batch-step"
    stage = "chunker"

    def __init__(self, act: Callable[[Sequence[Context]], Any]) -> None:
        self.act = act
        self.sizes: list[int] = []

    async def process_batch(self, contexts: Sequence[Context]) -> Any:
        self.sizes.append(len(contexts))
        return self.act(contexts)


class Chains:
    """The same handlers for the pipeline ``default``."""

    def __init__(self, *handlers: Handler) -> None:
        self.handlers = handlers

    async def chain(self, pipeline_id: str, version: int) -> Sequence[Handler]:
        if pipeline_id != "default":
            raise UnknownPipeline(f"pipeline {pipeline_id!r} version {version} was never applied")
        return self.handlers

    def reviewed(self, pipeline_id: str, version: int) -> bool:
        return version == 2


class Holds:
    """Records of document ``a`` wait."""

    def held(self, context: Context) -> tuple[str, str] | None:
        return ("tenant/acme", "paused by ann") if context.change.document_id == "a" else None


def context(document: str, *, operation: Operation = Operation.UPSERT, pipeline: str = "default") -> Context:
    """The envelope of a document whose text is its id."""
    payload = (
        SourceDocument(DocumentFacts(document, "text/plain", bytes(16)), document)
        if operation is Operation.UPSERT
        else None
    )
    return Context(
        Trace(f"request-{document}", pipeline, 1, NOW),
        Change("t", document, 3, operation),
        payload,
        Metadata({"ingest.format": "json"}),
    )


def record(document: str, offset: int = 0, **changes: Any) -> Record:
    """A record that carries the document."""
    found = context(document, **changes)
    return Record(
        "p-documents", 2, offset, found.change.key, CODEC.encode(found, SourceDocument), (("request-id", b"r"),), 1000
    )


def process(*records: Record, handlers: Sequence[Handler] = (), **options: Any) -> BatchResult:
    """Run the processor over the records."""
    processor = StageProcessor(WIRING, CODEC, Chains(*handlers), now=lambda: NOW, **options)
    return asyncio.run(processor.process(Batch(1, records, Snapshot("s"), 0.0, attempt=2)))


def letters(result: BatchResult) -> list[DeadLetter]:
    """The dead letters in the result."""
    return [
        CODEC.decode_plain(message.value, DeadLetter)
        for message in result.messages
        if message.topic == WIRING.dead_letters
    ]


def failing(documents: Mapping[str, BaseException]) -> Step:
    """A handler that raises for these documents."""

    def act(found: Context) -> Context:
        if found.change.document_id in documents:
            raise documents[found.change.document_id]
        return found

    return Step(act)


def test_a_record_goes_on_with_key_headers_and_history() -> None:
    """Broken: the next stage cannot tell request, version or where a record has been."""
    message = process(record("a", 7), handlers=[Step()]).messages[0]
    assert (message.topic, message.key) == ("p-chunks", b"t/a")
    assert dict(message.headers) == {"request-id": b"request-a", "operation": b"UPSERT", "version": b"3"}
    run = CODEC.decode(message.value, SourceDocument).trace.history[-1]
    assert (run.stage, run.handlers, run.worker) == ("chunker", ("step@1",), "chunker-0")
    assert (run.topic, run.partition, run.offset, run.attempt) == ("p-documents", 2, 7, 2)


def test_a_record_that_fails_fails_alone_and_keeps_its_place() -> None:
    """Broken: one bad record takes others along, or is not written with them."""
    bad = Record("p-documents", 2, 1, b"t/b", b"\x00\x01junk", (("request-id", b"r-b"), ("x", None)), 1500)
    step = failing({"c": PermanentError("no", where="here", remedy="do"), "d": KeyError("gone")})
    result = process(record("a"), bad, record("c", 2), record("d", 3), record("e", 4), handlers=[step])
    assert [message.topic for message in result.messages] == [
        "p-chunks", *(["p-dead-letters.chunker"] * 3), "p-chunks",
    ]  # fmt: skip
    assert result.dead_letters == 3
    undecodable, permanent, unforeseen = letters(result)
    assert undecodable.reason == "undecodable"
    assert (undecodable.key, undecodable.value) == (bad.key, bad.value)
    assert [(part.name, part.value) for part in undecodable.headers] == [("request-id", b"r-b"), ("x", None)]
    assert (undecodable.topic, undecodable.partition, undecodable.offset) == ("p-documents", 2, 1)
    assert (undecodable.request_id, undecodable.document_id) == ("r-b", None)
    assert undecodable.timestamp == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert (permanent.reason, permanent.remedy, permanent.stack) == ("permanent", "do", None)
    assert (permanent.handler, permanent.attempt, permanent.worker) == ("step@1", 1, "chunker-0")
    assert (permanent.tenant, permanent.document_id, permanent.version) == ("t", "c", 3)
    assert unforeseen.reason == "unforeseen"
    assert "KeyError" in unforeseen.message
    assert "test_runtime_process" in (unforeseen.stack or "")


def test_a_later_handler_sees_only_what_the_earlier_let_through() -> None:
    """Broken: work continues on a record that was dead-lettered."""
    second = Step()
    process(record("a"), record("b", 1), handlers=[failing({"a": PermanentError()}), second])
    assert second.seen == ["b"]


@pytest.mark.parametrize("error", [DependencyDown("pg"), ConfigurationError("no token")])
def test_what_no_record_is_to_blame_for_concerns_the_batch(error: HeadraceError) -> None:
    """Broken: an outage, or a registry that refuses us, fills the dead letters."""

    def decode(_: Record) -> Context:
        raise error

    with pytest.raises(type(error)):
        process(record("a"), decode=decode)


@pytest.mark.parametrize("error", [DependencyDown("pg"), ConfigurationError("no token")])
def test_a_handler_s_outage_concerns_the_batch(error: HeadraceError) -> None:
    """Broken: a provider that is down for a minute costs records."""
    with pytest.raises(type(error)):
        process(record("a"), handlers=[failing({"a": error})])
    with pytest.raises(type(error)):
        process(record("a"), handlers=[BatchStep(lambda contexts: [error for _ in contexts])])


LATER = {"a": TemporaryError("later")}


def came_back(document: str, attempt: int, **headers: str) -> Record:
    """A record out of the retry topic, first read as offset 7 of partition 2."""
    said = {"origin-topic": "p-documents", "origin-partition": "2", "origin-offset": "7", "retry-attempt": str(attempt)}
    more = tuple((name, value.encode()) for name, value in {**said, "retry-due": "5", **headers}.items())
    found = record(document, 40)
    return found._replace(topic="p-retry.chunker", headers=(*found.headers, *more))


def test_a_record_that_failed_for_now_is_tried_again_as_it_was() -> None:
    """Broken: a passing failure of one record costs the record, holds up the others, or changes its bytes."""
    found = record("a", 7)
    result = process(found, record("b", 8), handlers=[failing(LATER)], jitter=lambda: 1.0)
    retry, other = result.messages
    assert (retry.topic, retry.key, retry.value) == ("p-retry.chunker", found.key, found.value)
    assert (other.topic, result.retried, result.dead_letters) == ("p-chunks", 1, 0)
    said = dict(retry.headers)
    due = int(NOW.timestamp() * 1000) + 1000
    assert said == {
        "request-id": b"r", "origin-topic": b"p-documents", "origin-partition": b"2", "origin-offset": b"7",
        "retry-attempt": b"2", "retry-due": str(due).encode(),
    }  # fmt: skip


def test_a_batch_that_fails_for_now_is_halved_until_the_record_stands_alone() -> None:
    """Broken: one record's passing failure has a whole batch tried again."""

    def fail_with_a(contexts: Sequence[Context]) -> Sequence[Context]:
        if any(found.change.document_id == "a" for found in contexts):
            raise TemporaryError("later")
        return contexts

    result = process(record("b"), record("a", 1), record("c", 2), handlers=[BatchStep(fail_with_a)])
    assert [message.topic for message in result.messages] == ["p-chunks", "p-retry.chunker", "p-chunks"]


def test_after_the_last_attempt_a_record_is_a_dead_letter_of_where_it_was_read_first() -> None:
    """Broken: a record that never works is tried for ever, or nobody can find it in the log."""
    assert process(came_back("a", 2), handlers=[failing(LATER)]).retried == 1
    letter = letters(process(came_back("a", 3), handlers=[failing(LATER)]))[0]
    assert (letter.reason, letter.attempt) == ("temporary", 3)
    assert (letter.topic, letter.partition, letter.offset) == ("p-documents", 2, 7)


@pytest.mark.parametrize(("delay", "due_s"), [(None, 0), (5.0, 5), (600.0, 60)])
def test_a_deferred_record_stands_back_as_it_was_and_as_the_same_attempt(delay: float | None, due_s: int) -> None:
    """Broken: a flood uses up its records' attempts and ends in the dead letters, or counts as failures."""
    deferred = failing({"a": Deferred(delay=delay)})
    due = str(int(NOW.timestamp() * 1000) + 1000 * due_s).encode()
    for found, attempt in ((record("a", 7), b"1"), (came_back("a", 3, redrive="x/0/1", replay="run-1"), b"3")):
        result = process(found, record("b", 8), handlers=[deferred])
        again, other = result.messages
        assert (again.topic, again.key, again.value) == ("p-retry.chunker", found.key, found.value)
        assert (other.topic, result.retried, result.dead_letters) == ("p-chunks", 0, 0)
        kept = {name: value for name, value in found.headers if name in ("request-id", "redrive", "replay")}
        partition = dict(found.headers).get("origin-partition", str(found.partition).encode())
        assert dict(again.headers) == {
            **kept, "origin-topic": b"p-documents", "origin-partition": partition, "origin-offset": b"7",
            "retry-attempt": attempt, "retry-due": due,
        }  # fmt: skip


@pytest.mark.parametrize("topic", ["p-documents", "p-retry.chunker", "p-replay.chunker"])
def test_a_handler_learns_whether_its_records_are_read_again(topic: str) -> None:
    """Broken: live records wait where only deferred ones may, or deferred ones stand back for ever."""
    seen: list[bool] = []

    def look(found: Context) -> Context:
        seen.append(READ_AGAIN.get())
        return found

    process(record("a")._replace(topic=topic), handlers=[Step(look)])
    assert seen == [topic != "p-documents"]
    assert READ_AGAIN.get() is False


def test_a_held_record_waits_as_it_was_and_the_others_go_on() -> None:
    """Broken: pausing a tenant loses its records, stops everybody, or lets a handler see them."""
    step = Step()
    held = record("a", 7)
    result = process(held, record("b", 8), handlers=[step], holds=Holds())
    waiting, other = result.messages
    assert (waiting.topic, waiting.key, waiting.value) == ("p-held.chunker", held.key, held.value)
    assert (other.topic, result.held, step.seen) == ("p-chunks", 1, ["b"])
    assert dict(waiting.headers) == {
        "request-id": b"r", "origin-topic": b"p-documents", "origin-partition": b"2", "origin-offset": b"7",
        "held-kind": b"pause", "held-for": b"tenant/acme", "held-why": b"paused by ann",
        "held-at": str(int(NOW.timestamp() * 1000)).encode(),
    }  # fmt: skip


def test_what_a_handler_sets_aside_waits_as_it_was_under_its_own_scope() -> None:
    """Broken: a record above a cap ends in the dead letters, counts as a failure, or is not known by its scope."""
    aside = failing({"a": HoldRecord("cap/acme", "the cap is reached")})
    for found in (record("a", 7), came_back("a", 3, redrive="x/0/1", replay="run-1")):
        result = process(found, record("b", 8), handlers=[aside])
        waiting, other = result.messages
        assert (waiting.topic, waiting.key, waiting.value) == ("p-held.chunker", found.key, found.value)
        assert (other.topic, result.held, result.retried, result.dead_letters) == ("p-chunks", 1, 0, 0)
        said = dict(waiting.headers)
        assert (said["held-kind"], said["held-for"], said["held-why"]) == (b"pause", b"cap/acme", b"the cap is reached")
        assert (said["origin-topic"], said["origin-offset"]) == (b"p-documents", b"7")


def test_what_is_to_be_reviewed_waits_with_the_place_where_it_goes_on() -> None:
    """Broken: a stage's output passes its review gate, or an approved one does not know its way."""
    found = context("a")
    found = replace(found, trace=replace(found.trace, pipeline_version=2))
    result = process(record("a")._replace(value=CODEC.encode(found, SourceDocument)))
    (waiting,) = result.messages
    assert (waiting.topic, result.held) == ("p-held.chunker", 1)
    said = dict(waiting.headers)
    assert (said["held-kind"], said["held-for"], said["held-target"]) == (b"review", b"pipeline/default", b"p-chunks")
    assert CODEC.decode(waiting.value, SourceDocument).trace.history[-1].stage == "chunker"


def test_a_delete_needs_no_review() -> None:
    """Broken: a document that must go stays until somebody has looked at it."""
    found = context("a", operation=Operation.DELETE)
    found = replace(found, trace=replace(found.trace, pipeline_version=2))
    result = process(record("a")._replace(value=CODEC.encode(found, SourceDocument)))
    assert [message.topic for message in result.messages] == ["p-chunks"]


def test_a_deadly_record_is_dead_lettered_without_being_touched() -> None:
    """Broken: the record that kills the process kills it once more when it is dead-lettered."""

    def never(_: Record) -> Context:
        raise AssertionError("touched")

    processor = StageProcessor(WIRING, CODEC, Chains(), decode=never, now=lambda: NOW)
    result = asyncio.run(processor.process(Batch(1, (record("a"),), Snapshot("s"), 0.0, deadly=True)))
    letter = letters(result)[0]
    assert (letter.reason, letter.value) == ("deadly", record("a").value)


def test_a_live_record_cannot_pass_for_one_that_came_back() -> None:
    """Broken: a client's headers use up a record's attempts, or send its output down another road."""
    forged = record("a")
    forged = forged._replace(
        headers=(("retry-attempt", b"9"), ("origin-topic", b"x"), ("replay", b"r"), ("redrive", b"d"))
    )
    assert process(forged).messages[0].topic == "p-chunks"
    again = process(forged, handlers=[failing(LATER)]).messages[0]
    assert dict(again.headers)["retry-attempt"] == b"2"
    assert dict(again.headers)["origin-topic"] == b"p-documents"
    held = process(forged, holds=Holds()).messages[0]
    for message in (again, held):
        assert not {"replay", "redrive"} & dict(message.headers).keys(), "it would be trusted in the side lane"


@pytest.mark.parametrize("topic", ["p-replay.chunker", "p-retry.chunker"])
def test_a_replayed_record_stays_in_the_replay_s_lane(topic: str) -> None:
    """Broken: a replay's flood stands before the live records of the next stage."""
    message = process(came_back("a", 1, replay="run-1")._replace(topic=topic)).messages[0]
    assert message.topic == "p-replay.embedder"
    assert dict(message.headers)["replay"] == b"run-1"


def test_a_record_that_came_back_is_decoded_as_first_read() -> None:
    """Broken: a version or request id that follows from the offset changes with a retry."""
    places = []

    def decode(found: Record) -> Context:
        places.append((found.topic, found.partition, found.offset))
        return context("a")

    process(came_back("a", 1), decode=decode)
    assert places == [("p-documents", 2, 7)]


def test_a_record_that_tells_of_no_document_is_passed_over_and_counted() -> None:
    """Broken: a tombstone becomes a dead letter, or takes the others' place in the batch."""

    def decode(found: Record) -> Context:
        if found.offset == 8:
            raise NoChange("a tombstone")
        return context(f"d{found.offset}")

    result = process(*(record("a", offset) for offset in (7, 8, 9)), handlers=[Step()], decode=decode)
    assert [message.key for message in result.messages] == [b"t/d7", b"t/d9"]
    assert (result.passed_over, result.dead_letters) == (1, 0)


@pytest.mark.parametrize(
    ("attempt", "asked", "jitter", "expected"),
    [(1, None, 0.0, 0.5), (1, None, 1.0, 1.0), (4, None, 1.0, 8.0), (20, None, 0.0, 30.0), (1, 42.0, 0.0, 42.0)],
)
def test_the_wait_doubles_with_jitter_up_to_the_longest(
    attempt: int, asked: float | None, jitter: float, expected: float
) -> None:
    """Broken: retries come all at once, too late, or before the time that the failure asked for."""
    assert RetryPolicy(8, 1.0, 60.0).delay(attempt, asked, jitter) == expected


def test_a_wait_that_was_asked_for_is_bounded() -> None:
    """Broken: a provider that asks for a year has its record back in a year."""
    assert RetryPolicy(8, 1.0, 60.0).delay(1, 1e9, 0.0) == 60.0


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda c: c.with_metadata("chunker", format="x").with_metadata("ingest", mine=1), "ingest.mine"),
        (lambda c: replace(c, metadata=Metadata({"ingest.format": "other"})), "ingest.format"),
        (lambda c: replace(c, metadata=Metadata()), "ingest.format"),
        (lambda c: replace(c, metadata=Metadata({**c.metadata, "system.x": 1})), "system.x"),
        (lambda c: c.with_metadata("trace", x=1), "trace.x"),
        (lambda c: replace(c, metadata=Metadata({**c.metadata, "chunker.": 1})), "chunker."),
        (lambda c: replace(c, trace=replace(c.trace, pipeline_version=2)), "trace"),
        (lambda c: replace(c, change=replace(c.change, version=9)), "change"),
    ],
)
def test_breaking_the_envelope_s_rules_names_stage_and_key(act: Any, named: str) -> None:
    """Broken: a handler forges versions or metadata, or nobody can tell which one did."""
    letter = letters(process(record("a"), handlers=[Step(act)]))[0]
    assert letter.reason == "metadata"
    assert named in letter.message
    assert letter.handler == "step@1"


def test_own_metadata_travels_on() -> None:
    """Broken: a handler's facts are dropped, or its own name refused."""
    result = process(record("a"), handlers=[Step(lambda c: c.with_metadata("chunker", number=2, share=0.5))])
    metadata = CODEC.decode(result.messages[0].value, SourceDocument).metadata
    assert dict(metadata) == {"ingest.format": "json", "chunker.number": 2, "chunker.share": 0.5}


@pytest.mark.parametrize("returned", [None, "text", 5])
def test_a_handler_that_returns_no_context_is_named(returned: Any) -> None:
    """Broken: a forgotten return ends the stage on every restart."""
    letter = letters(process(record("a"), handlers=[Step(lambda _: returned)]))[0]
    assert type(returned).__name__ in letter.message
    assert letter.handler == "step@1"


@pytest.mark.parametrize(
    "payload",
    [
        SourceDocument(DocumentFacts("t", "text/plain", bytes(16)), "x" * 20_000),
        SourceDocument(DocumentFacts("t", "text/plain", bytes(16)), "a\ud800"),
        SourceDocument(DocumentFacts("t", "text/plain", bytes(16)), 5),  # type: ignore[arg-type]
        SourceDocument(DocumentFacts("t", "text/plain", bytes(16), acl=5), "x"),  # type: ignore[arg-type]
        ChunkedDocument(DocumentFacts("t", "text/plain", bytes(16)), ()),
    ],
    ids=["oversize", "surrogate", "number", "no-sequence", "other-record"],
)
def test_output_that_cannot_be_written_is_a_dead_letter(payload: Any) -> None:
    """Broken: one handler's odd output ends the stage, or is refused by the broker with all others."""
    result = process(record("a"), record("b", 1), handlers=[Step(lambda c: c.with_payload(payload))])
    assert [letter.reason for letter in letters(result)] == ["invalid-record"] * 2


def test_an_unknown_pipeline_is_a_dead_letter_and_the_rest_goes_on() -> None:
    """Broken: a record with a wrong pipeline stops everybody's."""
    result = process(record("a", pipeline="nope"), record("b", 1), handlers=[Step()])
    assert [letter.reason for letter in letters(result)] == ["unknown-pipeline"]
    assert letters(result)[0].document_id == "a"
    assert result.messages[1].key == b"t/b"


def test_deletes_pass_handlers_by_save_those_that_ask() -> None:
    """Broken: deletes fail in handlers that expect a payload, or never reach the index."""
    plain, asking = Step(), Deleting()
    result = process(record("a", operation=Operation.DELETE), handlers=[plain, asking])
    assert (plain.seen, asking.seen) == ([], ["a"])
    assert CODEC.decode(result.messages[0].value, SourceDocument).payload is None
    assert dict(result.messages[0].headers)["operation"] == b"DELETE"


def test_validation_comes_before_work() -> None:
    """Broken: a record that can never work costs a model call first."""

    class Refusing(Step):
        def validate(self, found: Context) -> None:
            if found.change.document_id == "a":
                raise PermanentError("too odd")

    step = Refusing()
    result = process(record("a"), record("b", 1), handlers=[step])
    assert step.seen == ["b"]
    assert letters(result)[0].message.startswith("too odd")


@pytest.mark.parametrize("number", [1, 2, 7, 16])
@pytest.mark.parametrize("culprit", [0, 1, 15])
def test_a_failing_batch_is_halved_until_the_culprit_stands_alone(number: int, culprit: int) -> None:
    """Broken: one record that makes a model fail gives up the whole batch."""

    def act(contexts: Sequence[Context]) -> Sequence[Context]:
        if any(found.change.document_id == str(culprit) for found in contexts):
            raise RuntimeError("shape mismatch")
        return contexts

    contexts = [context(str(index)) for index in range(number)]
    outcomes = asyncio.run(run_handler(BatchStep(act), contexts))
    assert len(outcomes) == number
    for index, outcome in enumerate(outcomes):
        assert isinstance(outcome, RuntimeError) if index == culprit else outcome is contexts[index]


def test_a_wrong_number_of_results_gives_nobody_another_s_result() -> None:
    """Broken: results slip by one and documents get each other's content."""
    contexts = [context("a"), context("b"), context("c")]
    outcomes = asyncio.run(run_handler(BatchStep(lambda found: found[1:]), contexts))
    assert all(isinstance(outcome, PermanentError) for outcome in outcomes)


def test_an_error_in_a_batch_concerns_its_record_alone() -> None:
    """Broken: a batch handler cannot give up one record."""
    step = BatchStep(lambda found: [PermanentError("bad") if c.change.document_id == "a" else c for c in found])
    result = process(record("a"), record("b", 1), handlers=[step])
    assert step.sizes == [2]
    assert [message.topic for message in result.messages] == [WIRING.dead_letters, WIRING.target]


@pytest.mark.parametrize("timestamp", [-1, 0, 1_700_000_000_000_000, 2**63 - 1])
def test_a_dead_letter_takes_any_record(timestamp: int) -> None:
    """Broken: a record that cannot even be dead-lettered ends the stage on every restart."""
    odd = Record("p-documents", 0, 0, None, None, (("request-id", b"\xff\xfe"), ("h", None)), timestamp)
    error = PermanentError("text \udcff", where="\ud800", remedy="\udfff" + "x" * 9000)
    message = dead_letter(
        odd, Failure(error), stage="chunker", topic="d", worker="w", first=Origin("p-documents", 0, 0), attempt=1,
        now=NOW, codec=CODEC, max_message_bytes=10_000,
    )  # fmt: skip
    letter = CODEC.decode_plain(message.value, DeadLetter)
    assert "\\udcff" in letter.message
    assert len(letter.remedy) < 9000
    assert message.key
    assert (letter.key, letter.value) == (None, None)


HUGE = WIRING.max_message_bytes + ALLOWANCE_BYTES


@pytest.mark.parametrize(
    "changes",
    [
        {"value": bytes(HUGE + 1)},
        {"key": b"k" * (HUGE // 2 + 1)},
        {"headers": (("request-id", b"r" * HUGE),)},
        {"headers": tuple((f"h{number}", None) for number in range(HUGE // 8))},
        {"headers": (("h" * (HUGE // 2), b"x" * HUGE),)},
    ],
)
def test_a_record_larger_than_any_message_is_dead_lettered_in_part(changes: dict[str, Any]) -> None:
    """Broken: some megabytes of zeros, which come compressed to a few bytes, stop their partition for ever.

    The broker weighs records compressed and the producer as they are, so it refuses the dead letter each time.
    """
    result = process(Record("p-documents", 2, 7, b"k", b"v", ())._replace(**changes))
    (message,) = result.messages
    assert result.dead_letters == 1
    assert message.value is not None
    assert len(message.value) + len(message.key) + sum(len(value or b"") for _, value in message.headers) < HUGE
    (letter,) = letters(result)
    assert (letter.topic, letter.partition, letter.offset) == ("p-documents", 2, 7)
    assert int(dict(message.headers)["cut"] or b"") > HUGE
    assert letter.message.startswith("The record has ")


def test_a_record_that_the_client_cannot_read_is_dead_lettered_by_its_offset() -> None:
    """Broken: it is taken for a record without a value, or decoded without its headers."""
    unread = record("a", 9)._replace(headers=(("headrace.unreadable", b"Decompression failed"),))
    result = process(unread, record("b", 10), handlers=[Step()])
    assert [message.topic for message in result.messages] == [WIRING.dead_letters, WIRING.target]
    (letter,) = letters(result)
    assert (letter.reason, letter.offset) == ("undecodable", 9)
    assert "Decompression failed" in letter.message


def test_a_record_larger_than_any_message_is_not_tried_again() -> None:
    """Broken: the message for the retry is refused each time, and the partition stops."""

    def later(_: Record) -> Context:
        raise TemporaryError("later")

    small, large = Record("p-documents", 2, 0, b"k", b"v", ()), Record("p-documents", 2, 1, b"k", bytes(HUGE + 1), ())
    result = process(small, large, decode=later)
    assert [message.topic for message in result.messages] == [WIRING.retry, WIRING.dead_letters]


def test_a_record_larger_than_any_message_is_not_held() -> None:
    """Broken: the message for the held records is refused each time, and the partition stops."""
    zeros = (("zeros", bytes(HUGE + 1)),)
    paused, capped = record("a", 7)._replace(headers=zeros), record("b", 8)._replace(headers=zeros)
    aside = failing({"b": HoldRecord("cap/acme", "the cap is reached")})
    result = process(paused, capped, record("c", 9), handlers=[aside], holds=Holds())
    assert [message.topic for message in result.messages] == [WIRING.dead_letters, WIRING.dead_letters, WIRING.target]
    assert (result.held, result.dead_letters, result.faults) == (0, 2, 0)
    for letter, document in zip(letters(result), "ab", strict=True):
        assert (letter.reason, letter.document_id) == ("invalid-record", document)
        assert "HEADRACE_KAFKA_MAX_MESSAGE_BYTES" in letter.remedy


def test_a_long_reason_leaves_room_for_the_held_record() -> None:
    """Broken: a handler's long message makes each message for the held records too large."""
    (held,) = process(record("a"), handlers=[failing({"a": HoldRecord("cap/acme", "x" * HUGE)})]).messages
    assert held.topic == WIRING.held
    assert len(dict(held.headers)["held-why"] or b"") <= 4000


@pytest.mark.parametrize("part", ["value", "header"])
def test_output_that_the_broker_would_refuse_is_a_dead_letter(part: str) -> None:
    """Broken: key and value fit the limit, but not with headers and framing; the partition stops."""
    found = came_back("a", 2, **({"replay": "r" * WIRING.max_message_bytes} if part == "header" else {}))
    size = len(process(found, handlers=[Step()]).messages[0].value or b"")

    def fill(handled: Context) -> Context:
        room = WIRING.max_message_bytes - len(handled.change.key) - size - 20
        assert isinstance(handled.payload, SourceDocument)
        return handled.with_payload(replace(handled.payload, text="x" * room)) if part == "value" else handled

    result = process(found, handlers=[Step(fill)])
    assert [letter.reason for letter in letters(result)] == ["invalid-record"]


def test_a_record_that_fits_is_kept_in_full() -> None:
    """Broken: a redrive sends something else than what failed."""
    kept = Record("p-documents", 2, 7, b"k", bytes(WIRING.max_message_bytes), (("h", b"x" * 2000),))
    result = process(kept)
    (letter,) = letters(result)
    assert (letter.key, letter.value, letter.headers) == (kept.key, kept.value, (HeaderPart("h", b"x" * 2000),))
    assert "cut" not in dict(result.messages[0].headers)


def test_a_dead_letter_of_forged_identities_is_written() -> None:
    """Broken: identities that UTF-8 cannot carry end the stage."""
    forged = replace(context("a"), change=Change("t\ud800", "a", 1, Operation.UPSERT))
    result = process(record("a"), handlers=[Step()], decode=lambda _: forged)
    assert result.dead_letters == 1
