"""Writes orders to the compacted topic ``control``, and reads those in force."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from confluent_kafka import KafkaException, Producer

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.orders.control import TOPIC, Action, OrderBook, Scope, check, follow
from headrace.payloads import Control

_CALL_S = 10.0


def read_orders(kafka: KafkaSettings, codec: Codec) -> OrderBook:
    """Return every order in force; raises :class:`DependencyDown`."""
    book = OrderBook()
    follower = follow(kafka, codec, book)
    follower.start()
    try:
        follower.wait_until_read()
    finally:
        follower.close()
    return book


def give(
    kafka: KafkaSettings,
    codec: Codec,
    *,
    action: Action,
    scope: Scope,
    target: str,
    reason: str,
    issued_by: str,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Control:
    """Publish an order and return it; it is durable when this returns.

    Raises :class:`InvalidRecord` for an invalid order, and :class:`DependencyDown` if Kafka or the schema registry does
    not answer.
    """
    order = check(Control(action, scope, target, reason, issued_by, now()))
    failures: list[str] = []
    producer = Producer({**kafka.client(), "enable.idempotence": True, "message.timeout.ms": int(_CALL_S * 1000)})
    try:
        producer.produce(
            kafka.topic(TOPIC), codec.encode_plain(order), f"{scope}/{target}", partition=0,
            on_delivery=lambda error, _: failures.append(error.str()) if error else None,
        )  # fmt: skip
        left = producer.flush(_CALL_S)
    except KafkaException as error:
        raise DependencyDown("kafka", f"cannot publish the order: {error}") from error
    if left or failures:
        raise DependencyDown("kafka", f"cannot publish the order: {', '.join(failures) or 'no answer'}")
    return order
