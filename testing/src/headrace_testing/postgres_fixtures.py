"""Fixtures for a real PostgreSQL; each test gets its own schema, so tests can run concurrently on one server.

A test module loads them with ``pytest_plugins = ("headrace_testing.postgres_fixtures",)``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql

from headrace.store.pool import create_pool, prepare_connection
from headrace.store.schema import create_login, migrate
from headrace_testing.postgres import Server, StoreSchema, postgres_dsn, with_login

if TYPE_CHECKING:
    from headrace.store.pool import Pool


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """One server for the test run, with a login for services that is dropped at the end."""
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
    """A connection of the schema's owner (here a superuser, which sees every tenant's rows)."""
    connection = await asyncpg.connect(
        store_schema.server.dsn, server_settings={"search_path": f'"{store_schema.name}", public'}
    )
    await prepare_connection(connection)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def pool(store_schema: StoreSchema) -> AsyncIterator[Pool]:
    """A service's pool in the schema, with a login to which row-level security applies."""
    opened = await create_pool(store_schema.settings())
    yield opened
    await opened.close()
