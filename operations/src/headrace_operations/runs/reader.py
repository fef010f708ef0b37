"""Reads runs from the log: their changes from ``changes``, their outcomes from ``indexed`` and dead letters."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.access.readers import EVERY_DOCUMENT
from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.documents.status import entry_of, number
from headrace.envelope import derived_request_id
from headrace.errors import UndecodableRecord
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.payloads import DeadLetter, DeadLetterAction, IndexedDocument
from headrace.store import documents
from headrace.topology.generation_names import own_id
from headrace.topology.stages import DOCUMENT_STAGES, INDEXER, INGEST
from headrace.topology.topics import DEAD_LETTER_ACTIONS, dead_letter_topic
from headrace_operations.runs.fold import Failed, Fold, Item, Run, SentChange, runs_of
from headrace_operations.trace.log import Cost, Limits, LogScanner

if TYPE_CHECKING:
    from headrace.store.pool import Pool

_SKEW_MS = 3_600_000
"""Maximum clock difference; the reader starts this much earlier than requested."""
_STORE_BATCH = 5000


class RunsReader:
    """Reads runs, and on each further call only new records; ``pool`` is None if no store is configured."""

    def __init__(self, kafka: KafkaSettings, codec: Codec, pool: Pool | None, limits: Limits, *, since_ms: int) -> None:
        self._codec = codec
        self._pool = pool
        self._limits = limits
        self._since_ms = max(0, since_ms - _SKEW_MS)
        self._kafka = kafka
        self._letters = {dead_letter_topic(flow.name): flow.name for flow in DOCUMENT_STAGES}
        self._scanner = LogScanner(kafka)
        self._floors: dict[TopicPartition, int] | None = None
        self._unstated: set[bytes] = set()
        """Keys of changes whose headers do not contain their version."""
        self.fold = Fold()
        self.asked_for: str | None = None
        """A request ID that ingest may have derived from the offset of a change without one."""
        self.complete = True
        """False once a limit has stopped a reading, so totals may be too small."""

    async def read(self) -> Cost:
        """Read the records since the last call; raises :class:`headrace.errors.DependencyDown`."""
        cost = await asyncio.to_thread(self._read)
        self.complete = self.complete and cost.complete
        if self._pool is not None:
            await self._ask_store(self._pool)
        return cost

    def runs(self, run: str | None = None, tenant: str | None = None) -> list[Run]:
        """Return the runs that were read, latest first."""
        return runs_of(self.fold.items(run, tenant), int(time.time() * 1000))

    def items(self, run: str, tenant: str | None = None) -> list[Item]:
        """Return the changes of the run (or of the request with this ID)."""
        return self.fold.items(run, tenant)

    def _read(self) -> Cost:
        counts = self._scanner.counts([INGEST.source, INDEXER.target, DEAD_LETTER_ACTIONS, *self._letters])
        places = {
            name: [TopicPartition(name, partition) for partition in range(count)] for name, count in counts.items()
        }
        everything = [place for some in places.values() for place in some]
        floors = self._floors or self._first_floors(everything)
        ends = {place: high for place, (_, high) in self._scanner.bounds(everything).items()}
        sent = places.pop(INGEST.source, [])
        _, cost = self._scanner.newest_first(sent, self._take_change, self._limits, floors)
        rest = [place for some in places.values() for place in some]
        keys = {change.key for change in self.fold.changes.values()}
        _, more = self._scanner.newest_first(
            rest, lambda record: self._take_outcome(record, keys), self._limits, floors
        )
        # taken before the first reading, so records that arrive between two readings are read next time
        self._floors = ends
        return cost + more

    def _first_floors(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        since = self._scanner.starts_at(
            [place for place in places if place.topic != DEAD_LETTER_ACTIONS], self._since_ms
        )
        ends = self._scanner.bounds([place for place, start in since.items() if start < 0])
        return {place: start if start >= 0 else ends[place][1] for place, start in since.items()}

    def _take_change(self, record: Record) -> bool:
        """Add a change; the record itself is not kept."""
        request = headers.text(record, headers.REQUEST_ID)
        if request is None and self.asked_for is not None and self._derived(record) == self.asked_for:
            request = self.asked_for
        run = headers.text(record, headers.RUN) or request
        if run is not None and record.key:
            place = (record.partition, record.offset)
            version = number(headers.text(record, headers.VERSION))
            if version is None:
                self._unstated.add(record.key)
                ours = headers.text(record, headers.OPERATION) is not None  # changes from the gateway have this header
                version = record.offset if ours else None
            self.fold.sent(SentChange(record.key, place, version, run, request, record.timestamp_ms))
        return False

    def _derived(self, record: Record) -> str:
        """Return the request ID that ingest gives to a change without one."""
        return derived_request_id(self._kafka.topic(record.topic), record.partition, record.offset)

    def _take_outcome(self, record: Record, keys: set[bytes]) -> bool:
        try:
            if record.topic == DEAD_LETTER_ACTIONS:
                self._take_action(record)
            elif record.key in keys:
                if record.topic == INDEXER.target:
                    self._take_indexed(record, record.key)
                else:
                    self._take_letter(record, record.key)
        except UndecodableRecord:
            return False  # not an outcome that this release knows; the change stays pending
        return False

    def _take_indexed(self, record: Record, key: bytes) -> None:
        version = number(headers.text(record, headers.VERSION))
        if version is None:
            return
        place = None
        if key in self._unstated:  # only the trace's history says which change it was
            history = self._codec.envelope(record.value, IndexedDocument)[0].trace.history
            if history and self._kafka.bare(history[0].topic) == INGEST.source:
                place = (history[0].partition, history[0].offset)
        self.fold.indexed(key, version, record.timestamp_ms, place)

    def _take_letter(self, record: Record, key: bytes) -> None:
        letter = self._codec.decode_plain(record.value, DeadLetter)
        entry = entry_of(letter, record.partition, record.offset)
        own = letter.stage == INGEST.name
        self.fold.gave_up(
            Failed(
                f"{letter.stage}/{record.partition}/{record.offset}", letter.stage, letter.reason, letter.message, key,
                entry.version, (letter.partition, letter.offset) if own else None, entry.failed_at_ms,
            )
        )  # fmt: skip

    def _take_action(self, record: Record) -> None:
        if record.value is None or record.key is None:
            return
        action = self._codec.decode_plain(record.value, DeadLetterAction)
        if action.action == "REDRIVEN":
            identity = own_id(record.key, self._kafka.generation)
            if identity is not None:
                self.fold.redriven.add(identity)

    async def _ask_store(self, pool: Pool) -> None:
        """Look up what the log does not say, because the outcomes of an old run may have expired."""
        wanted: Mapping[str, dict[str, bytes]] = defaultdict(dict)
        for item in self.fold.items():
            if item.fate == "pending":
                wanted[item.change.tenant][item.change.document_id] = item.change.key
        for tenant, keys in wanted.items():
            names = list(keys)
            for first in range(0, len(names), _STORE_BATCH):
                states = await documents.states(pool, tenant, EVERY_DOCUMENT, names[first : first + _STORE_BATCH])
                self.fold.stored |= {keys[name]: state.version for name, state in states.items()}
