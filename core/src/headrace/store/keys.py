"""API keys: shown once, stored as SHA-256, and looked up before the tenant is known."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.access.readers import UNNAMED, Reader
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


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whom a key stands for: its tenant, and its reader, or None if it acts for readers and names one in each request.

    A key that was created without a reader sees only documents without an ``acl``.
    """

    tenant: str
    reader: Reader | None = UNNAMED


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key in a list; the key itself is not stored."""

    name: str
    reader: Sequence[str]
    acts_for_readers: bool
    created_at: datetime
    revoked_at: datetime | None


async def create_api_key(connection: Connection, tenant: str, name: str, reader: Reader | None = UNNAMED) -> str:
    """Create a key for ``tenant`` and return it; it cannot be read again later.

    It reads for ``reader``; with None, it acts for readers and names one in each request. The connection must be the
    owner's, because services may check keys but not create them.
    """
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    names = () if reader is None else reader.names
    with postgresql_errors():
        async with connection.transaction():
            await set_tenant(connection, tenant)
            await connection.execute(load("keys")["create"], hash_key(key), tenant, name, names, reader is None)
    return key


async def list_api_keys(connection: Connection, tenant: str) -> list[ListedKey]:
    """Return the tenant's keys, oldest first; requires the owner's connection."""
    with postgresql_errors():
        async with connection.transaction():
            await set_tenant(connection, tenant)
            return [ListedKey(**row) for row in await connection.fetch(load("keys")["list"], tenant)]


async def revoke_api_keys(connection: Connection, tenant: str, name: str) -> int:
    """Revoke the tenant's keys with this name and return their number; requires the owner's connection."""
    with postgresql_errors():
        async with connection.transaction():
            await set_tenant(connection, tenant)
            status = await connection.execute(load("keys")["revoke"], tenant, name)
    return int(status.rsplit(" ", 1)[1])


async def authenticate(pool: Pool, key: str) -> KeyOwner | None:
    """Return whom the key stands for, or None if the key is unknown or revoked."""
    with postgresql_errors():
        row = await pool.fetchrow(load("keys")["authenticate"], hash_key(key))
    if row is None:
        return None
    return KeyOwner(row["tenant"], None if row["acts_for_readers"] else Reader.of(row["reader"]))
