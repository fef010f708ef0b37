"""Finds passages for a question: gets its vector from the embedder, then searches the tenant's documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from headrace.payloads import GenerationRequest
from headrace.retrieval.query_vectors import QueryVectors
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.store.conditions import Filters
from headrace.store.generations import ActiveGeneration
from headrace.store.search import Found, search

if TYPE_CHECKING:
    from headrace.store.pool import Pool

FindPassages = Callable[[str, GenerationRequest], Awaitable[Found]]
"""Returns this tenant's passages for the request, best first, and how well they fit; none if they do not fit."""


class Retriever:
    """Finds passages in the active generation of the index."""

    def __init__(self, pool: Pool, embedder: QueryVectors) -> None:
        self._pool = pool
        self._questions = Questions(embedder, SearchSettings())
        self._active = ActiveGeneration(self._connected)

    async def find(self, tenant: str, request: GenerationRequest) -> Found:
        """Return the tenant's passages by hybrid search, best first; none if they do not fit the question.

        Raises :class:`headrace.errors.DependencyDown`.
        """
        generation = await self._active()
        question = await self._questions.ask(generation, tenant, request.question)
        filters = Filters(request.document_ids or None, request.attributes or None)
        found = await search(self._pool, tenant, generation, question, top_k=request.top_k, filters=filters)
        return found if self._questions.fits(found.fit, request.minimum_fit) else Found((), found.fit)

    async def _connected(self) -> Pool:
        return self._pool
