"""Finds passages for a question: gets its vector from the embedder, then searches the tenant's documents."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from headrace.access.readers import Reader
from headrace.filters.parsing import parse_text
from headrace.payloads import GenerationRequest
from headrace.retrieval.query_vectors import QueryVectors
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.store.generations import ActiveGeneration
from headrace.store.search import Hit, search

if TYPE_CHECKING:
    from headrace.store.pool import Pool

FindPassages = Callable[[str, GenerationRequest], Awaitable[list[Hit]]]
"""Returns this tenant's passages for the request, best first."""


class Retriever:
    """Finds passages in the active generation of the index."""

    def __init__(self, pool: Pool, embedder: QueryVectors) -> None:
        self._pool = pool
        self._questions = Questions(embedder, SearchSettings())
        self._active = ActiveGeneration(self._connected)

    async def find(self, tenant: str, request: GenerationRequest) -> list[Hit]:
        """Return the passages that the request's reader may read, by hybrid search, best first.

        Raises :class:`headrace.errors.DependencyDown`, and :class:`headrace.filters.parsing.InvalidFilter`.
        """
        generation = await self._active()
        question = await self._questions.ask(generation, tenant, request.question)
        return await search(
            self._pool, tenant, generation, question, reader=Reader.of(request.reader), top_k=request.top_k,
            filters=None if request.filter is None else parse_text(request.filter),
        )  # fmt: skip

    async def _connected(self) -> Pool:
        return self._pool
