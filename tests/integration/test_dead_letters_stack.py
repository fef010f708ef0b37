"""Dead letters on real Kafka and registry: what is listed, sent again, discarded and exported, and what never twice."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from headrace_operations.dead_letters.act import REDRIVEN, Actor, Order, plan
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Id, RefusedDeadLetter, Selection, State
from typer.testing import CliRunner

from headrace.avro.codec import Codec
from headrace.avro.registry import Registry
from headrace.broker.contract import Headers, Record
from headrace.errors import InvalidRecord
from headrace.headers import Origin
from headrace.runtime.deadletters import Failure, dead_letter
from headrace.settings import KafkaSettings
from headrace_cli.main import app

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Ground:
    """Topics of this test alone, with what writes dead letters as the runtime does."""

    kafka: KafkaSettings
    codec: Codec
    registry: str

    def give_up(
        self, key: bytes | None, value: bytes | None = b"{}", *, headers: Headers = (), offset: int = 7
    ) -> None:
        """Have ingest give a record up."""
        topic = self.kafka.topic("changes")
        record = Record(topic, 1, offset, key, value, headers, 1_700_000_000_000)
        message = dead_letter(
            record, Failure(InvalidRecord("title", f"is '{offset}'")), stage="ingest",
            topic=self.kafka.topic("dead-letters.ingest"), worker="ingest-0", first=Origin(topic, 1, offset), attempt=1,
            now=datetime.now(UTC), codec=self.codec, max_message_bytes=self.kafka.max_message_bytes,
        )  # fmt: skip
        producer = Producer({**self.kafka.client(), "partitioner": "murmur2_random"})
        producer.produce(message.topic, message.value, message.key, headers=list(message.headers))
        assert producer.flush(10) == 0

    def retried(self) -> list[Message]:
        """What lies in ingest's retry topic, as its side lane would read it."""
        consumer = Consumer({**self.kafka.client(), "group.id": "none", "enable.partition.eof": True,
                             "isolation.level": "read_committed"})  # fmt: skip
        topic = self.kafka.topic("retry.ingest")
        numbers = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in numbers])
        found, open_ends = [], set(numbers)
        while open_ends:
            for message in consumer.consume(100, 1):
                if message.error():
                    open_ends.discard(message.partition())
                else:
                    found.append(message)
        consumer.close()
        return found

    def select(self, **asked: Any) -> Any:
        """What the log holds."""
        return DeadLetterLog(self.kafka, self.codec).select(Selection(**asked))

    def act(self, action: str = REDRIVEN, *, again: bool = False, **asked: Any) -> list[Id]:
        """Carry an order out."""
        order = Order(action, "b1", "olga", "because", again)
        planned = plan(self.select(**asked), order, named="ids" in asked)
        return Actor(self.kafka, self.codec).carry_out(planned.taken, order)

    def run(self, *words: str, code: int = 0, text: str | None = None) -> Any:
        """Run the command line."""
        env = {"HEADRACE_KAFKA_TOPIC_PREFIX": self.kafka.topic_prefix, "COLUMNS": "200"}
        result = CliRunner().invoke(
            app, ["dlq", *words, "--kafka", self.kafka.bootstrap, "--registry", self.registry], env=env, input=text
        )
        assert result.exit_code == code, result.output
        return result


@pytest.fixture
def ground(deployment) -> Ground:
    """The test's own topics."""
    place = deployment.place
    return Ground(place.kafka_settings(), Codec(Registry(place.registry)), place.registry)


def test_a_record_goes_back_as_it_was_and_only_once(ground: Ground) -> None:
    """If it failed, a redrive would alter a document's record, lose where it came from, or send it twice."""
    ground.give_up(b"acme/a.md", b'{"id": 1}', headers=(("version", b"3"), ("none", None), ("redrive", b"old")))
    ground.give_up(None, None, offset=8)
    assert len(ground.act()) == 2
    keyed, unkeyed = sorted(ground.retried(), key=lambda message: message.key() is None)
    assert (keyed.key(), keyed.value()) == (b"acme/a.md", b'{"id": 1}')
    given = dict(keyed.headers())
    identity = next(entry.id for entry in ground.select(states=frozenset(State)) if entry.tenant == "acme")
    assert given.pop("retry-due").isdigit()
    assert given == {
        "version": b"3", "none": None, "origin-topic": ground.kafka.topic("changes").encode(), "origin-partition": b"1",
        "origin-offset": b"7", "retry-attempt": b"1", "redrive": identity.place.encode(),
    }  # fmt: skip
    assert (unkeyed.key(), unkeyed.value()) == (None, None)

    assert ground.act() == []
    with pytest.raises(RefusedDeadLetter, match="redriven by olga"):
        ground.act(ids=frozenset({identity}), states=frozenset(State))
    assert len(ground.retried()) == 2
    assert ground.act(ids=frozenset({identity}), states=frozenset(State), again=True) == [identity]
    assert len(ground.retried()) == 3
