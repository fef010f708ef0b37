"""What a request sees of Kafka's client when the client misbehaves; no broker is there."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import KafkaError

from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Message
from headrace_gateway.publisher import KafkaPublisher

pytestmark = pytest.mark.unit


async def test_a_callback_that_fails_ends_neither_the_thread_nor_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, one broken log line would hang every later request for ever."""
    calls = 0

    def broken(_: KafkaPublisher, __: KafkaError) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(KafkaPublisher, "_failed", broken)
    publisher = KafkaPublisher(KafkaSettings(bootstrap="127.0.0.1:1"), 0.5)
    with pytest.raises(DependencyDown, match=r"0 of 1 records were acknowledged"):
        await publisher.publish([Message("changes", b"a/b", b"x")])
    assert calls > 0
    await publisher.close()


async def test_an_acknowledgement_that_never_comes_is_an_outage_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a client that lost a callback would keep its request open for ever."""
    monkeypatch.setattr(KafkaPublisher, "_serve_once", lambda _: time.sleep(0.01))
    publisher = KafkaPublisher(KafkaSettings(bootstrap="127.0.0.1:1"), 0.1)
    with pytest.raises(DependencyDown, match="no answer within"):
        await publisher.publish([Message("changes", b"a/b", b"x")])
    await publisher.close()
