"""The broker contract, on the memory broker and on a real Kafka."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, NewTopic

from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.kafka.broker import KafkaBroker
from headrace.kafka.broker_contract import Broker, Mark, Message, Record, TopicPartition, TransactionUncertain
from headrace.migrate import make_topics
from headrace_local import shared
from headrace_testing.broker_contract.lab import DEADLINE_S, BrokerLab, Session, copy, numbered, values
from headrace_testing.broker_contract.suite import BrokerContract
from headrace_testing.committed import read_all
from headrace_testing.fakes import FakeClock
from headrace_testing.memory_broker import MemoryBroker
from headrace_testing.memory_cluster import MemoryCluster

pytestmark = pytest.mark.contract

STATE = Path(os.environ.get("HEADRACE_TEST_STATE", Path(tempfile.gettempdir()) / f"headrace-test-{os.getuid()}"))


class MemoryLab(BrokerLab):
    """Everything in one cluster of the test's own, on fake time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cluster = MemoryCluster(clock=self.clock, wait=self.clock.advance)
        self._numbers = count()

    def topic(self, partitions: int) -> str:
        name = f"topic-{next(self._numbers)}"
        self.cluster.create_topic(name, partitions)
        return name

    def broker(self, group: str, transactional_id: str) -> Broker:
        return MemoryBroker(self.cluster, group=group, transactional_id=transactional_id)

    def produce(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.cluster.append(message)

    def read_committed(self, topic: str) -> list[Record]:
        return self.cluster.read_committed(topic)

    def delete_before(self, place: TopicPartition, offset: int) -> None:
        self.cluster.delete_before(place, offset)

    def kill(self, broker: Broker) -> None:
        assert isinstance(broker, MemoryBroker)
        broker._marked.clear()
        broker.close()

    def now(self) -> float:
        return self.clock()


class KafkaLab(BrokerLab):
    """Topics, groups and transactional ids under a prefix of the test's own, deleted after it."""

    def __init__(self, bootstrap: str) -> None:
        self._kafka = KafkaSettings(bootstrap=bootstrap, topic_prefix=f"contract-{uuid4().hex[:10]}-")
        self._admin = AdminClient(self._kafka.client())
        self._topics: list[str] = []
        self._brokers: list[Broker] = []

    def topic(self, partitions: int) -> str:
        name = self._kafka.topic(f"topic-{len(self._topics)}")
        make_topics(self._admin, [NewTopic(name, partitions, 1)])
        self._topics.append(name)
        return name

    def broker(self, group: str, transactional_id: str) -> Broker:
        worker = WorkerSettings(slot=transactional_id, session_timeout_ms=6000)
        broker = KafkaBroker(
            self._kafka,
            worker,
            group=self._kafka.topic(group),
            transactional_id=self._kafka.topic(transactional_id),
        )
        self._brokers.append(broker)
        return broker

    def produce(self, messages: Sequence[Message]) -> None:
        producer = Producer({**self._kafka.client(), "partitioner": "murmur2_random", "enable.idempotence": True})
        for message in messages:
            producer.produce(message.topic, message.value, message.key, headers=list(message.headers))
        assert producer.flush(30) == 0

    def read_committed(self, topic: str) -> list[Record]:
        return read_all(self._kafka.bootstrap, topic, DEADLINE_S)

    def delete_before(self, place: TopicPartition, offset: int) -> None:
        for future in self._admin.delete_records([KafkaPartition(*place, offset)]).values():
            future.result(30)

    def kill(self, broker: Broker) -> None:
        assert isinstance(broker, KafkaBroker)
        broker._book.take_marks(broker._book.assigned)
        broker.close()

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        for broker in self._brokers:
            broker.close()
        for future in self._admin.delete_topics(self._topics).values():
            future.result(30)


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    """The Kafka that the test run shares."""
    endpoints = shared.acquire(STATE)
    yield endpoints.kafka_bootstrap
    shared.release(STATE)


class TestMemoryBroker(BrokerContract):
    @pytest.fixture
    def lab(self) -> MemoryLab:
        return MemoryLab()


class TestKafkaBroker(BrokerContract):
    @pytest.fixture
    def lab(self, bootstrap: str) -> Iterator[KafkaLab]:
        lab = KafkaLab(bootstrap)
        yield lab
        lab.close()

    def test_a_worker_that_stops_in_doubt_does_not_send_its_group_back(self, lab: KafkaLab) -> None:
        """Broken: the answer to a commit is lost, the worker stops, and its successor does the batch once more.

        Taking a mark away writes the committed offset again, and the worker's own idea of it is old by then.
        """
        source, target = lab.topic(1), lab.topic(1)
        lab.produce(numbered(source, 5))
        first = Session(lab, "doubt", "doubt-0", source)
        records = first.read(5)
        first.broker.mark({TopicPartition(source, 0): Mark(1, 5, 5, 0)})
        broker: Any = first.broker
        broker._producer = AnswerLost(broker._producer)
        with pytest.raises(TransactionUncertain):
            copy(first.broker, records, target, first.broker.snapshot())
        assert len(lab.read_committed(target)) == 5
        first.broker.close()
        lab.produce([Message(source, b"k", b"5")])
        assert values(Session(lab, "doubt", "doubt-0", source).read(1)) == [5]


class AnswerLost:
    """A producer that commits, and whose caller does not hear of it."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, timeout: float) -> None:
        self._producer.commit_transaction(timeout)
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the answer is lost"))
