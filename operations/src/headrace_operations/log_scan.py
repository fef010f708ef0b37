"""What the scans of operators' tools share: bounds of topics that must exist, and the newest action by id."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

import structlog
from confluent_kafka import Message as KafkaMessage

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, UndecodableRecord
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.client_answers import header_pairs
from headrace.topology.generation_names import own_id
from headrace_operations.audit.log_ranges import LogRanges, Partition, Range
from headrace_operations.trace.log import LogScanner

log = structlog.get_logger(__name__)

Action = TypeVar("Action")


class LogScan:
    """Reads what is committed, joining no group; topics without prefix.

    Every method raises :class:`headrace.errors.DependencyDown` where Kafka or the registry does not answer.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._codec = codec
        self._generation = kafka.generation
        self._scanner = LogScanner(kafka)
        self._ranges = LogRanges(kafka)

    def bounds(self, topics: Collection[str]) -> dict[Partition, Range]:
        """Return first offset and committed end of each partition.

        Raises :class:`ConfigurationError` for a topic that is missing.
        """
        counts = self._scanner.partition_counts(topics)
        lacking = [topic for topic in topics if topic not in counts]
        if lacking:
            raise ConfigurationError(
                f"there is no topic {', '.join(lacking)}",
                remedy=f"There are: {', '.join(sorted(counts)) or 'none of them'}. Check HEADRACE_KAFKA_TOPIC_PREFIX, "
                "or run `headrace bootstrap`.",
            )
        places = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        return {place: Range(*span) for place, span in self._scanner.bounds(places).items()}

    def since(self, bounds: dict[Partition, Range], since_ms: int) -> dict[Partition, Range]:
        """Return the bounds without what was written before the time (milliseconds since 1970)."""
        starts = self._scanner.starts_at([TopicPartition(*place) for place in bounds], since_ms)
        return {
            place: Range(max(span.start, starts[TopicPartition(*place)]), span.end)
            for place, span in bounds.items()
            if starts[TopicPartition(*place)] >= 0
        }

    def read(self, ranges: dict[Partition, Range], take: Callable[[Record], None]) -> None:
        """Hand every record of the ranges to ``take``, each partition's in order."""
        self._ranges.read(ranges, lambda place, message: take(record_of(place, message)))

    def actions(self, topic: str, kind: type[Action]) -> dict[str, Action]:
        """Return the newest action of each id that has one, of this generation's lanes and of those that all share.

        One that does not decode is logged and skipped.
        """
        actions: dict[str, Action] = {}

        def one(record: Record) -> None:
            identity = own_id(record.key, self._generation)
            if identity is None:
                return
            try:
                action = self._codec.decode_plain(record.value, kind)
            except UndecodableRecord as error:
                log.warning("action skipped", topic=topic, offset=record.offset, error=error.message)
                return
            actions[identity] = action

        self.read(self.bounds([topic]), one)
        return actions


def record_of(place: Partition, message: KafkaMessage) -> Record:
    """Return the message as a record of that partition."""
    return Record(
        place[0], place[1], message.offset() or 0, _bytes(message.key()), _bytes(message.value()),
        header_pairs(message), message.timestamp()[1],
    )  # fmt: skip


def _bytes(value: object) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode()
