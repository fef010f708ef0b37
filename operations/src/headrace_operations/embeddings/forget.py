"""Deletes cached vectors, so that their texts are embedded again; the index does not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from headrace.store import cache
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool

log = structlog.get_logger(__name__)

_AT_ONCE = 5000


async def cached(pool: Pool, tenant: str, model: str) -> int:
    """Return how many vectors of the model are cached for the tenant."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        return await cache.count(connection, tenant, model)


async def forget(pool: Pool, tenant: str, model: str, *, asked_by: str) -> int:
    """Delete the tenant's cached vectors of the model in batches of some thousands, and return their number.

    Deletes the vectors that all tenants share first, because otherwise the tenant would get them again; other tenants
    keep their own. The log names who asked. After an interruption, the next call continues.
    """
    gone = 0
    while True:
        async with tenant_transaction(pool, tenant, readonly=True) as connection:
            hashes = await cache.some(connection, tenant, model, _AT_ONCE)
        async with tenant_transaction(pool, cache.SHARED) as connection:
            await cache.forget(connection, cache.SHARED, model, hashes)
        async with tenant_transaction(pool, tenant) as connection:
            gone += await cache.forget(connection, tenant, model, hashes)
        if len(hashes) < _AT_ONCE:
            log.warning("deleted cached vectors", tenant=tenant, model=model, vectors=gone, asked_by=asked_by)
            return gone
