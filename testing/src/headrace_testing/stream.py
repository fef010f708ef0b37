"""Streams change events through real services: publishing, faults, waiting, and reading the topics afterwards."""

from __future__ import annotations

import json
import lzma
import random
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.config.settings import KafkaSettings
from headrace.topology import topics
from headrace.topology.stages import DOCUMENT_STAGES, INGEST, StageFlow
from headrace_testing.deployment import Deployment, Service
from headrace_testing.fold import Expected, Key, Store, compare, read_store

TENANT = "proof"


def read_changes(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the events in a file of JSON lines, which may be compressed with xz."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(limit or sys.maxsize), strict=False)]


def publish(kafka: KafkaSettings, changes: Sequence[dict[str, Any]], tenant: str = TENANT) -> None:
    """Write the events to ``changes`` as plain JSON, in order."""
    producer = Producer(
        {**kafka.client(), "partitioner": "murmur2_random", "enable.idempotence": True, "log_level": 2,
         "message.max.bytes": kafka.max_message_bytes}
    )  # fmt: skip
    for change in changes:
        while True:
            try:
                producer.produce(kafka.topic(INGEST.source), json.dumps(change), f"{tenant}/{change['id']}")
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(60):
        raise RuntimeError("not every change event was written")


def lag(kafka: KafkaSettings) -> dict[str, int]:
    """Return the lag by stage in offsets; transaction markers count, at most one per partition."""
    return {flow.name: _stage_lag(kafka, flow) for flow in DOCUMENT_STAGES}


def _stage_lag(kafka: KafkaSettings, flow: StageFlow) -> int:
    consumer = Consumer({**kafka.client(), "group.id": kafka.group(flow.name)})
    topic = kafka.topic(flow.source)
    try:
        partitions = [TopicPartition(topic, number) for number in consumer.list_topics(topic).topics[topic].partitions]
        behind = 0
        for place in consumer.committed(partitions, 30):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, place.partition), 30)
            behind += high - max(place.offset, low)
        return behind
    finally:
        consumer.close()


def dead_letters(kafka: KafkaSettings) -> int:
    """Return the number of offsets in all dead-letter topics, including transaction markers."""
    consumer = Consumer({**kafka.client(), "group.id": "headrace-proof"})
    count = 0
    for topic in topics.concrete():
        if topic.name.startswith("dead-letters"):
            for number in range(topic.partitions):
                low, high = consumer.get_watermark_offsets(TopicPartition(kafka.topic(topic.name), number), 30)
                count += high - low
    consumer.close()
    return count


def rewind_groups(kafka: KafkaSettings) -> None:
    """Set the groups of all stages back to the beginning of the log; the stages must not be running."""
    from confluent_kafka import ConsumerGroupTopicPartitions  # noqa: PLC0415

    admin = AdminClient(kafka.client())
    for flow in DOCUMENT_STAGES:
        topic = kafka.topic(flow.source)
        numbers = admin.list_topics(topic, 30).topics[topic].partitions
        request = ConsumerGroupTopicPartitions(
            kafka.group(flow.name), [TopicPartition(topic, number, 0) for number in numbers]
        )
        for future in admin.alter_consumer_group_offsets([request]).values():
            future.result(30)


def metric(service: Service, name: str) -> float:
    """Return a counter of the service's ``/metrics``, summed over labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))


@dataclass(slots=True)
class Faults:
    """Kills and adds workers at random times that follow from the seed."""

    deployment: Deployment
    seed: int
    kills: int = 0
    joins: bool = False
    pause: tuple[float, float] = (0.5, 3.0)
    log: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Kill the stages in random order, then let a second instance of each join and leave."""
        chance = random.Random(self.seed)
        plan = [flow.name for flow in DOCUMENT_STAGES] * (self.kills // len(DOCUMENT_STAGES) + 1)
        chance.shuffle(plan)
        for name in plan[: self.kills]:
            time.sleep(chance.uniform(*self.pause))
            self._kill(name)
        for flow in DOCUMENT_STAGES if self.joins else ():
            second = self.deployment.start(flow.name, "1")
            self.log.append(f"join {flow.name}")
            time.sleep(chance.uniform(*self.pause))
            code = second.drain()
            self.deployment.services.remove(second)
            self.log.append(f"leave {flow.name}, exit code {code}")

    def _kill(self, name: str) -> None:
        victim = next(s for s in self.deployment.services if s.name == name and s.process.poll() is None)
        victim.kill()
        self.deployment.services.remove(victim)
        self.log.append(f"kill {name}")
        self.deployment.start(name, victim.slot)


def wait_until_stored(
    deployment: Deployment, expected: dict[Key, Expected], timeout: float, progress: Callable[[str], None], *,
    generation: str = "g1",
) -> Store:  # fmt: skip
    """Return the store as soon as it equals the fold; raises :class:`AssertionError` with the differences."""
    deadline = time.monotonic() + timeout
    while True:
        store = read_store(deployment.place.postgres, schema=deployment.place.schema, generation=generation)
        problems = compare(expected, store)
        if not problems:
            return store
        if time.monotonic() > deadline:
            raise AssertionError(f"the store differs from the fold after {timeout:.0f} s:\n" + "\n".join(problems))
        progress(f"{len(store.documents)} of {len(expected)} documents, {len(store.vectors)} vectors")
        time.sleep(min(2.0, max(0.1, len(expected) / 200)))


def wait_until_drained(kafka: KafkaSettings, timeout: float) -> None:
    """Wait until no stage has records to read; raises :class:`AssertionError`."""
    deadline = time.monotonic() + timeout
    most = {flow.name: 8 for flow in DOCUMENT_STAGES}
    while any(behind > most[name] for name, behind in lag(kafka).items()):
        if time.monotonic() > deadline:
            raise AssertionError(f"stages are behind after {timeout:.0f} s: {lag(kafka)}")
        time.sleep(0.2)
