"""A test suite for every broker: tests of what :mod:`headrace.kafka.broker_contract` promises.

A test class inherits :class:`BrokerContract` and provides a :class:`BrokerLab` through the fixture ``lab``. Waits are
polls up to a deadline in the lab's own time; there are no sleeps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import pytest

from headrace.errors import InvalidRecord
from headrace.kafka.broker_contract import (
    Broker,
    BrokerError,
    Mark,
    Message,
    OffsetsLost,
    ProducerFenced,
    Record,
    Snapshot,
    TopicPartition,
    TransactionAborted,
    TransactionUncertain,
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


class BrokerContract:
    """The suite. Each docstring says what would be broken if the test failed."""

    def test_messages_and_offsets_become_visible_together(self, lab: BrokerLab) -> None:
        """Broken: output without its offsets is written twice; offsets without output lose records."""
        source, target = lab.topic(PARTITIONS), lab.topic(PARTITIONS)
        lab.produce(numbered(source, 20))
        first = Session(lab, "together", "together-0", source)
        first.read(20)
        assert lab.read_committed(target) == []
        first.commit(target)
        assert values(lab.read_committed(target)) == list(range(20))
        first.broker.close()
        lab.produce(numbered(source, 21)[20:])
        second = Session(lab, "together", "together-0", source)
        assert values(second.read(1)) == [20]

    def test_a_refused_transaction_is_invisible(self, lab: BrokerLab) -> None:
        """Broken: a worker that lost its membership still publishes, and its successor publishes again."""
        source, target = lab.topic(PARTITIONS), lab.topic(PARTITIONS)
        lab.produce(numbered(source, 20))
        first = Session(lab, "refused", "refused-0", source)
        records = list(first.read(20))
        sealed = first.broker.snapshot()
        second = Session(lab, "refused", "refused-1", source)

        def joined() -> bool:
            first.poll()
            second.poll()
            return bool(second.assigned)

        until(lab, joined, "share for the second member")
        with pytest.raises(TransactionAborted):
            copy(first.broker, records, target, sealed)
        assert lab.read_committed(target) == []
        first.records = []
        first.broker.rewind()
        written = 0

        def done() -> bool:
            nonlocal written
            for session in (first, second):
                session.poll()
                written += _try_commit(session, target) if session.records else 0
            return written >= 20

        until(lab, done, "end of the work")
        assert values(lab.read_committed(target)) == list(range(20))

    def test_a_batch_without_a_membership_is_refused(self, lab: BrokerLab) -> None:
        """Broken: a batch that was sealed between two memberships is not fenced."""
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 3))
        session = Session(lab, "nobody", "nobody-0", source)
        session.read(3)
        with pytest.raises(TransactionAborted):
            copy(session.broker, session.records, target, None)
        session.commit(target)
        assert values(lab.read_committed(target)) == [0, 1, 2]

    def test_order_holds_by_key(self, lab: BrokerLab) -> None:
        """Broken: an older version of a document may overtake a newer one."""
        source, target = lab.topic(PARTITIONS), lab.topic(PARTITIONS)
        lab.produce(numbered(source, 60, keys=7))
        session = Session(lab, "order", "order-0", source)
        session.read(60)
        session.commit(target)
        by_key: dict[bytes | None, list[int]] = {}
        for record in lab.read_committed(target):
            by_key.setdefault(record.key, []).append(int(record.value or b""))
        assert len(by_key) == 7
        assert all(numbers == sorted(numbers) for numbers in by_key.values())

    def test_a_producer_fences_its_predecessor(self, lab: BrokerLab) -> None:
        """Broken: a zombie with the slot of a restarted worker can still write."""
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 1))
        first = Session(lab, "fence-a", "fence-0", source)
        records = first.read(1)
        sealed = first.broker.snapshot()
        Session(lab, "fence-b", "fence-0", source)
        with pytest.raises((ProducerFenced, TransactionUncertain, TransactionAborted)) as raised:
            copy(first.broker, records, target, sealed)
        assert isinstance(raised.value, ProducerFenced), raised.value
        assert lab.read_committed(target) == []

    def test_rewind_reads_again_from_the_committed_offsets(self, lab: BrokerLab) -> None:
        """Broken: after an aborted batch, records are skipped or processed twice."""
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 30))
        session = Session(lab, "rewind", "rewind-0", source)
        session.read(10)
        session.commit(target)
        session.read(15)
        session.records = []
        session.broker.rewind()
        assert [int(record.value or b"") for record in session.read(20)] == list(range(10, 30))

    def test_rewind_without_a_committed_offset_goes_to_the_beginning(self, lab: BrokerLab) -> None:
        """Broken: the first batch of a new stage is skipped if its transaction is aborted."""
        source = lab.topic(PARTITIONS)
        lab.produce(numbered(source, 12))
        session = Session(lab, "fresh", "fresh-0", source)
        session.read(12)
        session.records = []
        session.broker.rewind()
        assert values(session.read(12)) == list(range(12))

    def test_hold_and_release_lose_and_repeat_nothing(self, lab: BrokerLab) -> None:
        """Broken: a long computation loses records or processes them twice."""
        source = lab.topic(PARTITIONS)
        lab.produce(numbered(source, 40))
        session = Session(lab, "hold", "hold-0", source)
        session.read(10)
        session.broker.pause_fetching()
        seen = len(session.records)
        for _ in range(5):
            session.poll()
        assert len(session.records) == seen
        session.broker.resume_fetching()
        assert values(session.read(40)) == list(range(40))

    def test_a_partition_that_left_while_held_is_read_when_it_comes_back(self, lab: BrokerLab) -> None:
        """Broken: the client remembers the pause, so the partition is never read again."""
        source = lab.topic(PARTITIONS)
        first = Session(lab, "paused", "paused-0", source)
        first.settle(PARTITIONS)
        first.broker.pause_fetching()
        second = Session(lab, "paused", "paused-1", source)

        def shared() -> bool:
            first.poll()
            second.poll()
            return len(first.assigned) == len(second.assigned) == PARTITIONS // 2

        until(lab, shared, "both have their share")
        first.broker.resume_fetching()
        second.broker.close()
        until(lab, lambda: first.poll() or len(first.assigned) == PARTITIONS, "the first has all again")
        first.settle(PARTITIONS)
        lab.produce(numbered(source, 40))
        assert values(first.read(40)) == list(range(40))

    def test_a_rebalance_is_reported(self, lab: BrokerLab) -> None:
        """Broken: a worker continues with records of partitions that belong to another worker."""
        source = lab.topic(PARTITIONS)
        first = Session(lab, "report", "report-0", source)
        first.settle(PARTITIONS)
        before = first.rebalances
        second = Session(lab, "report", "report-1", source)

        def shared() -> bool:
            first.poll()
            second.poll()
            return len(first.assigned) == len(second.assigned) == PARTITIONS // 2

        until(lab, shared, "even share of the partitions")
        assert first.rebalances > before
        assert not first.assigned & second.assigned
        second.broker.close()
        first.settle(PARTITIONS)

    def test_a_group_without_offsets_starts_at_the_beginning(self, lab: BrokerLab) -> None:
        """Broken: a new stage misses records that are older than the stage."""
        source = lab.topic(PARTITIONS)
        lab.produce(numbered(source, 25))
        assert values(Session(lab, "begin", "begin-0", source).read(25)) == list(range(25))

    def test_lost_offsets_are_loud(self, lab: BrokerLab) -> None:
        """Broken: a stage skips records that retention deleted, and no error says so."""
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 10))
        first = Session(lab, "lost", "lost-0", source)
        first.read(3)
        first.commit(target)
        first.broker.close()
        lab.delete_before(TopicPartition(source, 0), 7)
        second = Session(lab, "lost", "lost-0", source)
        with pytest.raises(OffsetsLost, match=source):
            second.read(1)

    def test_bytes_are_preserved(self, lab: BrokerLab) -> None:
        """Broken: dead letters cannot store the record unchanged."""
        source, target = lab.topic(1), lab.topic(1)
        key = "테넌트/🙂".encode()
        headers = (("request-id", b"\x00\xff"), ("none", None), ("twice", b"1"), ("twice", b"2"))
        lab.produce([Message(source, key, b"\x00\x01\xff", headers)])
        session = Session(lab, "bytes", "bytes-0", source)
        record = session.read(1)[0]
        assert (record.key, record.value, record.headers) == (key, b"\x00\x01\xff", headers)
        session.commit(target)
        written = lab.read_committed(target)[0]
        assert (written.key, written.value, written.headers) == (key, b"\x00\x01\xff", headers)

    def test_a_missing_value_stays_missing_and_an_empty_one_empty(self, lab: BrokerLab) -> None:
        """Broken: a record without a value changes its meaning in a retry or replay."""
        source, target = lab.topic(1), lab.topic(1)
        given: list[tuple[bytes, bytes | None]] = [(b"t/tombstone", None), (b"t/empty", b""), (b"t/full", b"x")]
        lab.produce([Message(source, key, value) for key, value in given])
        session = Session(lab, "tombstone", "tombstone-0", source)
        assert [(record.key, record.value) for record in session.read(3)] == given
        session.commit(target)
        assert [(record.key, record.value) for record in lab.read_committed(target)] == given

    def test_a_mark_outlives_its_worker_and_commits_nothing(self, lab: BrokerLab) -> None:
        """Broken: a record that kills its worker is never identified, or a mark skips records."""
        source = lab.topic(1)
        place = TopicPartition(source, 0)
        lab.produce(numbered(source, 3))
        first = Session(lab, "marks", "marks-0", source)
        first.read(3)
        mark = Mark(1, 3, 3, 0)
        first.broker.mark({place: mark})
        lab.kill(first.broker)
        second = Session(lab, "marks", "marks-1", source)
        assert [record.offset for record in second.read(3)] == [0, 1, 2]
        assert second.marks == {place: mark}

    def test_a_mark_goes_with_the_next_commit_and_with_a_worker_that_leaves_alive(self, lab: BrokerLab) -> None:
        """Broken: a healthy record counts as one that killed its worker."""
        source, target = lab.topic(1), lab.topic(1)
        place = TopicPartition(source, 0)
        lab.produce(numbered(source, 2))
        session = Session(lab, "unmarks", "unmarks-0", source)
        session.read(2)
        session.broker.mark({place: Mark(1, 2, 2, 0)})
        session.broker.commit([Message(target, b"k", b"v")], {place: 1}, session.broker.snapshot())
        session.broker.mark({place: Mark(1, 1, 2, 1)})
        session.broker.close()
        successor = Session(lab, "unmarks", "unmarks-1", source)
        successor.read(1)
        assert successor.marks == {}
        assert [record.offset for record in successor.records] == [1]

    def test_an_empty_key_is_refused(self, lab: BrokerLab) -> None:
        """Broken: records of one document spread over partitions and lose their order."""
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 1))
        session = Session(lab, "key", "key-0", source)
        session.read(1)
        with pytest.raises(InvalidRecord, match="key"):
            session.broker.commit([Message(target, b"", b"x")], {}, session.broker.snapshot())
        session.commit(target)
        assert len(lab.read_committed(target)) == 1

    def test_a_large_batch_spans_all_partitions(self, lab: BrokerLab) -> None:
        """Broken: a transaction is atomic only within one partition."""
        source, target = lab.topic(8), lab.topic(8)
        lab.produce(numbered(source, 3000, keys=200))
        session = Session(lab, "large", "large-0", source)
        session.read(3000)
        session.commit(target)
        written = lab.read_committed(target)
        assert values(written) == list(range(3000))
        assert {record.partition for record in written} == set(range(8))

    def test_two_workers_share_the_work_exactly_once(self, lab: BrokerLab) -> None:
        """Broken: scaling a stage out loses or duplicates records."""
        source, target = lab.topic(PARTITIONS), lab.topic(PARTITIONS)
        sessions = [Session(lab, "share", "share-0", source)]
        lab.produce(numbered(source, 200))
        written = 0

        def done() -> bool:
            nonlocal written
            for session in sessions:
                session.poll(20)
                if session.records:
                    written += _try_commit(session, target)
            if len(sessions) == 1 and written >= 60:
                sessions.append(Session(lab, "share", "share-1", source))
            return written >= 200

        until(lab, done, "end of the work")
        assert values(lab.read_committed(target)) == list(range(200))
        assert len(sessions) == 2

    def test_work_goes_on_after_the_producer_was_renewed(self, lab: BrokerLab) -> None:
        """Broken: one uncertain transaction ends the worker."""
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 6))
        session = Session(lab, "renew", "renew-0", source)
        session.read(3)
        session.commit(target)
        session.broker.renew_producer()
        session.broker.rewind()
        session.read(3)
        session.commit(target)
        assert values(lab.read_committed(target)) == list(range(6))


def _try_commit(session: Session, target: str) -> int:
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
