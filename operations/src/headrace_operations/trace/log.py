"""Reading the log to look at it: bounded, from the end backwards, joining no group and committing nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    murmur2,
)
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import TopicPartition as KafkaPlace
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.lag import group_offsets
from headrace.topology.stages import EMBEDDER
from headrace.topology.topics import held_topic

_CALL_S = 10.0
_FIRST_WINDOW = 2000
_SLACK_BYTES = 1024 * 1024
_MOVED_S = 0.1
_MOVING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""What a partition answers that just got another leader, or its first."""
Wanted = Callable[[Record], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read at most: records of each partition, and seconds in all."""

    records: int = 50_000
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a scan read; not ``complete`` where a limit cut it short."""

    partitions: int = 0
    records: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    complete: bool = True

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.partitions + other.partitions,
            self.records + other.records,
            round(self.megabytes + other.megabytes, 3),
            round(self.seconds + other.seconds, 3),
            self.complete and other.complete,
        )


@dataclass(slots=True)
class _Tally:
    records: int = 0
    bytes: int = 0


class LogScanner:
    """Looks at partitions; topics without prefix throughout. Raises :class:`DependencyDown` where Kafka is silent."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._admin = AdminClient({**kafka.client(), "log_level": 0})

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the number of partitions of each topic that exists."""
        known = self._topics()
        names = {name: self._kafka.topic(name) for name in topics}
        return {name: len(known[full].partitions) for name, full in names.items() if full in known}

    def generations(self, own: Iterable[str] = (held_topic(EMBEDDER.name),)) -> list[str]:
        """Return the generations of the index that have lanes, by name: any of the topics that are their ``own``."""
        begins = [f"{self._kafka.topic_prefix}{name}." for name in own]
        return sorted(
            {name.removeprefix(begin) for name in self._topics() for begin in begins if name.startswith(begin)}
        )

    def _topics(self) -> Mapping[str, Any]:
        try:
            return self._admin.list_topics(timeout=_CALL_S).topics
        except KafkaException as error:
            raise self._down(error) from error

    def bounds(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return the first offset and the end of what is committed, by partition."""
        earliest: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        lows, highs = self._offsets(places, earliest), self._offsets(places, latest)
        return {place: (lows[place], highs[place]) for place in places}

    def starts_at(self, places: Sequence[TopicPartition], since_ms: int) -> dict[TopicPartition, int]:
        """Return the first offset whose record is at least as new as the time (milliseconds since 1970); -1: none."""
        return self._offsets(places, OffsetSpec.for_timestamp(since_ms))

    def committed(
        self, stage: str, places: Sequence[TopicPartition], *, side: bool = False
    ) -> dict[TopicPartition, int]:
        """Return the committed offsets of the stage's live or side lane, where it has any."""
        group = self._kafka.group(stage, side=side)
        asked = [KafkaPlace(self._kafka.topic(place.topic), place.partition) for place in places]
        try:
            found = group_offsets(self._admin, group, asked, _CALL_S)
        except (KafkaException, TimeoutError) as error:
            raise self._down(error) from error
        return {TopicPartition(self._kafka.bare(place.topic), place.partition): place.offset for place in found}

    def newest_first(
        self,
        places: Sequence[TopicPartition],
        wanted: Wanted,
        limits: Limits,
        floors: Mapping[TopicPartition, int] | None = None,
    ) -> tuple[list[Record], Cost]:
        """Return what is wanted of the partitions, by topic, partition and offset, and what it cost.

        Windows are read from the end backwards, each twice as long as the one before, so that where time runs out the
        newest records were seen; ``floors`` are offsets below which nothing is of interest.
        """  # fmt: skip
        begun = time.monotonic()
        tally, cut = _Tally(), False
        found: list[Record] = []
        ends: dict[TopicPartition, int] = {}
        lows: dict[TopicPartition, int] = {}
        for place, (low, high) in self.bounds(places).items():
            floor = max(low, (floors or {}).get(place, low))
            lows[place] = max(floor, high - limits.records)
            cut = cut or lows[place] > floor
            if lows[place] < high:
                ends[place] = high
        consumer = Consumer(self._reader())
        window = _FIRST_WINDOW
        try:
            while ends and not cut_by_time(begun, limits):
                spans = {place: (max(lows[place], end - window), end) for place, end in ends.items()}
                finished = self._window(consumer, spans, wanted, found, tally, begun + limits.seconds)
                ends = {place: start for place, (start, _) in spans.items() if start > lows[place]}
                if not finished:
                    cut = True
                    break
                window *= 2
        except KafkaException as error:
            raise self._down(error) from error
        finally:
            consumer.close()
        seconds = round(time.monotonic() - begun, 3)
        cost = Cost(len(places), tally.records, round(tally.bytes / 1e6, 3), seconds, not cut and not ends)
        return sorted(found, key=lambda record: record[:3]), cost

    def _window(
        self, consumer: Consumer, spans: Mapping[TopicPartition, tuple[int, int]], wanted: Wanted,
        found: list[Record], tally: _Tally, deadline: float,
    ) -> bool:  # fmt: skip
        """Read each span to its end; return whether that was done in time."""
        unread = dict(spans)
        starts = [self._full(place, start) for place, (start, _) in spans.items()]
        consumer.assign(starts)
        consumer.resume(starts)  # a pause outlasts an assignment
        while unread:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for message in consumer.consume(500, min(left, 0.5)):
                place = TopicPartition(self._kafka.bare(message.topic() or ""), message.partition() or 0)
                if place not in unread:
                    continue
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                    if error.retriable():
                        continue
                    raise KafkaException(error)
                end = unread[place][1]
                offset = message.offset() or 0
                if error is None and offset < end:
                    self._take(message, place, wanted, found, tally)
                if error is not None or offset >= end - 1:
                    del unread[place]
                    consumer.pause([self._full(place, 0)])
        return True

    def _take(
        self, message: KafkaMessage, place: TopicPartition, wanted: Wanted, found: list[Record], tally: _Tally
    ) -> None:
        value = message.value()
        headers: Any = message.headers() or ()
        tally.records += 1
        tally.bytes += len(value or b"")
        record = Record(
            place.topic, place.partition, message.offset() or 0, _bytes(message.key()), _bytes(value),
            tuple((name, _bytes(part)) for name, part in headers), message.timestamp()[1],
        )  # fmt: skip
        if wanted(record):
            found.append(record)

    def _offsets(self, places: Sequence[TopicPartition], spec: Any) -> dict[TopicPartition, int]:
        asked = {self._full(place, 0): place for place in places}
        if not asked:
            return {}
        deadline = time.monotonic() + _CALL_S
        while True:
            try:
                answers = self._admin.list_offsets(
                    dict.fromkeys(asked, spec), isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_CALL_S
                )
                return {place: answers[full].result(_CALL_S).offset for full, place in asked.items()}
            except (KafkaException, TimeoutError) as error:
                moving = isinstance(error, KafkaException) and error.args[0].code() in _MOVING
                if not moving or time.monotonic() > deadline:
                    raise self._down(error) from error
                time.sleep(_MOVED_S)

    def _full(self, place: TopicPartition, offset: int) -> KafkaPlace:
        return KafkaPlace(self._kafka.topic(place.topic), place.partition, offset)

    def _reader(self) -> dict[str, Any]:
        return {
            **self._kafka.client(),
            "client.id": "headrace-trace",
            "group.id": f"{self._kafka.topic_prefix}headrace-trace",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 20,
            "fetch.message.max.bytes": self._kafka.max_message_bytes + _SLACK_BYTES,
            "queued.max.messages.kbytes": 16 * 1024,
            "log_level": 0,
        }

    def _down(self, error: Exception) -> DependencyDown:
        return DependencyDown("kafka", f"Kafka does not answer at {self._kafka.bootstrap}: {error}")


def cut_by_time(begun: float, limits: Limits) -> bool:
    """Whether the limit's seconds are over; ``begun`` by the monotonic clock."""
    return time.monotonic() - begun >= limits.seconds


def place_of(key: bytes, topic: str, counts: Mapping[str, int]) -> TopicPartition | None:
    """Return the partition of a key (murmur2), or None where the topic does not exist."""
    return TopicPartition(topic, murmur2(key, counts[topic])) if topic in counts else None


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()
