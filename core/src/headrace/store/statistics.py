"""How many passages of a tenant have a term, how similar its passages are, and what random questions find: estimates.

The rarity of a term is a logarithm of this number, so an estimate that lags behind by a fifth moves no result that
anybody would notice; exact counts would make all indexers of a tenant wait for the rows of its common terms (ADR 23).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.access.readers import EVERY_DOCUMENT
from headrace.store.calibration import calibrate
from headrace.store.generations import query_of
from headrace.store.queries import load
from headrace.store.rows import Generation
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from headrace.store.pool import Pool

SAMPLED_PASSAGES = 30_000
"""As many as PostgreSQL's own ANALYZE reads for each column by default."""
SAMPLED_VECTORS = 1_000
"""The mean similarity of so many passages with each other varies by less than 0.01."""
SWEPT_AT_ONCE = 1_000
"""Unused vectors that one transaction deletes at most."""
STALE = 0.2
"""Share of the passages that may be written before the estimates are made again."""


async def refresh(pool: Pool, tenant: str, generation: Generation, *, draw: random.Random | None = None) -> int | None:
    """Estimate the frequencies of the tenant's terms again; return the number of its passages.

    Returns None, and changes nothing, if another process is doing it at the moment. Raises
    :class:`~headrace.errors.DependencyDown`.
    """
    async with tenant_transaction(pool, tenant, reader=EVERY_DOCUMENT) as connection:
        if not await connection.fetchval(query_of("statistics", "lock", generation), f"{generation.name}/{tenant}"):
            return None
        passages = int(await connection.fetchval(query_of("statistics", "count", generation), tenant))
        share = min(1.0, SAMPLED_PASSAGES / passages) if passages else 1.0
        # Chunk IDs are hashes, so the passages from any ID on are a random sample.
        draw = draw or random.SystemRandom()
        start = int(draw.random() * (1 - share) * 2**128)
        first = UUID(int=start)
        await connection.execute(
            query_of("statistics", "begin", generation), tenant, generation.name, passages, first.bytes, SAMPLED_VECTORS
        )
        await connection.execute(
            query_of("statistics", "estimate", generation), tenant, generation.name, first, SAMPLED_PASSAGES, passages
        )
        await calibrate(connection, tenant, generation, first, draw)
        return passages


async def sweep(pool: Pool, tenant: str, generation: Generation) -> int:
    """Delete the tenant's vectors that no chunk refers to, and return their number.

    The indexer deletes them itself, but skips those that another indexer deletes or refers to at that moment.
    """
    swept = 0
    while True:
        async with tenant_transaction(pool, tenant) as connection:
            found = int(await connection.fetchval(load("statistics")["sweep"], generation.name, SWEPT_AT_ONCE))
        swept += found
        if found < SWEPT_AT_ONCE:
            return swept


async def counted(pool: Pool, tenant: str, generation: Generation) -> int:
    """Return the number of the tenant's passages when its frequencies were last estimated; 0 if they never were."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        return int(await connection.fetchval(load("statistics")["counted"], tenant, generation.name) or 0)
