"""Translates librdkafka's answers into the types of :mod:`headrace.kafka.broker_contract`."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException
from confluent_kafka import Message as KafkaMessage

from headrace.errors import ConfigurationError
from headrace.kafka import headers
from headrace.kafka.broker_contract import BrokerError, BrokerUnavailable, Headers, OffsetsLost, ProducerFenced, Record

log = structlog.get_logger(__name__)

FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}  # noqa: SLF001
"""Error codes that tell a producer that another one took its place."""
_Answer = TypeVar("_Answer")
_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}  # noqa: SLF001


def retrying(call: Callable[[], _Answer], seconds: float) -> _Answer:
    """Repeat the call while the client says that it may be repeated, up to a time limit; raise its last error then."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def record_of(message: Any) -> Record:
    """Return the client's message as a record."""
    return Record(
        message.topic(), message.partition(), message.offset(), message.key(), message.value(),
        header_pairs(message), _timestamp(message),
    )  # fmt: skip


def header_pairs(message: Any) -> Headers:
    """Return the record's headers, or one header that says so if a name is not UTF-8 (the client cannot read it)."""
    try:
        return tuple(message.headers() or ())
    except (SystemError, UnicodeDecodeError):
        return ((headers.UNREADABLE, b"a header name is not UTF-8"),)


def _timestamp(message: KafkaMessage) -> int:
    kind, milliseconds = message.timestamp()
    return 0 if kind == TIMESTAMP_NOT_AVAILABLE else int(milliseconds)


def refusal(error: KafkaError, message: KafkaMessage) -> BrokerError | None:
    """Return what to raise for an error received instead of a record, or None if the error passes by itself."""
    if error.code() in _LOST:
        place = f"{message.topic()}[{message.partition()}]"
        return OffsetsLost(
            f"the committed offset {message.offset()} of {place} lies outside the log: {error.str()}",
            where=place,
        )
    if error.code() in {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}:  # noqa: SLF001
        return ProducerFenced(f"another worker took over this member's place in the consumer group: {error.str()}")
    if error.code() == KafkaError._MAX_POLL_EXCEEDED or error.retriable():  # noqa: SLF001
        log.warning("kafka reports", error=error.str())
        return None
    return BrokerUnavailable(f"cannot read from Kafka: {error.str()}")


def fenced(error: KafkaError, transactional_id: str) -> ProducerFenced:
    """Return what to raise when another producer took over the transactional ID."""
    return ProducerFenced(f"the producer was fenced: {error.str()}", where=transactional_id)


def generation_of(metadata: bytes) -> int:
    """Return the generation in librdkafka's serialised group metadata; -1 is no membership.

    Source: ``rd_kafka_consumer_group_metadata_write`` (magic ``CGMDv2:``, then a 32-bit integer in native order).
    """
    magic = b"CGMDv2:"
    if not metadata.startswith(magic):
        raise ConfigurationError(
            f"librdkafka's group metadata has an unknown format: {metadata[:8]!r}",
            remedy="Install the version of confluent-kafka that uv.lock names.",
        )
    generation: int = struct.unpack_from("=i", metadata, len(magic))[0]
    return generation
