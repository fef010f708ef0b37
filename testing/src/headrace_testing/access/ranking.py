"""The exact ranking of the passages that a reader may see: every passage scored by NumPy, without an index."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headrace.lexical.analyzer import DEFAULT, analyzer_of
from headrace.lexical.closeness import WordsOfQuestion
from headrace.store.fusion import DENSE_WEIGHT, READ_PASSAGES, fuse, with_phrases
from headrace.store.generations import filled
from headrace.store.rows import Generation
from headrace.store.search import FUSION_DEPTH, Question

if TYPE_CHECKING:
    import asyncpg

NO_VECTORS: NDArray[np.float64] = np.zeros((0, 1))
TOLERANCE = 1e-4
"""Scores of PostgreSQL and NumPy differ by less."""
_ALL = """
SELECT c.document_id, d.title, c.section, c.text, c.chunk_id, e.vector_key, v.embedding::vector AS embedding, l.weights
FROM chunk AS c
JOIN document AS d USING (tenant, document_id)
JOIN {embedding} AS e USING (tenant, chunk_id)
JOIN {vectors} AS v USING (tenant, vector_key)
JOIN {lexical} AS l USING (tenant, chunk_id)
WHERE c.tenant = $1
ORDER BY c.chunk_id
"""
_COUNTED = "SELECT passages, unrelated FROM search_statistics WHERE tenant = $1 AND generation = $2"
_FREQUENT = "SELECT term, passages FROM term_frequency WHERE tenant = $1 AND generation = $2"


@dataclass(frozen=True, slots=True)
class Passages:
    """All passages of a tenant, ordered by chunk ID: documents, texts, keys of vectors, unit vectors, lexical weights.

    ``titles`` are the title and section path of each, which count as its text. ``counted`` and ``frequencies`` are the
    estimated numbers of passages, in all and by term.
    """

    documents: Sequence[str]
    titles: Sequence[tuple[str, ...]]
    texts: Sequence[str]
    keys: Sequence[bytes]
    vectors: NDArray[np.float64]
    lexical: Sequence[Mapping[int, float]]
    counted: int
    unrelated: float
    frequencies: Mapping[int, float]

    def problems(
        self, readable: Collection[str], question: Question, top_k: int, hits: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """Return in what these hits differ from the exact ones of the readable documents."""
        rows = [row for row, name in enumerate(self.documents) if name in readable]
        weighed = {term: self._rarity(term) for term in question.terms}
        lexical = {row: score for row in rows if (score := _product(self.lexical[row], weighed))}
        dense: dict[int, float] = {}
        if question.vector is not None:
            wanted = np.frombuffer(question.vector, dtype="<f4").astype(np.float64)
            scores = self.vectors[rows] @ (wanted / np.linalg.norm(wanted))
            dense = dict(zip(rows, scores.tolist(), strict=True))
        if not question.hybrid:
            return self._differences(dense if question.vector is not None else lexical, top_k, hits)
        # The dense leg takes all chunks of a text if it reads exactly, and top_k of them if it reads by the index.
        found = (
            self._differences(self._fused(question, nearest, dense, lexical, top_k), top_k, hits)
            for nearest in (dense, self._few_of_each_text(dense, top_k))
        )
        return min(found, key=len)

    def _few_of_each_text(self, dense: Mapping[int, float], top_k: int) -> dict[int, float]:
        taken: Counter[bytes] = Counter()
        few = {}
        for row, score in dense.items():
            taken[self.keys[row]] += 1
            if taken[self.keys[row]] <= top_k:
                few[row] = score
        return few

    def _fused(
        self,
        question: Question,
        nearest: Mapping[int, float],
        dense: Mapping[int, float],
        lexical: Mapping[int, float],
        top_k: int,
    ) -> dict[int, float]:
        """Return the fused scores of what the legs find, with the phrases of the best."""
        depth = max(top_k + 1, READ_PASSAGES) * FUSION_DEPTH  # one more, to know whether there are more
        found = {*_best(nearest, depth), *_best(lexical, depth)}
        by_vector: dict[Any, float] = {row: dense[row] for row in found if row in dense}
        by_words: dict[Any, float] = {row: lexical[row] for row in found if row in lexical}
        weight = 0.0 if question.vector is None else DENSE_WEIGHT
        fused = fuse(by_vector, by_words, weight, self.unrelated)
        if question.sequence:
            rarities = {term: self._rarity(number) for number, term in question.terms.items()}
            words = WordsOfQuestion(analyzer_of(DEFAULT), question.sequence, rarities)
            best: Any = list(fused)[:READ_PASSAGES]
            phrases: Any = {row: words.in_passage((*self.titles[row], self.texts[row])).phrases for row in best}
            fused = with_phrases(by_vector, by_words, weight, self.unrelated, phrases, words.phrases)
        scores: Any = fused
        return dict(scores)

    def _differences(self, scores: Mapping[int, float], top_k: int, hits: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return in what the hits differ from the best of these; hits of equal scores may change places."""
        expected = sorted(scores.values(), reverse=True)[:top_k]
        if len(hits) != len(expected):
            return [f"{len(hits)} hits instead of {len(expected)}"]
        by_passage = {(self.documents[row], self.texts[row]): score for row, score in scores.items()}
        problems = []
        for place, (hit, score) in enumerate(zip(hits, expected, strict=True)):
            own = by_passage.get((hit["document_id"], hit["text"]))
            if own is None or abs(own - hit["score"]) > TOLERANCE:
                problems.append(f"hit {place} ({hit['document_id']}) has the score {hit['score']} instead of {own}")
            elif abs(hit["score"] - score) > TOLERANCE:
                problems.append(f"hit {place} has the score {hit['score']}; the exact ranking has {score}")
        return problems

    def _rarity(self, term: int) -> float:
        """Return BM25's inverse document frequency; a term that was not counted is in one passage."""
        passages = self.frequencies.get(term, 1.0)
        return math.log(1 + (max(self.counted - passages, 0) + 0.5) / (passages + 0.5))


async def read_passages(owner: asyncpg.Connection[Any], tenant: str, generation: Generation) -> Passages:
    """Return the tenant's passages, read by a role to which row-level security does not apply."""
    rows = await owner.fetch(filled(_ALL, generation), tenant)
    counted = await owner.fetchrow(_COUNTED, tenant, generation.name)
    assert counted is not None
    vectors = np.array([row["embedding"].to_list() for row in rows], dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Passages(
        [row["document_id"] for row in rows],
        [(row["title"], *row["section"]) for row in rows],
        [row["text"] for row in rows],
        [row["vector_key"] for row in rows],
        vectors / np.where(lengths == 0, 1, lengths),
        [dict(zip(row["weights"].indices(), row["weights"].values(), strict=True)) for row in rows],
        counted["passages"], counted["unrelated"],
        {row["term"]: row["passages"] for row in await owner.fetch(_FREQUENT, tenant, generation.name)},
    )  # fmt: skip


def _product(passage: Mapping[int, float], question: Mapping[int, float]) -> float:
    return sum(weight * passage[term] for term, weight in question.items() if term in passage)


def _best(scores: Mapping[int, float], depth: int) -> list[int]:
    return sorted(scores, key=lambda row: -scores[row])[:depth]
