"""The errors for a Kafka that does not answer or denies access, worded in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown, describe

_REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_UNPACKED = frozenset({KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG})  # noqa: SLF001
_ANSWER = (
    "Check that Kafka is running and reachable from this machine, and check HEADRACE_KAFKA_BOOTSTRAP and "
    "HEADRACE_KAFKA_SECURITY_PROTOCOL."
)
_ACCESS = (
    "Check HEADRACE_KAFKA_SASL_USERNAME and HEADRACE_KAFKA_SASL_PASSWORD. The user needs READ and DESCRIBE on every "
    "topic and group whose name begins with HEADRACE_KAFKA_TOPIC_PREFIX."
)


def unavailable(kafka: KafkaSettings, error: BaseException | str) -> DependencyDown:
    """Return the error for Kafka's answer to a reader, or for the missing answer."""
    said = error if isinstance(error, str) else describe(error)
    code = error.args[0].code() if isinstance(error, KafkaException) else None
    if code in _REFUSED:
        return DependencyDown("kafka", f"Kafka at {kafka.bootstrap} denies access: {said}", remedy=_ACCESS)
    if code in _UNPACKED:
        return DependencyDown(
            "kafka", f"cannot read a record from Kafka at {kafka.bootstrap}: {said}",
            remedy="Find the record with Kafka's own tools. Its stage dead-letters it, but other readers cannot "
                   "skip it.",
        )  # fmt: skip
    return DependencyDown("kafka", f"Kafka at {kafka.bootstrap} does not answer: {said}", remedy=_ANSWER)


@contextmanager
def answering(kafka: KafkaSettings) -> Iterator[None]:
    """Convert the client's exceptions in this block into :class:`DependencyDown`."""
    try:
        yield
    except (KafkaException, TimeoutError) as error:
        raise unavailable(kafka, error) from error
