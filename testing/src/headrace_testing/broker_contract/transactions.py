"""What one transaction promises: output and offsets together, or nothing of either."""

from __future__ import annotations

import pytest

from headrace.kafka.broker_contract import ProducerFenced, TransactionAborted, TransactionUncertain
from headrace_testing.broker_contract.lab import (
    PARTITIONS,
    BrokerLab,
    Session,
    copy,
    numbered,
    try_commit,
    until,
    values,
)


class TransactionContract:
    """Each test says what would be broken if it failed."""

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
                written += try_commit(session, target) if session.records else 0
            return written >= 20

        until(lab, done, "end of the work")
        assert values(lab.read_committed(target)) == list(range(20))

    def test_a_batch_without_a_membership_is_refused(self, lab: BrokerLab) -> None:
        """Broken: a batch that was sealed between two memberships is not fenced."""
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 3))
        session = Session(lab, "outside", "outside-0", source)
        session.read(3)
        with pytest.raises(TransactionAborted):
            copy(session.broker, session.records, target, None)
        session.commit(target)
        assert values(lab.read_committed(target)) == [0, 1, 2]

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
