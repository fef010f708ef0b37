"""Builds the answers of search: hits for clients, with freshness, highlights, notes and the plan."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog

from headrace.access.readers import Reader
from headrace.documents.status import judge
from headrace.embeddings.models import unread_language
from headrace.envelope import Change, Operation
from headrace.errors import DependencyDown
from headrace.lexical.analyzer import analyzer_of
from headrace.lexical.highlights import highlights
from headrace.retrieval.mode import Mode
from headrace.store.legs import Plan
from headrace.store.neighbours import Neighbours, Passage
from headrace.store.rows import Generation
from headrace.store.search import Hit, HitExplanation, Question
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.search_models import (
    Explanation,
    Freshness,
    HitNeighbours,
    LegPlan,
    MatchedTerm,
    Neighbour,
    Note,
    SearchHit,
    SearchPlan,
    SearchRequest,
)

log = structlog.get_logger(__name__)

FRESHNESS_WAIT_S = 0.25
"""How long an answer waits for Kafka after the search, to say whether its documents are fresh."""
_STATES: Mapping[str, Freshness] = {"held": "held", "in_flight": "changing", "dead_lettered": "failed"}


class Freshnesses:
    """Asks which documents have a change under way while the search runs, so that it costs the search no time."""

    def __init__(self, dependencies: Dependencies, tenant: str, reader: Reader) -> None:
        self._dependencies = dependencies
        self._tenant = tenant
        self._reader = reader
        self._refreshed = asyncio.create_task(dependencies.flow.refresh(), name="freshness")

    async def of(self, hits: Sequence[Hit], generation: Generation) -> dict[str, Freshness | None]:
        """Return how fresh each document of the hits is; None for those that Kafka did not tell of in time."""
        known = await self._told()
        found: dict[str, Freshness | None] = {}
        for hit in hits:
            if hit.document_id not in found:
                found[hit.document_id] = await self._of_one(hit, generation, known=known)
        return found

    def cancel(self) -> None:
        """Ask no longer: the search failed."""
        self._refreshed.cancel()

    async def _told(self) -> bool:
        try:
            await asyncio.wait_for(self._refreshed, FRESHNESS_WAIT_S)
        except TimeoutError:
            return False
        except DependencyDown as error:
            log.warning("freshness of hits is unknown", error=str(error))
            return False
        return True

    async def _of_one(self, hit: Hit, generation: Generation, *, known: bool) -> Freshness | None:
        key = Change(self._tenant, hit.document_id, 0, Operation.UPSERT).key
        flow, letters = self._dependencies.flow.pending(key), self._dependencies.flow.dead_letters(key)
        if flow.waiting or letters:
            row = await self._dependencies.store.document(self._tenant, self._reader, hit.document_id)
            state = judge(row, flow.waiting, letters, generation.name).state
            if state in _STATES:
                return _STATES[state]
        if not hit.complete:
            return "changing"
        return "fresh" if known and flow.complete else None


def hits_of(
    found: Sequence[Hit], body: SearchRequest, question: Question, generation: Generation,
    fresh: Mapping[str, Freshness | None],
) -> list[SearchHit]:  # fmt: skip
    """Return the hits for clients."""
    terms = frozenset(question.terms.values())
    return [_hit(hit, fresh.get(hit.document_id), _marks(hit, body, terms, generation)) for hit in found]


def _marks(
    hit: Hit, body: SearchRequest, terms: Collection[str], generation: Generation
) -> list[tuple[int, int]] | None:
    return highlights(analyzer_of(generation.analyzer), terms, hit.text) if body.highlight else None


def notes_of(body: SearchRequest, question: Question, generation: Generation) -> list[Note]:
    """Return what the caller may not expect of the search."""
    if body.mode is Mode.HYBRID and question.vector is None:
        script = unread_language(generation.model, None, body.query)
        return [
            Note(
                kind="meaning-left-out",
                text=f"Searched by words alone: the model {generation.model} does not know the script {script}.",
            )
        ]
    if body.mode is not Mode.VECTOR and not question.terms:
        what = "nothing is found by words" if body.mode is Mode.LEXICAL else "searched by meaning alone"
        return [Note(kind="no-words", text=f"The query has no letters or digits: {what}.")]
    return []


def plan_of(plan: Plan, question: Question, generation: Generation) -> SearchPlan:
    """Return how the search was executed, for clients."""
    dense = None if plan.dense is None else LegPlan(access="exact" if plan.exact else "index", found=plan.dense)
    return SearchPlan(
        generation=generation.name,
        model=generation.model,
        dense=dense,
        lexical=None if plan.lexical is None else LegPlan(access="index", found=plan.lexical),
        documents=plan.documents,
        readings=plan.readings,
        dense_weight=question.weight,
    )


def _hit(hit: Hit, freshness: Freshness | None, marks: list[tuple[int, int]] | None) -> SearchHit:
    return SearchHit(
        document_id=hit.document_id,
        title=hit.title,
        version=hit.version,
        section=list(hit.section),
        start=hit.start,
        end=hit.end,
        text=hit.text,
        score=hit.score,
        source=hit.source,
        attributes=dict(hit.attributes),
        page=hit.page,
        language=hit.language,
        freshness=freshness,
        highlights=marks,
        neighbours=None if hit.neighbours is None else _neighbours(hit.neighbours),
        explanation=None if hit.explanation is None else _explanation(hit.explanation),
        relevance=hit.relevance,
    )


def _neighbours(found: Neighbours) -> HitNeighbours:
    return HitNeighbours(before=list(map(_neighbour, found.before)), after=list(map(_neighbour, found.after)))


def _neighbour(passage: Passage) -> Neighbour:
    return Neighbour(section=list(passage.section), start=passage.start, end=passage.end, text=passage.text)


def _explanation(found: HitExplanation) -> Explanation:
    ordered = sorted(found.terms.items(), key=lambda item: (-item[1], item[0]))
    return Explanation(
        dense=found.dense,
        dense_rank=found.dense_rank,
        lexical=found.lexical,
        lexical_rank=found.lexical_rank,
        terms=[MatchedTerm(term=term, score=score) for term, score in ordered],
        phrases=found.phrases,
    )
