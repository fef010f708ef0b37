"""Searches one tenant's chunks by vectors, by terms, or by both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.access.readers import UNNAMED, Reader
from headrace.embeddings.random_questions import rarities_in_questions
from headrace.errors import InvalidRecord
from headrace.filters.model import Filter
from headrace.lexical.analyzer import Analyzer, analyzer_of
from headrace.lexical.closeness import Closeness, WordsOfQuestion
from headrace.store.fit import fit
from headrace.store.fusion import DENSE_WEIGHT, READ_PASSAGES, fuse, ordered, with_phrases
from headrace.store.generations import query_of
from headrace.store.grouping import Groups, Read, by_document
from headrace.store.legs import CANDIDATES, DEEPEST, Legs, Plan, Scope, effort, read_legs, scope_of, weights_of
from headrace.store.neighbours import MAXIMUM_NEIGHBOURS, Neighbours, around
from headrace.store.queries import load
from headrace.store.rows import BYTES_PER_FLOAT, Generation
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

MAXIMUM_HITS = 100
FUSION_DEPTH = 4
"""Each leg of a hybrid search is read to this multiple of the requested number of hits."""
MAXIMUM_PER_DOCUMENT = 10
"""Passages of each document in a grouped search."""
FINGERPRINT_BYTES = 6
"""Bytes; among 1,000 hits and 10,000 candidates, two share one with a chance of 1 in 28 million."""


@dataclass(frozen=True, slots=True)
class HitExplanation:
    """How each leg of the question scored a hit; None if the leg was not asked or has nothing of the chunk.

    ``terms`` are the terms of the question in the chunk, each with its share of the lexical score. The ranks count from
    1 among what a leg found; None if the leg did not find the chunk, but scored it because the other one did.
    ``phrases`` is the sum of the rarities of the question's phrases in the chunk; None if they were not compared.
    """

    dense: float | None
    lexical: float | None
    terms: Mapping[str, float]
    dense_rank: int | None = None
    lexical_rank: int | None = None
    phrases: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found: characters ``start`` up to ``end`` of the source text.

    ``ordinal`` counts the document's chunks from 0; ``page`` counts from 1, or is None if the document has no pages. A
    text that occurs several times in a section is reported at its first position. A higher ``score`` means a better
    match. It is the cosine similarity (or the negated distance) for the dense leg alone, BM25's score for the lexical
    leg alone, and from 0 to 1 for a fused one; these cannot be compared with each other. A hit is ``complete`` unless
    the generation still lacks a part of this version of its document. ``relevance`` is the score of a reranker that
    ranked the hit.
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
    relevance: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question for one leg of the index or for both.

    ``vector`` is float32, little-endian, with the generation's dimensions; ``terms`` are its terms by number
    (:func:`headrace.lexical.weights.query`); ``weight`` is the share of the dense leg. ``sequence`` are its terms in
    the order of the text: a question that has them is also ordered by phrases. With ``explain``, each hit says
    how it was found.
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
    """The hits of a search, best first (the hits of a document together), whether there are ``more``, and the plan.

    ``fit`` is how well the best of them fit the question, from 0 (as random questions do, or nothing was found) to 1;
    None if no leg can tell, because the generation has another distance than the cosine.
    """

    hits: Sequence[Hit]
    more: bool
    plan: Plan
    fit: float | None


async def search(
    pool: Pool,
    tenant: str,
    generation: Generation,
    question: Question,
    *,
    reader: Reader = UNNAMED,
    top_k: int = 10,
    filters: Filter | None = None,
    shape: Shape = PLAIN,
) -> Found:
    """Return the ``top_k`` chunks (or documents, see :class:`Shape`) that ``reader`` may read and that match best.

    Both legs are read in one statement, each deeper than ``top_k``; every chunk that one of them finds is scored on
    both, and the scores are fused (:func:`~headrace.store.fusion.fuse`). The texts of the best are compared with the
    question: phrases order them, and the words they have tell whether they fit (:mod:`headrace.store.fit`). A higher
    ``ef_search`` (1 to 1,000) or ``probes`` of the generation makes its index slower and more accurate.
    Filters never reduce the number of hits of the dense leg: if the index stops before ``top_k``, the remaining chunks
    are scanned exactly.

    Raises :class:`InvalidRecord` for a ``top_k`` outside 1 to 100, or a vector of the wrong size,
    and :class:`~headrace.errors.DependencyDown` if PostgreSQL does not answer.
    """
    if not 1 <= top_k <= MAXIMUM_HITS:
        raise InvalidRecord("top_k", f"{top_k} is not between 1 and {MAXIMUM_HITS}")
    question.check(generation)
    shape.check()
    async with tenant_transaction(pool, tenant, reader=reader, readonly=True) as connection:

        async def read(given: Filter | None, wanted: int) -> _Scored:
            depth = max(wanted, min(wanted * FUSION_DEPTH, DEEPEST)) if question.hybrid else wanted
            scope = await _prepared(connection, tenant, generation, depth, given)
            return _Scored(await read_legs(connection, tenant, generation, question, wanted, depth, scope), question)

        scored, groups = await _read(read, filters, top_k, shape)
        first = dict(list(scored.ordered().items())[:READ_PASSAGES])
        hits = await _hits(connection, tenant, generation, first)
        scored = scored.compared(hits, analyzer_of(generation.analyzer))
        chosen, more = _chosen(scored, groups, top_k, shape)
        missing = {key: score for key, score in chosen.items() if key not in hits}
        if missing:
            hits |= await _hits(connection, tenant, generation, missing)
        best = [replace(hits[key], score=score) for key, score in chosen.items() if key in hits]
        if shape.neighbours:
            best = await _with_neighbours(connection, tenant, best, shape.neighbours)
        if question.explain:
            terms = await _matched_terms(connection, tenant, generation, question, list(chosen))
            best = [replace(hit, explanation=scored.explanation(UUID(bytes=hit.chunk_id), terms)) for hit in best]
    return Found(best, more, scored.legs.plan, scored.fit() if hits else 0.0)


async def _prepared(
    connection: Connection, tenant: str, generation: Generation, depth: int, given: Filter | None
) -> Scope:
    """Set the transaction up for a search ``depth`` deep, and return where to search."""
    known = await connection.fetchrow(load("search")["prepare"], *effort(generation, depth))
    assert known is not None
    return await scope_of(connection, tenant, given, restricted=known["restricted"], passages=known["passages"])


async def _with_neighbours(connection: Connection, tenant: str, hits: Sequence[Hit], count: int) -> list[Hit]:
    near = await around(connection, tenant, [UUID(bytes=hit.chunk_id) for hit in hits], count)
    return [replace(hit, neighbours=near.get(UUID(bytes=hit.chunk_id), Neighbours())) for hit in hits]


@dataclass(frozen=True, slots=True)
class _Scored:
    """What was read for a question; implements :class:`headrace.store.grouping.Reading`.

    ``words`` are the question's, and ``close`` says how close those passages are to it whose texts were compared.
    """

    legs: Legs
    question: Question
    words: WordsOfQuestion | None = None
    close: Mapping[UUID, Closeness] = field(default_factory=dict)

    @property
    def documents(self) -> Mapping[UUID, str]:
        return self.legs.documents

    def joined(self, other: _Scored) -> _Scored:
        return replace(self, legs=self.legs.joined(other.legs))

    def compared(self, hits: Mapping[UUID, Hit], analyzer: Analyzer) -> _Scored:
        """Return this with the closeness of these hits."""
        question = self.question
        rarities = {question.terms[number]: rarity for number, rarity in self.legs.query.items()}
        sequence = question.sequence or tuple(question.terms.values())
        words = WordsOfQuestion(analyzer, sequence, rarities, rarities_in_questions(analyzer.name))
        if not words.terms:
            return replace(self, words=words)
        close = {key: words.in_passage((hit.title, *hit.section, hit.text)) for key, hit in hits.items()}
        return replace(self, words=words, close=close)

    def ordered(self) -> Mapping[UUID, float]:
        """Return the score of each chunk, best first; with the phrases of those that were compared."""
        legs, question = self.legs, self.question
        if not question.hybrid:
            return ordered(legs.lexical if question.vector is None else legs.dense)
        weight = question.weight if question.vector is not None else 0.0
        if not self.close or self.words is None or not question.sequence:
            return fuse(legs.dense, legs.lexical, weight, legs.unrelated)
        found = {key: one.phrases for key, one in self.close.items()}
        return with_phrases(legs.dense, legs.lexical, weight, legs.unrelated, found, self.words.phrases)

    def fit(self) -> float | None:
        """Return how well the best passages fit."""
        legs, words = self.legs, self.words
        assert words is not None
        coverage = max((one.coverage for one in self.close.values()), default=None)
        cosine = max(legs.dense.values(), default=None) if legs.unrelated is not None else None
        by_chance = legs.chance.coverage(words.terms, unspaced=words.unspaced)
        return fit(coverage, by_chance, cosine, legs.chance.meaning)

    def explanation(self, key: UUID, terms: Mapping[UUID, Mapping[str, float]]) -> HitExplanation:
        """Return how the chunk was found."""
        legs = self.legs
        return HitExplanation(
            legs.dense.get(key), legs.lexical.get(key), terms.get(key, {}), legs.dense_places.get(key),
            legs.lexical_places.get(key), self.close[key].phrases if key in self.close else None,
        )  # fmt: skip


async def _read(
    read: Read[_Scored], filters: Filter | None, top_k: int, shape: Shape
) -> tuple[_Scored, Groups[_Scored] | None]:
    """Return what was read, at least as much as is compared, and its groups if documents are wanted."""
    if shape.per_document is None:
        return await read(filters, max(len(shape.seen) + top_k + 1, READ_PASSAGES)), None
    groups = await by_document(
        read, filters, top_k + 1, shape.per_document, lambda name: fingerprint(name.encode()) in shape.seen
    )
    return groups.reading, groups


def _chosen(
    scored: _Scored, groups: Groups[_Scored] | None, top_k: int, shape: Shape
) -> tuple[dict[UUID, float], bool]:
    """Return the scores of the chunks of the answer in its order, and whether there are more."""
    scores = scored.ordered()
    if groups is not None:
        documents = [sorted(keys, key=lambda key: -scores[key]) for keys in groups.chunks.values()]
        documents.sort(key=lambda keys: -scores[keys[0]])
        return {key: scores[key] for keys in documents[:top_k] for key in keys}, len(documents) > top_k
    left = [item for item in scores.items() if not shape.seen or fingerprint(item[0].bytes) not in shape.seen]
    return dict(left[:top_k]), len(left) > top_k


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
            for number, weight in weights_of(row["query"]).items()
            if number in passage
        }
        for row in rows
        for passage in [weights_of(row["passage"])]
    }


async def _hits(
    connection: Connection, tenant: str, generation: Generation, scores: Mapping[UUID, float]
) -> dict[UUID, Hit]:
    """Return the chunks with their documents, in the order of ``scores``."""
    rows = await connection.fetch(load("search")["hits"], tenant, list(scores), generation.name)
    found = {row["chunk_id"]: row for row in rows}
    return {
        chunk_id: Hit(
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
    }
