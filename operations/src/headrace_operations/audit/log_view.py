"""Reads the newest version of each document from the topics ``documents`` and ``chunks``, as a few hundred bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from confluent_kafka import murmur2

from headrace.codec.codec import Codec
from headrace.envelope import Context, Operation
from headrace.errors import PermanentError
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.ranges import LogReader
from headrace.payloads import ChunkedDocument, SourceDocument
from headrace.topology.stages import CHUNKER, EMBEDDER, INDEXER
from headrace.topology.topics import replay_topic, retry_topic
from headrace_operations.audit.digests import layout_digest, rows_digest
from headrace_operations.audit.held_and_dead_lettered import held_records
from headrace_operations.audit.model import (
    Key,
    LogChunks,
    LogDocument,
    LogEntry,
    LoggedDetail,
    Place,
    Position,
    Rows,
)

DOCUMENTS, CHUNKS = CHUNKER.source, EMBEDDER.source
_STAGES = (CHUNKER, EMBEDDER, INDEXER)
_NEAR = 1000
"""Records that are closer together than this are read together."""
_MOST_UNREADABLE = 100
Progress = Callable[[str], None]


class LogView:
    """Reads the two topics, for all documents, for one tenant, or for one document.

    Raises :class:`headrace.errors.DependencyDown` if Kafka or the registry does not answer, and
    :class:`headrace.errors.ConfigurationError` if a topic does not exist.
    """

    def __init__(
        self, ranges: LogReader, codec: Codec, *, tenant: str | None, document_id: str | None, progress: Progress
    ) -> None:
        self.entries: dict[str, dict[str, LogEntry]] = {}
        self.unreadable: list[str] = []
        self._ranges = ranges
        self._codec = codec
        self._tenant = tenant
        self._document_id = document_id
        self._progress = progress
        self._read: dict[TopicPartition, int] = {}
        self._records = 0

    def advance(self) -> None:
        """Continue to read up to the current ends of both topics."""
        partitions = self._ranges.partitions((DOCUMENTS, CHUNKS), needed=True)
        bounds = self._ranges.bounds(self._own(partitions), open_too=True)
        ranges = {one: Range(max(start, self._read.get(one, 0)), end) for one, (start, end) in bounds.items()}
        self._ranges.read(ranges, self._take)
        self._read = {one: end for one, (_, end) in bounds.items()}

    def chunk_lists(self, keys: Iterable[Key]) -> dict[Key, LoggedDetail]:
        """Return the documents with their chunks, read from the topic again.

        A document is absent if its record was compacted away in the meantime.
        """
        found: dict[Key, LoggedDetail] = {}
        wanted: dict[Place, Key] = {}
        for key in keys:
            entry = self.entries.get(key.tenant, {}).get(key.document_id, LogEntry())
            if entry.chunks is None or entry.chunks.deleted:
                found[key] = LoggedDetail(entry)
            else:
                wanted[entry.chunks.place] = key

        def take(record: Record) -> None:
            key = wanted.get(Place(record.partition, record.offset))
            if key is not None:
                document = self._codec.decode(record.value, ChunkedDocument).payload
                assert document is not None  # according to the entry, it is not a delete
                layout, hashes = _chunks_of(document)
                found[key] = LoggedDetail(self.entries[key.tenant][key.document_id], layout, hashes)

        for ranges in _near(sorted(wanted)):
            self._ranges.read(ranges, take)
        return found

    def in_flight(self) -> InFlight:
        """Return the documents that stages have not processed yet, at the groups' current committed offsets."""
        committed: dict[TopicPartition, int] = {}
        for flow in _STAGES:
            live = self._ranges.partitions((flow.source,), needed=True)
            committed |= self._ranges.committed(flow.name, live)
            side = self._ranges.partitions((retry_topic(flow.name), replay_topic(flow.name)))
            committed |= self._ranges.committed(flow.name, side, side=True)
        return InFlight(self._ranges, committed)

    def _own(self, partitions: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Return the partitions to read: all, or only that of the selected document."""
        found = list(partitions)
        if self._tenant is None or self._document_id is None:
            return found
        counts = {topic: sum(name == topic for name, _ in found) for topic, _ in found}
        record_key = Key(self._tenant, self._document_id).record_key
        return [place for place in found if murmur2(record_key, counts[place.topic]) == place.partition]

    def _take(self, record: Record) -> None:
        self._records += 1
        if self._records % 10_000 == 0:
            self._progress(f"log: {self._records} records read")
        if not self._wanted(record.key):
            return
        place = Place(record.partition, record.offset)
        try:
            if record.topic == DOCUMENTS:
                self._take_document(self._codec.decode(record.value, SourceDocument), place)
            else:
                self._take_chunks(self._codec.decode(record.value, ChunkedDocument), place)
        except PermanentError as error:
            if len(self.unreadable) < _MOST_UNREADABLE:
                self.unreadable.append(f"{record.topic}/{place.partition}/{place.offset}: {error.message}")

    def _wanted(self, key: bytes | None) -> bool:
        if self._tenant is None or key is None:
            return self._tenant is None
        if self._document_id is None:
            return key.startswith(f"{self._tenant}/".encode())
        return key == Key(self._tenant, self._document_id).record_key

    def _entry(self, context: Context) -> LogEntry:
        change = context.change
        return self.entries.setdefault(change.tenant, {}).setdefault(change.document_id, LogEntry())

    def _take_document(self, context: Context[SourceDocument | None], place: Place) -> None:
        change, entry = context.change, self._entry(context)
        if entry.document is None or change.version > entry.document.version:
            deleted = change.operation is Operation.DELETE
            content_hash = b"" if deleted or context.payload is None else context.payload.facts.content_hash
            entry.document = LogDocument(change.version, deleted, content_hash, place)

    def _take_chunks(self, context: Context[ChunkedDocument | None], place: Place) -> None:
        change, entry = context.change, self._entry(context)
        if entry.chunks is None or change.version > entry.chunks.version:
            if change.operation is Operation.DELETE or context.payload is None:
                entry.chunks = LogChunks(change.version, True, b"", b"", Rows(0, 0), place)
                return
            layout, hashes = _chunks_of(context.payload)
            content_hash = context.payload.facts.content_hash
            entry.chunks = LogChunks(
                change.version, False, content_hash, layout_digest(layout), rows_digest(hashes), place
            )


class InFlight:
    """The documents that stages have not processed yet, at given committed offsets; call :meth:`scan` first."""

    def __init__(self, ranges: LogReader, committed: Mapping[TopicPartition, int]) -> None:
        self._ranges = ranges
        self._committed = committed
        self._keys: dict[bytes, str] = {}

    def scan(self, keys: Collection[bytes]) -> None:
        """Find out which of these documents are held, in a retry or replay, or on their way to the store."""
        # Held records first: if one is released meanwhile, it appears in the topics that are read after this.
        self._keys = dict.fromkeys(held_records(self._ranges, keys), "a held record, in held.<stage>")
        others = [one for one in self._committed if one[0] not in (DOCUMENTS, CHUNKS)]
        bounds = self._ranges.bounds(others, open_too=True)
        ranges = {one: Range(max(start, self._committed[one]), end) for one, (start, end) in bounds.items()}
        self._ranges.read(ranges, self._take)

    def waits_for(self, key: Key, entry: LogEntry) -> str | None:
        """Return the topic that has a record of the document for a stage, or None."""
        for topic, version in ((DOCUMENTS, entry.document), (CHUNKS, entry.chunks)):
            if version is None:
                continue
            place = TopicPartition(topic, version.place.partition)
            if version.place.offset >= self._committed[place]:
                return topic
        return self._keys.get(key.record_key)

    def _take(self, record: Record) -> None:
        if record.key is not None:
            self._keys.setdefault(record.key, record.topic)


def _chunks_of(document: ChunkedDocument) -> tuple[tuple[Position, ...], dict[bytes, bytes]]:
    layout = tuple(Position(chunk.chunk_id, chunk.start, chunk.end) for chunk in document.chunks)
    return layout, {chunk.chunk_id: chunk.text_hash for chunk in document.chunks}


def _near(places: Iterable[Place]) -> Iterable[dict[TopicPartition, Range]]:
    """Return ranges of ``chunks`` that contain these offsets, split at long gaps."""
    runs: list[tuple[TopicPartition, Range]] = []
    for partition, offset in places:
        one = TopicPartition(CHUNKS, partition)
        if runs and runs[-1][0] == one and offset - runs[-1][1].end < _NEAR:
            runs[-1] = (one, Range(runs[-1][1].start, offset + 1))
        else:
            runs.append((one, Range(offset, offset + 1)))
    while runs:  # one range per partition at a time
        now = dict(reversed(runs))
        runs = [run for run in runs if now[run[0]] is not run[1]]
        yield now
