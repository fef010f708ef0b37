"""Forgetting cached vectors, so that their texts are embedded anew; what stands in the index stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool

log = structlog.get_logger(__name__)

_COUNT = "SELECT count(*) FROM vector_cache WHERE tenant = $1 AND model = $2"
_DELETE = (
    "DELETE FROM vector_cache WHERE tenant = $1 AND model = $2 AND text_hash IN ("
    "SELECT text_hash FROM vector_cache WHERE tenant = $1 AND model = $2 LIMIT $3)"
)
_AT_ONCE = 5000


async def cached(pool: Pool, tenant: str, model: str) -> int:
    """Return how many vectors of the model are cached for the tenant."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        return int(await connection.fetchval(_COUNT, tenant, model))


async def forget(pool: Pool, tenant: str, model: str, *, asked_by: str) -> int:
    """Delete the tenant's cached vectors of the model, some thousands in a transaction; return how many.

    Logged with who asked. One that is interrupted goes on where it was.
    """
    gone = 0
    while True:
        async with tenant_transaction(pool, tenant) as connection:
            status = await connection.execute(_DELETE, tenant, model, _AT_ONCE)
        taken = int(status.rsplit(" ", 1)[1])
        gone += taken
        if taken < _AT_ONCE:
            log.warning("cached vectors forgotten", tenant=tenant, model=model, vectors=gone, asked_by=asked_by)
            return gone
