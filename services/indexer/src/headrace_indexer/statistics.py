"""Keeps the tenants' term frequencies fresh: estimates them again after a share of the passages was written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from headrace.errors import HeadraceError
from headrace.store import statistics
from headrace.store.rows import Generation

if TYPE_CHECKING:
    from headrace.store.pool import Pool

log = structlog.get_logger(__name__)


class TermStatistics:
    """Counts the passages that this process wrote of each tenant, and estimates frequencies again in the background.

    What other processes write counts there; each estimates after its own share, and one at a time.
    """

    def __init__(self, pool: Pool, generation: Generation) -> None:
        self._pool = pool
        self._generation = generation
        self._written: dict[str, int] = {}
        self._passages: dict[str, int] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def wrote(self, tenant: str, passages: int) -> None:
        """Note passages that were written or deleted; returns at once."""
        if not passages:
            return
        self._written[tenant] = self._written.get(tenant, 0) + passages
        if tenant not in self._running and self._is_stale(tenant):
            task = asyncio.create_task(self._refresh(tenant), name="term-statistics")
            self._running[tenant] = task
            task.add_done_callback(lambda _: self._running.pop(tenant, None))

    async def close(self) -> None:
        """Wait for the estimates under way."""
        await asyncio.gather(*self._running.values())

    def _is_stale(self, tenant: str) -> bool:
        return self._written[tenant] > self._passages.get(tenant, 0) * statistics.STALE

    async def _refresh(self, tenant: str) -> None:
        """Estimate until nothing is stale; search works with the old estimates if this fails."""
        try:
            if tenant not in self._passages:
                self._passages[tenant] = await statistics.counted(self._pool, tenant, self._generation)
            while self._is_stale(tenant):
                before = self._written[tenant]
                found = await statistics.refresh(self._pool, tenant, self._generation)
                if found is not None:
                    self._passages[tenant] = found
                self._written[tenant] -= before
        except HeadraceError as error:
            log.warning("term frequencies not estimated", tenant=tenant, error=str(error))
