"""Transactions that see one tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from headrace.store.error_mapping import postgresql_errors

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

_SEES_ALL = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"


async def set_tenant(connection: Connection, tenant: str) -> None:
    """Let the running transaction, and it alone, see the rows of ``tenant``.

    Transaction-local on purpose: a session's setting would leak to the next user of a pooled connection.
    Raises :class:`ValueError` for an empty tenant and outside a transaction, where the setting would not
    hold.
    """
    if not tenant:
        raise ValueError("the tenant must not be empty")
    if not connection.is_in_transaction():
        raise ValueError("open a transaction before you set the tenant")
    await connection.execute("SELECT set_config('headrace.tenant', $1, true)", tenant)


async def sees_all(connection: Connection) -> bool:
    """Whether row-level security does not bind this login: it sees the rows of tenants that it does not name."""
    return bool(await connection.fetchval(_SEES_ALL))


@asynccontextmanager
async def tenant_transaction(pool: Pool, tenant: str, *, readonly: bool = False) -> AsyncIterator[Connection]:
    """Take a connection of the pool and open a transaction that sees the rows of ``tenant``.

    Raises what :func:`~headrace.store.error_mapping.postgresql_errors` makes of asyncpg's exceptions.
    """
    with postgresql_errors():
        async with pool.acquire() as connection, connection.transaction(readonly=readonly):
            await set_tenant(connection, tenant)
            yield connection
