"""Row 15: queries cancelled at any moment, on few connections that two tenants share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from headrace.store import artifacts
from headrace.store.transactions import tenant_transaction
from headrace_testing.faults.checkers import canary

if TYPE_CHECKING:
    from headrace.store.pool import Pool

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]
pytest_plugins = ("headrace_testing.postgres_fixtures",)

TENANTS = ("acme", "globex", "initech")
QUERIES = 600
Transaction = Callable[["Pool", str], Any]


async def storm(pool: Pool, chance: Random, transaction: Transaction) -> tuple[list[tuple[str, str]], int]:
    """Run queries of all tenants at once and cancel half of them; return who saw whose rows, and the cancelled."""
    seen: list[tuple[str, str]] = []

    async def query(tenant: str, pause: float) -> None:
        async with transaction(pool, tenant) as connection:
            rows = await connection.fetch("SELECT tenant, pg_sleep($1) FROM artifact", pause)
            seen.extend((tenant, row["tenant"]) for row in rows)

    async def bystander() -> None:
        async with pool.acquire() as connection:
            rows = await connection.fetch("SELECT tenant FROM artifact")
            seen.extend(("nobody", row["tenant"]) for row in rows)

    async def bounded(make: Awaitable[None], patience: float | None) -> bool:
        try:
            await asyncio.wait_for(make, patience)
        except TimeoutError:
            return True
        return False

    tasks = []
    for _ in range(QUERIES):
        patience = chance.uniform(0, 0.3) if chance.random() < 0.5 else None
        asked = bystander() if chance.random() < 0.2 else query(chance.choice(TENANTS), chance.uniform(0, 0.01))
        tasks.append(bounded(asked, patience))
    return seen, sum(await asyncio.gather(*tasks))


async def fill(pool: Pool) -> None:
    """Put one artifact into each tenant."""
    for tenant in TENANTS:
        await artifacts.put(
            pool, artifacts.Artifact(tenant, UUID(int=1), 1, "r1", "answer", "T", "text/plain", "canary", ())
        )


async def test_row_15_a_storm_of_cancelled_queries(pool: Pool, chance: Random, figures: dict[str, Any]) -> None:
    """Broken: a query cut short leaves its tenant on the connection, and the next one sees that tenant's rows."""
    await fill(pool)
    seen, cancelled = await storm(pool, chance, tenant_transaction)
    figures |= {"row": 15, "queries": QUERIES, "cancelled": cancelled}
    assert canary(seen) == []
    assert seen
    assert 0 < cancelled < QUERIES
    left, _ = await storm(pool, chance, tenant_transaction)  # no connection got lost
    assert left
    assert canary(left) == []


@asynccontextmanager
async def session_wide(pool: Pool, tenant: str) -> AsyncIterator[Any]:
    """The mutant: the tenant is set for the session, as a plain SET does."""
    async with pool.acquire() as connection:
        await connection.execute("SELECT set_config('headrace.tenant', $1, false)", tenant)
        yield connection
        proxy: Any = connection  # its types hide the connection behind it
        proxy._con._reset_query = ""  # as behind a pooler that shares sessions between clients


async def test_t_sees_a_tenant_that_stays_on_its_connection(pool: Pool, chance: Random) -> None:
    """Broken: rows of another tenant would not be seen by the checker."""
    await fill(pool)
    seen, _ = await storm(pool, chance, session_wide)
    assert any("nobody saw" in line for line in canary(seen))
