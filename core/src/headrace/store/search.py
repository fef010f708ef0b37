"""Searches one tenant's chunks: vector search, or vector and lexical search combined."""

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
"""The constant k of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""
EXACT_DOCUMENTS = 500
"""If at most this many documents match a filter, they are scanned exactly, without the index."""
FUSION_DEPTH = 4
"""Each ranking of a hybrid search is read to this multiple of the requested number of hits."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found: characters ``start`` up to ``end`` of the source text.

    ``ordinal`` counts the document's chunks from 0; ``page`` counts from 1, or is None if the document has no pages. A
    text that occurs several times in a section is reported at its first position. A higher ``score`` means a better
    match. It is the cosine similarity (or the negated distance) for vector search and the fused rank for hybrid search;
    the two cannot be compared.
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
    """Filters for documents; None means no filter, and all attributes must match."""

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
    """Return the ``top_k`` chunks of ``tenant`` that match best, best first.

    ``query_vector`` is float32, little-endian, with the generation's dimensions. With ``query_text``, the lexical
    ranking is fused with the vector ranking. A higher ``ef_search`` (1 to 1,000) makes HNSW slower and more accurate.
    Filters never reduce the number of hits: if the index stops before ``top_k``, the remaining chunks are scanned
    exactly.

    Raises :class:`InvalidRecord` for a ``top_k`` outside 1 to 100 or a vector of the wrong size, and
    :class:`~headrace.errors.DependencyDown` if PostgreSQL does not answer.
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
    """Return the fused scores: the sum of 1 / (60 + rank) over the rankings, ranks from 1; best first; pure."""
    scores: dict[UUID, float] = {}
    for ranking in rankings:
        for rank, chunk_id in enumerate(ranking, start=1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1 / (FUSION_CONSTANT + rank)
    return dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))


async def _narrow(connection: Connection, filters: Filters) -> Filters:
    """Replace an attribute filter with the IDs of the matching documents if they are few."""
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
    """Return the nearest chunks by vector, nearest first, with scores."""
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
    """Return the best lexical matches, best first, with their ranks (ts_rank_cd)."""
    rows = await connection.fetch(
        load("search")["matching"], text.replace("\0", " "), filters.document_ids, filters.attributes, depth
    )
    return {row["chunk_id"]: row["value"] for row in rows}


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
