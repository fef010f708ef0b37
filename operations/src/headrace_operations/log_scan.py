"""What the scans of operators' tools share: bounds of topics that must exist, and the newest action by id."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

import structlog

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import UndecodableRecord
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.ranges import LogReader
from headrace.topology.generation_names import own_id

log = structlog.get_logger(__name__)

Action = TypeVar("Action")


class LogScan:
    """Reads what is committed, joining no group; topics without prefix.

    Every method raises :class:`headrace.errors.DependencyDown` where Kafka or the registry does not answer.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._codec = codec
        self._log = LogReader(kafka, "operations")

    def bounds(self, topics: Collection[str]) -> dict[TopicPartition, Range]:
        """Return first offset and end of each partition; nothing is waited for that a transaction has still open.

        Raises :class:`ConfigurationError` for a topic that is missing.
        """
        return self._log.bounds(self._log.partitions(topics, needed=True))

    def since(self, bounds: dict[TopicPartition, Range], since_ms: int) -> dict[TopicPartition, Range]:
        """Return the bounds without what was written before the time (milliseconds since 1970)."""
        starts = self._log.starts_at(bounds, since_ms)
        return {
            place: Range(max(span.start, starts[place]), span.end)
            for place, span in bounds.items()
            if starts[place] >= 0
        }

    def read(self, ranges: dict[TopicPartition, Range], take: Callable[[Record], None]) -> None:
        """Hand every record of the ranges to ``take``, each partition's in order."""
        self._log.read(ranges, take)

    def actions(self, topic: str, kind: type[Action]) -> dict[str, Action]:
        """Return the newest action of each id that has one, of this generation's lanes and of those that all share.

        One that does not decode is logged and skipped.
        """
        actions: dict[str, Action] = {}

        def one(record: Record) -> None:
            identity = own_id(record.key, self._log.generation)
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
