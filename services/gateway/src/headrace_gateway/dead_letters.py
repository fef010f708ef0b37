"""Dead letters as the gateway remembers them: the newest of each stage, followed in a thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage
from confluent_kafka.admin import AdminClient

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import DeadLetterEntry, entry_of
from headrace.errors import HeadraceError, UndecodableRecord
from headrace.payloads import DeadLetter
from headrace.topology.stages import STAGES
from headrace.topology.topics import dead_letter_topic
from headrace_gateway.flow import FlowState, KafkaFlowReader, partition_count, reader_config

log = structlog.get_logger(__name__)

LAST_RECORDS = 5000
"""How far back each partition is read when the gateway starts."""
MAX_ENTRIES = 20_000
_POLL_S = 0.5
_RETRY_S = 2.0
_CALL_S = 5.0


class DeadLetterBook:
    """Dead letters by key of the failed record, the newest kept; safe across threads."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._by_key: OrderedDict[bytes, list[DeadLetterEntry]] = OrderedDict()
        self._count = 0
        self._max_entries = max_entries
        self._lock = threading.Lock()

    def add(self, key: bytes, entry: DeadLetterEntry) -> None:
        """Take one in; the keys that were longest without a new one make room."""
        with self._lock:
            self._by_key.setdefault(key, []).append(entry)
            self._by_key.move_to_end(key)
            self._count += 1
            while self._count > self._max_entries:
                _, dropped = self._by_key.popitem(last=False)
                self._count -= len(dropped)

    def of(self, key: bytes) -> tuple[DeadLetterEntry, ...]:
        """Return those of the key, the newest last."""
        with self._lock:
            return tuple(sorted(self._by_key.get(key, ()), key=lambda entry: entry.failed_at_ms))

    def clear(self) -> None:
        """Forget everything, before it is read again."""
        with self._lock:
            self._by_key.clear()
            self._count = 0


class DeadLetterFollower:
    """Fills a book from the dead letters of every stage: the last 5,000 of each partition, then what comes."""

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self.book = DeadLetterBook()
        self._kafka = kafka
        self._codec = codec
        self._stages = {kafka.topic(dead_letter_topic(stage)): stage for stage in STAGES}
        self._closed = threading.Event()
        self._caught_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dead letters", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        self._thread.join()

    @property
    def caught_up(self) -> bool:
        """Whether everything that stood in the topics at the start has been read."""
        return self._caught_up.is_set()

    def wait_until_read(self, timeout: float) -> bool:
        """Wait until :attr:`caught_up`; return whether it is."""
        return self._caught_up.wait(timeout)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except (HeadraceError, KafkaException) as error:  # an outage, or a registry that refuses us for now
                log.warning("dead letters cannot be read", error=str(error))
                self._closed.wait(_RETRY_S)

    def _follow(self) -> None:
        consumer = Consumer({**reader_config(self._kafka), "fetch.wait.max.ms": 500})
        try:
            self.book.clear()
            starts = self._starts(consumer)
            unread = {(start.topic, start.partition) for start in starts}
            consumer.assign(list(starts))
            while not self._closed.is_set():
                message = consumer.poll(_POLL_S)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    self._take(message)
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    unread.discard((message.topic() or "", message.partition() or 0))
                    if not unread:
                        self._caught_up.set()
                elif not error.retriable():
                    raise KafkaException(error)
        finally:
            consumer.close()

    def _starts(self, consumer: Consumer) -> Sequence[TopicPartition]:
        admin = AdminClient({**self._kafka.client()})
        starts = []
        for topic in self._stages:
            for partition in range(partition_count(admin, topic)):
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), _CALL_S)
                starts.append(TopicPartition(topic, partition, max(low, high - LAST_RECORDS)))
        return starts

    def _take(self, message: KafkaMessage) -> None:
        key = message.key()
        try:
            letter = self._codec.decode_plain(message.value(), DeadLetter)
        except UndecodableRecord as error:
            log.warning("a dead letter does not decode", offset=message.offset(), error=str(error))
            return
        if isinstance(key, bytes):
            self.book.add(key, entry_of(letter, message.partition() or 0, message.offset() or 0))


class KafkaFlow:
    """What waits and what was given up, as one; implements :class:`headrace_gateway.dependencies.Flow`."""

    def __init__(self, reader: KafkaFlowReader, book: DeadLetterBook) -> None:
        self._reader = reader
        self._book = book

    async def waiting(self, key: bytes) -> FlowState:
        """Return the records of this key that stages have not taken yet."""
        return await self._reader.waiting(key)

    def dead_letters(self, key: bytes) -> Sequence[DeadLetterEntry]:
        """Return the dead letters of this key, the newest last."""
        return self._book.of(key)
