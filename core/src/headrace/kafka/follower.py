"""Follows topics in a separate thread, from their start or near their end, without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.cursor import LogCursor
from headrace.kafka.offsets import LogOffsets
from headrace.telemetry import metrics

log = structlog.get_logger(__name__)

T = TypeVar("T")
_CALL_S = 10.0
_ASK_S = 5.0
"""Maximum seconds that :meth:`LogFollower.close` takes while Kafka does not answer."""
_POLL_S = 0.2
_RETRY_S = 1.0
_BATCH = 500
_WAIT_MS = 250
"""Delay in reporting the end of the log; a shorter one would make idle services load the broker."""


class LogFollower:
    """Hands every committed record of the topics to ``take``, which is called from one thread.

    It begins at the topics' start, or ``last`` offsets before their end. After an outage or any other error, or if a
    topic does not exist yet, it retries and resumes where it stopped: no record is passed on twice. If ``take`` raises
    :class:`DependencyDown` or :class:`ConfigurationError`, the same record is passed again until it succeeds. For any
    other exception, the record is logged, counted and skipped.
    """

    def __init__(
        self, kafka: KafkaSettings, name: str, topics: Sequence[str], take: Callable[[Record], None],
        *, last: int | None = None,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._name = name
        self._topics = tuple(topics)
        self._take = take
        self._last = last
        self._offsets = LogOffsets(kafka, call_s=_ASK_S)
        self._next: dict[TopicPartition, int] = {}
        """Where to resume each partition; earlier records were passed on."""
        self._ended: set[TopicPartition] = set()
        self._closed = threading.Event()
        self._caught_up = threading.Event()
        self._failure: DependencyDown | None = None
        """Why the thread waits; None while it reads."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join()

    @property
    def caught_up(self) -> bool:
        """Whether all records that were readable at the start were passed on."""
        return self._caught_up.is_set()

    def wait_until_read(self, timeout: float = 30.0) -> None:
        """Wait until :attr:`caught_up`; raises :class:`DependencyDown`."""
        if not self._caught_up.wait(timeout):
            raise self._unread(f"was not read to its end within {timeout} s")

    def refresh(self) -> None:
        """Wait until all records written so far are passed on; raises :class:`DependencyDown`.

        This is up to the high watermark, so it includes a transaction whose commit has just returned.
        """
        ends = self._offsets.high_watermarks(self._places())
        deadline = time.monotonic() + _CALL_S
        while any(self._next.get(place, 0) < end for place, end in ends.items()):
            if time.monotonic() > deadline or self._failure:
                raise self._unread("has not been read to its end")
            time.sleep(0.01)

    def deliver(self, record: Record) -> None:
        """Pass the record on; repeat while another system prevents its use."""
        while not self._closed.is_set():
            try:
                self._take(record)
            # The registry is down or denies access: skipping the record would lose it.
            except DependencyDown as error:
                self._wait(error)
                continue
            except ConfigurationError as error:
                self._wait(DependencyDown("schema registry", error.message, remedy=error.remedy))
                continue
            except HeadraceError as error:
                log.warning(
                    "record refused", topic=record.topic, offset=record.offset, code=error.code, error=str(error)
                )
                metrics.REFUSED_ENTRIES.labels(record.topic).inc()
            except Exception as error:  # one bad record must not hide the others
                log.exception("record refused", topic=record.topic, offset=record.offset, error=str(error))
                metrics.REFUSED_ENTRIES.labels(record.topic).inc()
            self._failure = None
            self._next[record.place] = record.offset + 1
            return

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except DependencyDown as error:
                self._wait(error)
            except Exception as error:  # without this thread, a service would obey no later order
                log.exception("reading the topic failed; it will restart", topic=self._name)
                self._wait(DependencyDown("kafka", f"{type(error).__name__}: {error}"))

    def _follow(self) -> None:
        starts = self._starts()
        with LogCursor(self._kafka, self._name, wait_ms=_WAIT_MS) as cursor:
            cursor.assign(starts)
            while not self._closed.is_set():
                for record in cursor.fetch(_BATCH, _POLL_S):
                    self.deliver(record)
                if self._closed.is_set():
                    return
                self._failure = None
                self._next |= cursor.at
                self._ended |= cursor.ended
                if self._ended >= starts.keys():
                    self._caught_up.set()

    def _starts(self) -> dict[TopicPartition, int]:
        """Return where to read each partition: where reading stopped, or where the follower begins."""
        places = self._places()
        bounds = self._offsets.bounds([place for place in places if place not in self._next])
        for place, (start, end) in bounds.items():
            self._next[place] = start if self._last is None else max(start, end - self._last)
        return {place: self._next[place] for place in places}

    def _places(self) -> list[TopicPartition]:
        """Return the partitions of the topics; raises :class:`DependencyDown` also for a topic that does not exist."""
        try:
            return self._offsets.partitions(self._topics, needed=True)
        except ConfigurationError as error:
            raise DependencyDown("kafka", error.message, remedy=error.remedy) from error

    def _wait(self, error: DependencyDown) -> None:
        """Store why reading waits, and wait before the next attempt."""
        self._failure = error
        log.warning("topic waits", topic=self._name, error=str(error))
        self._closed.wait(_RETRY_S)

    def _unread(self, what: str) -> DependencyDown:
        """Return the error for unread topics; it names the other system if that is the reason."""
        topics = ", ".join(repr(self._kafka.topic(name)) for name in self._topics)
        failure = self._failure
        what = f"topic {topics} {what}"
        if failure is None:
            return DependencyDown("kafka", what)
        return DependencyDown(failure.dependency, f"{what}: {failure.message}", remedy=failure.remedy)


class TopicFollower(LogFollower, Generic[T]):
    """Follows one topic from its start and passes every record to ``take``, decoded as ``record_type``."""

    def __init__(
        self, kafka: KafkaSettings, codec: Codec, topic: str, record_type: type[T], take: Callable[[T], None]
    ) -> None:
        super().__init__(kafka, topic, [topic], lambda record: take(codec.decode_plain(record.value, record_type)))
