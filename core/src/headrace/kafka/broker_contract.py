"""What the runtime needs from a broker, and what it may rely on.

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
"""A worker's membership in its group at one moment. Only the broker that made it reads it."""


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
        """The partition that it stands in."""
        return TopicPartition(self.topic, self.partition)


class Message(NamedTuple):
    """A record to write; the partition follows from the key (murmur2), which is never empty.

    A value of None is a tombstone, and is read as one: not the same as an empty value.
    """

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()


class Mark(NamedTuple):
    """Work that was begun at a partition's committed offset: how often, without a word of its end.

    ``records`` is the size of the batch; ``until`` is the offset after the last record that was under way;
    ``offset`` is where it begins, which counts where nothing was ever committed.
    """

    begun: int
    records: int
    until: int
    offset: int

    def text(self) -> str:
        """Return it as it is kept beside the committed offset."""
        return f"headrace begun={self.begun} records={self.records} until={self.until} offset={self.offset}"

    @staticmethod
    def of(text: str | None) -> Mark | None:
        """Return the mark in what is kept beside a committed offset, or None where there is none."""
        found = _MARK.fullmatch(text or "")
        return None if found is None else Mark(*map(int, found.groups()))


_MARK = re.compile(r"headrace begun=(\d{1,9}) records=(\d{1,9}) until=(\d{1,19}) offset=(\d{1,19})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought: records in order of offset by partition, and whether the assignment changed.

    After ``rebalanced``, records read before it are void: they may belong to another worker by now. What this poll read
    itself is dropped, so the caller goes back by :meth:`Broker.rewind` before it polls again.
    """

    records: Sequence[Record] = ()
    rebalanced: bool = False
    assigned: frozenset[TopicPartition] = frozenset()
    marks: Mapping[TopicPartition, Mark] = field(default_factory=dict)
    """After ``rebalanced``, the marks of partitions that came to this worker."""


class BrokerError(HeadraceError):
    """The broker refused or did not answer."""

    code = "broker"


class TransactionAborted(BrokerError):
    """The transaction was refused and is rolled back; nothing of it is visible. Rewind and do it again."""


class TransactionUncertain(BrokerError):
    """Whether the transaction was committed is not known. Only a new producer and the committed offsets tell."""


class ProducerFenced(BrokerError):
    """Another worker with the same transactional id, or in the same place of the group, took over."""

    default_remedy = (
        "Give every live worker of a stage its own slot (HEADRACE_WORKER_SLOT). A worker that was blocked for longer "
        "than HEADRACE_WORKER_TRANSACTION_TIMEOUT_MS also ends like this: restart it."
    )


class OffsetsLost(BrokerError):
    """A committed offset lies outside the log: records were deleted before this group read them."""

    default_remedy = (
        "No record was skipped. Increase the topic's retention first. Then either accept the gap and set the group's "
        "offset with Kafka's own tool, or replay the stage from an earlier topic."
    )


class BrokerUnavailable(BrokerError):
    """The broker does not answer for now."""


class Broker(ABC):
    """One worker's session: a consumer in a group and a transactional producer. Used from one thread only."""

    @abstractmethod
    def subscribe(self, topics: Sequence[str]) -> None:
        """Join the group and take part in sharing the partitions of these topics."""

    @abstractmethod
    def poll(self, max_records: int, timeout: float) -> Polled:
        """Return at most ``max_records`` records that follow those returned before, committed ones only.

        Waits up to ``timeout`` seconds for the first and for no other. Keeps up the membership. Partitions are taken
        up at their committed offsets, or at the beginning where there is none.
        Raises :class:`OffsetsLost` naming partition, committed offset and log start, and :class:`BrokerUnavailable`.
        """

    @abstractmethod
    def snapshot(self) -> Snapshot | None:
        """Return the membership as of now, and None where there is none to commit under.

        A batch keeps the one of its seal and never takes a newer one.
        """

    @abstractmethod
    def pause_fetching(self) -> None:
        """Stop fetching: polls keep up the membership and return no records until :meth:`resume_fetching`."""

    @abstractmethod
    def resume_fetching(self) -> None:
        """Fetch again from where :meth:`pause_fetching` stopped."""

    @abstractmethod
    def rewind(self) -> None:
        """Go back to the committed offsets on every assigned partition. Raises :class:`BrokerUnavailable`."""

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
        """Note durably, beside the committed offsets, that work begins there; nothing may be left to commit.

        The next commit of a partition takes its mark away, and so does this worker when it gives the partition up
        alive. Raises :class:`BrokerUnavailable`, and then nothing needs to be done about it.
        """

    @abstractmethod
    def renew_producer(self) -> None:
        """Replace the producer by a new one with the same transactional id.

        That aborts or completes whatever its predecessor left open. Raises :class:`BrokerUnavailable`.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the group and let go of the connections; an open transaction is aborted."""
