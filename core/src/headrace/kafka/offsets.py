"""Where the log begins and ends, and where consumer groups are in it.

The end of a partition is its **last stable offset**: the first offset that belongs to an open transaction, or the end
of the log without one. Headrace reads committed records only, so this is how far a reader gets without waiting, and it
is what lag, listings and progress are measured against. Offsets are not records: transaction markers, aborted records
and compacted ones keep their offsets, so ``end - start`` is an upper bound of the records between them.

The **high watermark** also counts what open transactions have written. A read up to it waits until these transactions
end. It is for decisions that a record just about to become visible would change (an audit, a deletion of unreferenced
objects, the end of a replay): a transaction's commit returns a moment before its records become visible, and only the
high watermark counts them from the moment they were written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.kafka.broker_contract import TopicPartition
from headrace.kafka.client_config import admin_client
from headrace.kafka.unavailable import answering

_CALL_S = 10.0
_PAUSE_S = 0.1
_PASSING = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
    }
)
"""Errors that a broker returns briefly after its start, or after a partition was created or got a new leader."""


class Range(NamedTuple):
    """Offsets from ``start`` up to but not including ``end``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many offsets it covers; never negative."""
        return max(0, self.end - self.start)


class LogOffsets:
    """Asks for offsets; topics without prefix. Every method raises :class:`DependencyDown`, within 20 s."""

    def __init__(self, kafka: KafkaSettings, *, call_s: float = _CALL_S) -> None:
        self.kafka = kafka
        self._call_s = call_s

    @property
    def generation(self) -> str:
        """The generation of the index."""
        return self.kafka.generation

    def partitions(self, topics: Iterable[str], *, needed: bool = False) -> list[TopicPartition]:
        """Return the partitions of the topics that exist; with ``needed``, a missing topic is an error.

        Raises :class:`ConfigurationError` naming the missing topics.
        """
        names = list(topics)
        counts = self.counts(names)
        missing = [self.kafka.topic(name) for name in names if name not in counts]
        if missing and needed:
            raise ConfigurationError(
                f"topic does not exist: {', '.join(missing)}",
                where=self.kafka.bootstrap,
                remedy="Check HEADRACE_KAFKA_TOPIC_PREFIX and HEADRACE_KAFKA_GENERATION; `headrace bootstrap` creates "
                "topics, `headrace generations create` the topics of a generation.",
            )
        return [TopicPartition(name, number) for name, count in counts.items() for number in range(count)]

    def counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the number of partitions of each topic that exists."""
        known = self._topics()
        names = {name: self.kafka.topic(name) for name in topics}
        return {
            name: len(known[full].partitions)
            for name, full in names.items()
            if full in known and known[full].error is None and known[full].partitions
        }

    def generations(self, own: Iterable[str]) -> list[str]:
        """Return the names of the generations that have any of the topics ``own``, which each generation has."""
        begins = tuple(f"{self.kafka.topic_prefix}{name}." for name in own)
        return sorted(
            {name.removeprefix(begin) for name in self._topics() for begin in begins if name.startswith(begin)}
        )

    def starts(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the first offset available in each partition."""
        return self._offsets(places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]

    def ends(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the end of each partition: its last stable offset."""
        return self._offsets(places, OffsetSpec.latest())  # type: ignore[no-untyped-call]

    def high_watermarks(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermark of each partition, which counts open transactions."""
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return self._offsets(places, latest, IsolationLevel.READ_UNCOMMITTED)

    def starts_at(self, places: Iterable[TopicPartition], since_ms: int) -> dict[TopicPartition, int]:
        """Return the first offset whose record is at least as new as the time (ms since 1970); -1 if there is none."""
        return self._offsets(places, OffsetSpec.for_timestamp(since_ms))

    def bounds(self, places: Iterable[TopicPartition], *, open_too: bool = False) -> dict[TopicPartition, Range]:
        """Return first offset and end of each partition; with ``open_too``, the end is the high watermark."""
        wanted = list(places)
        starts = self.starts(wanted)
        ends = self.high_watermarks(wanted) if open_too else self.ends(wanted)
        return {place: Range(starts[place], ends[place]) for place in wanted}

    def committed(
        self, stage: str, places: Iterable[TopicPartition], *, side: bool = False
    ) -> dict[TopicPartition, int]:
        """Return the committed offsets of the stage's live or side lane; 0 for a partition without one."""
        return self.committed_of({self.kafka.group(stage, side=side): list(places)})

    def committed_of(self, groups: Mapping[str, Sequence[TopicPartition]]) -> dict[TopicPartition, int]:
        """Return the committed offsets of several groups (full names) in their partitions; 0 if there is none."""
        asked = {
            group: ConsumerGroupTopicPartitions(group, [self._place(place) for place in places])
            for group, places in groups.items()
            if places
        }
        found = {place: 0 for places in groups.values() for place in places}
        names = {(self.kafka.topic(place.topic), place.partition): place for place in found}
        with answering(self.kafka):
            answers = [
                self._admin.list_consumer_group_offsets([request], request_timeout=self._call_s)[group]
                for group, request in asked.items()
            ]
            for answer in answers:
                for place in _answered(answer, self._call_s):
                    found[names[place.topic, place.partition]] = max(0, place.offset)
        return found

    @cached_property
    def _admin(self) -> AdminClient:
        return admin_client(self.kafka)

    def _topics(self) -> Mapping[str, Any]:
        with answering(self.kafka):
            return self._admin.list_topics(timeout=self._call_s).topics

    def _offsets(
        self, places: Iterable[TopicPartition], spec: Any, isolation: Any = IsolationLevel.READ_COMMITTED
    ) -> dict[TopicPartition, int]:
        asked = {self._place(place): place for place in places}
        if not asked:
            return {}
        deadline = time.monotonic() + self._call_s
        with answering(self.kafka):
            while True:
                answers = self._admin.list_offsets(
                    dict.fromkeys(asked, spec), isolation_level=isolation, request_timeout=self._call_s
                )
                try:
                    return {place: answers[full].result(self._call_s).offset for full, place in asked.items()}
                except KafkaException as error:
                    if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                        raise
                time.sleep(_PAUSE_S)

    def _place(self, place: TopicPartition) -> KafkaPlace:
        return KafkaPlace(self.kafka.topic(place[0]), place[1])


def _answered(answer: Any, seconds: float) -> list[KafkaPlace]:
    """Return the offsets in the answer for a group; none if the group does not exist."""
    try:
        places = answer.result(seconds).topic_partitions or []
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return []
        raise
    for place in places:
        if place.error is not None:
            raise KafkaException(place.error)
    return list(places)
