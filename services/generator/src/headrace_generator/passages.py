"""Finds passages for a question: gets its vector from the embedder, then searches the tenant's documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.access.readers import Reader
from headrace.filters.parsing import parse_text
from headrace.payloads import GenerationRequest
from headrace.retrieval.query_vectors import QueryVectors
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.retrieval.rerank import Reranker, RerankSettings
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
        self._reranker = Reranker(RerankSettings())
        self._active = ActiveGeneration(self._connected)

    async def find(self, tenant: str, request: GenerationRequest) -> Found:
        """Return the passages that the request's reader may read, best first; none if they do not fit the question.

        Raises :class:`headrace.errors.DependencyDown`, and :class:`headrace.filters.parsing.InvalidFilter`.
        """
        generation = await self._active()
        question = await self._questions.ask(generation, tenant, request.question)
        again = self._reranker.for_answers
        found = await search(
            self._pool, tenant, generation, question, reader=Reader.of(request.reader),
            top_k=self._reranker.depth(request.top_k) if again else request.top_k,
            filters=None if request.filter is None else parse_text(request.filter),
        )  # fmt: skip
        if not self._questions.fits(found.fit, request.minimum_fit):
            return replace(found, hits=())
        hits = (await self._reranker.rerank(request.question, found.hits)).hits if again else found.hits
        return replace(found, hits=hits[: request.top_k])

    async def close(self) -> None:
        """Close the reranker's connections."""
        await self._reranker.close()

    async def _connected(self) -> Pool:
        return self._pool
