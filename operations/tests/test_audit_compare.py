"""What the audit says of one document, case by case; and that its digests see what its rows would show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from headrace.embeddings.preparation import text_hash as chunker_text_hash
from headrace_operations.audit.compare import examine, in_order
from headrace_operations.audit.digests import layout_digest, rows_digest, text_hash
from headrace_operations.audit.model import (
    Key,
    LogChunks,
    LogDocument,
    LogEntry,
    LoggedDetail,
    Place,
    Position,
    Rows,
    StoredChunk,
    StoredDetail,
    StoredDocument,
    StoredVector,
    Target,
)

pytestmark = pytest.mark.unit

KEY = Key("acme", "guide 1")
TARGET = Target("g1", "m", 3, {"g1": "m", "g2": "n"}, ("g1",))
CONTENT = b"h" * 16
LAYOUT = tuple(Position(bytes([number]) * 16, number * 10, number * 10 + 9) for number in (3, 1, 2))
HASHES = {position.chunk_id: b"t" + position.chunk_id[:15] for position in LAYOUT}
FIRST = LAYOUT[0].chunk_id
DOCUMENT = LogDocument(5, False, CONTENT, Place(0, 7))
CHUNKS = LogChunks(5, False, CONTENT, layout_digest(LAYOUT), rows_digest(HASHES), Place(0, 3))
ROW = StoredDocument(5, False, CONTENT, "m", frozenset({"g1"}), LAYOUT)
GOOD = StoredVector(3, True)
LOGGED = LoggedDetail(LogEntry(DOCUMENT, CHUNKS), LAYOUT, HASHES)
STORED = StoredDetail(
    ROW,
    chunks={chunk_id: StoredChunk(found) for chunk_id, found in HASHES.items()},
    vectors=dict.fromkeys(HASHES, (GOOD,)),
)
GONE_LOG = LoggedDetail(
    LogEntry(LogDocument(6, True, b"", Place(0, 9)), LogChunks(6, True, b"", b"", Rows(0, 0), Place(0, 4)))
)
GONE_ROW = StoredDocument(6, True, b"", "m", frozenset({"g1"}), ())


Row = TypeVar("Row")


def _with(**changes: Any) -> StoredDetail:
    """The sound document with fields of its row changed."""
    return replace(STORED, document=ROW._replace(**changes))


def _chunk(**changes: Any) -> StoredDetail:
    return replace(STORED, chunks={**STORED.chunks, FIRST: replace(STORED.chunks[FIRST], **changes)})


def _vectors(*vectors: StoredVector) -> StoredDetail:
    return replace(STORED, vectors={**STORED.vectors, FIRST: vectors})


def _without(rows: Mapping[bytes, Row]) -> dict[bytes, Row]:
    return {key: row for key, row in rows.items() if key != FIRST}


STRAY = {b"s" * 16: StoredChunk(b"x")}
SHORTER = LAYOUT[1:]
CASES = {
    "no row": (StoredDetail(), ("missing", "document", "replay")),
    "a chunk and its vector gone": (
        replace(STORED, chunks=_without(STORED.chunks), vectors=_without(STORED.vectors)),
        ("missing", "chunk", "reset"),
    ),
    "a vector gone": (replace(STORED, vectors=_without(STORED.vectors)), ("missing", "vector", "reset")),
    "all vectors gone, and the row says so": (
        replace(_with(generations=frozenset({"g2"}), model="n"), vectors={}),
        ("missing", "vector", "replay"),
    ),
    "listed twice": (_with(layout=(*LAYOUT, LAYOUT[0])), ("duplicate", "chunk", "reset")),
    "two vectors": (_vectors(GOOD, GOOD), ("duplicate", "vector", "reset")),
    "a stray chunk": (replace(STORED, chunks={**STORED.chunks, **STRAY}), ("orphan", "chunk", "reset")),
    "a newer row": (_with(version=6), ("orphan", "document", "ingest")),
    "an older row": (_with(version=4), ("stale", "document", "replay")),
    "another content": (_with(content_hash=b"other"), ("stale", "document", "reset")),
    "deleted in the store alone": (_with(deleted=True, layout=()), ("stale", "document", "reset")),
    "not listed": (_with(layout=SHORTER), ("stale", "document", "reset")),
    "another order": (_with(layout=LAYOUT[::-1]), ("stale", "document", "reset")),
    "another text hash": (_chunk(text_hash=b"x"), ("stale", "chunk", "reset")),
    "an altered text": (_chunk(text_fits=False), ("stale", "chunk", "reset")),
    "another model": (_with(model="n"), ("mixed-model", "document", "reset")),
    "another generation": (_with(generations=frozenset({"g2"}), model="n"), ("mixed-model", "document", "replay")),
    "another dimension": (_vectors(StoredVector(2, True)), ("mixed-model", "vector", "reset")),
    "not finite": (_vectors(StoredVector(3, False)), ("mixed-model", "vector", "reset")),
    "not the cached one": (_vectors(StoredVector(3, True, as_cached=False)), ("mixed-model", "vector", "reset")),
}


@pytest.mark.parametrize("case", CASES)
def test_each_difference_from_a_sound_document_is_one_finding(case: str) -> None:
    """A difference would be overlooked, told twice, or sent to a repair that does nothing."""
    stored, (kind, subject, verb) = CASES[case]
    found = examine(KEY, LOGGED, stored, TARGET)
    assert [(one.kind, one.subject) for one in found] == [(kind, subject)]
    assert verb in found[0].repair[0]
    assert found[0].replay == ("embedder" if verb == "replay" else None)
    assert "acme" in found[0].repair[0] or verb == "ingest"


@pytest.mark.parametrize("case", CASES)
def test_the_first_look_sends_every_difference_to_the_second(case: str) -> None:
    """Digests and counts would pass a document that its rows would not."""
    stored = CASES[case][0]
    if stored.document is None:
        return  # no row comes by: the document is among those unseen
    rows = rows_digest({chunk_id: chunk.text_hash for chunk_id, chunk in stored.chunks.items()})
    vectors = [one for found in stored.vectors.values() for one in found]
    flagged = any(chunk.text_fits is False for chunk in stored.chunks.values()) or any(
        one.dimensions != 3 or not one.finite or one.as_cached is False for one in vectors
    )
    assert not in_order(LOGGED.entry, stored.document, rows, len(vectors), TARGET, flagged=flagged)


def test_sound_documents_pass_both_looks() -> None:
    """A clean store would have findings."""
    assert examine(KEY, LOGGED, STORED, TARGET) == []
    assert in_order(LOGGED.entry, ROW, CHUNKS.rows, 3, TARGET, flagged=False)
    assert examine(KEY, GONE_LOG, StoredDetail(GONE_ROW), TARGET) == []
    assert in_order(GONE_LOG.entry, GONE_ROW, Rows(0, 0), 0, TARGET, flagged=False)
    both = _with(generations=frozenset({"g1", "g2"}), model="n")
    assert examine(KEY, LOGGED, both, TARGET) == []  # the row names the model that wrote it last


@pytest.mark.parametrize(
    ("entry", "stored", "kind", "subject"),
    [
        (LogEntry(None, CHUNKS), StoredDetail(), "orphan", "log"),
        (LogEntry(), STORED, "orphan", "document"),
        (LogEntry(), StoredDetail(chunks=STRAY), "orphan", "chunk"),
        (LogEntry(DOCUMENT, None), StoredDetail(), "missing", "log"),
        (LogEntry(DOCUMENT, CHUNKS._replace(version=4)), _with(version=4), "stale", "log"),
        (LogEntry(DOCUMENT, CHUNKS._replace(content_hash=b"o")), STORED, "stale", "log"),
        (LogEntry(DOCUMENT, CHUNKS._replace(version=9)), STORED, "orphan", "log"),
        (GONE_LOG.entry, STORED, "stale", "document"),
        (GONE_LOG.entry, StoredDetail(GONE_ROW._replace(deleted=False)), "stale", "document"),
        (GONE_LOG.entry, StoredDetail(GONE_ROW, chunks=STRAY), "orphan", "chunk"),
        (GONE_LOG.entry, StoredDetail(), "missing", "document"),
    ],
)
def test_what_the_topics_disagree_about_is_told_once(
    entry: LogEntry, stored: StoredDetail, kind: str, subject: str
) -> None:
    """A gap in the log would be told as a fault of the store, or a deletion that did not arrive not at all."""
    found = examine(KEY, LoggedDetail(entry), stored, TARGET)
    assert [(one.kind, one.subject) for one in found] == [(kind, subject)]


def test_a_document_that_nobody_has_is_nothing() -> None:
    """A document that vanished between two looks would be a finding."""
    assert examine(KEY, LoggedDetail(LogEntry()), StoredDetail(), TARGET) == []


def test_repairs_are_commands_that_a_shell_takes_as_they_are() -> None:
    """An id with a space would send the repair to another document."""
    found = examine(KEY, LOGGED, CASES["a vector gone"][0], TARGET)[0]
    assert found.repair == (
        "headrace audit --tenant acme --document 'guide 1' --generation g1 --reset",
        "headrace replay start --stage embedder --tenant acme --document 'guide 1' --into g1",
    )


@pytest.mark.parametrize("text", ["", "a", "Ελλάδα 🚀", "x" * 5000])
def test_texts_have_the_hash_that_the_chunker_gives_them(text: str) -> None:
    """Every text would be called altered by --deep."""
    assert text_hash(text) == chunker_text_hash(text)


def test_digest_of_rows_does_not_depend_on_their_order_and_that_of_a_layout_does() -> None:
    """Rows come in the order of their ids, the log's in that of the text: all documents would differ, or none."""
    assert rows_digest(HASHES) == rows_digest(dict(reversed(HASHES.items())))
    assert rows_digest(HASHES) != rows_digest({**HASHES, FIRST: b"other"})
    assert layout_digest(LAYOUT) != layout_digest(LAYOUT[::-1])
