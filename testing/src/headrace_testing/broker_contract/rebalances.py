"""What happens to partitions when members join and leave."""

from __future__ import annotations

from headrace_testing.broker_contract.lab import PARTITIONS, BrokerLab, Session, numbered, try_commit, until, values


class RebalanceContract:
    """Each test says what would be broken if it failed."""

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
                    written += try_commit(session, target)
            if len(sessions) == 1 and written >= 60:
                sessions.append(Session(lab, "share", "share-1", source))
            return written >= 200

        until(lab, done, "end of the work")
        assert values(lab.read_committed(target)) == list(range(200))
        assert len(sessions) == 2
