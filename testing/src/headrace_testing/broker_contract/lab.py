"""How the suite makes topics and brokers, polls them, and looks at the outcome.

Waits are polls up to a deadline in the lab's own time; nothing sleeps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import pytest

from headrace.kafka.broker_contract import (
    Broker,
    BrokerError,
    Mark,
    Message,
    Record,
    Snapshot,
    TopicPartition,
)
from headrace.runtime.worker import offsets_after

DEADLINE_S = 60.0
PARTITIONS = 4


class BrokerLab(ABC):
    """Creates topics and brokers for a test, and reads the results; names are unique to the test."""

    @abstractmethod
    def topic(self, partitions: int) -> str:
        """Create an empty topic and return its name."""

    @abstractmethod
    def broker(self, group: str, transactional_id: str) -> Broker:
        """Return a new, unsubscribed broker; it is closed after the test."""

    @abstractmethod
    def produce(self, messages: Sequence[Message]) -> None:
        """Write outside any transaction and wait until all is durable."""

    @abstractmethod
    def read_committed(self, topic: str) -> list[Record]:
        """Return all committed records of the topic, in order of offset within a partition."""

    @abstractmethod
    def delete_before(self, place: TopicPartition, offset: int) -> None:
        """Delete the partition's records below the offset, as retention does."""

    @abstractmethod
    def kill(self, broker: Broker) -> None:
        """End the session as the death of a worker does: its marks stay."""

    @abstractmethod
    def now(self) -> float:
        """Return the seconds of the brokers' clock."""


def until(lab: BrokerLab, done: Callable[[], bool], what: str) -> None:
    """Call ``done``, which polls, until it returns True; fail after the deadline."""
    deadline = lab.now() + DEADLINE_S
    while not done():
        if lab.now() > deadline:
            pytest.fail(f"within {DEADLINE_S} s this did not happen: {what}")


class Session:
    """A broker, and the records that it read and that are still valid."""

    def __init__(self, lab: BrokerLab, group: str, transactional_id: str, topic: str) -> None:
        self.lab = lab
        self.broker = lab.broker(group, transactional_id)
        self.broker.subscribe([topic])
        self.records: list[Record] = []
        self.assigned: frozenset[TopicPartition] = frozenset()
        self.marks: dict[TopicPartition, Mark] = {}
        self.rebalances = 0

    def poll(self, most: int = 500) -> bool:
        """Poll once; after a rebalance, drop the records read before and continue at the committed offsets."""
        polled = self.broker.poll(most, 0.1)
        self.assigned = polled.assigned
        self.marks.update(polled.marks)
        if polled.rebalanced:
            self.rebalances += 1
            self.records = []
            self.broker.rewind()
        self.records += polled.records
        return polled.rebalanced

    def read(self, number: int) -> list[Record]:
        """Poll until this number of records has been read, and return them."""

        def enough() -> bool:
            self.poll(number - len(self.records))
            return len(self.records) >= number

        until(self.lab, enough, f"{number} records")
        return self.records

    def settle(self, partitions: int) -> None:
        """Poll until this number of partitions is assigned."""

        def settled() -> bool:
            self.poll()
            return len(self.assigned) == partitions

        until(self.lab, settled, f"assignment of {partitions} partitions")

    def commit(self, target: str) -> None:
        """Copy the records that were read to the target in one transaction."""
        copy(self.broker, self.records, target, self.broker.snapshot())
        self.records = []


def copy(broker: Broker, records: Sequence[Record], target: str, snapshot: Snapshot | None) -> None:
    """Commit a copy of the records under the snapshot."""
    messages = [Message(target, record.key or b"-", record.value, record.headers) for record in records]
    broker.commit(messages, offsets_after(records), snapshot)


def numbered(topic: str, number: int, keys: int = 16) -> list[Message]:
    """Return messages 0, 1, 2, … spread over this number of keys."""
    return [Message(topic, f"t/{index % keys}".encode(), str(index).encode()) for index in range(number)]


def values(records: Sequence[Record]) -> list[int]:
    """Return the numbers of :func:`numbered` messages, sorted."""
    return sorted(int(record.value or b"-1") for record in records)


def try_commit(session: Session, target: str) -> int:
    """Commit what was read and return what was written; if the commit fails, return to the committed offsets."""
    number = len(session.records)
    try:
        session.commit(target)
    except BrokerError:
        session.records = []
        session.broker.renew_producer()
        session.broker.rewind()
        return 0
    return number
