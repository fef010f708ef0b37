"""Reading ranges of offsets: own assignment, committed records only, no group joined and nothing committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka.lag import group_offsets

_CALL_S = 15.0
_SILENCE_S = 90.0
"""Longer than an abandoned transaction can hold its readers up."""
_BATCH = 500
_ATTEMPTS = 4
_PAUSE_S = 1.0
_GROUP = "headrace-audit"

Partition = tuple[str, int]
"""A topic without prefix, and a partition of it."""


class Range(NamedTuple):
    """Offsets from ``start`` up to ``end``, which is excluded."""

    start: int
    end: int


class LogRanges:
    """Every method raises :class:`DependencyDown` where Kafka does not answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self.generation = kafka.generation
        self._admin = AdminClient({**kafka.client(), "log_level": 0})

    def partitions(self, topics: Iterable[str], *, needed: bool = False) -> list[Partition]:
        """Return the partitions of the topics that exist; ``needed`` ones that do not are an error that names them.

        Raises :class:`ConfigurationError`.
        """
        names = list(topics)
        try:
            known = self._admin.list_topics(timeout=_CALL_S).topics
        except KafkaException as error:
            raise self._down(error) from error
        lacking = [self._kafka.topic(name) for name in names if self._kafka.topic(name) not in known]
        if lacking and needed:
            raise ConfigurationError(
                f"there is no topic {', '.join(lacking)}",
                where=self._kafka.bootstrap,
                remedy="Check HEADRACE_KAFKA_TOPIC_PREFIX and HEADRACE_KAFKA_GENERATION; `headrace bootstrap` makes "
                "topics, `headrace generations create` those of a generation.",
            )
        return [
            (name, number)
            for name in names
            if self._kafka.topic(name) in known
            for number in sorted(known[self._kafka.topic(name)].partitions)
        ]

    def bounds(self, partitions: Iterable[Partition]) -> dict[Partition, Range]:
        """Return first and end offset of each partition; the end counts open transactions in."""
        places = {one: TopicPartition(self._kafka.topic(one[0]), one[1]) for one in partitions}
        earliest: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        latest: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        starts, ends = self._offsets(places, earliest), self._offsets(places, latest)
        return {one: Range(starts[one], ends[one]) for one in places}

    def committed(self, stage: str, partitions: Iterable[Partition], *, side: bool = False) -> dict[Partition, int]:
        """Return the committed offsets of the stage's live or side lane; 0 where it has none."""
        group = self._kafka.group(stage, side=side)
        names = {(self._kafka.topic(topic), number): (topic, number) for topic, number in partitions}
        found = dict.fromkeys(names.values(), 0)
        if not names:
            return found
        try:
            for place in group_offsets(self._admin, group, [TopicPartition(*place) for place in names], _CALL_S):
                found[names[place.topic, place.partition]] = place.offset
        except (KafkaException, TimeoutError) as error:
            raise self._down(error) from error
        return found

    def read(self, ranges: Mapping[Partition, Range], take: Callable[[Partition, KafkaMessage], None]) -> None:
        """Hand every record of the ranges to ``take``, each partition's in order, and return when all were read."""
        names = {(self._kafka.topic(topic), number): (topic, number) for topic, number in ranges}
        unread = {place for place, one in names.items() if ranges[one].start < ranges[one].end}
        if not unread:
            return
        consumer = Consumer(self._config())
        try:
            consumer.assign([TopicPartition(*place, ranges[names[place]].start) for place in sorted(unread)])
            deadline = time.monotonic() + _SILENCE_S
            while unread:
                for message in consumer.consume(_BATCH, 0.1):
                    if self._taken(message, names, ranges, unread, take):
                        deadline = time.monotonic() + _SILENCE_S
                if time.monotonic() > deadline:
                    raise DependencyDown("kafka", f"{min(unread)} was silent for {_SILENCE_S:.0f} s")
        finally:
            consumer.close()

    def _taken(
        self,
        message: KafkaMessage,
        names: Mapping[Partition, Partition],
        ranges: Mapping[Partition, Range],
        unread: set[Partition],
        take: Callable[[Partition, KafkaMessage], None],
    ) -> bool:
        """Take one message, and strike its partition off where it was the range's last; return whether it counts."""
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            if error.retriable():
                return False
            raise self._down(KafkaException(error))
        place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        if place not in unread:
            return False
        end = ranges[names[place]].end
        if error is None and offset < end:
            take(names[place], message)
            offset += 1
        if offset >= end:
            unread.discard(place)
        return True

    def _offsets(self, places: Mapping[Partition, TopicPartition], spec: Any) -> dict[Partition, int]:
        if not places:
            return {}
        for left in reversed(range(_ATTEMPTS)):  # a broker that has just started knows no epochs for a moment
            try:
                futures = self._admin.list_offsets(dict.fromkeys(places.values(), spec), request_timeout=_CALL_S)
                return {one: futures[place].result(_CALL_S).offset for one, place in places.items()}
            except (KafkaException, TimeoutError) as error:
                if not left or isinstance(error, TimeoutError):
                    raise self._down(error) from error
                time.sleep(_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")

    def _config(self) -> dict[str, Any]:
        return {
            **self._kafka.client(),
            "group.id": f"{self._kafka.topic_prefix}{_GROUP}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 32 * 1024,
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }

    def _down(self, error: Exception) -> DependencyDown:
        return DependencyDown("kafka", f"Kafka does not answer at {self._kafka.bootstrap}: {error}")
