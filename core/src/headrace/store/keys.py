"""API keys: shown once, kept as SHA-256, looked up before any tenant is known."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from headrace.store.error_mapping import postgresql_errors
from headrace.store.queries import load
from headrace.store.transactions import set_tenant

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

PREFIX = "hr_"
_RANDOM_BYTES = 32  # beyond guessing, so that a plain hash suffices


def hash_key(key: str) -> bytes:
    """The SHA-256 under which a key is kept."""
    return hashlib.sha256(key.encode()).digest()


async def create_api_key(connection: Connection, tenant: str, name: str) -> str:
    """Make a key for ``tenant`` and return it: the only time that it can be read.

    The connection is the owner's: a service may check keys and not make them.
    """
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    with postgresql_errors():
        async with connection.transaction():
            await set_tenant(connection, tenant)
            await connection.execute(load("keys")["create"], hash_key(key), tenant, name)
    return key


async def revoke_api_keys(connection: Connection, tenant: str, name: str) -> int:
    """Revoke the tenant's keys of this name and return how many there were (the owner's connection)."""
    with postgresql_errors():
        async with connection.transaction():
            await set_tenant(connection, tenant)
            status = await connection.execute(load("keys")["revoke"], tenant, name)
    return int(status.rsplit(" ", 1)[1])


async def authenticate(pool: Pool, key: str) -> str | None:
    """The tenant whose key this is; None for an unknown or revoked one."""
    with postgresql_errors():
        tenant: str | None = await pool.fetchval(load("keys")["authenticate"], hash_key(key))
    return tenant
