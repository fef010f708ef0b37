"""Keeps each tenant's vector cache below its bound: looked at when it has grown, never when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from headrace.store import cache
from headrace.store.transactions import tenant_transaction
from headrace_embedder import metrics

if TYPE_CHECKING:
    from headrace.store.pool import Pool

log = structlog.get_logger(__name__)

_AT_ONCE = 5000
"""Rows that one transaction deletes."""
_LOOKS = 100
"""Looks at the cache while it is filled to its bound once: it grows above it by one part in so many."""
_TENANTS = 10_000
"""Tenants whose growth is told apart; beyond that all begin anew, which costs each a look."""


class CacheBound:
    """Counts what this process adds for each tenant; not for several threads."""

    def __init__(self, rows: int, keep_days: int) -> None:
        self._rows = rows
        self._keep_days = keep_days
        self._room: dict[str, int] = {}

    def due(self, tenant: str, added: int) -> bool:
        """Note rows that were added, and return whether the cache is to be looked at: at first, and after a growth."""
        if len(self._room) >= _TENANTS and tenant not in self._room:
            self._room.clear()
        left = self._room.get(tenant, 0) - added
        due = left <= 0
        self._room[tenant] = max(1, self._rows // _LOOKS) if due else left
        return due

    async def keep(self, pool: Pool, tenant: str, added: int) -> None:
        """Evict what is too much where it is time to look; raises :class:`headrace.errors.DependencyDown`."""
        if not self.due(tenant, added):
            return
        gone = left = _AT_ONCE
        while gone and left:
            async with tenant_transaction(pool, tenant) as connection:
                gone, left = await cache.evict(
                    connection, tenant, rows=self._rows, keep_days=self._keep_days, at_most=_AT_ONCE
                )
            metrics.CACHE_EVICTED.inc(gone)
        if left:
            log.warning(
                "the vector cache is above its bound, and all of it was used lately", tenant=tenant, rows=self._rows,
                keep_days=self._keep_days,
                remedy="Raise HEADRACE_EMBEDDER_CACHE_ROWS; with fewer HEADRACE_EMBEDDER_CACHE_KEEP_DAYS vectors go "
                "that records of the topic vectors rely on.",
            )  # fmt: skip
