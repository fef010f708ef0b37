"""Traces and runs, read from a real log: which partition, which window, what is new."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition, murmur2
from pydantic import SecretStr

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import Registry
from headrace.config.settings import KafkaSettings
from headrace.envelope import Change, Context, Operation, StageRun, Trace
from headrace.payloads import DeadLetter, DeadLetterAction, DocumentFacts, HeaderPart, IndexedDocument, SourceDocument
from headrace.store.pool import StoreSettings, create_pool
from headrace_operations.runs.reader import RunsReader
from headrace_operations.trace.log import Limits
from headrace_operations.trace.request import trace_request
from headrace_operations.trace.tracer import Tracer
from headrace_testing.deployment import Deployment, Place

pytestmark = pytest.mark.integration

TENANT = "acme"
LIMITS = Limits(50_000, 20.0)


@dataclass(frozen=True)
class Log:
    """A bootstrapped log of the test's own, and what writes to it."""

    kafka: KafkaSettings
    codec: Codec
    store: StoreSettings
    producer: Producer

    def write(self, topic: str, key: bytes, value: bytes, *, times: int = 1, **headers: object) -> None:
        """Write a record where its key belongs, several times if asked."""
        named: dict[str, str | bytes | None] = {
            name.replace("_", "-"): str(text).encode() for name, text in headers.items()
        }
        for _ in range(times):
            self.producer.produce(self.kafka.topic(topic), value, key, headers=named)
            self.producer.poll(0)
        assert self.producer.flush(20) == 0

    def change(self, name: str, version: int, run: str = "run-1") -> None:
        """Write a change as the gateway does."""
        self.write("changes", key(name), b"body", request_id=f"q-{run}", operation="UPSERT", version=version, run=run)

    def indexed(self, name: str, version: int, place: int = 0) -> None:
        """Write an outcome of the index."""
        payload = IndexedDocument("INDEXED", "g1", 1, 0, 0)
        value = self.codec.encode(context(name, version, payload, place), IndexedDocument)
        self.write("indexed", key(name), value, request_id="q", operation="UPSERT", version=version)

    def letter(self, name: str, version: int) -> None:
        """Write a dead letter of the chunker."""
        now = datetime.now(UTC)
        headers = (HeaderPart("version", str(version).encode()),)
        letter = DeadLetter(
            "chunker", "unforeseen", "boom", "Mend it.", None, "sections@1", 1, "documents", 0, 0, now,
            key(name), b"", headers, now, "w", TENANT, name, version, "q",
        )  # fmt: skip
        self.write("dead-letters.chunker", key(name), self.codec.encode_plain(letter))

    def taken(self, group: str, topic: str) -> None:
        """Have the group stand at the end of its topic."""
        name = self.kafka.topic(topic)
        consumer = Consumer({**self.kafka.client(), "group.id": self.kafka.group(group)})
        places = [TopicPartition(name, number) for number in consumer.list_topics(name, 10).topics[name].partitions]
        for place in places:
            place.offset = consumer.get_watermark_offsets(place, 10)[1]
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()


def key(name: str) -> bytes:
    """The document's key."""
    return f"{TENANT}/{name}".encode()


def context(name: str, version: int, payload: object, place: int) -> Context:
    """A document with the history of one run of ingest."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    run = StageRun("ingest", ("change-event@1",), "w", "changes", murmur2(key(name), 8), place, 1, now, 5)
    return Context(
        Trace("q", "default", 1, now, history=(run,)), Change(TENANT, name, version, Operation.UPSERT), payload
    )


@pytest.fixture
def log(place: Place, deployment: Deployment) -> Iterator[Log]:
    """A log of this test alone."""
    assert deployment
    kafka = place.kafka_settings()
    registry = Registry(place.registry)
    store = StoreSettings(dsn=SecretStr(place.runtime_dsn()), schema_name=place.schema, pool_minimum=0, pool_maximum=2)
    producer = Producer({**kafka.client(), "partitioner": "murmur2_random"})
    yield Log(kafka, Codec(registry), store, producer)
    registry.close()


async def test_a_document_is_followed_through_its_partitions(log: Log) -> None:
    """If it failed, an operator would be told that a document is lost which waits, is retried or was dead-lettered."""
    log.change("a.md", 2)
    log.write("documents", key("a.md"), log.codec.encode(context("a.md", 2, source(), 0), SourceDocument), version=2)
    pool = await create_pool(log.store)
    tracer = Tracer(log.kafka, log.codec, pool, LIMITS)
    (trace,) = (await tracer.documents(TENANT, ["a.md"])).documents
    assert trace.state == "in_flight"
    assert [(place.stage, place.behind) for place in trace.versions[0].waiting] == [("ingest", 0), ("chunker", 0)]

    log.taken("ingest", "changes")
    log.taken("chunker", "documents")
    due = int(time.time() * 1000) + 60_000
    value = log.codec.encode(context("a.md", 2, source(), 0), SourceDocument)
    log.write("retry.chunker", key("a.md"), value, version=2, retry_due=due, retry_attempt=4)
    (trace,) = (await tracer.documents(TENANT, ["a.md"])).documents
    (waiting,) = trace.versions[0].waiting
    assert (waiting.lane, waiting.stage, waiting.attempt, waiting.due_ms) == ("retry", "chunker", 4, due)
    assert [step.stage for step in trace.versions[0].steps] == ["ingest"]

    log.taken("chunker-side", "retry.chunker")
    log.letter("a.md", 2)
    (trace,) = (await tracer.documents(TENANT, ["a.md"])).documents
    (letter,) = trace.versions[0].dead_letters
    assert trace.state == "dead_lettered"
    assert letter.id == f"chunker/{murmur2(key('a.md'), 4)}/0"
    assert f"headrace dlq redrive {letter.id}" in trace.versions[0].advice[0]

    action = DeadLetterAction("DISCARDED", "chunker", 0, 0, "b", "ann", datetime.now(UTC), "rubbish")
    log.write("dead-letter-actions", letter.id.encode(), log.codec.encode_plain(action))
    (trace,) = (await tracer.documents(TENANT, ["a.md"])).documents
    assert (trace.versions[0].state, trace.versions[0].dead_letters[0].acted_by) == ("discarded", "ann")
    (unknown,) = (await tracer.documents(TENANT, ["none"])).documents
    assert (unknown.state, unknown.versions) == ("unknown", ())
    await pool.close()


async def test_a_long_partition_is_read_from_its_end_and_says_where_it_stopped(log: Log) -> None:
    """If it failed, a trace would read a whole topic, miss what lies behind a window, or keep that to itself."""
    log.change("old.md", 1)
    log.write("changes", key("old.md"), b"x", times=7000)  # others of the same partition, without headers
    log.change("old.md", 2)
    whole = await Tracer(log.kafka, log.codec, None, LIMITS).documents(TENANT, ["old.md"])
    assert whole.cost.complete
    assert whole.cost.records >= 7002
    assert {1, 2} <= {one.version for one in whole.documents[0].versions}
    short = await Tracer(log.kafka, log.codec, None, Limits(1000, 20.0)).documents(TENANT, ["old.md"])
    assert not short.cost.complete
    assert short.cost.records == 1000
    assert [one.version for one in short.documents[0].versions if one.version is not None] == [2]
    assert any("not read completely" in note for note in short.documents[0].notes)


async def test_a_run_is_followed_by_reading_only_what_is_new(log: Log) -> None:
    """If it failed, a run would never end, or every look at it would read the whole log again."""
    for name in ("a", "b", "c"):
        log.change(name, 5)
    log.change("other", 1, run="run-2")
    log.indexed("a", 6)
    pool = await create_pool(log.store)
    reader = RunsReader(log.kafka, log.codec, pool, LIMITS, since_ms=int(time.time() * 1000) - 60_000)
    await reader.read()
    (run,) = reader.runs("run-1")
    assert (run.total, run.done, run.failed, run.pending) == (3, 1, 0, 2)
    assert {one.run for one in reader.runs()} == {"run-1", "run-2"}
    log.letter("b", 5)
    log.indexed("c", 5)
    cost = await reader.read()
    (run,) = reader.runs("run-1")
    assert (run.total, run.done, run.failed, run.pending) == (3, 2, 1, 0)
    assert cost.records == 2

    found = await trace_request(log.kafka, log.codec, pool, LIMITS, tenant=TENANT, request="q-run-1")
    assert [item.fate for item in found.changes] == ["failed", "done", "done"]
    assert found.documents[0].document_id == "b"
    await pool.close()


def source() -> SourceDocument:
    """A parsed document."""
    return SourceDocument(DocumentFacts("t", "text/plain", b"h" * 32), "x")
