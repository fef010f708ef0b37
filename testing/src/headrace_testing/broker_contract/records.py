"""What a record keeps: its bytes, its key and its order."""

from __future__ import annotations

import pytest

from headrace.errors import InvalidRecord
from headrace.kafka.broker_contract import Message
from headrace_testing.broker_contract.lab import PARTITIONS, BrokerLab, Session, numbered


class RecordContract:
    """Each test says what would be broken if it failed."""

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
