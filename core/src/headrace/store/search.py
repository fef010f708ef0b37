"""Searches one tenant's chunks by vectors, by terms, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.errors import InvalidRecord
from headrace.store.cache import to_vector
from headrace.store.conditions import NO_FILTERS, Condition, Filters, condition_of
from headrace.store.generations import STORAGES, filled, query_of
from headrace.store.queries import load
from headrace.store.rows import BYTES_PER_FLOAT, Generation
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from pgvector import SparseVector

    from headrace.store.pool import Connection, Pool

MAXIMUM_HITS = 100
DENSE_WEIGHT = 0.4
"""Share of the dense leg in the fused score, from 0 to 1; measured in ``docs/quality.md``."""
CANDIDATES = 2_000
"""Passages that the rarest terms of a question may bring as candidates, before they are ranked."""
EXACT_DOCUMENTS = 500
"""If at most this many documents match a filter, they are scanned exactly, without the index."""
FUSION_DEPTH = 4
"""Each leg of a hybrid search is read to this multiple of the requested number of hits."""
_LARGEST_UNRELATED = 0.95
"""The mean cosine of passages is taken as at most this, so that the rest keeps a scale."""
_BELOW = 0.1
"""A cosine of -1 costs this share of the dense leg: it keeps the order below the mean, and hides no match by words."""
_OWN_PARAMETERS = 8
_BASE = {"cosine": 1.0}
"""What a distance is subtracted from, to make a score."""


@dataclass(frozen=True, slots=True)
class HitExplanation:
    """How each leg of the question scored a hit; None if the leg was not asked or has nothing of the chunk.

    ``terms`` are the terms of the question in the chunk, each with its share of the lexical score.
    """

    dense: float | None
    lexical: float | None
    terms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found: characters ``start`` up to ``end`` of the source text.

    ``ordinal`` counts the document's chunks from 0; ``page`` counts from 1, or is None if the document has no pages. A
    text that occurs several times in a section is reported at its first position. A higher ``score`` means a better
    match. It is the cosine similarity (or the negated distance) for the dense leg alone, BM25's score for the lexical
    leg alone, and from 0 to 1 for both; these cannot be compared with each other.
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
    explanation: HitExplanation | None = None


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


async def search(
    pool: Pool,
    tenant: str,
    generation: Generation,
    question: Question,
    *,
    top_k: int = 10,
    filters: Filters = NO_FILTERS,
) -> list[Hit]:
    """Return the ``top_k`` chunks of ``tenant`` that match the question best, best first.

    Both legs are read in one statement, each deeper than ``top_k``; every chunk that one of them finds is scored on
    both, and the scores are fused (:func:`fuse`). A higher ``ef_search`` (1 to 1,000) or ``probes`` of the generation
    makes its index slower and more accurate.
    Filters never reduce the number of hits of the dense leg: if the index stops before ``top_k``, the remaining chunks
    are scanned exactly.

    Raises :class:`InvalidRecord` for a ``top_k`` outside 1 to 100, or a vector of the wrong size,
    and :class:`~headrace.errors.DependencyDown` if PostgreSQL does not answer.
    """
    if not 1 <= top_k <= MAXIMUM_HITS:
        raise InvalidRecord("top_k", f"{top_k} is not between 1 and {MAXIMUM_HITS}")
    question.check(generation)
    depth = top_k * FUSION_DEPTH if question.hybrid else top_k
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        await connection.execute(load("search")["prepare"], *effort(generation, depth))
        scope = await _scope(connection, filters)
        legs = await _read_legs(connection, tenant, generation, question, top_k, depth, scope)
        best = dict(list(legs.scores(question).items())[:top_k])
        hits = await _hits(connection, tenant, best)
        if not question.explain:
            return hits
        terms = await _matched_terms(connection, tenant, generation, question, list(best))
    return [
        replace(hit, explanation=HitExplanation(legs.dense.get(key), legs.lexical.get(key), terms.get(key, {})))
        for hit in hits
        if (key := UUID(bytes=hit.chunk_id))
    ]


def effort(generation: Generation, depth: int) -> tuple[str, str]:
    """Return the settings of a search ``depth`` deep: candidates of HNSW, and lists of IVFFlat."""
    return str(max(depth, min(generation.ef_search, 1000))), str(generation.probes)


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


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where to search: the condition, and the documents that meet it if they are few."""

    condition: Condition
    documents: Sequence[str] | None

    @property
    def wide(self) -> bool:
        """Whether many documents may meet a condition, so that the rarest terms alone could find only others."""
        return self.documents is None and self.condition != Condition()


async def _scope(connection: Connection, filters: Filters) -> _Scope:
    """Replace an attribute filter with the IDs of the matching documents if they are few."""
    if filters.attributes is not None:
        limit = EXACT_DOCUMENTS + 1
        rows = await connection.fetch(load("search")["having"], filters.attributes, filters.document_ids, limit)
        if len(rows) <= EXACT_DOCUMENTS:
            return _Scope(Condition(), tuple(row[0] for row in rows))
    return _Scope(condition_of(filters), filters.document_ids)


@dataclass(frozen=True, slots=True)
class _Legs:
    """The scores of the chunks that a leg found, on both legs, and the places of each leg's own, from 1.

    ``unrelated`` is the mean cosine of two passages; None if the generation has another distance.
    """

    dense: Mapping[UUID, float]
    lexical: Mapping[UUID, float]
    dense_places: Mapping[UUID, int]
    lexical_places: Mapping[UUID, int]
    unrelated: float | None

    def scores(self, question: Question) -> Mapping[UUID, float]:
        """Return the score of each chunk, best first."""
        if question.hybrid:
            return fuse(self.dense, self.lexical, question.weight, self.unrelated)
        leg = self.lexical if question.vector is None else self.dense
        return dict(sorted(leg.items(), key=lambda item: (-item[1], item[0])))


async def _read_legs(
    connection: Connection,
    tenant: str,
    generation: Generation,
    question: Question,
    top_k: int,
    depth: int,
    scope: _Scope,
) -> _Legs:
    """Read both legs in one statement; again without the index if it stopped before ``depth``."""
    vector = None if question.vector is None else to_vector(question.vector)
    terms = list(question.terms)
    values = (tenant, vector, depth, generation.name, terms, CANDIDATES, scope.documents, top_k)
    exact = scope.documents is not None
    rows = await connection.fetch(_legs_query(generation, scope, exact=exact), *values, *scope.condition.values)
    if not exact and vector is not None and sum(row["dense"] is not None for row in rows) < depth:
        rows = await connection.fetch(_legs_query(generation, scope, exact=True), *values, *scope.condition.values)
    base = _BASE.get(generation.distance, 0.0)
    unrelated = (rows[0]["unrelated"] or 0.0) if rows and generation.distance in _BASE else None
    return _Legs(
        {row["chunk_id"]: base - row["distance"] for row in rows if row["distance"] is not None},
        {row["chunk_id"]: row["score"] for row in rows if row["score"]},
        {row["chunk_id"]: row["dense"] for row in rows if row["dense"] is not None},
        {row["chunk_id"]: row["lexical"] for row in rows if row["lexical"] is not None},
        unrelated,
    )


def _legs_query(generation: Generation, scope: _Scope, *, exact: bool) -> str:
    """Return the statement that reads both legs, through the index or exactly."""
    queries = load("legs")
    text = queries["legs"].replace("{nearest}", queries["nearest_exact" if exact else "nearest"])
    text = text.replace("{ordered}", queries["ordered_binary" if STORAGES[generation.storage].binary else "ordered"])
    text = text.replace("{condition}", scope.condition.after(_OWN_PARAMETERS))
    return filled(text.replace("{wide}", str(scope.wide)), generation)


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


async def _hits(connection: Connection, tenant: str, scores: Mapping[UUID, float]) -> list[Hit]:
    """Return the chunks with their documents, in the order of ``scores``."""
    rows = await connection.fetch(load("search")["hits"], tenant, list(scores))
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
        )
        for chunk_id, score in scores.items()
        if (row := found.get(chunk_id)) is not None
    ]
