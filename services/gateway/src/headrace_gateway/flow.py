"""Where records stand between the stages: read from Kafka, never kept.

A record waits for a stage while it lies between the stage's committed offset and the end of its topic; its key tells
the partition. What is set aside lies in ``held.<stage>``; of those that went on since, what followed tells
(:func:`headrace.documents.status.judge`). All readings are bounded, and say so where they were cut short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
    murmur2,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import Waiting, change_version, number
from headrace.envelope import StageRun
from headrace.errors import DependencyDown, PermanentError, describe
from headrace.kafka.client_answers import header_pairs
from headrace.kafka.headers import HELD_KIND, ORIGIN_OFFSET, ORIGIN_TOPIC
from headrace.orders.holds import REVIEW, hold_of
from headrace.payloads import ChangeEvent
from headrace.topology.stages import CHUNKER, EMBEDDER, INDEXER, INGEST, StageFlow
from headrace.topology.topics import held_topic, retry_topic

DOCUMENT_STAGES = (INGEST, CHUNKER, EMBEDDER, INDEXER)
"""The stages that a document passes, in order."""

MAX_RECORDS = 5000
MAX_SECONDS = 1.0
_CALL_S = 5.0
_PARTITIONS_S = 60.0


@dataclass(frozen=True, slots=True)
class FlowState:
    """The newest record that waits, and that is held, by stage; not ``complete`` where reading was cut."""

    waiting: tuple[Waiting, ...] = ()
    complete: bool = True


class KafkaFlowReader:
    """Reads what waits for each stage; calls of librdkafka block, so they run in a thread, one at a time.

    The thread is the reader's own: those who wait for their turn must not keep the threads that publish changes.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._kafka = kafka
        self._codec = codec
        self._sources = {
            kafka.topic(topic): (stage, kafka.group(stage.name, side=side))
            for stage in DOCUMENT_STAGES
            for topic, side in ((stage.source, False), (retry_topic(stage.name), True))
        }
        """Topic to the stage that reads it and its group; what is tried again waits in a topic of its own."""
        self._held = {kafka.topic(held_topic(stage.name)): stage for stage in DOCUMENT_STAGES}
        self._admin = AdminClient({**kafka.client()})
        self._consumer = Consumer(reader_config(kafka))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flow")
        self._partitions: dict[str, tuple[float, int]] = {}

    async def waiting(self, key: bytes) -> FlowState:
        """Return what waits for each stage; raises :class:`DependencyDown` where Kafka does not answer."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._waiting, key)

    async def ping(self) -> None:
        """Raise :class:`DependencyDown` where Kafka does not answer."""
        await asyncio.to_thread(self._metadata, self._kafka.topic(INGEST.source))

    def close(self) -> None:
        """Let go of the connections."""
        self._thread.shutdown(cancel_futures=True)
        self._consumer.close()

    def _waiting(self, key: bytes) -> FlowState:
        try:
            # The held records come first: one that is released meanwhile is seen twice, and never missed.
            held_starts, held_cut = self._held_starts(self._places(key, self._held))
            held, held_finished = self._scan(key, held_starts)
            starts, cut = self._starts(self._places(key, self._sources))
            newest, finished = self._scan(key, starts)
        except (KafkaException, TimeoutError) as error:
            raise DependencyDown("kafka", f"positions cannot be read: {describe(error)}") from error
        found = [self._describe(stage, newest[topic]) for topic, (stage, _) in self._sources.items() if topic in newest]
        found += [self._describe(stage, held[topic], held=True) for topic, stage in self._held.items() if topic in held]
        return FlowState(tuple(found), finished and held_finished and not cut and not held_cut)

    def _places(self, key: bytes, topics: Iterable[str]) -> list[TopicPartition]:
        return [TopicPartition(topic, murmur2(key, self._count(topic))) for topic in topics]

    def _held_starts(self, places: Sequence[TopicPartition]) -> tuple[list[TopicPartition], bool]:
        """Return where to read each partition of held records from, and whether it holds more than is read."""
        starts, cut = [], False
        for place in places:
            low, high = self._consumer.get_watermark_offsets(place, _CALL_S)
            start = max(low, high - MAX_RECORDS)
            cut = cut or start > low
            if start < high:
                starts.append(TopicPartition(place.topic, place.partition, start))
        return starts, cut

    def _starts(self, places: Sequence[TopicPartition]) -> tuple[list[TopicPartition], bool]:
        """Return where each stage's group stands in its partition, and whether that lies too far back."""
        asked: list[tuple[TopicPartition, Future[Any]]] = []
        for place in places:
            group = self._sources[place.topic][1]
            request = [ConsumerGroupTopicPartitions(group, [TopicPartition(place.topic, place.partition)])]
            answer = self._admin.list_consumer_group_offsets(request, request_timeout=_CALL_S)
            asked.append((place, answer[group]))
        starts, cut = [], False
        for place, answered in asked:
            committed = _committed(answered)
            low, high = self._consumer.get_watermark_offsets(place, _CALL_S)
            start = max(low, committed, high - MAX_RECORDS)
            cut = cut or start > max(low, committed)
            if start < high:
                starts.append(TopicPartition(place.topic, place.partition, start))
        return starts, cut

    def _scan(self, key: bytes, starts: Sequence[TopicPartition]) -> tuple[dict[str, KafkaMessage], bool]:
        """Return the newest record of the key by topic, and whether every partition was read to its end."""
        newest: dict[str, KafkaMessage] = {}
        if not starts:
            return newest, True
        open_topics = {start.topic for start in starts}
        deadline = time.monotonic() + MAX_SECONDS
        self._consumer.assign(list(starts))
        try:
            while open_topics and (left := deadline - time.monotonic()) > 0:
                message = self._consumer.poll(left)
                if message is None:
                    break
                topic = message.topic() or ""
                error = message.error()
                if error is None and message.key() == key:
                    newest[topic] = message
                elif error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    open_topics.discard(topic)
                elif error is not None and not error.retriable():
                    raise KafkaException(error)
        finally:
            self._consumer.unassign()
        return newest, not open_topics

    def _describe(self, stage: StageFlow, message: KafkaMessage, *, held: bool = False) -> Waiting:
        headers = header_texts(message)
        partition, offset = message.partition() or 0, message.offset() or 0
        first = number(headers.get(ORIGIN_OFFSET)) if ORIGIN_TOPIC in headers else None
        carries = stage.produces if held and headers.get(HELD_KIND) == REVIEW else stage.consumes
        of_change = carries is ChangeEvent
        version = (
            change_version(headers, offset if first is None else first) if of_change else number(headers.get("version"))
        )
        return Waiting(
            stage=stage.name,
            version=version,
            operation=headers.get("operation"),
            request_id=headers.get("request-id"),
            partition=partition,
            offset=offset,
            history=self._history(carries, message),
            hold=hold_of(headers, f"{stage.name}/{partition}/{offset}") if held else None,
        )

    def _history(self, carries: type[Any], message: KafkaMessage) -> tuple[StageRun, ...]:
        if carries is ChangeEvent:
            return ()
        try:
            return self._codec.envelope(message.value(), carries)[0].trace.history
        except PermanentError:
            return ()  # the stage itself will say so, in its dead letters

    def _count(self, topic: str) -> int:
        asked_at, count = self._partitions.get(topic, (0.0, 0))
        if not count or time.monotonic() - asked_at > _PARTITIONS_S:
            count = self._metadata(topic)
            self._partitions[topic] = (time.monotonic(), count)
        return count

    def _metadata(self, topic: str) -> int:
        return partition_count(self._admin, topic)


def partition_count(admin: AdminClient, topic: str) -> int:
    """Return how many partitions the topic has; raises :class:`DependencyDown`, also where it does not exist."""
    try:
        found = admin.list_topics(topic, timeout=_CALL_S).topics[topic]
    except KafkaException as error:
        raise DependencyDown("kafka", f"Kafka does not answer: {error}") from error
    if found.error is not None or not found.partitions:
        raise DependencyDown("kafka", f"topic {topic!r} is not there", remedy="Run `headrace bootstrap`.")
    return len(found.partitions)


def reader_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the configuration of a consumer that only looks: it joins no group and commits nothing."""
    return {
        **kafka.client(),
        "client.id": "headrace-gateway-reader",
        "group.id": f"{kafka.topic_prefix}headrace-gateway-reader",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 10,
        "fetch.message.max.bytes": kafka.max_message_bytes,
        "queued.max.messages.kbytes": 32 * 1024,
    }


def header_texts(message: KafkaMessage) -> dict[str, str]:
    """Return the record's headers as text, the last of each name."""
    return {name: value.decode("utf-8", "replace") for name, value in header_pairs(message) if isinstance(value, bytes)}


def _committed(answered: Future[Any]) -> int:
    """Return the group's offset in the one partition that was asked for; without one, the log's beginning."""
    partition = answered.result(_CALL_S).topic_partitions[0]
    if partition.error is not None:
        raise KafkaException(partition.error)
    offset: int = partition.offset
    return max(0, offset)  # negative where the group never committed
