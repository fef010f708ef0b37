"""Keeps each tenant's vector cache below its limit; it checks the size after writes, never on reads."""

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
"""Maximum rows to delete in one transaction."""
_LOOKS = 100
"""Number of checks while an empty cache fills up to its limit; it can exceed the limit by one part in this number."""
_TENANTS = 10_000
"""Maximum tenants to count separately; above it all counts restart, which costs each tenant one check."""


class CacheBound:
    """Counts the rows that this process adds for each tenant; not thread-safe."""

    def __init__(self, rows: int, keep_days: int) -> None:
        self._rows = rows
        self._keep_days = keep_days
        self._room: dict[str, int] = {}

    def due(self, tenant: str, added: int) -> bool:
        """Count added rows, and return whether to check the cache: the first time, and after enough growth."""
        if len(self._room) >= _TENANTS and tenant not in self._room:
            self._room.clear()
        left = self._room.get(tenant, 0) - added
        due = left <= 0
        self._room[tenant] = max(1, self._rows // _LOOKS) if due else left
        return due

    async def keep(self, pool: Pool, tenant: str, added: int) -> None:
        """Evict surplus vectors if a check is due; raises :class:`headrace.errors.DependencyDown`."""
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
                "the vector cache is above its limit, and all its vectors were used recently", tenant=tenant,
                rows=self._rows, keep_days=self._keep_days,
                remedy="Raise HEADRACE_EMBEDDER_CACHE_ROWS. Do not lower HEADRACE_EMBEDDER_CACHE_KEEP_DAYS instead: "
                "that evicts vectors that records of the topic vectors rely on.",
            )  # fmt: skip
