"""The runtime compared with a plain confluent-kafka transactional loop: same records, batch size and settings.

``runtime`` passes bytes through; ``runtime-envelope`` also decodes, validates and encodes an envelope.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from uuid import uuid4

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.envelope import Change, Context, Metadata, Operation, StageRun, Trace
from headrace.handler import Handler
from headrace.kafka.broker import KafkaBroker
from headrace.kafka.broker_contract import Message
from headrace.kafka.client_config import consumer_config, producer_config
from headrace.migrate import make_topics
from headrace.payloads import DocumentFacts, SourceDocument
from headrace.runtime.compute import ComputeThread
from headrace.runtime.contract import Lane
from headrace.runtime.loop.batch import Batch, BatchResult
from headrace.runtime.loop.limits import Limits
from headrace.runtime.outcomes import Wiring
from headrace.runtime.process import StageProcessor
from headrace.runtime.worker import Worker
from headrace.telemetry import metrics
from headrace.topology import stages
from headrace_bench.result import Result
from headrace_local import shared

PARTITIONS = 8
BATCH = 500
RECORD_BYTES = 2000
ROUNDS = 5

Process = Callable[[Batch], Awaitable[BatchResult]]


class PassHandler(Handler[SourceDocument, SourceDocument]):
    """Checks the record and passes it on."""

    name = "pass"
    stage = "chunker"

    async def process(self, context: Context[SourceDocument]) -> Context[SourceDocument]:
        """Return the context unchanged."""
        return context


class OneChain:
    """The same handler for every pipeline."""

    async def chain(self, pipeline_id: str, version: int) -> Sequence[Handler]:  # noqa: ARG002
        """Return the handler."""
        return (PassHandler(),)

    def reviewed(self, pipeline_id: str, version: int) -> bool:  # noqa: ARG002
        """Return False: nothing is reviewed."""
        return False


def run(state_dir: Path) -> Result:
    """Return records per second of the runtime that passes bytes through, with the plain loop as its baseline."""
    return _on_stack(state_dir, envelope=False)


def run_envelope(state_dir: Path) -> Result:
    """Return the same for a runtime that decodes, checks and encodes each record."""
    return _on_stack(state_dir, envelope=True)


def _on_stack(state_dir: Path, *, envelope: bool) -> Result:
    endpoints = shared.acquire(state_dir)
    try:
        return _measured(KafkaSettings(bootstrap=endpoints.kafka_bootstrap), envelope=envelope)
    finally:
        shared.release(state_dir)


def _measured(kafka: KafkaSettings, *, envelope: bool, records: int = 40_000) -> Result:
    """Return the medians of alternating rounds, after a round of each that warms up the broker."""
    codec = Codec(FixedIds())
    source, target = (kafka.topic(f"bench-{uuid4().hex[:8]}-{name}") for name in ("in", "out"))
    admin = AdminClient(kafka.client())
    make_topics(admin, [NewTopic(name, PARTITIONS, 1) for name in (source, target)])
    try:
        _fill(kafka, source, _value(codec), records)
        process = _envelope_process(codec, target) if envelope else _bytes_process(target)
        ours, bare = [], []
        for _ in range(ROUNDS + 1):
            bare.append(records / _bare(kafka, source, target, records))
            ours.append(records / _runtime(kafka, source, process, records))
    finally:
        for future in admin.delete_topics([source, target]).values():
            future.result()
    return Result(
        "runtime-envelope" if envelope else "runtime",
        median(ours[1:]), "records/s", median(bare[1:]), "bare confluent-kafka transactional loop, same batch size",
        {"records": records, "bytes": RECORD_BYTES, "batch": BATCH, "rounds": ROUNDS, "ours": ours, "bare": bare},
        goal=0.9 if envelope else 1.2,
    )  # fmt: skip


def _value(codec: Codec) -> bytes:
    now = datetime.now(UTC)
    run = StageRun("ingest", ("change-event@1",), "ingest-0", "changes", 0, 1, 1, now, 900)
    return codec.encode(
        Context(
            Trace("b2f0c6a4-0000-4000-8000-000000000000", "default", 1, now, None, (run,)),
            Change("bench", "peps/pep-0001.rst", 7, Operation.UPSERT),
            SourceDocument(
                DocumentFacts("A title", "text/plain", bytes(16)), ("All work and no play. " * 100)[:RECORD_BYTES]
            ),
            Metadata({"system.format": "avro", "user.team": "core"}),
        ),
        SourceDocument,
    )


def _fill(kafka: KafkaSettings, topic: str, value: bytes, records: int) -> None:
    producer = Producer({**kafka.client(), "linger.ms": 50, "compression.type": "zstd"})
    for number in range(records):
        while True:
            try:
                producer.produce(topic, value, f"bench/{number}")
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def _bare(kafka: KafkaSettings, source: str, target: str, records: int) -> float:
    """Return the seconds of a loop as a careful user of the client would write it."""
    name = uuid4().hex
    worker = WorkerSettings(slot=name)
    consumer = Consumer({**consumer_config(kafka, worker, name, name), "auto.offset.reset": "earliest"})
    producer = Producer(producer_config(kafka, worker, name))
    producer.init_transactions()
    consumer.subscribe([source])
    done = 0
    started = 0.0
    while done < records:
        messages = consumer.consume(BATCH, 0.1)
        if not messages:
            continue
        started = started or time.perf_counter()
        offsets: dict[tuple[str, int], int] = {}
        producer.begin_transaction()
        for message in messages:
            if message.error():
                raise KafkaException(message.error())
            producer.produce(target, message.value(), message.key(), headers=message.headers())
            offsets[source, message.partition() or 0] = (message.offset() or 0) + 1
        positions = [KafkaPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
        producer.commit_transaction()
        done += len(messages)
    elapsed = time.perf_counter() - started
    consumer.close()
    return elapsed


def _runtime(kafka: KafkaSettings, source: str, process: Process, records: int) -> float:
    """Return the seconds of the stage runtime for the same records."""
    name = uuid4().hex
    settings = WorkerSettings(slot=name)
    done = 0
    started = 0.0

    async def counted(batch: Batch) -> BatchResult:
        nonlocal started
        started = started or time.perf_counter()
        return await process(batch)

    computer = ComputeThread()
    broker = KafkaBroker(kafka, settings, group=name, transactional_id=name)
    worker = Worker(Lane(name, [source], Limits(batch_records=BATCH)), broker, computer.computer(counted))
    broker.subscribe([source])
    while done < records:
        worker.step()
        done = int(metrics.RECORDS_DONE.labels(name, "live")._value.get())  # noqa: SLF001
    elapsed = time.perf_counter() - started
    broker.close()
    computer.close()
    return elapsed


def _bytes_process(target: str) -> Process:
    async def process(batch: Batch) -> BatchResult:
        return BatchResult([Message(target, r.key or b"-", r.value or b"", r.headers) for r in batch.records])

    return process


def _envelope_process(codec: Codec, target: str) -> Process:
    flow = stages.StageFlow("chunker", "in", "out", SourceDocument, SourceDocument)
    wiring = Wiring(
        flow,
        target,
        f"{target}-dead",
        f"{target}-retry",
        f"{target}-replay",
        target,
        f"{target}-held",
        "bench-0",
        8 * 1024 * 1024,
    )
    return StageProcessor(wiring, codec, OneChain()).process
