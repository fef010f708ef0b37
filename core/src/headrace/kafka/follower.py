"""A compacted topic of one partition, read from its beginning and followed, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar
from uuid import uuid4

import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError
from headrace.telemetry import metrics

log = structlog.get_logger(__name__)

T = TypeVar("T")
_CALL_S = 10.0
_RETRY_S = 1.0
_FETCH_WAIT_MS = 250
"""How late the end of the log is told; with shorter ones, idle services keep a broker busy."""


class TopicFollower(Generic[T]):
    """Hands every record of the topic, decoded as ``record_type``, to ``take``, which is called from one thread.

    A record that does not decode, or that ``take`` raises for, is logged and counted, and the reading goes on.
    """

    def __init__(
        self, kafka: KafkaSettings, codec: Codec, topic: str, record_type: type[T], take: Callable[[T], None]
    ) -> None:
        self._codec = codec
        self._name = topic
        self._record_type = record_type
        self._taken = take
        self._partition = TopicPartition(kafka.topic(topic), 0, OFFSET_BEGINNING)
        self._consumer = Consumer(
            {
                **kafka.client(),
                "group.id": f"{kafka.topic_prefix}headrace-{topic}-{uuid4()}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": _FETCH_WAIT_MS,
            }
        )
        self._admin = AdminClient(kafka.client())
        self._closed = threading.Event()
        self._at_end = threading.Event()
        self._read_to = 0
        self._failure: HeadraceError | None = None
        """Why the thread waits with a record in hand; None while it reads on."""
        self._thread = threading.Thread(target=self._run, name=topic, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._consumer.assign([self._partition])
        self._thread.start()

    def wait_until_read(self, timeout: float = 30.0) -> None:
        """Wait until everything that the topic holds now was read; raises :class:`DependencyDown`."""
        if not self._at_end.wait(timeout):
            raise self._unread(f"was not read within {timeout} s")

    def refresh(self) -> None:
        """Read on to what is the topic's end now; raises :class:`DependencyDown`.

        The end is asked of another client: a question to the consumer would wait behind the poll of its thread.
        """
        place = TopicPartition(self._partition.topic, 0)
        try:
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            futures = self._admin.list_offsets({place: latest}, request_timeout=_CALL_S)
            high = futures[place].result(_CALL_S).offset
        except (KafkaException, TimeoutError) as error:
            raise DependencyDown("kafka", f"the end of the topic {place.topic!r} is not known: {error}") from error
        deadline = time.monotonic() + _CALL_S
        while self._read_to < high:
            if time.monotonic() > deadline or self._failure:
                raise self._unread("is not read to its end")
            time.sleep(0.01)

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join()
        self._consumer.close()

    def _unread(self, what: str) -> DependencyDown:
        """Return the error of a topic that was not read, which names the other system where that is to blame."""
        topic, failure = self._partition.topic, self._failure
        if failure is None:
            return DependencyDown("kafka", f"the topic {topic!r} {what}")
        return DependencyDown(
            "schema registry", f"the topic {topic!r} {what}: {failure.message}", remedy=failure.remedy
        )

    def _run(self) -> None:
        while not self._closed.is_set():
            message = self._consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                self._take(message.value(), message.offset() or 0)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                # Its offset is the log's end; a transaction's marker, which is no record, lies before it.
                self._read_to = message.offset() or 0
                self._at_end.set()
            else:
                log.warning("topic cannot be read", topic=self._name, error=error.str())

    def _take(self, value: bytes | None, offset: int) -> None:
        while not self._closed.is_set():
            try:
                self._taken(self._codec.decode_plain(value, self._record_type))
            except (DependencyDown, ConfigurationError) as error:
                # A registry that is down or refuses us: to skip the record would lose what it says.
                self._failure = error
                log.warning("topic waits", topic=self._name, error=str(error))
                self._closed.wait(_RETRY_S)
                continue
            except HeadraceError as error:
                log.warning("record refused", topic=self._name, offset=offset, code=error.code, error=str(error))
                self._refused()
            except Exception as error:  # one bad record must not hide the others
                log.exception("record refused", topic=self._name, offset=offset, error=str(error))
                self._refused()
            self._failure = None
            return

    def _refused(self) -> None:
        metrics.REFUSED_ENTRIES.labels(self._name).inc()
