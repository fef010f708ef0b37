"""Where the log begins and ends, and where consumer groups are in it.

The end of a partition is its **last stable offset**: the first offset that belongs to an open transaction, or the end
of the log without one. Headrace reads committed records only, so this is how far a reader gets without waiting, and it
is what lag, listings and progress are measured against. Offsets are not records: transaction markers, aborted records
and compacted ones keep their offsets, so ``end - start`` is an upper bound of the records between them.

The **high watermark** also counts what open transactions have written. A read up to it waits until these transactions
end. It is for decisions that a record just about to become visible would change (an audit, a deletion of unreferenced
objects, the end of a replay): a transaction's commit returns a moment before its records become visible, and only the
high watermark counts them from the moment they were written.

All questions are asked by consumers that read nothing and join no group. librdkafka's administrative calls would do the
same with one client, but they can end the process while a broker dies (librdkafka 3663 and 5040).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPlace

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.kafka.broker_contract import TopicPartition
from headrace.kafka.client_config import Isolation, asker_config
from headrace.kafka.unavailable import answering

_CALL_S = 10.0
_PAUSE_S = 0.1
_EARLIEST, _LATEST = -2, -1
"""Times that stand for the first offset and the end in Kafka's protocol (ListOffsets)."""
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
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._WAIT_COORD,  # noqa: SLF001
    }
)
"""Errors that a broker returns briefly after its start, or after a partition or a group got a new leader."""


Ask = Callable[..., list[KafkaPlace]]
"""A call of the client that answers for places within ``timeout`` seconds."""


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
        self._clients: dict[tuple[str, Isolation], Consumer] = {}

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
        return self._offsets(places, _EARLIEST)

    def ends(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the end of each partition: its last stable offset."""
        return self._offsets(places, _LATEST)

    def high_watermarks(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermark of each partition, which counts open transactions."""
        return self._offsets(places, _LATEST, "read_uncommitted")

    def starts_at(self, places: Iterable[TopicPartition], since_ms: int) -> dict[TopicPartition, int]:
        """Return the first offset whose record is at least as new as the time (ms since 1970); -1 if there is none."""
        return self._offsets(places, since_ms)

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
        # Without waiting for open transactions. All clients are made first, so that they find coordinators at once.
        clients = {group: self._client(group, "read_uncommitted") for group, places in groups.items() if places}
        found: dict[TopicPartition, int] = {}
        for group, client in clients.items():
            found |= self._answer(client.committed, {self._place(place): place for place in groups[group]})
        return {place: max(0, offset) for place, offset in found.items()}

    def _topics(self) -> Mapping[str, Any]:
        with answering(self.kafka):
            topics: Mapping[str, Any] = (
                self._client(self._own_group, "read_committed").list_topics(timeout=self._call_s).topics
            )
            return topics

    def _offsets(
        self, places: Iterable[TopicPartition], time_ms: int, isolation: Isolation = "read_committed"
    ) -> dict[TopicPartition, int]:
        asked = {KafkaPlace(self.kafka.topic(place[0]), place[1], time_ms): place for place in places}
        return self._answer(self._client(self._own_group, isolation).offsets_for_times, asked) if asked else {}

    def _answer(self, ask: Ask, asked: Mapping[KafkaPlace, TopicPartition]) -> dict[TopicPartition, int]:
        """Return the answer for each place; a passing error is waited for."""
        deadline = time.monotonic() + self._call_s
        names = {(full.topic, full.partition): place for full, place in asked.items()}
        with answering(self.kafka):
            while True:
                try:
                    return {
                        names[found.topic, found.partition]: _offset(found)
                        for found in ask(list(asked), timeout=self._call_s)
                    }
                except KafkaException as error:
                    if error.args[0].code() not in _PASSING or time.monotonic() > deadline:
                        raise
                time.sleep(_PAUSE_S)

    @property
    def _own_group(self) -> str:
        return f"{self.kafka.topic_prefix}headrace-offsets"

    def _client(self, group: str, isolation: Isolation) -> Consumer:
        """Return the client that asks for the group; a group's offsets can only be asked for by its name."""
        client = self._clients.get((group, isolation))
        if client is None:
            client = self._clients[group, isolation] = Consumer(asker_config(self.kafka, group, isolation))
        return client

    def _place(self, place: TopicPartition) -> KafkaPlace:
        return KafkaPlace(self.kafka.topic(place[0]), place[1])


def _offset(place: KafkaPlace) -> int:
    if place.error is not None:
        raise KafkaException(place.error)
    return int(place.offset)
