"""Reads the two legs of a generation: what is near a vector, and what has the terms of a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from headrace.filters.model import ATTRIBUTE, And, Condition, Filter, Operator
from headrace.store.cache import to_vector
from headrace.store.conditions import SqlCondition, compile_filter
from headrace.store.fit import Chance
from headrace.store.generations import STORAGES, filled
from headrace.store.queries import load
from headrace.store.rows import Generation

if TYPE_CHECKING:
    from pgvector import SparseVector

    from headrace.store.pool import Connection
    from headrace.store.search import Question

CANDIDATES = 2_000
"""Passages that the rarest terms of a question may bring as candidates, before they are ranked."""
DEEPEST = 1_000
"""From so many hits on, a leg is read no deeper than they are; the most that ``hnsw.ef_search`` allows."""
EXACT_PASSAGES = 20_000
"""A tenant of at most so many passages is sorted exactly: of a small share of the index, HNSW reads nearly all, and
recall was 0.80 for a tenant of 1 % of a million."""
EXACT_DOCUMENTS = 500
"""If at most this many documents meet a filter, they are scanned exactly, without the index."""
LOOKED_AT = 20_000
"""Documents of a tenant that are looked at for the few that meet a filter which no index answers."""
_OWN_PARAMETERS = 8
_BASE = {"cosine": 1.0}
"""What a distance is subtracted from, to make a score."""


def effort(generation: Generation, depth: int) -> tuple[str, str, str]:
    """Return the settings of a search ``depth`` deep: candidates of HNSW, lists of IVFFlat; and the generation."""
    return str(max(1, min(max(depth, generation.ef_search), DEEPEST))), str(generation.probes), generation.name


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to search: the condition, and the documents that can meet it, and may be read, if they are few.

    ``partial`` says that a part of the tenant is searched: there is a condition, or the reader may not read all of it.
    ``small``: the tenant has so few passages that they are sorted without the index.
    """

    condition: SqlCondition
    documents: Sequence[str] | None = None
    partial: bool = False
    small: bool = False

    @property
    def wide(self) -> bool:
        """Whether many documents may meet a condition, so that the rarest terms alone could find only others."""
        return self.documents is None and self.partial


@dataclass(frozen=True, slots=True)
class Plan:
    """How the legs were read: whether the dense leg was read ``exact``, and what each leg found; None if not asked.

    ``documents`` counts the documents that the filter narrowed the search to, None if it did not. ``readings`` counts
    the statements.
    """

    exact: bool
    dense: int | None
    lexical: int | None
    documents: int | None
    readings: int = 1


@dataclass(frozen=True, slots=True)
class Legs:
    """The scores of the chunks that a leg found, on both legs, and the places of each leg's own, from 1.

    ``unrelated`` is the mean cosine of two passages; None if the generation has another distance. ``documents`` has the
    document of each chunk, ``query`` the rarities of the question's terms by number.
    """

    dense: Mapping[UUID, float]
    lexical: Mapping[UUID, float]
    dense_places: Mapping[UUID, int]
    lexical_places: Mapping[UUID, int]
    unrelated: float | None
    documents: Mapping[UUID, str]
    query: Mapping[int, float]
    chance: Chance
    plan: Plan

    def joined(self, later: Self) -> Self:
        """Return this reading and a later one. What both found has its place in this one."""
        mine, its = self.plan, later.plan
        dense = _behind(self.dense_places, later.dense_places)
        lexical = _behind(self.lexical_places, later.lexical_places)
        plan = replace(
            mine,
            exact=mine.exact or its.exact,
            dense=None if mine.dense is None else len(dense),
            lexical=None if mine.lexical is None else len(lexical),
            readings=mine.readings + its.readings,
        )
        return replace(
            self,
            dense={**later.dense, **self.dense},
            lexical={**later.lexical, **self.lexical},
            dense_places=dense,
            lexical_places=lexical,
            documents={**later.documents, **self.documents},
            plan=plan,
        )


def _behind(first: Mapping[UUID, int], later: Mapping[UUID, int]) -> dict[UUID, int]:
    """Return the places of both; those of the later ones are behind the first ones."""
    last = max(first.values(), default=0)
    return {**{key: last + place for key, place in later.items()}, **first}


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What every document must have that meets a filter, as far as an index finds it."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    documents: tuple[str, ...] | None = None


async def scope_of(
    connection: Connection, tenant: str, given: Filter | None, *, restricted: bool, passages: int | None
) -> Scope:
    """Return where to search for a filter; ``restricted``: the reader may read less than the whole tenant.

    ``passages`` is the number of the tenant's passages, None if it was not counted.
    """
    documents = None if given is None else await _few(connection, tenant, given)
    if documents is None and restricted:
        rows = await connection.fetch(load("legs")["readable"], EXACT_DOCUMENTS + 1)
        documents = tuple(row["document_id"] for row in rows) if len(rows) <= EXACT_DOCUMENTS else None
    partial = restricted or given is not None
    small = passages is not None and passages <= EXACT_PASSAGES
    return Scope(compile_filter(given, _OWN_PARAMETERS + 1), documents, partial=partial, small=small)


async def _few(connection: Connection, tenant: str, given: Filter) -> tuple[str, ...] | None:
    """Return the documents that can meet a filter if they are at most :data:`EXACT_DOCUMENTS`."""
    queries, limit = load("legs"), EXACT_DOCUMENTS + 1
    bounds = _bounds(given)
    rows: Sequence[Any]
    if bounds.attributes:
        rows = await connection.fetch(queries["having"], bounds.attributes, bounds.documents, limit)
    elif bounds.documents is not None:
        return bounds.documents
    else:
        condition = compile_filter(given, 4)
        if condition.of_chunks:
            return None
        query = queries["meeting"].replace("{condition}", condition.sql)
        rows = await connection.fetch(query, tenant, LOOKED_AT, limit, *condition.parameters)
        if len(rows) < limit and not await connection.fetchval(queries["fewer"], tenant, LOOKED_AT):
            return None
    return tuple(row["document_id"] for row in rows) if len(rows) < limit else None


def _bounds(given: Filter) -> _Bounds:
    """Return what the conditions say that hold for the whole filter."""
    match given:
        case And(parts):
            found = [_bounds(part) for part in parts]
            named = [one.documents for one in found if one.documents is not None]
            attributes = {name: value for one in found for name, value in one.attributes.items()}
            return _Bounds(attributes, min(named, key=len, default=None))
        case Condition("document", Operator.EQ, str(name)):
            return _Bounds(documents=(name,))
        case Condition("document", Operator.IN, tuple(names)):
            return _Bounds(documents=tuple(str(name) for name in names))
        case Condition(name, Operator.EQ, str(value)) if name.startswith(ATTRIBUTE):
            return _Bounds({name.removeprefix(ATTRIBUTE): value})
    return _Bounds()


async def read_legs(
    connection: Connection,
    tenant: str,
    generation: Generation,
    question: Question,
    wanted: int,
    depth: int,
    scope: Scope,
) -> Legs:
    """Read both legs in one statement, ``depth`` chunks of each; again without the index if it stopped before.

    Of chunks with the same text, ``wanted`` are read through the index.
    """
    vector = None if question.vector is None else to_vector(question.vector)
    terms = list(question.terms)
    values = (tenant, vector, depth, generation.name, terms, CANDIDATES, scope.documents, wanted)
    values = (*values, *scope.condition.parameters)
    exact = scope.documents is not None
    rows = await connection.fetch(_legs_query(generation, scope, exact=exact), *values)
    by_index = vector is not None and not exact and not scope.small
    if by_index and sum(row["dense"] is not None for row in rows) < depth:
        exact = True
        rows = await connection.fetch(_legs_query(generation, scope, exact=True), *values)
    base = _BASE.get(generation.distance, 0.0)
    first = rows[0] if rows else dict.fromkeys(("unrelated", "chance_words", "chance_unspaced", "chance_meaning"))
    dense_places = {row["chunk_id"]: row["dense"] for row in rows if row["dense"] is not None}
    lexical_places = {row["chunk_id"]: row["lexical"] for row in rows if row["lexical"] is not None}
    return Legs(
        {row["chunk_id"]: base - row["distance"] for row in rows if row["distance"] is not None},
        {row["chunk_id"]: row["score"] for row in rows if row["score"]},
        dense_places,
        lexical_places,
        (first["unrelated"] or 0.0) if generation.distance in _BASE else None,
        {row["chunk_id"]: row["document_id"] for row in rows},
        next((weights_of(row["query"]) for row in rows if row["query"] is not None), {}),
        Chance(first["chance_words"] or (), first["chance_unspaced"] or (), first["chance_meaning"]),
        Plan(
            (exact or scope.small) and vector is not None,
            None if vector is None else len(dense_places),
            len(lexical_places) if terms else None,
            None if scope.documents is None else len(scope.documents),
        ),
    )


def weights_of(vector: SparseVector) -> dict[int, float]:
    """Return the weights of a sparse vector by the number of the term."""
    return dict(zip(vector.indices(), vector.values(), strict=True))


def _legs_query(generation: Generation, scope: Scope, *, exact: bool) -> str:
    """Return the statement that reads both legs, through the index or exactly."""
    queries = load("legs")
    text = queries["legs"].replace("{nearest}", queries["nearest_exact" if exact else "nearest"])
    binary = STORAGES[generation.storage].binary
    ordered = "ordered_exact" if scope.small else "ordered_binary" if binary else "ordered"
    text = text.replace("{ordered}", queries[ordered])
    text = text.replace("{condition}", scope.condition.sql)
    return filled(text.replace("{wide}", str(scope.wide)), generation)
