"""The dead letters that the gateway keeps in memory: the newest of each stage, followed in a thread."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import DeadLetterEntry, entry_of
from headrace.kafka.broker_contract import Record
from headrace.kafka.follower import LogFollower
from headrace.payloads import DeadLetter
from headrace.topology.stages import STAGES
from headrace.topology.topics import dead_letter_topic
from headrace_gateway.flow import FlowState, KafkaFlowReader
from headrace_gateway.pending import KafkaPending
from headrace_gateway.record_facts import facts_of

LAST_RECORDS = 5000
"""Records to read from the end of each partition when the gateway starts."""
MAX_ENTRIES = 20_000


class DeadLetterBook:
    """The newest dead letters by key of the failed record; thread-safe."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._by_key: OrderedDict[bytes, list[DeadLetterEntry]] = OrderedDict()
        self._count = 0
        self._max_entries = max_entries
        self._lock = threading.Lock()

    def add(self, key: bytes, entry: DeadLetterEntry) -> None:
        """Add a dead letter. If the book is full, drop the keys whose newest dead letter is oldest."""
        with self._lock:
            self._by_key.setdefault(key, []).append(entry)
            self._by_key.move_to_end(key)
            self._count += 1
            while self._count > self._max_entries:
                _, dropped = self._by_key.popitem(last=False)
                self._count -= len(dropped)

    def of(self, key: bytes) -> tuple[DeadLetterEntry, ...]:
        """Return the dead letters of the key, newest last."""
        with self._lock:
            return tuple(sorted(self._by_key.get(key, ()), key=lambda entry: entry.failed_at_ms))


class DeadLetterFollower(LogFollower):
    """Fills a book with the dead letters of every stage: the last 5,000 of each partition, then new ones."""

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        topics = [dead_letter_topic(stage) for stage in STAGES]
        super().__init__(kafka, "dead-letters", topics, self._add, last=LAST_RECORDS)
        self.book = DeadLetterBook()
        self._codec = codec

    def _add(self, record: Record) -> None:
        letter: DeadLetter = self._codec.decode_plain(record.value, DeadLetter)
        if record.key is None:
            return
        stage = STAGES.get(letter.stage)
        acl = None if stage is None else facts_of(self._codec, stage.consumes, letter.value).acl
        self.book.add(record.key, entry_of(letter, record.partition, record.offset, acl))


class KafkaFlow:
    """Waiting records and dead letters together; implements :class:`headrace_gateway.dependencies.Flow`."""

    def __init__(self, reader: KafkaFlowReader, pending: KafkaPending, book: DeadLetterBook) -> None:
        self._reader = reader
        self._pending = pending
        self._book = book

    async def waiting(self, key: bytes) -> FlowState:
        """Return the records of this key that stages have not processed yet."""
        return await self._reader.waiting(key)

    async def refresh(self) -> None:
        """Bring :meth:`pending` up to date."""
        await self._pending.refresh()

    def pending(self, key: bytes) -> FlowState:
        """Return the records of this key that stages had not processed at the last refresh."""
        return self._pending.state(key)

    def dead_letters(self, key: bytes) -> Sequence[DeadLetterEntry]:
        """Return the dead letters of this key, newest last."""
        return self._book.of(key)
