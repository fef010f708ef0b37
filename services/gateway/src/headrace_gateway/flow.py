"""The position of records between the stages: read from Kafka, never stored.

A record waits for a stage while its offset is between the stage's committed offset and the end of the topic. Its key
decides the partition. Held records are in ``held.<stage>``; :func:`headrace.documents.status.judge` recognizes those
that were released since by the records that followed. All reads are bounded, and the result says if one was cut short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from confluent_kafka import murmur2

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import Waiting, change_version, number
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.headers import HELD_KIND, OPERATION, ORIGIN_OFFSET, ORIGIN_TOPIC, REQUEST_ID, VERSION, texts
from headrace.kafka.offsets import LogOffsets, Range
from headrace.kafka.ranges import RangeReader
from headrace.orders.holds import REVIEW, hold_of
from headrace.payloads import ChangeEvent
from headrace.topology.stages import DOCUMENT_STAGES, INGEST
from headrace.topology.topics import held_topic, retry_topic
from headrace_gateway.record_facts import RecordFacts, facts_of

MAX_RECORDS = 5000
MAX_SECONDS = 1.0
_CALL_S = 5.0
_PARTITIONS_S = 60.0
_WAIT_MS = 10


@dataclass(frozen=True, slots=True)
class FlowState:
    """The newest waiting record and the newest held record of each stage. Not ``complete`` if a read was cut short."""

    waiting: tuple[Waiting, ...] = ()
    complete: bool = True


class WaitingTopics:
    """The topics in which the records of documents wait, and what a record in one of them says."""

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._codec = codec
        self.sources = {
            topic: (stage, kafka.group(stage.name, side=side))
            for stage in DOCUMENT_STAGES
            for topic, side in ((stage.source, False), (retry_topic(stage.name), True))
        }
        """Topic to the stage that reads it and the stage's group. Retried records wait in a separate topic."""
        self.held = {held_topic(stage.name): stage for stage in DOCUMENT_STAGES}

    def describe(self, record: Record, *, decoded: bool = True) -> Waiting:
        """Return what a record of one of the topics is; its history and its ``acl`` only if it is ``decoded``."""
        held = record.topic in self.held
        stage = self.held[record.topic] if held else self.sources[record.topic][0]
        headers = texts(record)
        first = number(headers.get(ORIGIN_OFFSET)) if ORIGIN_TOPIC in headers else None
        carries = stage.produces if held and headers.get(HELD_KIND) == REVIEW else stage.consumes
        of_change = carries is ChangeEvent
        version = (
            change_version(headers, record.offset if first is None else first)
            if of_change
            else number(headers.get(VERSION))
        )
        facts = facts_of(self._codec, carries, record.value) if decoded else RecordFacts()
        return Waiting(
            stage=stage.name,
            version=version,
            operation=headers.get(OPERATION),
            request_id=headers.get(REQUEST_ID),
            partition=record.partition,
            offset=record.offset,
            history=facts.history,
            acl=facts.acl,
            hold=hold_of(headers, f"{stage.name}/{record.partition}/{record.offset}") if held else None,
        )

    def partitions(self, offsets: LogOffsets) -> dict[str, int]:
        """Return the number of partitions of each topic; raises :class:`DependencyDown` for missing topics."""
        counts = offsets.counts([*self.sources, *self.held])
        if missing := sorted({*self.sources, *self.held} - counts.keys()):
            raise DependencyDown("kafka", f"missing topics: {', '.join(missing)}", remedy="Run `headrace bootstrap`.")
        return counts


class KafkaFlowReader:
    """Reads the records that wait for each stage. librdkafka's calls block, so they run in a thread, one at a time.

    The reader has its own thread: calls that wait for their turn must not occupy the threads that publish changes.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._topics = WaitingTopics(kafka, codec)
        self._offsets = LogOffsets(kafka, call_s=_CALL_S)
        self._reader = RangeReader(kafka, "gateway-reader", wait_ms=_WAIT_MS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flow")
        self._counts: tuple[float, Mapping[str, int]] = (0.0, {})
        """When the partition counts were read, and the counts."""

    async def waiting(self, key: bytes) -> FlowState:
        """Return the records that wait for each stage; raises :class:`DependencyDown` if Kafka does not answer."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._waiting, key)

    async def ping(self) -> None:
        """Raise :class:`DependencyDown` if Kafka does not answer."""
        await asyncio.to_thread(self._offsets.counts, [INGEST.source])

    def close(self) -> None:
        """Close the connections."""
        self._thread.shutdown(cancel_futures=True)
        self._reader.close()

    def _waiting(self, key: bytes) -> FlowState:
        places = self._places(key)
        # Held records come first: a record that is released meanwhile is seen twice, but never missed.
        held, held_whole = self._newest(key, [places[topic] for topic in self._topics.held], {})
        groups: dict[str, list[TopicPartition]] = {}
        for topic, (_, group) in self._topics.sources.items():
            groups.setdefault(group, []).append(places[topic])
        committed = self._offsets.committed_of(groups)
        newest, whole = self._newest(key, [places[topic] for topic in self._topics.sources], committed)
        found = map(self._topics.describe, [*newest.values(), *held.values()])
        return FlowState(tuple(found), whole and held_whole)

    def _places(self, key: bytes) -> dict[str, TopicPartition]:
        """Return the partition of the key in each topic; raises :class:`DependencyDown` for missing topics."""
        asked_at, counts = self._counts
        if not counts or time.monotonic() - asked_at > _PARTITIONS_S:
            counts = self._topics.partitions(self._offsets)
            self._counts = (time.monotonic(), counts)
        return {topic: TopicPartition(topic, murmur2(key, count)) for topic, count in counts.items()}

    def _newest(
        self, key: bytes, places: Sequence[TopicPartition], floors: Mapping[TopicPartition, int]
    ) -> tuple[dict[str, Record], bool]:
        """Return the newest record of the key by topic, starting at the floors, and whether everything was read."""
        spans, whole = {}, True
        for place, (low, end) in self._offsets.bounds(places).items():
            floor = max(low, floors.get(place, 0))
            start = max(floor, end - MAX_RECORDS)
            whole = whole and start == floor
            spans[place] = Range(start, end)
        newest: dict[str, Record] = {}

        def take(record: Record) -> None:
            if record.key == key:
                newest[record.topic] = record

        return newest, self._reader.read(spans, take, seconds=MAX_SECONDS) and whole
