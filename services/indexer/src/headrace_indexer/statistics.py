"""Keeps the tenants' term frequencies fresh: estimates them again after a share of the passages was written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from headrace.errors import describe
from headrace.store import statistics
from headrace.store.rows import Generation

if TYPE_CHECKING:
    from headrace.store.pool import Pool

_FEWEST = 20
"""Passages to write before the estimates of a small tenant are made again."""
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
        self._one = asyncio.Semaphore(1)  # estimates must leave connections to the batches

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
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _is_stale(self, tenant: str) -> bool:
        passages = self._passages.get(tenant, 0)
        return self._written[tenant] > (max(_FEWEST, passages * statistics.STALE) if passages else 0)

    async def _refresh(self, tenant: str) -> None:
        """Estimate until nothing is stale; search works with the old estimates if this fails."""
        try:
            async with self._one:
                await self._estimate(tenant)
        except Exception as error:  # noqa: BLE001  # the next batch tries again
            log.warning("term frequencies not estimated", tenant=tenant, error=describe(error))

    async def _estimate(self, tenant: str) -> None:
        if tenant not in self._passages:
            self._passages[tenant] = await statistics.counted(self._pool, tenant, self._generation)
        while self._is_stale(tenant):
            before = self._written[tenant]
            await statistics.sweep(self._pool, tenant, self._generation)
            found = await statistics.refresh(self._pool, tenant, self._generation)
            if found is not None:
                self._passages[tenant] = found
            self._written[tenant] -= before
