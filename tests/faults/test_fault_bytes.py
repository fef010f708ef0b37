"""Rows 19, 20 and 25: bytes that are no record, schemas that nobody knows, payloads at the limit of their size."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from confluent_kafka import Producer

from headrace.codec.codec import Codec
from headrace.envelope import Change, Context, Metadata, Operation, StageRun, Trace
from headrace.payloads import ChunkedDocument, DocumentFacts, SourceDocument
from headrace_testing.committed import dead_letters_of, read_all
from headrace_testing.deployment import Deployment
from headrace_testing.faults.checkers import Entry, conservation

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

PARTITIONS = 8
LIMIT = 64 * 1024
HUGE_COUNT = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
"""The longest count that Avro can write."""


def document(codec: Codec, number: int, size: int) -> bytes:
    """Return a document of so many characters as the ingest service would write it."""
    now = datetime.now(UTC)
    run = StageRun("ingest", ("change-event@1",), "ingest-0", "changes", 0, number, 1, now, 900)
    text = ("All work and no play. " * (size // 22 + 1))[:size]
    return codec.encode(
        Context(
            Trace("b2f0c6a4-0000-4000-8000-000000000000", "default", 1, now, None, (run,)),
            Change("fuzz", f"doc/{number}", 1, Operation.UPSERT),
            SourceDocument(DocumentFacts(f"Document {number}", "text/plain", bytes(32)), text),
            Metadata({"system.format": "avro"}),
        ),
        SourceDocument,
    )


def _flipped(good: bytes, chance: Random) -> bytes:
    data = bytearray(good)
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(5, min(len(data), 400))] = chance.randrange(256)
    return bytes(data)


def _counted(good: bytes, chance: Random) -> bytes:
    at = chance.randrange(5, min(len(good), 200))
    return good[:at] + HUGE_COUNT + good[at:]


BROKEN: dict[str, Callable[[bytes, Random], bytes]] = {
    "noise": lambda _, chance: chance.randbytes(chance.randint(0, 300)),
    "cut": lambda good, chance: good[: chance.randrange(5, len(good))],
    "unknown schema": lambda good, chance: struct.pack(">bI", 0, chance.randrange(10**6, 2**31)) + good[5:],
    "no magic byte": lambda good, _: b"\x07" + good[1:],
    "flipped bytes": _flipped,
    "huge count": _counted,
}


def test_rows_19_and_20_bytes_that_are_no_record(store: Deployment, chance: Random, figures: dict[str, Any]) -> None:
    """Broken: a record that cannot be read is lost, stops its stage, takes its memory, or its neighbours with it."""
    codec = store.place.codec()
    values = []
    for number in range(150):
        good = document(codec, number, chance.randint(10, 3000))
        kind = chance.choice(["good", *BROKEN])
        values.append(good if kind == "good" else BROKEN[kind](good, chance))
    store.start("chunker")
    figures |= {"row": 19, **_through(store, codec, values)}
    assert figures["problems"] == []
    assert 0 < figures["dead"] < len(values), figures["reasons"]


def test_row_25_payloads_at_the_limit(store: Deployment, chance: Random, figures: dict[str, Any]) -> None:
    """Broken: a payload just over the limit is lost or stops the stage, or one just under it is refused."""
    codec = store.place.codec()
    values = [document(codec, number, chance.randint(LIMIT // 2, LIMIT)) for number in range(40)]
    store.start("chunker", env={"HEADRACE_KAFKA_MAX_MESSAGE_BYTES": str(LIMIT)})
    figures |= {"row": 25, **_through(store, codec, values)}
    assert figures["problems"] == []
    assert 0 < figures["dead"] < len(values), figures["reasons"]


def _through(store: Deployment, codec: Codec, values: list[bytes]) -> dict[str, Any]:
    """Send the values to the chunker and return what became of each, by its place in the log."""
    kafka = store.place.kafka_settings()
    producer = Producer({**kafka.client(), "partitioner": "murmur2_random", "enable.idempotence": True})
    for number, value in enumerate(values):
        producer.produce(kafka.topic("documents"), value, f"fuzz/doc/{number}")
    assert producer.flush(60) == 0
    deadline = time.monotonic() + 60
    while True:
        done = [
            Entry(str(run.partition).encode(), run.offset)
            for record in read_all(store.place.kafka, kafka.topic("chunks"))
            for run in codec.decode(record.value, ChunkedDocument).trace.history[-1:]
        ]
        letters = dead_letters_of(store.place, "chunker")
        if len(done) + len(letters) >= len(values):
            break
        service = store.services[0]
        assert service.process.poll() is None, f"the chunker ended with {service.process.poll()}"
        assert time.monotonic() < deadline, f"{len(done)} done, {len(letters)} dead of {len(values)}"
        time.sleep(0.3)
    sent = [
        Entry(str(record.partition).encode(), record.offset)
        for record in read_all(store.place.kafka, kafka.topic("documents"))
    ]
    dead = [Entry(str(letter.partition).encode(), letter.offset) for letter in letters]
    reasons = sorted({f"{letter.reason}: {letter.message[:60]}" for letter in letters})[:12]
    problems = conservation(sent, written=done, dead=dead)
    return {"records": len(sent), "dead": len(dead), "reasons": reasons, "problems": problems}
