"""A consumer that is assigned partitions by hand, and how far it has read each of them.

Code that reads the log outside a consumer group uses it: :mod:`headrace.kafka.ranges` reads up to an end,
:mod:`headrace.kafka.follower` without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage
from confluent_kafka import TopicPartition as KafkaPlace

from headrace.config.settings import KafkaSettings
from headrace.kafka.broker_contract import OffsetsLost, Record, TopicPartition
from headrace.kafka.client_answers import record_of
from headrace.kafka.client_config import Lost, reader_config
from headrace.kafka.unavailable import answering, unavailable

_END = KafkaError._PARTITION_EOF  # noqa: SLF001
_LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})  # noqa: SLF001


class LogCursor:
    """Reads from one thread; topics without prefix. ``role`` and the rest as in :func:`reader_config`.

    ``at`` is the next offset to read of each assigned partition. It moves past records as they are returned, and past
    transaction markers and aborted records when the end of the partition is reached.
    """

    def __init__(self, kafka: KafkaSettings, role: str, *, wait_ms: int, lost: Lost = "earliest") -> None:
        self._kafka = kafka
        self._consumer = Consumer(reader_config(kafka, role, wait_ms=wait_ms, lost=lost))
        self._names: dict[str, str] = {}
        """Topic on this broker to its name without prefix."""
        self.at: dict[TopicPartition, int] = {}
        self.ended: set[TopicPartition] = set()
        """Partitions whose last stable offset was reached since they were assigned."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        """From now on, read only these partitions, from these offsets."""
        self.at, self.ended = dict(starts), set()
        self._names = {self._kafka.topic(place.topic): place.topic for place in starts}
        with answering(self._kafka):
            self._consumer.assign([self._place(place, offset) for place, offset in starts.items()])

    def drop(self, places: Iterable[TopicPartition]) -> None:
        """Stop fetching these assigned partitions.

        They are not paused: a pause outlasts the assignment, and librdkafka can lose a pause, an offset or a resume
        that follow each other closely (confluentinc/librdkafka issues 2190 and 5591).
        """
        gone = [self._place(place, self.at.pop(place)) for place in places]
        if gone:
            with answering(self._kafka):
                self._consumer.incremental_unassign(gone)

    def fetch(self, most: int, seconds: float) -> list[Record]:
        """Return up to ``most`` records of the assigned partitions, each partition's in order.

        Waits up to ``seconds``, for the first record only. Raises :class:`DependencyDown` if Kafka rejects the read,
        and :class:`OffsetsLost` for records that aged out, if the cursor was made with ``lost="error"``.
        """
        with answering(self._kafka):
            first = self._consumer.poll(seconds)
            if first is None:
                return []
            fetched = self._consumer.consume(most - 1, 0) if most > 1 else []
        return [record for message in (first, *fetched) if (record := self._taken(message)) is not None]

    def close(self) -> None:
        """Release the connections."""
        self._consumer.close()

    def _taken(self, message: KafkaMessage) -> Record | None:
        """Move past the message; return its record, or None for the end of a partition."""
        error = message.error()
        if error is not None and error.code() != _END:
            self._refuse(error, message)
            return None
        place = TopicPartition(self._names.get(message.topic() or "", ""), message.partition() or 0)
        if place not in self.at:
            return None
        offset = message.offset() or 0
        if error is not None:
            self.at[place] = max(self.at[place], offset)
            self.ended.add(place)
            return None
        self.at[place] = offset + 1
        return record_of(message)._replace(topic=place.topic)

    def _refuse(self, error: KafkaError, message: KafkaMessage) -> None:
        if error.code() in _LOST:
            raise OffsetsLost(f"{message.topic()}[{message.partition()}]: {error.str()}")
        if not error.retriable():
            raise unavailable(self._kafka, KafkaException(error))

    def _place(self, place: TopicPartition, offset: int) -> KafkaPlace:
        return KafkaPlace(self._kafka.topic(place.topic), place.partition, offset)
