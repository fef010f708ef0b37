"""Compares a document in the log with the store, and returns the findings. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from headrace.topology.stages import CHUNKER, EMBEDDER
from headrace_operations.audit import repairs
from headrace_operations.audit.digests import NO_ROWS, layout_digest
from headrace_operations.audit.model import (
    SHOWN_EXAMPLES,
    Finding,
    Key,
    Kind,
    LogChunks,
    LogDocument,
    LogEntry,
    LoggedDetail,
    Rows,
    StoredDetail,
    StoredDocument,
    StoredVector,
    Target,
)


def in_order(
    entry: LogEntry, stored: StoredDocument, rows: Rows, vectors: int, target: Target, *, flagged: bool
) -> bool:
    """Whether log and store agree about a document, by counts and digests; not if a row is ``flagged`` as bad."""
    document, chunks = entry.document, entry.chunks
    if document is None or chunks is None or flagged:
        return False
    if not _version(document) == _version(chunks) == _version(stored):
        return False
    if document.deleted:
        return rows == NO_ROWS and vectors == 0
    return (
        rows == chunks.rows
        and vectors == rows.number
        and layout_digest(stored.layout) == chunks.layout
        and target.generation in stored.generations
        and _models_fit(stored, target)
    )


def examine(key: Key, logged: LoggedDetail, stored: StoredDetail, target: Target) -> list[Finding]:
    """Return the findings of one document; problems that an older version explains are not repeated."""
    entry = logged.entry
    if entry.document is None:
        return _not_in_log(key, entry, stored)
    if entry.chunks is None or _version(entry.chunks) != _version(entry.document):
        return [_not_chunked(key, entry.document, entry.chunks)]
    if stored.document is None or _version(stored.document) != _version(entry.document):
        return [_another_version(key, entry.document, stored.document, target)]
    if entry.document.deleted:
        return _orphan_chunks(key, stored, stored.chunks.keys(), target)
    return [
        *_layout(key, logged, stored.document, target),
        *_chunk_rows(key, logged, stored, target),
        *_vector_rows(key, logged, stored, target),
        *_model(key, stored, target),
    ]


def _version(version: LogDocument | LogChunks | StoredDocument) -> tuple[int, bool, bytes]:
    return (version.version, version.deleted, b"" if version.deleted else version.content_hash)


def _models_fit(stored: StoredDocument, target: Target) -> bool:
    """Whether the row's model belongs to one of its generations; it is that of the generation written last."""
    return stored.model in {target.models.get(generation) for generation in stored.generations}


def _say(version: LogDocument | LogChunks | StoredDocument | None) -> str:
    if version is None:
        return "nothing"
    if version.deleted:
        return f"version {version.version}, deleted"
    return f"version {version.version}, content hash {version.content_hash.hex()}"


def _not_in_log(key: Key, entry: LogEntry, stored: StoredDetail) -> list[Finding]:
    places = []
    if stored.document is not None:
        places.append(f"document ({_say(stored.document)})")
    if stored.chunks:
        places.append(f"{len(stored.chunks)} chunks")
    if entry.chunks is not None:
        places.append(f"a record in the topic chunks ({_say(entry.chunks)})")
    if not places:
        return []
    subject = "document" if stored.document is not None else "chunk" if stored.chunks else "log"
    nothing = "nothing: the topic documents has no record of it"
    return [_finding(Kind.ORPHAN, subject, key, nothing, ", ".join(places), (repairs.delete(key),))]


def _not_chunked(key: Key, document: LogDocument, chunks: LogChunks | None) -> Finding:
    kind, stage = Kind.MISSING if chunks is None else Kind.STALE, None
    if chunks is not None and chunks.version > document.version:
        kind, repair = Kind.ORPHAN, repairs.ingest(key, chunks.version)
    else:
        stage, repair = CHUNKER.name, repairs.replay(CHUNKER.name, key)
    expected = f"{_say(document)} in the topic chunks, as in the topic documents"
    return _finding(kind, "log", key, expected, _say(chunks), (repair,), replay=stage)


def _another_version(key: Key, logged: LogDocument, stored: StoredDocument | None, target: Target) -> Finding:
    expected = _say(logged)
    embed = (repairs.embed(key, target.generation),)
    if stored is None:
        return _finding(Kind.MISSING, "document", key, expected, "nothing", embed, replay=EMBEDDER.name)
    if stored.version > logged.version:
        repair: tuple[str, ...] = (repairs.ingest(key, stored.version),)
        return _finding(Kind.ORPHAN, "document", key, expected, f"{_say(stored)}, which the log does not have", repair)
    if stored.version < logged.version:
        return _finding(Kind.STALE, "document", key, expected, _say(stored), embed, replay=EMBEDDER.name)
    repair = repairs.rewrite(key, target, deleted=logged.deleted)
    return _finding(Kind.STALE, "document", key, expected, _say(stored), repair)


def _layout(key: Key, logged: LoggedDetail, stored: StoredDocument, target: Target) -> Iterable[Finding]:
    """Compare the list of chunks in the document's row."""
    if stored.layout == logged.layout:
        return
    wanted = Counter(position.chunk_id for position in logged.layout)
    listed = Counter(position.chunk_id for position in stored.layout)
    repair = repairs.rewrite(key, target)
    if more := sorted(chunk_id for chunk_id in listed & wanted if listed[chunk_id] > wanted[chunk_id]):
        yield _finding(
            Kind.DUPLICATE, "chunk", key, "each chunk listed as often as in the log",
            f"{len(more)} chunks listed more often in the document's row", repair, more,
        )  # fmt: skip
    elif wanted != listed:
        others = sorted((wanted.keys() | listed.keys()) - (wanted.keys() & listed.keys()))
        yield _finding(
            Kind.STALE, "document", key, f"a list of {len(logged.layout)} chunks, as in the log",
            f"a list of {len(stored.layout)} chunks; {len(others)} chunks are in only one of the two lists",
            repair, others,
        )  # fmt: skip
    else:
        yield _finding(
            Kind.STALE, "document", key, "the order and positions of the chunks as in the log",
            "the same chunks at different positions", repair,
        )  # fmt: skip


def _chunk_rows(key: Key, logged: LoggedDetail, stored: StoredDetail, target: Target) -> Iterable[Finding]:
    assert stored.document is not None
    listed = {position.chunk_id for position in stored.document.layout}
    repair = repairs.rewrite(key, target)
    if gone := sorted((logged.hashes.keys() & listed) - stored.chunks.keys()):
        yield _finding(
            Kind.MISSING, "chunk", key, "a row for each chunk", f"{len(gone)} chunks without a row", repair, gone
        )
    yield from _orphan_chunks(key, stored, stored.chunks.keys() - logged.hashes.keys() - listed, target)
    here = sorted(logged.hashes.keys() & stored.chunks.keys())
    if other := [one for one in here if stored.chunks[one].text_hash != logged.hashes[one]]:
        yield _finding(
            Kind.STALE,
            "chunk",
            key,
            "the text hashes of the log",
            f"{len(other)} chunks with a different hash",
            repair,
            other,
        )
    if wrong := [one for one in here if one not in other and stored.chunks[one].text_fits is False]:
        yield _finding(
            Kind.STALE, "chunk", key, "texts that match their hash", f"{len(wrong)} altered texts", repair, wrong
        )


def _orphan_chunks(key: Key, stored: StoredDetail, orphans: Iterable[bytes], target: Target) -> list[Finding]:
    if not (found := sorted(orphans)):
        return []
    deleted = stored.document is not None and stored.document.deleted
    repair = repairs.rewrite(key, target, deleted=deleted)
    return [
        _finding(
            Kind.ORPHAN, "chunk", key, "only chunks of the log's newest version",
            f"{len(found)} more chunks, with their vectors", repair, found,
        )
    ]  # fmt: skip


def _vector_rows(key: Key, logged: LoggedDetail, stored: StoredDetail, target: Target) -> Iterable[Finding]:
    here = sorted(logged.hashes.keys() & stored.chunks.keys())
    vectors = {chunk_id: stored.vectors.get(chunk_id, ()) for chunk_id in here}
    if lacking := [chunk_id for chunk_id in here if not vectors[chunk_id]]:
        repair, stage = _vector_repair(key, stored, target)
        yield _finding(
            Kind.MISSING, "vector", key, f"a vector in {target.generation} for each chunk",
            f"{len(lacking)} of {len(here)} chunks without a vector", repair, lacking, replay=stage,
        )  # fmt: skip
    rewrite = repairs.rewrite(key, target)
    if twice := [chunk_id for chunk_id in here if len(vectors[chunk_id]) > 1]:
        yield _finding(
            Kind.DUPLICATE,
            "vector",
            key,
            "one vector for each chunk",
            f"{len(twice)} chunks with several vectors",
            rewrite,
            twice,
        )
    if alien := [chunk_id for chunk_id in here if any(_alien(one, target) for one in vectors[chunk_id])]:
        yield _finding(
            Kind.MIXED_MODEL, "vector", key,
            f"finite vectors of {target.model}, {target.dimensions} dimensions, as in the cache",
            f"{len(alien)} chunks with other vectors", rewrite, alien,
        )  # fmt: skip


def _vector_repair(key: Key, stored: StoredDetail, target: Target) -> tuple[tuple[str, ...], str | None]:
    """Return the repair of vectors: a replay, and first a reset if the row says that the generation has them."""
    assert stored.document is not None
    if target.generation in stored.document.generations:
        return repairs.rewrite(key, target), None
    return (repairs.embed(key, target.generation),), EMBEDDER.name


def _alien(vector: StoredVector, target: Target) -> bool:
    return vector.dimensions != target.dimensions or not vector.finite or vector.as_cached is False


def _model(key: Key, stored: StoredDetail, target: Target) -> Iterable[Finding]:
    document = stored.document
    assert document is not None
    if target.generation not in document.generations:
        if stored.vectors.keys() >= stored.chunks.keys():  # otherwise the finding of missing vectors covers it
            said = ", ".join(sorted(document.generations)) or "none"
            yield _finding(
                Kind.MIXED_MODEL, "document", key, f"{target.generation} among its generations", said,
                (repairs.embed(key, target.generation),), replay=EMBEDDER.name,
            )  # fmt: skip
    elif not _models_fit(document, target):
        yield _finding(
            Kind.MIXED_MODEL, "document", key, f"the model {target.model}", f"the model {document.model}",
            repairs.rewrite(key, target),
        )  # fmt: skip


def _finding(
    kind: Kind,
    subject: str,
    key: Key,
    expected: str,
    found: str,
    repair: tuple[str, ...],
    chunk_ids: Sequence[bytes] = (),
    *,
    replay: str | None = None,
) -> Finding:
    return Finding(
        kind, subject, key.tenant, key.document_id, expected, found, repair, max(1, len(chunk_ids)),
        tuple(str(UUID(bytes=chunk_id)) for chunk_id in chunk_ids[:SHOWN_EXAMPLES]), replay=replay,
    )  # fmt: skip
