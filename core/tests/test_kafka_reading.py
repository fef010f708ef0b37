"""Records that Kafka's client cannot hand over as they are; the fake answers as the client was seen to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.config.settings import KafkaSettings, WorkerSettings
from headrace.kafka import headers
from headrace.kafka.broker import KafkaBroker
from headrace.kafka.broker_contract import BrokerUnavailable, TopicPartition
from headrace.kafka.client_answers import header_pairs
from headrace.kafka.partition_book import Committed

pytestmark = pytest.mark.unit

PLACE = TopicPartition("changes", 0)
TOO_LARGE = KafkaError(KafkaError._BAD_COMPRESSION, "Decompression of message at 4 failed")


class Fetched:
    """A message of the client's: a record, or an error in place of one."""

    def __init__(self, offset: int, error: KafkaError | None = None, partition: int = 0) -> None:
        self._offset = offset
        self._error = error
        self._partition = partition

    def error(self) -> KafkaError | None:
        return self._error

    def topic(self) -> str:
        return "changes"

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"

    def headers(self) -> Any:
        return []

    def timestamp(self) -> tuple[int, int]:
        return 1, 1000


class Client:
    """Hands out what it was given, and notes where it was sent to."""

    def __init__(self, *messages: Fetched, refuses: bool = False) -> None:
        self.messages = list(messages)
        self.sought: list[tuple[int, int]] = []
        self.refuses = refuses

    def poll(self, _: float) -> Fetched | None:
        return self.messages.pop(0) if self.messages else None

    def consume(self, number: int, _: float) -> Sequence[Fetched]:
        taken, self.messages = self.messages[:number], self.messages[number:]
        return taken

    def seek(self, partition: Any) -> None:
        if self.refuses:
            raise KafkaException(KafkaError(KafkaError._STATE, "Erroneous state"))
        self.sought.append((partition.partition, partition.offset))


def broker(client: Client, committed: int | None = None) -> KafkaBroker:
    """A broker that reads from the client; the first partition's committed offset, if any, is given."""
    made = KafkaBroker(
        KafkaSettings(bootstrap="127.0.0.1:1"), WorkerSettings(slot="0"), group="g", transactional_id="t"
    )
    made._consumer = client  # type: ignore[assignment]
    placed = {PLACE: Committed(committed), TopicPartition("changes", 1): Committed(None)}
    made._book.come(placed)
    made._book.placed(placed)
    assert made._book.outcome(()).rebalanced
    return made


def test_a_batch_that_unpacks_to_too_much_is_stepped_over_record_by_record() -> None:
    """Broken: some kilobytes that unpack to 150 MB stop every partition of the worker, and of the next one.

    The client names the batch's first offset each time, also when a later one was asked for.
    """
    client = Client(Fetched(4, TOO_LARGE), Fetched(7, partition=1))
    reading = broker(client)
    first = reading.poll(10, 0).records
    assert [(record.partition, record.offset, headers.unreadable(record) is None) for record in first] == [
        (0, 4, False),
        (1, 7, True),
    ]
    client.messages = [Fetched(4, TOO_LARGE)]
    (second,) = reading.poll(10, 0).records
    assert (second.offset, client.sought) == (5, [(0, 5), (0, 6)])


def test_an_error_that_was_fetched_twice_is_one_step() -> None:
    """Broken: the record behind the one that cannot be read is lost."""
    client = Client(Fetched(4, TOO_LARGE), Fetched(4, TOO_LARGE), Fetched(4, TOO_LARGE))
    assert [record.offset for record in broker(client).poll(10, 0).records] == [4]
    assert client.sought == [(0, 5)]


def test_after_going_back_the_first_one_comes_again() -> None:
    """Broken: where the transaction failed, the record that could not be read has no dead letter."""
    client = Client(Fetched(4, TOO_LARGE))
    reading = broker(client, committed=4)
    reading.poll(10, 0)
    reading.rewind()
    assert client.sought == [(0, 5), (0, 4)]
    client.messages = [Fetched(4, TOO_LARGE)]
    assert [record.offset for record in reading.poll(10, 0).records] == [4]


def test_what_was_committed_is_not_stepped_over_again() -> None:
    """Broken: after a restart in the middle of such a batch its first records are dead-lettered twice."""
    reading = broker(Client(Fetched(4, TOO_LARGE)), committed=6)
    assert [record.offset for record in reading.poll(10, 0).records] == [6]


def test_where_the_client_cannot_go_on_yet_nothing_is_dead_lettered() -> None:
    """Broken: a record is dead-lettered, and read once more all the same."""
    assert broker(Client(Fetched(4, TOO_LARGE), refuses=True)).poll(10, 0).records == []


def test_other_errors_are_still_told() -> None:
    """Broken: a broker that cannot be read looks like an idle topic."""
    failed = KafkaError(KafkaError._TRANSPORT, "gone")
    with pytest.raises(BrokerUnavailable):
        broker(Client(Fetched(-1, failed))).poll(10, 0)


def test_a_header_name_that_is_not_utf8_leaves_the_worker_alive() -> None:
    """Broken: one record of a producer that takes bytes as names ends the worker, again after each restart."""

    class Unreadable(Fetched):
        def headers(self) -> Any:
            raise SystemError("returned a result with an exception set")

    (record,) = broker(Client(Unreadable(3))).poll(10, 0).records
    assert "not UTF-8" in (headers.unreadable(record) or "")
    assert (record.offset, record.value) == (3, b"v")
    assert header_pairs(Fetched(3)) == ()
