"""Stages whose records are too large for Kafka: they pass by the object store, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import ObjectSettings
from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import HeadraceError, TemporaryError
from headrace.handler import BatchHandler, Handler
from headrace.kafka.broker_contract import Message, Record, Snapshot
from headrace.objects.claims import Claims
from headrace.objects.places import named_in
from headrace.objects.store import MARKER, ObjectStore
from headrace.payloads import DeadLetter, DocumentFacts, SourceDocument
from headrace.runtime.contract import Lane, Time
from headrace.runtime.loop.batch import Batch
from headrace.runtime.loop.breaker import Closed, Open
from headrace.runtime.loop.limits import Limits
from headrace.runtime.outcomes import Wiring
from headrace.runtime.process import StageProcessor
from headrace.runtime.worker import Worker
from headrace.topology.stages import StageFlow
from headrace_testing.fakes import FakeClock, InlineComputer, run_inline
from headrace_testing.memory_broker import MemoryBroker
from headrace_testing.memory_cluster import MemoryCluster

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CODEC = Codec(FixedIds())
LARGE = "large " * 4000
LIMIT = 10_000
TOPICS = (
    "a", "b", "c", *(f"{kind}.{stage}" for stage in ("one", "two") for kind in ("dead-letters", "retry", "held")),
)  # fmt: skip


class Note(BatchHandler[SourceDocument, SourceDocument]):
    """Adds its stage's name to each text, and remembers what it was given at a time."""

    name = "note"

    def __init__(self, stage: str) -> None:
        self.stage = stage  # type: ignore[misc]
        self.batches: list[list[str]] = []
        self.fail = 0

    async def process_batch(
        self, contexts: Sequence[Context[SourceDocument]]
    ) -> Sequence[Context[SourceDocument] | HeadraceError]:
        self.batches.append([context.change.document_id for context in contexts])
        if self.fail:
            self.fail -= 1
            return [TemporaryError("not now") for _ in contexts]
        return [self._noted(context) for context in contexts]

    def _noted(self, context: Context[SourceDocument]) -> Context[SourceDocument]:
        text = context.payload.text + self.stage
        return context.with_payload(replace(context.payload, text=text))


class Chains:
    """One handler for every pipeline; version 2 asks for a review."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def chain(self, _pipeline: str, _version: int) -> Sequence[Handler]:
        return [self.handler]

    def reviewed(self, _pipeline: str, version: int) -> bool:
        return version == 2


class Stage:
    """A stage from one topic to the next, over a cluster in memory and a folder."""

    def __init__(self, cluster: MemoryCluster, name: str, source: str, target: str, claims: Claims | None) -> None:
        self.clock = FakeClock()
        self.note = Note(name)
        flow = StageFlow(name, source, target, SourceDocument, SourceDocument)
        wiring = Wiring(
            flow, target, f"dead-letters.{name}", f"retry.{name}", f"replay.{name}", target, f"held.{name}", "w", 20_000
        )
        self.processor = StageProcessor(wiring, CODEC, Chains(self.note), claims=claims, now=lambda: NOW)
        self.broker = broker = MemoryBroker(cluster, group=name, transactional_id=name)
        computer = InlineComputer(run_inline(self.processor.process), self.clock)
        self.worker = Worker(Lane(name, [source], Limits()), broker, computer, time=Time(self.clock))
        self.source: str | None = source

    def run(self) -> None:
        """Let the worker work off what there is; it joins its group at the first call."""
        if self.source is not None:
            self.broker.subscribe([self.source])
            self.source = None
        for _ in range(20):
            if self.worker.state.exit is None:
                self.worker.step()


@pytest.fixture
def cluster() -> MemoryCluster:
    """A cluster with the topics."""
    clock = FakeClock()
    made = MemoryCluster(clock=clock, wait=clock.advance)
    for name in TOPICS:
        made.create_topic(name, 1)
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a store that the migration step began."""
    ObjectStore(ObjectSettings(url=f"file://{tmp_path}"), dict).begin()
    return tmp_path


def claims_in(folder: Path, now: datetime = NOW, batch_bytes: int = 1 << 20) -> Claims:
    """Claims over the folder."""
    settings = ObjectSettings(url=f"file://{folder}", limit_bytes=LIMIT, batch_bytes=batch_bytes)
    return Claims(CODEC, ObjectStore(settings, dict), settings, now=lambda: now)


def send(cluster: MemoryCluster, document: str, text: str = LARGE, *, version: int = 1) -> None:
    """Have a document come that ingest could still publish."""
    context = Context(
        Trace(document, "default", version, NOW), Change("t", document, 1, Operation.UPSERT),
        SourceDocument(DocumentFacts("T", "text/plain", bytes(16)), text),
    )  # fmt: skip
    cluster.append(Message("a", context.change.key, CODEC.encode(context, SourceDocument)))


def values(cluster: MemoryCluster, topic: str) -> list[bytes]:
    """What is committed in the topic."""
    return [record.value or b"" for record in cluster.read_committed(topic)]


def objects(folder: Path) -> set[str]:
    """The keys of the stored objects."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != MARKER}


def whole(folder: Path, value: bytes) -> Context[SourceDocument]:
    """The record with its payload."""
    store = ObjectStore(ObjectSettings(url=f"file://{folder}"), dict)
    found = Codec(FixedIds(), store).decode(value, SourceDocument)
    assert found.payload is not None
    return found.with_payload(found.payload)


def test_a_large_document_passes_two_stages(cluster: MemoryCluster, home: Path) -> None:
    """Broken: a document that Kafka cannot carry ends as a dead letter although a store is configured."""
    first = Stage(cluster, "one", "a", "b", claims_in(home))
    second = Stage(cluster, "two", "b", "c", claims_in(home))
    for document, text in (("large", LARGE), ("small", "small")):
        send(cluster, document, text)
    first.run()
    second.run()
    done = [whole(home, value) for value in values(cluster, "c")]
    assert [context.payload.text for context in done] == [f"{LARGE}onetwo", "smallonetwo"]
    assert [run.stage for run in done[0].trace.history] == ["one", "two"]
    assert [len(value) < LIMIT for value in values(cluster, "b")] == [True, True]
    named = {key for topic in ("b", "c") for value in values(cluster, topic) for key in named_in(value)}
    assert named == objects(home)
    assert len(named) == 2


def test_without_a_store_the_error_names_the_setting(cluster: MemoryCluster) -> None:
    """Broken: nobody learns how to have large documents indexed."""
    stage = Stage(cluster, "two", "a", "b", None)
    send(cluster, "large")
    stage.run()
    letters = [CODEC.decode_plain(value, DeadLetter) for value in values(cluster, "dead-letters.two")]
    assert [(letter.reason, "HEADRACE_OBJECTS_URL" in letter.remedy) for letter in letters] == [
        ("invalid-record", True)
    ]


def test_a_stage_without_the_store_gives_the_reference_up_and_a_redrive_carries_it(
    cluster: MemoryCluster, home: Path
) -> None:
    """Broken: a stage that lacks the setting takes a large document for a delete, or its dead letter loses it."""
    send(cluster, "large")
    Stage(cluster, "one", "a", "b", claims_in(home)).run()
    without = Stage(cluster, "two", "b", "c", None)
    without.run()
    without.broker.close()
    [letter] = [CODEC.decode_plain(value, DeadLetter) for value in values(cluster, "dead-letters.two")]
    assert "no object store is configured here" in letter.message
    assert (letter.tenant, letter.document_id) == ("t", "large")
    assert named_in(values(cluster, "dead-letters.two")[0]) == objects(home)
    cluster.append(Message("b", letter.key or b"", letter.value))  # what a redrive writes
    Stage(cluster, "two", "b", "c", claims_in(home)).run()
    assert [whole(home, value).payload.text for value in values(cluster, "c")] == [f"{LARGE}onetwo"]


def test_what_is_retried_or_reviewed_keeps_its_reference(cluster: MemoryCluster, home: Path) -> None:
    """Broken: a large document is lost where it waits: for another attempt, or for a person."""
    send(cluster, "retried")
    send(cluster, "reviewed", version=2)
    Stage(cluster, "one", "a", "b", claims_in(home)).run()
    [held] = values(cluster, "held.one")
    assert whole(home, held).payload.text == f"{LARGE}one"
    second = Stage(cluster, "two", "b", "c", claims_in(home))
    second.note.fail = 1
    second.run()
    assert values(cluster, "retry.two") == values(cluster, "b")


def test_a_batch_of_references_is_taken_up_in_portions(cluster: MemoryCluster, home: Path) -> None:
    """Broken: a batch whose records are small and whose payloads are not takes all memory."""
    for number in range(5):
        send(cluster, f"d{number}", f"{number}{LARGE}")
    send(cluster, "small", "small")
    Stage(cluster, "one", "a", "b", claims_in(home)).run()
    second = Stage(cluster, "two", "b", "c", claims_in(home, batch_bytes=2 * len(LARGE) + 1000))
    second.run()
    assert second.note.batches == [["d0", "d1"], ["d2", "d3"], ["d4", "small"]]
    assert [context.change.document_id for context in map(partial(whole, home), values(cluster, "c"))] == [
        "d0", "d1", "d2", "d3", "d4", "small",
    ]  # fmt: skip


def test_a_lost_object_fails_its_own_record_alone(cluster: MemoryCluster, home: Path) -> None:
    """Broken: one object that somebody deleted stops the stage, or is passed over in silence."""
    for document in ("lost", "kept"):
        send(cluster, document, f"{document}{LARGE}")
    Stage(cluster, "one", "a", "b", claims_in(home)).run()
    [lost] = named_in(values(cluster, "b")[0])
    (home / lost).unlink()
    Stage(cluster, "two", "b", "c", claims_in(home)).run()
    [letter] = [CODEC.decode_plain(value, DeadLetter) for value in values(cluster, "dead-letters.two")]
    assert (letter.reason, letter.document_id, letter.value) == ("object-gone", "lost", values(cluster, "b")[0])
    assert lost in letter.message
    assert [context.change.document_id for context in map(partial(whole, home), values(cluster, "c"))] == ["kept"]


def test_a_store_that_is_away_pauses_the_stage(cluster: MemoryCluster, home: Path) -> None:
    """Broken: an outage of the object store costs dead letters or documents."""
    folder = home / "store"
    stage = Stage(cluster, "one", "a", "b", claims_in(folder))
    send(cluster, "large")
    stage.run()
    assert isinstance(stage.worker.state.breaker.circuit, Open)
    assert stage.worker.state.breaker.circuit.dependency == "object-store"
    assert values(cluster, "b") == values(cluster, "dead-letters.one") == []
    folder.mkdir()
    stage.clock.advance(60)
    stage.run()
    assert (list(folder.iterdir()), values(cluster, "b")) == ([], []), "an empty mount point is no store"
    ObjectStore(ObjectSettings(url=f"file://{folder}"), dict).begin()
    stage.clock.advance(60)
    for _ in range(200):
        stage.run()
    assert [whole(folder, value).payload.text for value in values(cluster, "b")] == [f"{LARGE}one"]
    assert isinstance(stage.worker.state.breaker.circuit, Closed)


def test_a_death_before_the_commit_leaves_garbage_and_nothing_else(cluster: MemoryCluster, home: Path) -> None:
    """Broken: a crash after the object was written loses the document, or publishes a reference to nothing."""
    send(cluster, "large")
    dying = Stage(cluster, "one", "a", "b", claims_in(home))
    [read] = cluster.read_committed("a")
    record = Record("a", 0, 0, read.key, read.value, read.headers, 0)
    asyncio.run(
        dying.processor.process(Batch(1, (record,), Snapshot("s"), 0.0))
    )  # and then nothing: the process is gone
    [garbage] = objects(home)
    Stage(cluster, "one", "a", "b", claims_in(home, NOW + timedelta(days=1))).run()
    [value] = values(cluster, "b")
    assert whole(home, value).payload.text == f"{LARGE}one"
    assert objects(home) == {garbage, *named_in(value)}
    assert garbage not in named_in(value)
