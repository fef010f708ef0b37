"""What the audit takes from the log, over records in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import pytest
from confluent_kafka import murmur2

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.envelope import Change, Context, Operation, Trace
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.ranges import LogReader, Take
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts, SourceDocument
from headrace_operations.audit.held_and_dead_lettered import open_dead_letters
from headrace_operations.audit.log_view import LogView
from headrace_operations.audit.model import Key, LogChunks, LogDocument, LogEntry, Position

pytestmark = pytest.mark.unit

CODEC = Codec(FixedIds())
PARTITIONS = 4
Payload = TypeVar("Payload")


class FakeRanges(LogReader):
    """A log in memory, with the methods that the audit calls."""

    def __init__(self) -> None:
        super().__init__(KafkaSettings(), "test")
        self.log: dict[TopicPartition, list[Record]] = {}
        self.groups: dict[tuple[str, TopicPartition], int] = {}
        self.reads: list[dict[TopicPartition, Range]] = []

    def add(self, topic: str, record_key: bytes, data: bytes = b"") -> None:
        """Append a record to the partition of its key."""
        place = TopicPartition(topic, murmur2(record_key, PARTITIONS))
        records = self.log.setdefault(place, [])
        records.append(Record(*place, len(records), record_key, data))

    def partitions(self, topics: Iterable[str], *, needed: bool = False) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]

    def bounds(self, places: Iterable[TopicPartition], *, open_too: bool = False) -> dict[TopicPartition, Range]:
        assert open_too, "what is about to be committed would be missing from the audit"
        return {one: Range(0, len(self.log.get(one, []))) for one in places}

    def committed(
        self, stage: str, places: Iterable[TopicPartition], *, side: bool = False
    ) -> dict[TopicPartition, int]:
        return {one: self.groups.get((f"{stage}-side" if side else stage, one), 0) for one in places}

    def take_all(self, group: str, topic: str) -> None:
        """Let the group commit the topic's present ends."""
        for place in self.partitions([topic]):
            self.groups[group, place] = len(self.log.get(place, []))

    def read(self, ranges: Mapping[TopicPartition, Range], take: Take) -> None:
        self.reads.append({one: found for one, found in ranges.items() if found.start < found.end})
        for one, (start, end) in ranges.items():
            for record in self.log.get(one, [])[start:end]:
                take(record)


def _context(key: Key, version: int, payload: Payload, operation: Operation = Operation.UPSERT) -> Context[Payload]:
    change = Change(key.tenant, key.document_id, version, operation)
    return Context(Trace("r", "default", 1, datetime.now(UTC)), change, payload)


def _document(ranges: FakeRanges, key: Key, version: int, content: bytes = b"c" * 16) -> None:
    context = _context(key, version, SourceDocument(DocumentFacts("t", "text/plain", content), "text"))
    ranges.add("documents", key.record_key, CODEC.encode(context, SourceDocument))


def _chunks(ranges: FakeRanges, key: Key, version: int, *ids: bytes) -> None:
    chunks = tuple(Chunk(one * 16, (), 0, 4, "text", b"h" * 16) for one in ids)
    context = _context(key, version, ChunkedDocument(DocumentFacts("t", "text/plain", b"c" * 16), chunks))
    ranges.add("chunks", key.record_key, CODEC.encode(context, ChunkedDocument))


def _delete(ranges: FakeRanges, key: Key, version: int) -> None:
    context = _context(key, version, None, Operation.DELETE)
    ranges.add("documents", key.record_key, CODEC.encode(context, SourceDocument))
    ranges.add("chunks", key.record_key, CODEC.encode(context, ChunkedDocument))


def _view(ranges: FakeRanges, tenant: str | None = None, document_id: str | None = None) -> LogView:
    view = LogView(ranges, CODEC, tenant=tenant, document_id=document_id, progress=lambda _: None)
    view.advance()
    return view


def _logged_document(view: LogView, key: Key) -> LogDocument:
    document = view.entries[key.tenant][key.document_id].document
    assert document is not None
    return document


def _logged_chunks(view: LogView, key: Key) -> LogChunks:
    chunks = view.entries[key.tenant][key.document_id].chunks
    assert chunks is not None
    return chunks


A, B, C = Key("acme", "a"), Key("acme", "b/c"), Key("other", "a")


def test_the_highest_version_counts_wherever_it_stands() -> None:
    """A late older version, or a deletion that was overtaken, would make the store look wrong."""
    ranges = FakeRanges()
    for version in (3, 7, 5):
        _document(ranges, A, version)
        _chunks(ranges, A, version, *[b"x"] * version)
    _document(ranges, B, 2, b"first" + b"." * 11)
    _document(ranges, B, 2, b"second" + b"." * 10)
    _delete(ranges, C, 9)
    _document(ranges, C, 8)
    view = _view(ranges)
    assert (_logged_document(view, A).version, _logged_chunks(view, A).version) == (7, 7)
    assert _logged_document(view, B).content_hash.startswith(b"first")  # as the store's fence keeps it
    assert _logged_document(view, C)[:3] == (9, True, b"")
    assert _logged_chunks(view, C).deleted


def test_advance_reads_on_from_where_it_stopped() -> None:
    """The second look would read the whole log once more, or miss what came meanwhile."""
    ranges = FakeRanges()
    _document(ranges, A, 1)
    view = _view(ranges)
    _document(ranges, A, 2)
    view.advance()
    assert _logged_document(view, A).version == 2
    assert list(ranges.reads[1].values()) == [Range(1, 2)]


def test_one_document_costs_one_partition_and_a_tenant_is_no_prefix_of_another() -> None:
    """Asking for one document would read all, and a tenant's audit would take in its namesakes."""
    ranges = FakeRanges()
    for key in (A, B, C, Key("acme2", "a")):
        _document(ranges, key, 1)
    assert list(_view(ranges, "acme").entries) == ["acme"]
    assert list(_view(ranges, "acme", "b/c").entries["acme"]) == ["b/c"]
    assert set(ranges.reads[-1]) == {("documents", murmur2(B.record_key, PARTITIONS))}


def test_chunk_lists_are_read_again_by_their_offsets() -> None:
    """The second look would compare rows with the chunks of another version or document."""
    ranges = FakeRanges()
    for key in (A, B, C):
        _document(ranges, key, 1)
        _chunks(ranges, key, 1, b"o")
        _chunks(ranges, key, 2, b"x", b"y")
    found = _view(ranges).chunk_lists([A, B, Key("acme", "nobody")])
    assert found[A].layout == found[B].layout == (Position(b"x" * 16, 0, 4), Position(b"y" * 16, 0, 4))
    assert found[A].hashes == {b"x" * 16: b"h" * 16, b"y" * 16: b"h" * 16}
    assert found[Key("acme", "nobody")].entry == LogEntry()
    assert C not in found


def test_a_document_waits_for_the_stage_that_has_not_committed_it() -> None:
    """What is on its way would be reported as lost, or what is lost as on its way."""
    ranges = FakeRanges()
    _document(ranges, A, 1)
    _chunks(ranges, A, 1, b"x")
    _document(ranges, B, 1)
    for stage, topic in (("chunker", "documents"), ("embedder", "chunks")):
        ranges.take_all(stage, topic)
    _document(ranges, C, 1)
    ranges.add("retry.indexer", B.record_key)
    ranges.take_all("indexer-side", "retry.indexer")
    ranges.add("replay.embedder", A.record_key)
    view = _view(ranges)
    in_flight = view.in_flight()
    in_flight.scan({key.record_key for key in (A, B, C)})
    said = {key: in_flight.waits_for(key, view.entries[key.tenant][key.document_id]) for key in (A, B, C)}
    assert said == {A: "replay.embedder", B: None, C: "documents"}


def test_a_document_that_a_person_holds_back_waits_until_there_is_an_action() -> None:
    """What waits for a review would be reported as lost, or what was let go or refused as waiting for ever."""
    ranges = FakeRanges()
    for key in (A, B):
        _document(ranges, key, 1)
        ranges.add("held.chunker", key.record_key)
    ranges.take_all("chunker", "documents")
    ranges.add("held-actions", f"chunker/{murmur2(B.record_key, PARTITIONS)}/{_offset(ranges, B)}".encode())
    view = _view(ranges)
    in_flight = view.in_flight()
    in_flight.scan({A.record_key, B.record_key})
    said = {key: in_flight.waits_for(key, view.entries[key.tenant][key.document_id]) for key in (A, B)}
    assert said == {A: "a held record, in held.<stage>", B: None}


def _offset(ranges: FakeRanges, key: Key) -> int:
    records = ranges.log[TopicPartition("held.chunker", murmur2(key.record_key, PARTITIONS))]
    return next(record.offset for record in records if record.key == key.record_key)


def test_records_that_do_not_decode_are_listed() -> None:
    """One bad record would end the audit, or hide without a word."""
    ranges = FakeRanges()
    ranges.add("documents", A.record_key, b"junk")
    _document(ranges, B, 1)
    view = _view(ranges)
    assert [line.partition(":")[0] for line in view.unreadable] == [f"documents/{murmur2(A.record_key, PARTITIONS)}/0"]
    assert list(view.entries["acme"]) == ["b/c"]


def test_dead_letters_that_were_redriven_or_discarded_explain_nothing() -> None:
    """A letter that was dealt with would be named as the reason for what is missing now."""
    ranges = FakeRanges()
    place = murmur2(A.record_key, PARTITIONS)
    for _ in range(2):
        ranges.add("dead-letters.chunker", A.record_key)
    ranges.add("dead-letters.indexer", B.record_key)
    ranges.add("dead-letter-actions", f"chunker/{place}/0".encode())
    assert open_dead_letters(ranges, {A.record_key}) == {A.record_key: [f"chunker/{place}/1"]}
