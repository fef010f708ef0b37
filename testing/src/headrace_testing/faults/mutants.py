"""The runtime with one promise broken, for tests alone: a checker that stays green over these proves nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as KafkaPartition

from headrace.config import failpoints
from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.kafka.broker import KafkaBroker
from headrace.kafka.broker_contract import Message, Polled, TopicPartition


class Unfenced(KafkaBroker):
    """Commits under no membership at all, and hides rebalances: a batch outlives the loss of its partitions."""

    def __init__(self, kafka: KafkaSettings, worker: WorkerSettings, *, group: str, transactional_id: str) -> None:
        super().__init__(kafka, worker, group=group, transactional_id=transactional_id)
        self._nobody = Consumer({**kafka.client(), "group.id": group})

    def poll(self, max_records: int, timeout: float) -> Polled:
        """Poll, and say nothing of a rebalance; what was read beside it is read again, for it was not handed out."""
        polled = super().poll(max_records, timeout)
        if polled.rebalanced:
            self.rewind()
        return replace(polled, rebalanced=False)

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """Commit as a client that knows no memberships: the coordinator lets it."""
        super().commit(messages, offsets, snapshot and self._nobody.consumer_group_metadata())


class OffsetsApart(KafkaBroker):
    """Commits the offsets after the transaction instead of in it."""

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """Write first, then say how far we are."""
        super().commit(messages, {}, snapshot)
        failpoints.reach("mutant.between")
        positions = [KafkaPartition(place.topic, place.partition, offset) for place, offset in offsets.items()]
        self._consumer.commit(offsets=positions, asynchronous=False)


class DeadLettersApart(KafkaBroker):
    """Writes dead letters after the transaction instead of in it."""

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """Write what went well with the offsets, and the dead letters when there is time."""
        super().commit([m for m in messages if not _is_dead(m)], offsets, snapshot)
        failpoints.reach("mutant.between")
        if dead := [message for message in messages if _is_dead(message)]:
            producer = Producer({**self._kafka.client(), "partitioner": "murmur2_random"})
            for message in dead:
                producer.produce(message.topic, message.value, message.key)
            producer.flush(30)


def _is_dead(message: Message) -> bool:
    return "dead-letters" in message.topic


BROKERS: dict[str, type[KafkaBroker]] = {
    "none": KafkaBroker,
    "unfenced": Unfenced,
    "offsets-apart": OffsetsApart,
    "dead-letters-apart": DeadLettersApart,
    "read-uncommitted": KafkaBroker,
}
CONSUMERS: dict[str, dict[str, Any]] = {"read-uncommitted": {"isolation.level": "read_uncommitted"}}
"""What a mutant's consumer has instead of the runtime's settings."""
