"""Search one tenant's chunks: by vector, or by vector and words together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.errors import InvalidRecord
from headrace.store.cache import to_vector
from headrace.store.generations import OPERATORS, embedding_table
from headrace.store.queries import load
from headrace.store.rows import BYTES_PER_FLOAT, Generation
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

MAXIMUM_HITS = 100
FUSION_CONSTANT = 60
"""k of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""
EXACT_DOCUMENTS = 500
"""A filter that leaves no more documents than this is answered by an exact scan of them, without the index."""
FUSION_DEPTH = 4
"""Each ranking of a hybrid search is read this many times deeper than hits are wanted."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found, at ``start`` up to ``end`` (characters of the source text).

    ``ordinal`` counts chunks of the document from 0, ``page`` from 1 (None where it has no pages); a text that
    stands in a section several times is shown at its first place.
    ``score`` grows with relevance: the cosine similarity (or the negated distance) of a vector search, the fused
    rank of a hybrid one; scores of the two do not compare.
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


@dataclass(frozen=True, slots=True)
class Filters:
    """Which documents may be found; None leaves a filter out, attributes must all be equal."""

    document_ids: tuple[str, ...] | None = None
    attributes: Mapping[str, str] | None = None


async def search(
    pool: Pool,
    tenant: str,
    generation: Generation,
    query_vector: bytes,
    *,
    top_k: int = 10,
    document_ids: Sequence[str] | None = None,
    attributes: Mapping[str, str] | None = None,
    query_text: str | None = None,
    ef_search: int = 100,
) -> list[Hit]:
    """Find the ``top_k`` chunks of ``tenant`` that fit best, the best first.

    ``query_vector`` is float32, little-endian, of the generation's dimensions; with ``query_text`` the ranking by
    words is fused into that by vectors.
    ``ef_search`` (1 to 1,000) trades HNSW's speed for its recall.
    A filter never costs hits: where the index gives up before ``top_k``, the rest is scanned exactly.

    Raises :class:`InvalidRecord` for a ``top_k`` outside 1 to 100 or a vector of a wrong size, and
    :class:`~headrace.errors.DependencyDown` when PostgreSQL does not answer.
    """
    if not 1 <= top_k <= MAXIMUM_HITS:
        raise InvalidRecord("top_k", f"{top_k} is not between 1 and {MAXIMUM_HITS}")
    if len(query_vector) != generation.dimensions * BYTES_PER_FLOAT:
        raise InvalidRecord(
            "query_vector",
            f"has {len(query_vector) // BYTES_PER_FLOAT} dimensions; the generation needs {generation.dimensions}",
        )
    filters = Filters(None if document_ids is None else tuple(document_ids), attributes or None)
    depth = top_k if query_text is None else top_k * FUSION_DEPTH
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        await connection.execute(load("search")["prepare"], str(max(depth, min(ef_search, 1000))))
        filters = await _narrow(connection, filters)
        scores = await _nearest(connection, tenant, generation, query_vector, depth, filters)
        if query_text is not None:
            words = await _matching(connection, query_text, depth, filters)
            scores = fuse(list(scores), list(words))
        best = dict(list(scores.items())[:top_k])
        return await _hits(connection, tenant, best)


def fuse(*rankings: Sequence[UUID]) -> dict[UUID, float]:
    """Reciprocal rank fusion: the sum of 1 / (60 + rank) over the rankings, ranks from 1, best first; pure."""
    scores: dict[UUID, float] = {}
    for ranking in rankings:
        for rank, chunk_id in enumerate(ranking, start=1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1 / (FUSION_CONSTANT + rank)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


async def _narrow(connection: Connection, filters: Filters) -> Filters:
    """Replace an attribute filter with the matching documents if they are few."""
    if filters.attributes is None:
        return filters
    limit = EXACT_DOCUMENTS + 1
    rows = await connection.fetch(load("search")["having"], filters.attributes, filters.document_ids, limit)
    if len(rows) > EXACT_DOCUMENTS:
        return filters
    return Filters(document_ids=tuple(row[0] for row in rows))


async def _nearest(
    connection: Connection,
    tenant: str,
    generation: Generation,
    query_vector: bytes,
    depth: int,
    filters: Filters,
) -> dict[UUID, float]:
    """Chunks by vector, the nearest first, with their scores."""
    operator, table = OPERATORS[generation.distance], embedding_table(generation.name)
    queries = {
        name: load("search")[name].replace("{operator}", operator).replace("{embedding}", table)
        for name in ("nearest", "nearest_exact")
    }
    vector = to_vector(query_vector)
    rows = []
    if filters.document_ids is None:
        rows = await connection.fetch(queries["nearest"], tenant, vector, depth, filters.attributes)
    if len(rows) < depth:
        rows = await connection.fetch(
            queries["nearest_exact"], tenant, vector, depth, filters.attributes, filters.document_ids
        )
    base = 1.0 if generation.distance == "cosine" else 0.0
    return {row["chunk_id"]: base - row["value"] for row in rows}


async def _matching(connection: Connection, text: str, depth: int, filters: Filters) -> dict[UUID, float]:
    """Chunks by words, the best first, with their ranks by ts_rank_cd."""
    rows = await connection.fetch(
        load("search")["matching"], text.replace("\0", " "), filters.document_ids, filters.attributes, depth
    )
    return {row["chunk_id"]: row["value"] for row in rows}


async def _hits(connection: Connection, tenant: str, scores: Mapping[UUID, float]) -> list[Hit]:
    """The chunks with their documents, in the order of ``scores``."""
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
