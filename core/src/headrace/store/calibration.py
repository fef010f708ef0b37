"""Estimates what random questions find in a tenant's passages (:mod:`headrace.store.fit`).

By words, a random question consists of single words of different passages; what the best other passage has of them, it
has by chance. By meaning, it is one of :mod:`headrace.embeddings.random_questions`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer, analyzer_of, unspaced
from headrace.store.cache import to_vector
from headrace.store.error_mapping import postgresql_errors
from headrace.store.fit import CHANCE_TERMS, smoothed
from headrace.store.fusion import READ_PASSAGES
from headrace.store.generations import STORAGES, filled, query_of
from headrace.store.legs import effort
from headrace.store.queries import load
from headrace.store.rows import Generation

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

QUESTIONS = 12
"""Random questions for each number of terms; their mean varies by about 0.03."""
SAMPLED_TEXTS = 500
_CANDIDATES = 1_000
_ATTEMPTS = 4
"""Words that are drawn at most for each term of a random question: many tokens are signs, or repeat a term."""


async def calibrate(connection: Connection, tenant: str, generation: Generation, first: UUID, draw: Random) -> None:
    """Estimate for a tenant whose terms were counted just now; within the caller's transaction.

    ``first`` is the chunk ID at which the sample begins.
    """
    rows = await connection.fetch(load("calibration")["texts"], tenant, first, SAMPLED_TEXTS)
    analyzer = analyzer_of(generation.analyzer)
    chances = []
    for script in (False, True):
        texts = [
            (row["chunk_id"], words)
            for row in rows
            if (words := [word for word in row["text"].split() if any(map(unspaced, word)) == script])
        ]
        shares = [
            await _chance(connection, tenant, generation, _questions(analyzer, tenant, texts, number, draw))
            for number in CHANCE_TERMS
        ]
        chances.append(smoothed(shares))
    meaning = await _best_cosine(connection, tenant, generation) if generation.distance == "cosine" else None
    await connection.execute(load("calibration")["keep"], tenant, generation.name, *chances, meaning)


async def _chance(
    connection: Connection,
    tenant: str,
    generation: Generation,
    questions: Iterable[tuple[list[int], list[UUID]]],
) -> float:
    """Return the mean of the highest coverages; 0 without a question, for a tenant without words of this script."""
    shares = [await _best_coverage(connection, tenant, generation, *question) for question in questions]
    return math.fsum(shares) / len(shares) if shares else 0.0


def _questions(
    analyzer: Analyzer, tenant: str, texts: Sequence[tuple[UUID, list[str]]], number: int, draw: Random
) -> Iterator[tuple[list[int], list[UUID]]]:
    """Yield random questions of so many terms, each with the passages of which its words were taken."""
    for _ in range(QUESTIONS if texts else 0):
        terms: dict[int, str] = {}
        sources = []
        for _ in range(number * _ATTEMPTS):
            if len(terms) >= number:
                break
            source, words = draw.choice(texts)
            sources.append(source)
            terms |= weights.query(analyzer, tenant, draw.choice(words))
        if terms:
            yield list(terms)[:number], sources


async def _best_coverage(
    connection: Connection, tenant: str, generation: Generation, terms: Sequence[int], sources: Sequence[UUID]
) -> float:
    rows = await connection.fetch(
        query_of("calibration", "best_coverage", generation),
        tenant, generation.name, terms, _CANDIDATES, sources, READ_PASSAGES,
    )  # fmt: skip
    best = 0.0
    for row in rows:
        rarities = dict(zip(row["query"].indices(), row["query"].values(), strict=True))
        best = max(best, math.fsum(rarities[term] for term in row["shared"]) / math.fsum(rarities.values()))
    return best


async def _best_cosine(connection: Connection, tenant: str, generation: Generation) -> float | None:
    """Return the mean cosine of random questions with their nearest passages, in the language where it is highest.

    None without vectors of random questions, or without passages.
    """
    await connection.execute(load("search")["prepare"], *effort(generation, READ_PASSAGES))
    vectors = load("legs")["ordered_binary" if STORAGES[generation.storage].binary else "ordered"]
    nearest = filled(load("calibration")["nearest"].replace("{ordered}", vectors), generation)
    cosines: dict[str, list[float]] = defaultdict(list)
    for row in await connection.fetch(load("calibration")["questions"], generation.name):
        distance = await connection.fetchval(nearest, tenant, to_vector(row["vector"]), 1)
        if distance is not None:
            cosines[row["language"]].append(1 - distance)
    return max((math.fsum(found) / len(found) for found in cosines.values()), default=None)


async def calibrated(pool: Pool, generation: str) -> bool:
    """Whether the generation has vectors of random questions; raises :class:`~headrace.errors.DependencyDown`."""
    with postgresql_errors():
        return bool(await pool.fetchval(load("calibration")["known"], generation))


async def remember(pool: Pool, generation: str, vectors: Sequence[tuple[str, bytes]]) -> None:
    """Store the language and the vector (float32, little-endian) of each random question.

    Raises :class:`~headrace.errors.DependencyDown`.
    """
    languages, values = [language for language, _ in vectors], [vector for _, vector in vectors]
    with postgresql_errors():
        await pool.execute(load("calibration")["remember"], generation, list(range(len(vectors))), languages, values)
