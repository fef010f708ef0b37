"""The runtime with one promise broken, for tests only: a checker that accepts these does not prove anything."""

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
    """Commits without a membership and hides rebalances, so a batch outlives the loss of its partitions."""

    def __init__(self, kafka: KafkaSettings, worker: WorkerSettings, *, group: str, transactional_id: str) -> None:
        super().__init__(kafka, worker, group=group, transactional_id=transactional_id)
        self._nobody = Consumer({**kafka.client(), "group.id": group})

    def poll(self, max_records: int, timeout: float) -> Polled:
        """Poll and hide a rebalance; the records of this poll were not returned, so they are read again."""
        polled = super().poll(max_records, timeout)
        if polled.rebalanced:
            self.rewind()
        return replace(polled, rebalanced=False)

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """Commit like a client that does not support memberships, which the coordinator allows."""
        super().commit(messages, offsets, snapshot and self._nobody.consumer_group_metadata())


class OffsetsApart(KafkaBroker):
    """Commits the offsets after the transaction instead of in it."""

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """Write the messages first, then commit the offsets."""
        super().commit(messages, {}, snapshot)
        failpoints.reach("mutant.between")
        positions = [KafkaPartition(place.topic, place.partition, offset) for place, offset in offsets.items()]
        self._consumer.commit(offsets=positions, asynchronous=False)


class DeadLettersApart(KafkaBroker):
    """Writes dead letters after the transaction instead of in it."""

    def commit(self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Any) -> None:
        """Write the outputs with the offsets, and the dead letters later."""
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
"""A mutant's consumer settings that replace those of the runtime."""
