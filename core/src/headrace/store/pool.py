"""Connections to the store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import asyncpg
from pgvector.asyncpg import register_vector
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.store.error_mapping import postgresql_errors

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

_JSONB_VERSION = b"\x01"  # the only version of jsonb's binary format


class StoreSettings(BaseSettings):
    """How a service reaches PostgreSQL; variables ``HEADRACE_STORE_…``."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_STORE_", frozen=True)

    dsn: SecretStr = Field(description="PostgreSQL connection string, postgresql://user:password@host:port/database.")
    schema_name: str = Field(
        default="headrace",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        description="Schema with the store's tables.",
    )
    pool_minimum: int = Field(default=1, ge=0, description="Minimum number of connections to keep open.")
    pool_maximum: int = Field(default=8, ge=1, description="Maximum number of open connections.")
    connect_timeout: float = Field(default=10.0, gt=0, description="Maximum seconds to open a connection.")
    statement_timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which the server cancels a statement and the client stops waiting for the server.",
    )


@asynccontextmanager
async def opened_pool(settings: StoreSettings) -> AsyncIterator[Pool]:
    """Yield the pool of :func:`create_pool`, and close it at the end."""
    pool = await create_pool(settings)
    try:
        yield pool
    finally:
        await pool.close()


async def create_pool(settings: StoreSettings) -> Pool:
    """Open a pool of connections that use the store's schema and have codecs for vectors and JSON.

    Raises :class:`~headrace.errors.DependencyDown` if PostgreSQL does not answer or rejects the login.
    """
    with postgresql_errors():
        return await asyncpg.create_pool(
            settings.dsn.get_secret_value(),
            min_size=settings.pool_minimum,
            max_size=max(settings.pool_minimum, settings.pool_maximum),
            timeout=settings.connect_timeout,
            # the server's own timeout is shorter; this one is for a server that hangs
            command_timeout=settings.statement_timeout * 1.5,
            init=prepare_connection,
            reset=leave_as_it_is,
            server_settings={
                "application_name": "headrace",
                "search_path": f'"{settings.schema_name}", public',
                "jit": "off",  # compiling costs more than it saves for these short queries
                "statement_timeout": str(round(settings.statement_timeout * 1000)),
            },
        )


async def leave_as_it_is(_connection: object) -> None:
    """Return a connection to the pool without asyncpg's ``RESET ALL``, which would cost a round trip per use.

    Nothing outlives a transaction here: settings and advisory locks are local to it, and there are no listeners.
    asyncpg rolls back an open transaction before it calls this.
    """


async def prepare_connection(connection: Connection) -> None:
    """Register the codecs for vectors (:class:`pgvector.Vector`, binary) and JSON."""
    await register_vector(cast("asyncpg.Connection[asyncpg.Record]", connection))
    await connection.set_type_codec(
        "jsonb", encoder=_encode_jsonb, decoder=_decode_jsonb, schema="pg_catalog", format="binary"
    )


def _encode_jsonb(value: object) -> bytes:
    return _JSONB_VERSION + json.dumps(value, ensure_ascii=False).encode()


def _decode_jsonb(wire: bytes) -> Any:
    return json.loads(wire[len(_JSONB_VERSION) :])
