"""Transactions that see the rows of one tenant, and of its documents those that a reader may read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from headrace.access.readers import UNNAMED, Reader
from headrace.store.error_mapping import postgresql_errors

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

_SEE = "SELECT set_config('headrace.tenant', $1, true), set_config('headrace.reader', $2, true)"
_SEES_ALL = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"


async def set_tenant(connection: Connection, tenant: str, reader: Reader = UNNAMED) -> None:
    """Let the current transaction see only the rows of ``tenant``, and only documents that ``reader`` may read.

    The settings are local to the transaction, because a setting of the session would apply to the next user of a pooled
    connection. Raises :class:`ValueError` for an empty tenant, and outside a transaction, where it would have no
    effect.
    """
    if not tenant:
        raise ValueError("the tenant must not be empty")
    if not connection.is_in_transaction():
        raise ValueError("open a transaction before you set the tenant")
    await connection.execute(_SEE, tenant, reader.setting)


async def sees_all(connection: Connection) -> bool:
    """Whether row-level security does not apply to this login, so that it sees the rows of all tenants."""
    return bool(await connection.fetchval(_SEES_ALL))


@asynccontextmanager
async def tenant_transaction(
    pool: Pool, tenant: str, *, reader: Reader = UNNAMED, readonly: bool = False
) -> AsyncIterator[Connection]:
    """Take a connection from the pool and open a transaction that sees the rows of ``tenant``.

    Of documents, chunks and artifacts, it sees those that ``reader`` may read. With ``readonly``, all its statements
    see the same state, so that a document which changes meanwhile is not half old and half new.

    Raises what :func:`~headrace.store.error_mapping.postgresql_errors` makes of asyncpg's exceptions.
    """
    with postgresql_errors():
        isolation: Literal["repeatable_read"] | None = "repeatable_read" if readonly else None
        async with pool.acquire() as connection, connection.transaction(isolation=isolation, readonly=readonly):
            await set_tenant(connection, tenant, reader)
            yield connection
