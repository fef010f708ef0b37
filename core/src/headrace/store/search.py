"""Searches one tenant's chunks by vectors, by terms, or by both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.access.readers import UNNAMED, Reader
from headrace.errors import InvalidRecord
from headrace.filters.model import Filter
from headrace.store.generations import query_of
from headrace.store.grouping import Read, by_document
from headrace.store.legs import CANDIDATES, Legs, Plan, read_legs, scope_of
from headrace.store.neighbours import MAXIMUM_NEIGHBOURS, Neighbours, around
from headrace.store.queries import load
from headrace.store.rows import BYTES_PER_FLOAT, Generation
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from pgvector import SparseVector

    from headrace.store.pool import Connection, Pool

MAXIMUM_HITS = 100
DENSE_WEIGHT = 0.4
"""Share of the dense leg in the fused score, from 0 to 1; measured in ``docs/quality.md``."""
FUSION_DEPTH = 4
"""Each leg of a hybrid search is read to this multiple of the requested number of hits."""
DEEPEST = 1_000
"""From so many hits on, a leg is read no deeper than they are; the most that ``hnsw.ef_search`` allows."""
MAXIMUM_PER_DOCUMENT = 10
"""Passages of each document in a grouped search."""
FINGERPRINT_BYTES = 6
"""Bytes; among 1,000 hits and 10,000 candidates, two share one with a chance of 1 in 28 million."""
_LARGEST_UNRELATED = 0.95
"""The mean cosine of passages is taken as at most this, so that the rest keeps a scale."""
_BELOW = 0.1
"""A cosine of -1 costs this share of the dense leg: it keeps the order below the mean, and hides no match by words."""


@dataclass(frozen=True, slots=True)
class HitExplanation:
    """How each leg of the question scored a hit; None if the leg was not asked or has nothing of the chunk.

    ``terms`` are the terms of the question in the chunk, each with its share of the lexical score. The ranks count from
    1 among what a leg found; None if the leg did not find the chunk, but scored it because the other one did.
    """

    dense: float | None
    lexical: float | None
    terms: Mapping[str, float]
    dense_rank: int | None = None
    lexical_rank: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found: characters ``start`` up to ``end`` of the source text.

    ``ordinal`` counts the document's chunks from 0; ``page`` counts from 1, or is None if the document has no pages. A
    text that occurs several times in a section is reported at its first position. A higher ``score`` means a better
    match. It is the cosine similarity (or the negated distance) for the dense leg alone, BM25's score for the lexical
    leg alone, and from 0 to 1 for both; these cannot be compared with each other. A hit is ``complete`` unless the
    generation still lacks a part of this version of its document.
    """

    document_id: str
    title: str
    version: int
    chunk_id: bytes
    section: tuple[str, ...]
    start: int
    end: int
    ordinal: int
    text: str
    score: float
    source: str
    attributes: Mapping[str, str]
    page: int | None = None
    language: str = ""
    complete: bool = True
    explanation: HitExplanation | None = None
    neighbours: Neighbours | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question for one leg of the index or for both.

    ``vector`` is float32, little-endian, with the generation's dimensions; ``terms`` are its terms by number
    (:func:`headrace.lexical.weights.query`); ``weight`` is the share of the dense leg. With ``explain``, each hit says
    how it was found.
    """

    vector: bytes | None = None
    terms: Mapping[int, str] = field(default_factory=dict)
    weight: float = DENSE_WEIGHT
    explain: bool = False

    @property
    def hybrid(self) -> bool:
        """Whether it has both legs."""
        return self.vector is not None and bool(self.terms)

    def check(self, generation: Generation) -> None:
        """Raise :class:`InvalidRecord` for a question that the generation cannot answer."""
        if self.vector is None:
            return
        if len(self.vector) != generation.dimensions * BYTES_PER_FLOAT:
            raise InvalidRecord(
                "query_vector",
                f"has {len(self.vector) // BYTES_PER_FLOAT} dimensions; the generation needs {generation.dimensions}",
            )


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer has beside the best chunks.

    With ``per_document``, it is so many documents instead, with up to ``per_document`` chunks each. ``neighbours`` is
    the number of chunks on each side that come with a hit. ``seen`` are the fingerprints (:func:`fingerprint`) of what
    earlier answers had: of chunks, or of documents.
    """

    per_document: int | None = None
    neighbours: int = 0
    seen: frozenset[bytes] = frozenset()

    def check(self) -> None:
        """Raise :class:`InvalidRecord` for a number that is out of range."""
        if self.per_document is not None and not 1 <= self.per_document <= MAXIMUM_PER_DOCUMENT:
            raise InvalidRecord("per_document", f"{self.per_document} is not between 1 and {MAXIMUM_PER_DOCUMENT}")
        if not 0 <= self.neighbours <= MAXIMUM_NEIGHBOURS:
            raise InvalidRecord("neighbours", f"{self.neighbours} is not between 0 and {MAXIMUM_NEIGHBOURS}")

    def identity(self, hit: Hit) -> bytes:
        """Return what :attr:`seen` has the fingerprint of after a hit."""
        return hit.chunk_id if self.per_document is None else hit.document_id.encode()


PLAIN = Shape()


def fingerprint(identity: bytes) -> bytes:
    """Return the fingerprint of a chunk's or a document's ID."""
    return hashlib.blake2b(identity, digest_size=FINGERPRINT_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of a search, best first (the hits of a document together), whether there are ``more``, and the plan."""

    hits: list[Hit]
    more: bool
    plan: Plan


async def search(
    pool: Pool,
    tenant: str,
    generation: Generation,
    question: Question,
    *,
    reader: Reader = UNNAMED,
    top_k: int = 10,
    filters: Filter | None = None,
    ef_search: int = 100,
) -> list[Hit]:
    """Return the ``top_k`` chunks of ``tenant`` that ``reader`` may read and that match best; see :func:`find`."""
    found = await find(
        pool, tenant, generation, question, reader=reader, top_k=top_k, filters=filters, ef_search=ef_search
    )
    return found.hits


async def find(
    pool: Pool,
    tenant: str,
    generation: Generation,
    question: Question,
    *,
    reader: Reader = UNNAMED,
    top_k: int = 10,
    filters: Filter | None = None,
    shape: Shape = PLAIN,
    ef_search: int = 100,
) -> Found:
    """Return the ``top_k`` chunks (or documents, see :class:`Shape`) that ``reader`` may read and that match best.

    Both legs are read in one statement, each deeper than ``top_k``; every chunk that one of them finds is scored on
    both, and the scores are fused (:func:`fuse`). A higher ``ef_search`` (1 to 1,000) makes HNSW slower and more
    accurate.
    Filters never reduce the number of hits of the dense leg: if the index stops before ``top_k``, the remaining chunks
    are scanned exactly.

    Raises :class:`InvalidRecord` for a ``top_k`` outside 1 to 100, a shape out of range, or a vector of the wrong size,
    and :class:`~headrace.errors.DependencyDown` if PostgreSQL does not answer.
    """
    if not 1 <= top_k <= MAXIMUM_HITS:
        raise InvalidRecord("top_k", f"{top_k} is not between 1 and {MAXIMUM_HITS}")
    question.check(generation)
    shape.check()
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:

        async def read(given: Filter | None, wanted: int) -> _Scored:
            depth = max(wanted, min(wanted * FUSION_DEPTH, DEEPEST)) if question.hybrid else wanted
            ef = max(1, min(max(depth, ef_search), DEEPEST))
            restricted = await connection.fetchval(load("search")["prepare"], str(ef))
            scope = await scope_of(connection, tenant, given, restricted=restricted)
            return _Scored(await read_legs(connection, tenant, generation, question, wanted, depth, scope), question)

        scored, chosen, more = await _chosen(read, filters, top_k, shape)
        hits = await _hits(connection, tenant, generation, chosen)
        if shape.neighbours:
            near = await around(connection, tenant, list(chosen), shape.neighbours)
            hits = [replace(hit, neighbours=near.get(UUID(bytes=hit.chunk_id), Neighbours())) for hit in hits]
        if question.explain:
            terms = await _matched_terms(connection, tenant, generation, question, list(chosen))
            hits = [replace(hit, explanation=_explained(UUID(bytes=hit.chunk_id), scored.legs, terms)) for hit in hits]
    return Found(hits, more, scored.legs.plan)


@dataclass(frozen=True, slots=True)
class _Scored:
    """What was read for a question; implements :class:`headrace.store.grouping.Reading`."""

    legs: Legs
    question: Question

    @property
    def documents(self) -> Mapping[UUID, str]:
        return self.legs.documents

    def joined(self, other: _Scored) -> _Scored:
        return replace(self, legs=self.legs.joined(other.legs))

    def ordered(self) -> Mapping[UUID, float]:
        legs, question = self.legs, self.question
        if question.hybrid:
            return fuse(legs.dense, legs.lexical, question.weight, legs.unrelated)
        leg = legs.lexical if question.vector is None else legs.dense
        return dict(sorted(leg.items(), key=lambda item: (-item[1], item[0])))


async def _chosen(
    read: Read[_Scored], filters: Filter | None, top_k: int, shape: Shape
) -> tuple[_Scored, dict[UUID, float], bool]:
    """Return what was read, the scores of the chunks of the answer in its order, and whether there are more."""
    if shape.per_document is not None:
        groups = await by_document(
            read, filters, top_k + 1, shape.per_document, lambda name: fingerprint(name.encode()) in shape.seen
        )
        scores = groups.reading.ordered()
        first = list(groups.chunks.values())[:top_k]
        return groups.reading, {key: scores[key] for keys in first for key in keys}, len(groups.chunks) > top_k
    scored = await read(filters, len(shape.seen) + top_k + 1)
    left = [item for item in scored.ordered().items() if not shape.seen or fingerprint(item[0].bytes) not in shape.seen]
    return scored, dict(left[:top_k]), len(left) > top_k


def _explained(key: UUID, legs: Legs, terms: Mapping[UUID, Mapping[str, float]]) -> HitExplanation:
    return HitExplanation(
        legs.dense.get(key),
        legs.lexical.get(key),
        terms.get(key, {}),
        legs.dense_places.get(key),
        legs.lexical_places.get(key),
    )


def fuse(
    dense: Mapping[UUID, float], lexical: Mapping[UUID, float], weight: float, unrelated: float | None
) -> dict[UUID, float]:
    """Return the fused scores, best first: ``weight`` times the dense score, the rest the lexical score; pure.

    Dense scores are cosines, scaled so that ``unrelated``, the mean cosine of two passages, is 0 and equality is 1: the
    cosines of one model begin at 0.1, those of another at 0.8. Without it they are distances, and the best of them is
    1, the worst 0. The best lexical score is 1. A convex combination of scores orders better than their ranks, because
    it knows by how much a hit is better (Bruch, Gai, Ingber: An Analysis of Fusion Functions for Hybrid Retrieval,
    TOIS 2023).
    """
    best = max(lexical.values(), default=0.0) or 1.0
    fused = {chunk_id: weight * score for chunk_id, score in _scaled(dense, unrelated).items()}
    for chunk_id, score in lexical.items():
        fused[chunk_id] = fused.get(chunk_id, 0.0) + (1 - weight) * score / best
    return dict(sorted(fused.items(), key=lambda item: (-item[1], item[0])))


def _scaled(scores: Mapping[UUID, float], unrelated: float | None) -> dict[UUID, float]:
    """Return the dense scores, from 1 to 0; a chunk less similar than unrelated ones has one from 0 to -0.1."""
    if not scores:
        return {}
    if unrelated is None:
        low, high = min(scores.values()), max(scores.values())
    else:
        low, high = min(unrelated, _LARGEST_UNRELATED), 1.0
    if high <= low:
        return dict.fromkeys(scores, 1.0)
    below = high - low if unrelated is None else (1 + low) / _BELOW
    return {key: (score - low) / (high - low if score >= low else below) for key, score in scores.items()}


async def _matched_terms(
    connection: Connection, tenant: str, generation: Generation, question: Question, chunk_ids: Sequence[UUID]
) -> dict[UUID, dict[str, float]]:
    """Return the question's terms in each of these chunks, with their scores."""
    if not question.terms:
        return {}
    numbers = list(question.terms)
    rows = await connection.fetch(
        query_of("search", "weights", generation), tenant, generation.name, numbers, CANDIDATES, chunk_ids
    )
    return {
        row["chunk_id"]: {
            question.terms[number]: weight * passage[number]
            for number, weight in _weights(row["query"]).items()
            if number in passage
        }
        for row in rows
        for passage in [_weights(row["passage"])]
    }


def _weights(vector: SparseVector) -> dict[int, float]:
    return dict(zip(vector.indices(), vector.values(), strict=True))


async def _hits(connection: Connection, tenant: str, generation: Generation, scores: Mapping[UUID, float]) -> list[Hit]:
    """Return the chunks with their documents, in the order of ``scores``."""
    rows = await connection.fetch(load("search")["hits"], tenant, list(scores), generation.name)
    found = {row["chunk_id"]: row for row in rows}
    return [
        Hit(
            document_id=row["document_id"],
            title=row["title"],
            version=row["version"],
            chunk_id=chunk_id.bytes,
            section=tuple(row["section"]),
            start=row["start"],
            end=row["end"],
            ordinal=row["ordinal"] - 1,
            text=row["text"],
            score=score,
            source=row["source"],
            attributes=row["attributes"],
            page=row["page"],
            language=row["language"],
            complete=row["complete"],
        )
        for chunk_id, score in scores.items()
        if (row := found.get(chunk_id)) is not None
    ]
