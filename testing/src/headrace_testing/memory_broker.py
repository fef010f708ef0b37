"""The broker contract in memory, for tests without processes; see :mod:`headrace_testing.memory_cluster`."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from headrace.errors import InvalidRecord
from headrace.kafka.broker_contract import (
    Broker,
    BrokerUnavailable,
    Mark,
    Message,
    Polled,
    ProducerFenced,
    Record,
    Snapshot,
    TopicPartition,
    TransactionAborted,
    TransactionUncertain,
)
from headrace_testing.memory_cluster import Member, MemoryCluster


class CommitOutcome(StrEnum):
    """The result of a transaction whose commit raised."""

    ABORTED = "aborted"
    COMMITTED = "committed"
    OPEN = "open"
    """Undecided: the next producer with this transactional ID, a timeout or the test ends it."""


@dataclass(frozen=True, slots=True)
class CommitFault:
    """Makes one commit end in ``outcome`` and raise ``error``, or another exception that ends a worker there."""

    outcome: CommitOutcome
    error: BaseException


@dataclass(frozen=True, slots=True)
class Membership:
    """A snapshot: the member, and the generation of its group."""

    member: str
    generation: int


class MemoryBroker(Broker):
    """One worker's session with a :class:`MemoryCluster`."""

    def __init__(self, cluster: MemoryCluster, *, group: str, transactional_id: str) -> None:
        self.faults: deque[CommitFault] = deque()
        """Faults of the next commits, in order."""
        self._cluster = cluster
        self._group = group
        self._transactional_id = transactional_id
        self._topics: tuple[str, ...] = ()
        self._member: Member | None = None
        self._epoch: int | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._paused = False
        self._turn = 0
        self._known: frozenset[TopicPartition] = frozenset()
        """Partitions that a poll has reported."""
        self._marked: set[TopicPartition] = set()
        """Partitions that this worker marked and whose mark no commit has removed."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Fence any predecessor, then join the group."""
        self.renew_producer()
        self._topics = tuple(topics)
        self._member = self._cluster.join(self._group, topics)

    def poll(self, max_records: int, timeout: float) -> Polled:
        """Return the available records at once; without any, report the timeout to the cluster as waited."""
        self._require_cluster(timeout)
        rejoined = self._rejoin_if_expelled()
        member = self._joined()
        member.last_seen = self._cluster.clock()
        changed = self._cluster.settle(self._group, member) or rejoined
        owned = self._cluster.group(self._group).owned(member.identity)
        assigned = frozenset(owned)
        if changed:
            self._positions = {place: at for place, at in self._positions.items() if place in assigned}
            self._unmark(self._known - assigned)
            marks = self._cluster.group(self._group).marks
            found = {place: marks[place] for place in assigned - self._known if place in marks}
            self._known = assigned
            return Polled((), True, assigned, found)
        records = [] if self._paused else self._read(owned, max_records)
        if not records:
            self._cluster.wait(timeout)
        return Polled(records, False, assigned)

    def snapshot(self) -> Snapshot:
        """Return member and generation; an expelled member joins again first, as the thread of a real client does."""
        self._rejoin_if_expelled()
        return Snapshot(Membership(self._joined().identity, self._cluster.group(self._group).generation))

    def pause_fetching(self) -> None:
        """Return no records until :meth:`resume_fetching`."""
        self._paused = True

    def resume_fetching(self) -> None:
        """Return records again."""
        self._paused = False

    def rewind(self) -> None:
        """Return to the committed offsets of all partitions that this worker still owns."""
        self._require_cluster(0.0)
        owned = self._cluster.group(self._group).owned(self._joined().identity)
        self._positions = {place: self._cluster.start_position(self._group, place) for place in owned}

    def commit(
        self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], snapshot: Snapshot | None
    ) -> None:
        """Write, check epoch and membership, and commit, unless the next of :attr:`faults` says otherwise."""
        for message in messages:
            if not message.key:
                raise InvalidRecord("key", f"is empty in a record for {message.topic}")
        cluster, identity = self._cluster, self._transactional_id
        if not cluster.available:
            raise TransactionUncertain(
                "it is unknown whether the transaction was committed: the cluster does not answer"
            )
        if cluster.epoch(identity) != self._epoch:
            raise ProducerFenced("the producer was fenced", where=identity)
        if cluster.has_open_transaction(identity):
            raise TransactionUncertain("the transaction before this one was never ended: renew the producer")
        pending = {(self._group, place): offset for place, offset in offsets.items()}
        cluster.write(identity, messages, pending)
        if not self._is_current(snapshot):
            cluster.end_open_transaction(identity, commit=False)
            raise TransactionAborted("the transaction was aborted: the worker is no longer a member of the group")
        fault = self.faults.popleft() if self.faults else None
        if fault is None or fault.outcome is not CommitOutcome.OPEN:
            cluster.end_open_transaction(identity, commit=fault is None or fault.outcome is CommitOutcome.COMMITTED)
        if fault is not None:
            raise fault.error
        self._marked -= set(offsets)

    def mark(self, marks: Mapping[TopicPartition, Mark]) -> None:
        """Store the marks with the committed offsets."""
        self._require_cluster(0.0)
        self._cluster.group(self._group).marks.update(marks)
        self._marked |= set(marks)

    def _unmark(self, places: Collection[TopicPartition]) -> None:
        marks = self._cluster.group(self._group).marks
        for place in self._marked.intersection(places):
            marks.pop(place, None)
        self._marked.difference_update(places)

    def renew_producer(self) -> None:
        """Start a new epoch, which aborts an open transaction of the old one."""
        self._require_cluster(0.0)
        self._epoch = self._cluster.init_producer(self._transactional_id)

    def close(self) -> None:
        """Leave the group and abort an open transaction of the own epoch."""
        if self._member is not None:
            self._unmark(set(self._marked))
            self._cluster.leave(self._group, self._member.identity)
            self._member = None
        if self._epoch is not None and self._cluster.epoch(self._transactional_id) == self._epoch:
            self._cluster.end_open_transaction(self._transactional_id, commit=False)
            self._epoch = None

    def expel(self) -> None:
        """Remove this worker from its group, as after a missed session timeout; it notices at its next poll."""
        self._cluster.leave(self._group, self._joined().identity)

    def _read(self, owned: Sequence[TopicPartition], most: int) -> list[Record]:
        """Read by partition, starting with another one each time, so that all partitions make progress."""
        found: list[Record] = []
        self._turn += 1
        for index in range(len(owned)):
            place = owned[(index + self._turn) % len(owned)]
            position = self._position(place)
            if position is not None and len(found) < most:
                records, self._positions[place] = self._cluster.records(place, position, most - len(found))
                found += records
        return found

    def _position(self, place: TopicPartition) -> int | None:
        """Return the next offset to read, or None while the committed offset is not stable."""
        if place not in self._positions:
            try:
                self._positions[place] = self._cluster.start_position(self._group, place)
            except BrokerUnavailable:
                return None
        self._cluster.check_position(place, self._positions[place], *self._cluster.bounds(place))
        return self._positions[place]

    def _rejoin_if_expelled(self) -> bool:
        member = self._joined()
        if member.identity in self._cluster.group(self._group).members:
            return False
        self._positions = {}
        self._member = self._cluster.join(self._group, self._topics)
        return True

    def _is_current(self, snapshot: object) -> bool:
        group = self._cluster.group(self._group)
        return (
            isinstance(snapshot, Membership)
            and snapshot.generation == group.generation
            and snapshot.member in group.members
        )

    def _joined(self) -> Member:
        assert self._member is not None, "subscribe first"
        return self._member

    def _require_cluster(self, timeout: float) -> None:
        if not self._cluster.available:
            self._cluster.wait(timeout)
            raise BrokerUnavailable("the cluster does not answer")
