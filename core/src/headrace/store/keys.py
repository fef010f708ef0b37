"""API keys: shown once, stored as SHA-256, and looked up before the tenant is known."""

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
_RANDOM_BYTES = 32  # too long to guess, so a plain hash is enough


def hash_key(key: str) -> bytes:
    """Return the SHA-256 under which a key is stored."""
    return hashlib.sha256(key.encode()).digest()


async def create_api_key(connection: Connection, tenant: str, name: str) -> str:
    """Create a key for ``tenant`` and return it; it cannot be read again later.

    The connection must be the owner's, because services may check keys but not create them.
    """
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    with postgresql_errors():
        async with connection.transaction():
            await set_tenant(connection, tenant)
            await connection.execute(load("keys")["create"], hash_key(key), tenant, name)
    return key


async def revoke_api_keys(connection: Connection, tenant: str, name: str) -> int:
    """Revoke the tenant's keys with this name and return their number; requires the owner's connection."""
    with postgresql_errors():
        async with connection.transaction():
            await set_tenant(connection, tenant)
            status = await connection.execute(load("keys")["revoke"], tenant, name)
    return int(status.rsplit(" ", 1)[1])


async def authenticate(pool: Pool, key: str) -> str | None:
    """Return the tenant of the key, or None if the key is unknown or revoked."""
    with postgresql_errors():
        tenant: str | None = await pool.fetchval(load("keys")["authenticate"], hash_key(key))
    return tenant
