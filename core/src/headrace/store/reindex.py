"""The life of a generation, for its owner: how complete it is, what fills it, and how it is dropped.

Every function takes a connection of the role that owns the schema. Services may call none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg

from headrace.access.readers import EVERY_DOCUMENT
from headrace.errors import DependencyDown
from headrace.store import cache
from headrace.store.error_mapping import postgresql_errors
from headrace.store.generations import DROPPING, query_of
from headrace.store.queries import load
from headrace.store.transactions import set_tenant

if TYPE_CHECKING:
    from headrace.store.pool import Connection
    from headrace.store.rows import Generation

BATCH = 1000
"""Rows that one transaction of a drop changes, so that indexers wait for milliseconds."""
_LOCK_MS = 1000
"""Maximum wait for a lock that stops searches while it is waited for."""
_LOCK_TRIES = 60
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Life:
    """The state of a generation, the ID of the replay that fills it, and the seconds since its state changed."""

    name: str
    state: str
    fill: str | None
    changed_at: datetime
    created_at: datetime
    changed_s: float


@dataclass(frozen=True, slots=True)
class Coverage:
    """Live documents of a tenant and their chunks, and those of them that a generation has in the current version."""

    tenant: str
    documents: int
    covered: int
    chunks: int
    covered_chunks: int


@dataclass(frozen=True, slots=True, order=True)
class Lacking:
    """A live document that a generation lacks in this version."""

    tenant: str
    document_id: str
    version: int


async def lives(connection: Connection) -> list[Life]:
    """Return every generation that ever existed, oldest first."""
    with postgresql_errors():
        return [Life(**row) for row in await connection.fetch(load("reindex")["life"])]


async def set_fill(connection: Connection, generation: str, run_id: str) -> bool:
    """Note which replay fills the generation; return False if it is not being built."""
    with postgresql_errors():
        return await connection.fetchval(load("reindex")["set_fill"], generation, run_id) is not None


async def set_embedder(connection: Connection, generation: str, url: str) -> None:
    """Note where the generation's embedder answers queries."""
    with postgresql_errors():
        await connection.execute(load("reindex")["set_embedder"], generation, url)


async def coverage(connection: Connection, generation: str) -> list[Coverage]:
    """Return how complete the generation is, by tenant; reads every document's row."""
    with postgresql_errors():
        return [Coverage(**row) for row in await connection.fetch(load("reindex")["coverage"], generation)]


async def lacking(connection: Connection, generation: str, at_most: int) -> list[Lacking]:
    """Return up to ``at_most`` live documents that the generation lacks in their current version, in order."""
    with postgresql_errors():
        return [Lacking(**row) for row in await connection.fetch(load("reindex")["lacks"], generation, at_most)]


async def tenants(connection: Connection) -> list[str]:
    """Return every tenant with a document or a cached vector, and :data:`~headrace.store.cache.SHARED`."""
    with postgresql_errors():
        found = [row[0] for row in await connection.fetch(load("reindex")["tenants"])]
    return sorted({*found, cache.SHARED})


async def begin_drop(connection: Connection, generation: str) -> bool:
    """Mark the generation as being dropped; return False if it is active, dropped or unknown.

    From now on, no search is switched to it, and indexers of other generations leave its tables alone.
    """
    with postgresql_errors():
        return await connection.fetchval(load("reindex")["begin_drop"], generation) is not None


async def forget_documents(connection: Connection, generation: str, tenant: str) -> int:
    """Take the generation's name out of all documents of the tenant, and return their number."""
    count = 0
    while True:
        with postgresql_errors():
            async with connection.transaction():
                await set_tenant(connection, tenant, EVERY_DOCUMENT)
                status = await connection.execute(load("reindex")["forget_documents"], generation, tenant, BATCH)
        changed = int(status.rsplit(" ", 1)[1])
        count += changed
        if changed < BATCH:
            return count


async def forget_vectors(connection: Connection, generation: Generation, tenant: str) -> int:
    """Delete the tenant's cached vectors of the generation's model, unless another generation has this model."""
    with postgresql_errors():
        if await connection.fetchval(load("reindex")["model_used"], generation.model, generation.name):
            return 0
    count = 0
    while True:
        with postgresql_errors():
            async with connection.transaction():
                await set_tenant(connection, tenant, EVERY_DOCUMENT)
                keys = await cache.some(connection, tenant, generation.model, BATCH)
                if keys:
                    count += await cache.forget(connection, tenant, generation.model, keys)
        if len(keys) < BATCH:
            return count


async def drop_tables(connection: Connection, generation: Generation, tenants: Sequence[str]) -> None:
    """Drop the tables of a generation that is being dropped, and its statistics; its name stays taken.

    The lock on ``chunk``, to which the tables refer, would make searches wait. So it is asked for again and again, for
    a second each time. Raises :class:`DependencyDown` if other transactions hold it all the time.
    """
    for tenant in tenants:
        with postgresql_errors():
            async with connection.transaction():
                await set_tenant(connection, tenant, EVERY_DOCUMENT)
                await connection.execute(load("reindex")["drop_statistics"], generation.name, tenant)
    for _ in range(_LOCK_TRIES):
        with postgresql_errors():
            try:
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_MS}")
                    await connection.execute(query_of("reindex", "drop_tables", generation))
                    await connection.execute(load("reindex")["end_drop"], generation.name)
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(_PAUSE_S)
            else:
                return
    raise DependencyDown(
        "postgresql",
        f"the tables of generation {generation.name} are in use by long transactions",
        remedy=f"End them (see pg_stat_activity), then run `headrace reindex drop {generation.name}` again. The "
        f"generation stays {DROPPING} until then.",
    )
