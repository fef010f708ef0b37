"""What the runtime needs from a broker, and what the broker guarantees.

The suite :mod:`headrace_testing.broker_contract` runs against every implementation.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, NewType

from headrace.errors import HeadraceError

Headers = tuple[tuple[str, bytes | None], ...]
Snapshot = NewType("Snapshot", object)
"""A worker's membership in its group at one moment. Only the broker that created it can read it."""


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Record(NamedTuple):
    """A record as it was read; ``timestamp_ms`` in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0

    @property
    def place(self) -> TopicPartition:
        """The record's partition."""
        return TopicPartition(self.topic, self.partition)


class Message(NamedTuple):
    """A record to write; the partition follows from the key (murmur2), which is never empty.

    A value of None is a tombstone, which differs from an empty value.
    """

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()


class Mark(NamedTuple):
    """Counts the unfinished attempts that began at a partition's committed offset.

    ``records`` is the size of the batch; ``until`` is the offset after its last record; ``offset`` is where it begins,
    which is used if the group never committed.
    """

    begun: int
    records: int
    until: int
    offset: int

    def text(self) -> str:
        """Return the text that is stored with the committed offset."""
        return f"headrace begun={self.begun} records={self.records} until={self.until} offset={self.offset}"

    @staticmethod
    def of(text: str | None) -> Mark | None:
        """Return the mark in the text stored with a committed offset, or None if there is none."""
        found = _MARK.fullmatch(text or "")
        return None if found is None else Mark(*map(int, found.groups()))


_MARK = re.compile(r"headrace begun=(\d{1,9}) records=(\d{1,9}) until=(\d{1,19}) offset=(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Polled:
    """The result of a poll: records in order of offset by partition, and whether the assignment changed.

    After ``rebalanced``, records read before are invalid, because they may belong to another worker. The records of
    this poll are dropped too, so the caller must call :meth:`Broker.rewind` before the next poll.
    """

    records: Sequence[Record] = ()
    rebalanced: bool = False
    assigned: frozenset[TopicPartition] = frozenset()
    marks: Mapping[TopicPartition, Mark] = field(default_factory=dict)
    """After ``rebalanced``, the marks of newly assigned partitions."""


class BrokerError(HeadraceError):
    """The broker rejected a call or did not answer."""

    code = "broker"


class TransactionAborted(BrokerError):
    """The transaction was aborted, so consumers see none of its records. Rewind and process the batch again."""


class TransactionUncertain(BrokerError):
    """It is unknown whether the transaction was committed. Start a new producer, then read the committed offsets."""


class ProducerFenced(BrokerError):
    """Another worker with the same transactional ID, or with the same place in the group, took over."""

    default_remedy = (
        "Give every live worker of a stage its own slot (HEADRACE_WORKER_SLOT). A worker that was blocked for longer "
        "than HEADRACE_WORKER_TRANSACTION_TIMEOUT_MS also ends like this: restart it."
    )


class OffsetsLost(BrokerError):
    """A committed offset is outside the log: records were deleted before this group read them."""

    default_remedy = (
        "No record was skipped. Increase the topic's retention first. Then either accept the gap and set the group's "
        "offset with Kafka's own tool, or replay the stage from an earlier topic."
    )


class BrokerUnavailable(BrokerError):
    """The broker does not answer at the moment."""


class Broker(ABC):
    """One worker's session: a consumer in a group and a transactional producer. Used from one thread only."""

    @abstractmethod
    def subscribe(self, topics: Sequence[str]) -> None:
        """Join the group and share the partitions of these topics."""

    @abstractmethod
    def poll(self, max_records: int, timeout: float) -> Polled:
        """Return at most ``max_records`` committed records that follow those returned before.

        Waits up to ``timeout`` seconds, for the first record only. Keeps the membership. New partitions are read from
        their committed offset, or from the beginning if there is none.
        Raises :class:`OffsetsLost` naming partition, committed offset and log start, and :class:`BrokerUnavailable`.
        """

    @abstractmethod
    def snapshot(self) -> Snapshot | None:
        """Return the current membership, or None if there is none to commit under.

        A batch keeps the membership of its sealing and never takes a newer one.
        """

    @abstractmethod
    def pause_fetching(self) -> None:
        """Stop fetching: polls keep the membership but return no records until :meth:`resume_fetching`."""

    @abstractmethod
    def resume_fetching(self) -> None:
        """Continue fetching where :meth:`pause_fetching` stopped."""

    @abstractmethod
    def rewind(self) -> None:
        """Return to the committed offsets in every assigned partition. Raises :class:`BrokerUnavailable`."""

    @abstractmethod
    def commit(
        self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Snapshot | None
    ) -> None:
        """Write messages and offsets (each the next one to read) in one transaction: all or nothing.

        Raises :class:`TransactionAborted` (also for a snapshot of an older membership, or of none),
        :class:`TransactionUncertain` or :class:`ProducerFenced`, and, before anything is written,
        :class:`headrace.errors.InvalidRecord` for a message with an empty key. Returning promises that all is durable.
        """

    @abstractmethod
    def mark(self, marks: Mapping[TopicPartition, Mark]) -> None:
        """Record durably, with the committed offsets, that work begins there; no batch may be waiting for its commit.

        The next commit of a partition removes its mark, and so does this worker when it gives up the partition without
        a crash. Raises :class:`BrokerUnavailable`, which the caller may ignore.
        """

    @abstractmethod
    def renew_producer(self) -> None:
        """Replace the producer with a new one that has the same transactional ID.

        This aborts or completes a transaction that the predecessor left open. Raises :class:`BrokerUnavailable`.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the group and close the connections; an open transaction is aborted."""
