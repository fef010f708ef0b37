"""Shared code of scans: bounds of topics that must exist, and the newest action by ID."""

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
Plain = TypeVar("Plain")


def decoded(codec: Codec, record: Record, kind: type[Plain]) -> Plain | None:
    """Return the record's value; None, with a warning, if it does not decode: one bad record must stop no command."""
    try:
        return codec.decode_plain(record.value, kind)
    except UndecodableRecord as error:
        log.warning(
            "skipped a record that does not decode", topic=record.topic, partition=record.partition,
            offset=record.offset, error=error.message,
        )  # fmt: skip
        return None


class LogScan:
    """Reads committed records without joining a group; topics are named without prefix.

    Every method raises :class:`headrace.errors.DependencyDown` if Kafka or the schema registry does not answer.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._codec = codec
        self._log = LogReader(kafka, "operations")

    def bounds(self, topics: Collection[str]) -> dict[TopicPartition, Range]:
        """Return the first and end offset of each partition, without waiting for open transactions.

        Raises :class:`ConfigurationError` for a missing topic.
        """
        return self._log.bounds(self._log.partitions(topics, needed=True))

    def since(self, bounds: dict[TopicPartition, Range], since_ms: int) -> dict[TopicPartition, Range]:
        """Return the bounds without the records written before the time (milliseconds since 1970)."""
        starts = self._log.starts_at(bounds, since_ms)
        return {
            place: Range(max(span.start, starts[place]), span.end)
            for place, span in bounds.items()
            if starts[place] >= 0
        }

    def read(self, ranges: dict[TopicPartition, Range], take: Callable[[Record], None]) -> None:
        """Pass every record of the ranges to ``take``, each partition in order."""
        self._log.read(ranges, take)

    def actions(self, topic: str, kind: type[Action]) -> dict[str, Action]:
        """Return the newest action by ID, from this generation's lanes and the lanes that all generations share.

        An action that does not decode is skipped with a warning.
        """
        actions: dict[str, Action] = {}

        def one(record: Record) -> None:
            identity = own_id(record.key, self._log.generation)
            if identity is None:
                return
            action = decoded(self._codec, record, kind)
            if action is not None:
                actions[identity] = action

        self.read(self.bounds([topic]), one)
        return actions
