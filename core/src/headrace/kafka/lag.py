"""How far each stage is behind, from Kafka: committed offsets, ends, and what really lies between them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown
from headrace.topology.stages import STAGES
from headrace.topology.topics import replay_topic, retry_topic

_CALL_S = 10.0
_LOOK_S = 2.0
Offsets = dict[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class StageLag:
    """Records of ``topic`` that the stage's group has not taken, of the offsets that there are in all."""

    stage: str
    topic: str
    partitions: int
    behind: int
    total: int


def group_offsets(
    admin: AdminClient, group: str, places: Sequence[TopicPartition], seconds: float
) -> list[TopicPartition]:
    """Return the places at which the group has committed, each with its offset; none of a group that never did.

    Raises :class:`confluent_kafka.KafkaException` and :class:`TimeoutError` where Kafka does not answer in that time.
    """
    request = [ConsumerGroupTopicPartitions(group, list(places))]
    try:
        answer = admin.list_consumer_group_offsets(request)[group].result(seconds)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return []
        raise
    return [place for place in answer.topic_partitions or [] if place.offset >= 0]


class LogReader:
    """Reads offsets; every method raises :class:`DependencyDown` where Kafka does not answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._admin = AdminClient({**kafka.client(), "log_level": 0})

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the number of partitions of each topic (without prefix) that exists."""
        try:
            known = self._admin.list_topics(timeout=_CALL_S).topics
        except KafkaException as error:
            raise self._down(error) from error
        names = {name: self._kafka.topic(name) for name in topics}
        return {name: len(known[full].partitions) for name, full in names.items() if full in known}

    def ends(self, partitions: Mapping[str, int], *, earliest: bool = False) -> Offsets:
        """Return the end (or the first) offset of every partition."""
        spec: Any = OffsetSpec.earliest() if earliest else OffsetSpec.latest()  # type: ignore[no-untyped-call]
        places = {
            (topic, number): TopicPartition(self._kafka.topic(topic), number)
            for topic, count in partitions.items()
            for number in range(count)
        }
        try:
            futures = self._admin.list_offsets(dict.fromkeys(places.values(), spec), request_timeout=_CALL_S)
            return {key: futures[place].result(_CALL_S).offset for key, place in places.items()}
        except (KafkaException, TimeoutError) as error:
            raise self._down(error) from error

    def stages(self) -> list[StageLag]:
        """Return the lag of every stage whose topic exists."""
        return self._lags([(name, flow.source) for name, flow in STAGES.items()], side=False)

    def stage(self, stage: str) -> list[StageLag]:
        """Return the lag of a stage's live lane, and of each topic of its side lane, as far as they exist."""
        again = [(stage, retry_topic(stage)), (stage, replay_topic(stage))]
        return [*self._lags([(stage, STAGES[stage].source)], side=False), *self._lags(again, side=True)]

    def _lags(self, sources: Sequence[tuple[str, str]], *, side: bool) -> list[StageLag]:
        partitions = self.partitions(topic for _, topic in sources)
        ends, starts = self.ends(partitions), self.ends(partitions, earliest=True)
        found = []
        for stage, topic in sources:
            if topic not in partitions:
                continue
            committed = self._committed(stage, topic, partitions[topic], side=side)
            gaps = {
                number: (max(committed.get(number, 0), starts[topic, number]), ends[topic, number])
                for number in range(partitions[topic])
            }
            open_gaps = {number: gap for number, gap in gaps.items() if gap[1] > gap[0]}
            behind = sum(end - start for start, end in open_gaps.values())
            if open_gaps:
                behind -= self._empty(topic, open_gaps)
            total = sum(ends[topic, number] - starts[topic, number] for number in gaps)
            found.append(StageLag(stage, topic, partitions[topic], behind, total))
        return found

    def _committed(self, stage: str, topic: str, count: int, *, side: bool) -> dict[int, int]:
        """Return the group's committed offsets by partition; none where the group never committed."""
        group = self._kafka.group(stage, side=side)
        places = [TopicPartition(self._kafka.topic(topic), number) for number in range(count)]
        try:
            return {place.partition: place.offset for place in group_offsets(self._admin, group, places, _CALL_S)}
        except (KafkaException, TimeoutError) as error:
            raise self._down(error) from error

    def _empty(self, topic: str, gaps: Mapping[int, tuple[int, int]]) -> int:
        """Return how much of the gaps holds no record: a transaction's mark takes an offset and is none."""
        name = self._kafka.topic(topic)
        consumer = Consumer(
            {
                **self._kafka.client(),
                "group.id": "headrace-lag",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        try:
            consumer.assign([TopicPartition(name, number, start) for number, (start, _) in gaps.items()])
            unseen, empty = set(gaps), 0
            deadline = time.monotonic() + _LOOK_S
            while unseen and time.monotonic() < deadline:
                message = consumer.poll(0.1)
                if message is None or message.partition() not in unseen:
                    continue
                number = message.partition()
                assert number is not None
                error = message.error()
                start, end = gaps[number]
                if error is None:  # from here on records lie, up to the end
                    empty += max(0, min(message.offset() or 0, end) - start)
                    unseen.discard(number)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    empty += end - start
                    unseen.discard(number)
            return empty
        finally:
            consumer.close()

    def _down(self, error: Exception) -> DependencyDown:
        return DependencyDown("kafka", f"Kafka does not answer at {self._kafka.bootstrap}: {error}")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is: records in all, and those that are pending in its live and side lanes."""

    total: int
    pending: int

    @property
    def percent(self) -> float:
        """How much is done, 100 where there is nothing to do."""
        return 100.0 if not self.total else 100.0 * (self.total - self.pending) / self.total


def progress(reader: LogReader, stage: str) -> Progress:
    """Return how far the stage is with its log, and with what it reads again.

    Raises :class:`DependencyDown`, and :class:`ConfigurationError` where its topic does not exist.
    """
    lanes = reader.stage(stage)
    live = [lane for lane in lanes if lane.topic == STAGES[stage].source]
    if not live:
        raise ConfigurationError(
            f"there is no topic {STAGES[stage].source}", remedy="Run `headrace bootstrap`, which makes the topics."
        )
    again = sum(lane.behind for lane in lanes if lane not in live)
    return Progress(live[0].total + again, live[0].behind + again)
