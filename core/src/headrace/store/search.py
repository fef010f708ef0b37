"""Searches one tenant's chunks by vectors, by terms, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.embeddings.random_questions import rarities_in_questions
from headrace.errors import InvalidRecord
from headrace.lexical.analyzer import Analyzer, analyzer_of
from headrace.lexical.closeness import Closeness, WordsOfQuestion
from headrace.store.cache import to_vector
from headrace.store.conditions import NO_FILTERS, Condition, Filters, condition_of
from headrace.store.fit import Chance, fit
from headrace.store.fusion import DENSE_WEIGHT, READ_PASSAGES, fuse, ordered, with_phrases
from headrace.store.generations import STORAGES, filled, query_of
from headrace.store.queries import load
from headrace.store.rows import BYTES_PER_FLOAT, Generation
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from pgvector import SparseVector

    from headrace.store.pool import Connection, Pool

MAXIMUM_HITS = 100
CANDIDATES = 2_000
"""Passages that the rarest terms of a question may bring as candidates, before they are ranked."""
EXACT_DOCUMENTS = 500
"""If at most this many documents match a filter, they are scanned exactly, without the index."""
FUSION_DEPTH = 4
"""Each leg of a hybrid search is read to this multiple of the requested number of hits."""
_OWN_PARAMETERS = 8
_BASE = {"cosine": 1.0}
"""What a distance is subtracted from, to make a score."""


@dataclass(frozen=True, slots=True)
class HitExplanation:
    """How each leg of the question scored a hit; None if the leg was not asked or has nothing of the chunk.

    ``terms`` are the terms of the question in the chunk, each with its share of the lexical score. ``phrases`` is the
    sum of the rarities of the question's phrases in the chunk; None if they were not compared.
    """

    dense: float | None
    lexical: float | None
    terms: Mapping[str, float]
    phrases: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found: characters ``start`` up to ``end`` of the source text.

    ``ordinal`` counts the document's chunks from 0; ``page`` counts from 1, or is None if the document has no pages. A
    text that occurs several times in a section is reported at its first position. A higher ``score`` means a better
    match. It is the cosine similarity (or the negated distance) for the dense leg alone, BM25's score for the lexical
    leg alone, and from 0 to 1 for a fused one; these cannot be compared with each other. ``relevance`` is the score of
    a reranker that ranked the hit.
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
    relevance: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The hits of a search, best first, and how well the best of them fit the question.

    ``fit`` is from 0 (as random questions do, or nothing was found) to 1; None if no leg can tell, because the
    generation has another distance than the cosine.
    """

    hits: Sequence[Hit]
    fit: float | None


@dataclass(frozen=True, slots=True)
class Question:
    """A question for one leg of the index or for both.

    ``vector`` is float32, little-endian, with the generation's dimensions; ``terms`` are its terms by number
    (:func:`headrace.lexical.weights.query`); ``weight`` is the share of the dense leg. ``sequence`` are its terms in
    the order of the text: a question that has them is also ordered by phrases. With ``explain``, each hit says how it
    was found.
    """

    vector: bytes | None = None
    terms: Mapping[int, str] = field(default_factory=dict)
    weight: float = DENSE_WEIGHT
    explain: bool = False
    sequence: Sequence[str] = ()

    @property
    def hybrid(self) -> bool:
        """Whether its hits get a fused score."""
        return bool(self.terms) and (self.vector is not None or bool(self.sequence))

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
    ef_search: int = 100,
) -> Found:
    """Return the ``top_k`` chunks of ``tenant`` that match the question best, best first, and how well they fit.

    Both legs are read in one statement, each deeper than ``top_k``; every chunk that one of them finds is scored on
    both, and the scores are fused (:func:`~headrace.store.fusion.fuse`). The texts of the best are compared with the
    question: phrases order them, and the words they have tell whether they fit (:mod:`headrace.store.fit`). A higher
    ``ef_search`` (1 to 1,000) makes HNSW slower and more accurate.
    Filters never reduce the number of hits of the dense leg: if the index stops before ``top_k``, the remaining chunks
    are scanned exactly.

    Raises :class:`InvalidRecord` for a ``top_k`` outside 1 to 100, or a vector of the wrong size,
    and :class:`~headrace.errors.DependencyDown` if PostgreSQL does not answer.
    """
    if not 1 <= top_k <= MAXIMUM_HITS:
        raise InvalidRecord("top_k", f"{top_k} is not between 1 and {MAXIMUM_HITS}")
    question.check(generation)
    wanted = max(top_k, READ_PASSAGES)
    depth = wanted * FUSION_DEPTH if question.hybrid else wanted
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        await connection.execute(load("search")["prepare"], str(max(depth, min(ef_search, 1000))))
        scope = await _scope(connection, filters)
        legs = await _read_legs(connection, tenant, generation, question, wanted, depth, scope)
        hits = await _hits(connection, tenant, dict(list(legs.scores(question).items())[:wanted]))
        words = legs.words(question, analyzer_of(generation.analyzer))
        close = _compared(words, hits)
        best = dict(list(legs.scores(question, close, words.phrases).items())[:top_k])
        terms = await _matched_terms(connection, tenant, generation, question, list(best)) if question.explain else {}
    by_id = {UUID(bytes=hit.chunk_id): hit for hit in hits}
    result = [
        replace(by_id[key], score=score, explanation=legs.explanation(key, terms, close) if question.explain else None)
        for key, score in best.items()
        if key in by_id
    ]
    return Found(result, legs.fit(close, words) if hits else 0.0)


def _compared(words: WordsOfQuestion, hits: Sequence[Hit]) -> dict[UUID, Closeness]:
    """Return how close the best hits are to the question by words; nothing for a question without words."""
    if not words.terms:
        return {}
    return {
        UUID(bytes=hit.chunk_id): words.in_passage((hit.title, *hit.section, hit.text)) for hit in hits[:READ_PASSAGES]
    }


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

    ``unrelated`` is the mean cosine of two passages; None if the generation has another distance. ``query`` has the
    rarities of the question's terms by number.
    """

    dense: Mapping[UUID, float]
    lexical: Mapping[UUID, float]
    dense_places: Mapping[UUID, int]
    lexical_places: Mapping[UUID, int]
    unrelated: float | None
    query: Mapping[int, float]
    chance: Chance

    def scores(
        self, question: Question, close: Mapping[UUID, Closeness] = MappingProxyType({}), phrases: float = 0.0
    ) -> Mapping[UUID, float]:
        """Return the score of each chunk, best first; with the phrases of those that were compared."""
        if not question.hybrid:
            return ordered(self.lexical if question.vector is None else self.dense)
        weight = question.weight if question.vector is not None else 0.0
        if not close or not question.sequence:
            return fuse(self.dense, self.lexical, weight, self.unrelated)
        found = {key: one.phrases for key, one in close.items()}
        return with_phrases(self.dense, self.lexical, weight, self.unrelated, found, phrases)

    def words(self, question: Question, analyzer: Analyzer) -> WordsOfQuestion:
        """Return the question's rarest terms, to compare passages with."""
        rarities = {question.terms[number]: rarity for number, rarity in self.query.items()}
        sequence = question.sequence or tuple(question.terms.values())
        return WordsOfQuestion(analyzer, sequence, rarities, rarities_in_questions(analyzer.name))

    def fit(self, close: Mapping[UUID, Closeness], words: WordsOfQuestion) -> float | None:
        """Return how well the best passages fit."""
        coverage = max((one.coverage for one in close.values()), default=None)
        cosine = max(self.dense.values(), default=None) if self.unrelated is not None else None
        by_chance = self.chance.coverage(words.terms, unspaced=words.unspaced)
        return fit(coverage, by_chance, cosine, self.chance.meaning)

    def explanation(
        self, key: UUID, terms: Mapping[UUID, Mapping[str, float]], close: Mapping[UUID, Closeness]
    ) -> HitExplanation:
        """Return how the chunk was found."""
        phrases = close[key].phrases if key in close else None
        return HitExplanation(self.dense.get(key), self.lexical.get(key), terms.get(key, {}), phrases)


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
    first = rows[0] if rows else dict.fromkeys(("unrelated", "chance_words", "chance_unspaced", "chance_meaning"))
    return _Legs(
        {row["chunk_id"]: base - row["distance"] for row in rows if row["distance"] is not None},
        {row["chunk_id"]: row["score"] for row in rows if row["score"]},
        {row["chunk_id"]: row["dense"] for row in rows if row["dense"] is not None},
        {row["chunk_id"]: row["lexical"] for row in rows if row["lexical"] is not None},
        (first["unrelated"] or 0.0) if generation.distance in _BASE else None,
        next((_weights(row["query"]) for row in rows if row["query"] is not None), {}),
        Chance(first["chance_words"] or (), first["chance_unspaced"] or (), first["chance_meaning"]),
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
