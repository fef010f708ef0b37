"""Plans the changes of a batch in the store, without a database.

A batch may contain a document several times. Only the last version that the fence accepts is written, but each input
gets its own result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from headrace.store.fence import Decision, Fence, advance, decide
from headrace.store.rows import Generation, IndexChunk, IndexDocument, IndexResult, Outcome

_NOTHING_WRITTEN = {
    Decision.UNCHANGED: Outcome.UNCHANGED,
    Decision.SUPERSEDED: Outcome.SUPERSEDED,
    Decision.CONFLICT: Outcome.CONFLICT,
}

Arrival = tuple[int, IndexDocument]
"""A document with its position in the batch."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document's fence and chunks in the store."""

    fence: Fence
    chunk_ids: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Where a chunk's vector can come from, for one tenant and one generation.

    ``held`` maps chunk IDs to the key of the chunk's row in this generation; ``carried`` maps keys to vectors of the
    batch; ``known`` has the keys that have a vector in this generation or in the cache. ``lexical`` maps chunk IDs to
    the key of the lexical vector that the chunk has in this generation.
    """

    held: Mapping[bytes, bytes] = field(default_factory=dict)
    carried: Mapping[bytes, bytes] = field(default_factory=dict)
    known: frozenset[bytes] = frozenset()
    lexical: Mapping[bytes, bytes] = field(default_factory=dict)

    def missing(self, document: IndexDocument, stored: Stored | None) -> tuple[bytes, ...]:
        """Return the keys of the document's chunks for which there is no vector."""
        return tuple(
            dict.fromkeys(
                chunk.key
                for chunk in document.chunks
                if chunk.vector is None
                and chunk.key
                and not self.holds(chunk, stored)
                and chunk.key not in self.carried
                and chunk.key not in self.known
            )
        )

    def holds(self, chunk: IndexChunk, stored: Stored | None) -> bool:
        """Whether this generation already has a row with the chunk's key, which stays."""
        return stored is not None and chunk.chunk_id in stored.chunk_ids and self.held.get(chunk.chunk_id) == chunk.key


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """The changes of one document: its row, chunks to insert and delete, and chunks that get a vector.

    ``outdated`` are chunks that stay but lose their vector, because their prepared text changed. ``weighed`` are chunks
    that get a lexical vector, with its key; those of them that stay lose the one they had (``outweighed``).
    """

    document: IndexDocument
    expected: Fence | None
    fence: Fence
    gone: tuple[bytes, ...]
    inserted: tuple[IndexChunk, ...]
    embedded: tuple[IndexChunk, ...]
    outdated: tuple[bytes, ...] = ()
    weighed: tuple[tuple[IndexChunk, bytes], ...] = ()
    outweighed: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All changes of one tenant, sorted by document, and the result for each position in the batch."""

    writes: tuple[DocumentWrite, ...]
    results: Mapping[int, IndexResult]


def by_document(arrivals: Iterable[Arrival]) -> dict[str, list[Arrival]]:
    """Group a tenant's documents by ID, sorted, because writers that lock in the same order cannot deadlock."""
    groups: dict[str, list[Arrival]] = {}
    for position, document in arrivals:
        groups.setdefault(document.document_id, []).append((position, document))
    return dict(sorted(groups.items()))


def carried_vectors(arrivals: Iterable[Arrival]) -> dict[bytes, bytes]:
    """Return the vectors in the batch by key."""
    return {
        chunk.key: chunk.vector for _, document in arrivals for chunk in document.chunks if chunk.vector is not None
    }


def candidates(
    groups: Mapping[str, Sequence[Arrival]], stored: Mapping[str, Stored], generation: Generation
) -> list[IndexDocument]:
    """Return the documents that the stored fence accepts; vectors are looked up only for these."""
    return [
        document
        for document_id, arrivals in groups.items()
        for _, document in arrivals
        if decide(_fence(stored.get(document_id)), document.fence(generation.name)) not in _NOTHING_WRITTEN
    ]


def plan_tenant(
    groups: Mapping[str, Sequence[Arrival]],
    stored: Mapping[str, Stored],
    generation: Generation,
    vectors: Vectors,
) -> Plan:
    """Decide for each document of one tenant, in order."""
    writes: list[DocumentWrite] = []
    results: dict[int, IndexResult] = {}
    for document_id, arrivals in groups.items():
        found = stored.get(document_id)
        accepted = _fold(
            arrivals,
            _fence(found),
            generation.name,
            partial(vectors.missing, stored=found),
            results,
        )
        if accepted is None:
            continue
        position, document, fence = accepted
        write = _difference(document, found, fence, vectors, generation.analyzer)
        writes.append(write)
        results[position] = IndexResult(
            Outcome.DELETED if document.deleted else Outcome.INDEXED,
            inserted=len(write.inserted),
            deleted=len(write.gone),
            kept=len({chunk.chunk_id for chunk in document.chunks}) - len(write.inserted),
            weighed=len(write.weighed),
        )
    return Plan(tuple(writes), results)


def _fold(
    arrivals: Sequence[Arrival],
    fence: Fence | None,
    generation: str,
    missing: Callable[[IndexDocument], tuple[bytes, ...]],
    results: dict[int, IndexResult],
) -> tuple[int, IndexDocument, Fence] | None:
    """Pass the versions of one document through the fence in sequence; return the last one that may be written."""
    accepted: tuple[int, IndexDocument, Fence] | None = None
    for position, document in arrivals:
        incoming = document.fence(generation)
        decision = decide(fence, incoming)
        if decision in _NOTHING_WRITTEN:
            results[position] = IndexResult(_NOTHING_WRITTEN[decision])
        elif lacking := missing(document):
            results[position] = IndexResult(Outcome.MISSING_VECTORS, missing=lacking)
        else:
            if accepted is not None:
                results[accepted[0]] = IndexResult(Outcome.SUPERSEDED)
            fence = advance(fence, incoming)
            accepted = (position, document, fence)
    return accepted


def _difference(
    document: IndexDocument, stored: Stored | None, fence: Fence, vectors: Vectors, analyzer: str
) -> DocumentWrite:
    before = frozenset[bytes]() if stored is None else stored.chunk_ids
    after = {chunk.chunk_id: chunk for chunk in document.chunks}
    keys = {chunk_id: document.lexical_key(chunk, analyzer) for chunk_id, chunk in after.items()}
    if before != after.keys() and stored is not None and fence.version == stored.fence.version:
        # The same version with other chunks: other generations lack their vectors, until a replay into them adds them.
        fence = replace(fence, generations=fence.generations - stored.fence.generations)
    return DocumentWrite(
        document=document,
        expected=_fence(stored),
        fence=fence,
        gone=tuple(sorted(before - after.keys())),
        inserted=tuple(chunk for chunk_id, chunk in after.items() if chunk_id not in before),
        embedded=tuple(chunk for chunk in after.values() if not vectors.holds(chunk, stored)),
        outdated=tuple(
            chunk_id
            for chunk_id in sorted(before & after.keys() & vectors.held.keys())
            if vectors.held[chunk_id] != after[chunk_id].key
        ),
        weighed=tuple(
            (chunk, keys[chunk_id])
            for chunk_id, chunk in after.items()
            if chunk_id not in before or vectors.lexical.get(chunk_id) != keys[chunk_id]
        ),
        outweighed=tuple(
            chunk_id
            for chunk_id in sorted(before & after.keys() & vectors.lexical.keys())
            if vectors.lexical[chunk_id] != keys[chunk_id]
        ),
    )


def _fence(stored: Stored | None) -> Fence | None:
    return None if stored is None else stored.fence
