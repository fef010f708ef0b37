"""The gateway's access to the store: a pool that opens on first use, and the active generation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.access.readers import Reader
from headrace.filters.model import Filter
from headrace.store import artifacts, documents, keys
from headrace.store.error_mapping import postgresql_errors
from headrace.store.generations import ActiveGeneration
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.rows import Generation
from headrace.store.search import Found, Question, Shape, search

if TYPE_CHECKING:
    from headrace.store.pool import Pool


class PostgresStore:
    """Implements :class:`headrace_gateway.dependencies.Store`. Starts without PostgreSQL; calls then fail."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()
        self.active = ActiveGeneration(self._opened)

    async def owner_of(self, key: str) -> keys.KeyOwner | None:
        """Return whom an API key stands for."""
        return await keys.authenticate(await self._opened(), key)

    async def search(
        self,
        tenant: str,
        reader: Reader,
        generation: Generation,
        question: Question,
        *,
        top_k: int,
        filters: Filter | None,
        shape: Shape,
    ) -> Found:
        """Return the best passages of the generation."""
        pool = await self._opened()
        return await search(
            pool, tenant, generation, question, reader=reader, top_k=top_k, filters=filters, shape=shape
        )

    async def document(self, tenant: str, reader: Reader, document_id: str) -> documents.DocumentRow | None:
        """Return the document's row."""
        return await documents.get(await self._opened(), tenant, reader, document_id)

    async def states(
        self, tenant: str, reader: Reader, document_ids: Sequence[str]
    ) -> Mapping[str, documents.DocumentState]:
        """Return the states of the documents that the store knows."""
        return await documents.states(await self._opened(), tenant, reader, document_ids)

    async def having(
        self, tenant: str, reader: Reader, attributes: Mapping[str, str], *, after: str | None, limit: int
    ) -> list[documents.Listed]:
        """Return live documents with all of these attributes."""
        return await documents.having(await self._opened(), tenant, reader, attributes, after=after, limit=limit)

    async def artifact(self, tenant: str, reader: Reader, artifact_id: UUID) -> artifacts.Artifact | None:
        """Return the newest version of an artifact."""
        return await artifacts.get(await self._opened(), tenant, reader, artifact_id)

    async def ping(self) -> None:
        """Raise :class:`DependencyDown` if PostgreSQL does not answer."""
        with postgresql_errors():
            await (await self._opened()).fetchval("SELECT 1")

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close()

    async def _opened(self) -> Pool:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await create_pool(self._settings)
        return self._pool
