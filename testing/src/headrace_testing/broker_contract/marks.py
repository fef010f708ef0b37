"""How long the mark of a suspected record lasts."""

from __future__ import annotations

from headrace.kafka.broker_contract import Mark, Message, TopicPartition
from headrace_testing.broker_contract.lab import BrokerLab, Session, numbered


class MarkContract:
    """Each test says what would be broken if it failed."""

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
