"""Where a session starts to read, and what it reads again."""

from __future__ import annotations

import pytest

from headrace.kafka.broker_contract import OffsetsLost, TopicPartition
from headrace_testing.broker_contract.lab import PARTITIONS, BrokerLab, Session, numbered, values


class ReadingContract:
    """Each test says what would be broken if it failed."""

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
