"""Transactions of operations: what is told of a record that Kafka's client refuses."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.config.settings import KafkaSettings
from headrace_operations import transactions as module
from headrace_operations.transactions import TooLarge, Transactions, naming

pytestmark = pytest.mark.unit


class Client:
    """Kafka's client: refuses values that are larger than its limit, and notes what it was told."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.largest: int = config["message.max.bytes"]
        self.events: list[str] = []

    def init_transactions(self, _seconds: float) -> None:
        """Start."""

    def begin_transaction(self) -> None:
        """Begin a transaction."""

    def produce(self, topic: str, value: bytes, key: bytes) -> None:
        """Take a record."""
        if len(value) > self.largest:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        self.events.append(f"{topic} {key.decode()}")

    def abort_transaction(self, _seconds: float) -> None:
        """Abort the transaction."""
        self.events.append("aborted")

    def commit_transaction(self, _seconds: float) -> None:
        """Commit the transaction."""
        self.events.append("committed")


def test_a_record_that_is_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the command says for ever that Kafka does not answer, and does not name the record."""
    monkeypatch.setattr(module, "Producer", Client)
    transactions = Transactions(KafkaSettings(max_message_bytes=1024), "writer")
    with pytest.raises(TooLarge) as told, transactions.one() as produce:  # noqa: PT012  # two records of a transaction
        produce("retry.ingest", value=b"small", key=b"a")
        with naming("ingest/0/7"):
            produce("retry.ingest", value=b"x" * 2_000_000, key=b"b")
    said = str(told.value)
    assert told.value.where == "ingest/0/7"
    assert all(part in said for part in ("retry.ingest", "2,000,001", "1,049,600", "HEADRACE_KAFKA_MAX_MESSAGE_BYTES"))
    client: Any = transactions._producer
    assert client.events == ["retry.ingest a", "aborted"]
