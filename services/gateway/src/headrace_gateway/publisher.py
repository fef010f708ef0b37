"""Publishes to Kafka from asyncio and returns once all in-sync replicas have acknowledged."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as KafkaMessage

from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Message

log = structlog.get_logger(__name__)

_POLL_S = 0.1
_GRACE_S = 1.0  # Time for an acknowledgement to arrive, beyond the client's own limit.


class Delivered(NamedTuple):
    """The partition and offset of a published message."""

    partition: int
    offset: int


class Publisher(Protocol):
    """Writes messages durably."""

    async def publish(self, messages: Sequence[Message]) -> list[Delivered]:
        """Return partition and offset of each message, in order.

        Raises :class:`DependencyDown` unless all messages are acknowledged. Some of them may be in the log then. Send
        all of them again; sending it twice does no harm.
        """


class _Batch:
    """Collects the acknowledgements of one call and then resolves its future, once."""

    def __init__(self, size: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[list[Delivered]] = self._loop.create_future()
        self._delivered: list[Delivered | None] = [None] * size
        self._missing = size
        self._error: KafkaError | None = None
        self._lock = threading.Lock()

    def acknowledge(self, index: int, error: KafkaError | None, message: KafkaMessage | None) -> None:
        """Record one acknowledgement or error. Called from the poll thread, or at once if producing fails."""
        with self._lock:
            if error is not None or message is None:
                self._error = error or self._error
            else:
                self._delivered[index] = Delivered(message.partition() or 0, message.offset() or 0)
            self._missing -= 1
            done = self._missing == 0
        if done:
            self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if self.future.done():
            return
        delivered = [place for place in self._delivered if place is not None]
        if len(delivered) == len(self._delivered):
            self.future.set_result(delivered)
            return
        reason = "the producer's queue is full" if self._error is None else self._error.str()
        self.future.set_exception(
            DependencyDown(
                "kafka",
                f"{len(delivered)} of {len(self._delivered)} records were acknowledged: {reason}",
                remedy="Send the whole request again after the time in Retry-After. Sending it twice does no harm.",
            )
        )


class KafkaPublisher:
    """An idempotent producer with a thread that serves its callbacks; replaced after a fatal error."""

    def __init__(self, kafka: KafkaSettings, timeout_s: float) -> None:
        self._config = _config(kafka, timeout_s)
        self._timeout_s = timeout_s
        self._producer = self._create()
        self._fatal = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="publisher", daemon=True)
        self._thread.start()

    async def publish(self, messages: Sequence[Message]) -> list[Delivered]:
        """Publish the messages and wait for all acknowledgements; see :class:`Publisher`."""
        if not messages:
            return []
        batch = _Batch(len(messages))
        producer = self._producer
        for index, message in enumerate(messages):
            self._produce(producer, message, batch, index)
        try:
            return await asyncio.wait_for(batch.future, self._timeout_s + _GRACE_S)
        except TimeoutError:
            raise DependencyDown(
                "kafka",
                f"no answer within {self._timeout_s + _GRACE_S:g} s",
                remedy="Send the whole request again after the time in Retry-After. Sending it twice does no harm.",
            ) from None

    async def close(self) -> None:
        """Send the queued messages, then stop."""
        await asyncio.to_thread(self._close)

    def _produce(self, producer: Producer, message: Message, batch: _Batch, index: int) -> None:
        def delivered(error: KafkaError | None, written: KafkaMessage) -> None:
            batch.acknowledge(index, error, written)

        try:
            producer.produce(
                message.topic, message.value, message.key, headers=list(message.headers), on_delivery=delivered
            )
        except BufferError:
            batch.acknowledge(index, None, None)
        except KafkaException as error:
            batch.acknowledge(index, error.args[0], None)

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                self._serve_once()
            except Exception:  # A failed callback must not end the thread that every request waits for.
                logging.getLogger(__name__).exception("serving acknowledgements failed; continuing")
                self._closed.wait(_POLL_S)

    def _serve_once(self) -> None:
        self._producer.poll(_POLL_S)
        if self._fatal.is_set():
            fresh = self._create()  # if this fails, the next round tries again
            self._fatal.clear()
            broken, self._producer = self._producer, fresh
            broken.purge()
            broken.flush(1.0)

    def _create(self) -> Producer:
        return Producer({**self._config, "error_cb": self._failed}, logger=logging.getLogger("headrace.librdkafka"))

    def _failed(self, error: KafkaError) -> None:
        log.warning("kafka client error", error=error.str(), fatal=error.fatal())
        if error.fatal():
            self._fatal.set()

    def _close(self) -> None:
        try:
            self._producer.flush(self._timeout_s)
        except Exception:  # a failed callback must not leave the thread running
            logging.getLogger(__name__).exception("flushing failed; closing anyway")
        finally:
            self._closed.set()
            self._thread.join()


def _config(kafka: KafkaSettings, timeout_s: float) -> dict[str, Any]:
    return {
        **kafka.client(),
        "client.id": "headrace-gateway",
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 1,
        "partitioner": "murmur2_random",
        "compression.type": "zstd",
        "message.max.bytes": kafka.max_message_bytes + 1024 * 1024,
        "message.timeout.ms": round(timeout_s * 1000),
        "queue.buffering.max.kbytes": 256 * 1024,
    }
