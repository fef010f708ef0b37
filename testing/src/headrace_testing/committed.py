"""Reads the committed records of a topic from its beginning to its end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from headrace.config.settings import KafkaSettings
from headrace.kafka.broker_contract import Record
from headrace.kafka.client_answers import record_of
from headrace.kafka.offsets import LogOffsets
from headrace.payloads import DeadLetter
from headrace_testing.deployment import Place

SETTLE_S = 2.0
"""Maximum wait for open transactions: a worker that was killed leaves its own open until the transaction timeout."""
QUIET = {"log_level": 0, "reconnect.backoff.max.ms": 500}


def reader(bootstrap: str) -> Consumer:
    """Return a consumer of committed records, alone in its group, that reports the ends of partitions."""
    settings: dict[str, Any] = {
        **QUIET, "bootstrap.servers": bootstrap, "group.id": f"reader-{uuid4().hex}", "enable.auto.commit": False,
        "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
    }  # fmt: skip
    return Consumer(settings)


def beginnings(topic: str, partitions: Iterable[int]) -> list[TopicPartition]:
    """Return the first offsets of these partitions."""
    return [TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions]


def log_of(bootstrap: str) -> LogOffsets:
    """Return the offsets of topics by their full names, from a new client: an old one may know former leaders."""
    return LogOffsets(KafkaSettings(bootstrap=bootstrap, topic_prefix=""), call_s=60.0)


def settle(bootstrap: str, topic: str) -> None:
    """Wait until no transaction is open in the topic, at most :data:`SETTLE_S`.

    A commit returns before its markers are written, and until then its records are behind the last stable offset.
    """
    log = log_of(bootstrap)
    places = log.partitions([topic])
    deadline = time.monotonic() + SETTLE_S
    while log.ends(places) != log.high_watermarks(places) and time.monotonic() < deadline:
        time.sleep(0.02)


def read_all(bootstrap: str, topic: str, timeout: float = 120.0) -> list[Record]:
    """Return the committed records that are in the topic now, partition by partition, in order."""
    settle(bootstrap, topic)
    consumer = reader(bootstrap)
    open_ends = set(consumer.list_topics(topic, 30).topics[topic].partitions)
    consumer.assign(beginnings(topic, open_ends))
    found: list[Record] = []
    deadline = time.monotonic() + timeout
    while open_ends:
        assert time.monotonic() < deadline, f"{topic} cannot be read to its end: is a transaction open?"
        for message in consumer.consume(1000, 0.5):
            error = message.error()
            if error is None:
                found.append(record_of(message))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                open_ends.discard(message.partition() or 0)
    consumer.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))


def dead_letters_of(place: Place, stage: str) -> list[DeadLetter]:
    """Return the stage's dead letters."""
    found = read_all(place.kafka, place.kafka_settings().topic(f"dead-letters.{stage}"))
    codec = place.codec()
    return [codec.decode_plain(record.value, DeadLetter) for record in found]
