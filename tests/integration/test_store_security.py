"""Tenants, rights, keys, migrations and outages against a real PostgreSQL, as a service's login."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import numpy as np
import psycopg
import pytest
import pytest_asyncio
from pydantic import SecretStr

from headrace.access.readers import EVERY_DOCUMENT, UNNAMED
from headrace.errors import ConfigurationError, DependencyDown
from headrace.lexical import weights
from headrace.payloads import DocumentFacts
from headrace.store import artifacts, cache, documents, keys, statistics
from headrace.store.error_mapping import GenerationExists
from headrace.store.generations import (
    activate,
    active_generation,
    create_generation,
    get_generation,
    list_generations,
)
from headrace.store.index import index_batch
from headrace.store.pool import create_pool
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace.store.schema import create_login, migrate
from headrace.store.search import Question
from headrace.store.transactions import set_tenant, tenant_transaction
from headrace_testing.postgres import StoreSchema, with_login
from headrace_testing.searching import search

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

TABLES = (
    "document",
    "chunk",
    "embedding_first",
    "vector_first",
    "lexical_first",
    "search_statistics",
    "vector_cache",
    "artifact",
)
MATCH = (
    "SELECT m.* FROM weigh_terms('first', $1, 5000) AS w, "
    "match_terms('first', w.used, w.chosen, w.query, 5000, false, NULL) AS m"
)
CANARY = {7: "canary"}
ONES = np.ones(4, dtype="<f4").tobytes()
ARTIFACT = artifacts.Artifact("", UUID(int=1), 1, "r1", "answer", "T", "text/plain", "canary", ({"document": "d"},))


@pytest_asyncio.fixture
async def generation(owner: Owner) -> Generation:
    """A generation of four dimensions, active."""
    created = await create_generation(owner, Generation("first", "toy", 4))
    await activate(owner, "first")
    return replace(created, state="active")


@pytest_asyncio.fixture
async def two_tenants(pool: Pool, generation: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same document, cached vector and artifact, in two tenants.

    Their terms have the same numbers, so that the numbers alone keep no tenants apart.
    """
    monkeypatch.setattr(weights, "term_number", lambda _tenant, term: next(iter(CANARY)) if term == "canari" else 8)
    for tenant in ("acme", "globex"):
        chunk = IndexChunk(tenant.encode().ljust(16), (), 0, 6, f"canary {tenant}", b"h", ONES)
        document = IndexDocument(
            tenant,
            "d",
            1,
            DocumentFacts("", "", b"h"),
            request_id="r1",
            history=[{"stage": "ingest"}],
            metadata={"user.a": 1},
            chunks=(chunk,),
        )
        await index_batch(pool, generation, [document])
        await statistics.refresh(pool, tenant, generation)
        async with tenant_transaction(pool, tenant) as connection:
            await cache.put(connection, tenant, "toy", {b"h": ONES})
        await artifacts.put(pool, replace(ARTIFACT, tenant=tenant))


@pytest.mark.usefixtures("two_tenants")
async def test_a_tenant_sees_its_own_rows_alone(pool: Pool) -> None:
    """A query that forgets its tenant predicate would show another tenant's rows."""
    async with tenant_transaction(pool, "acme") as connection:
        for table in TABLES:
            assert [row["tenant"] for row in await connection.fetch(f"SELECT tenant FROM {table}")] == ["acme"]
        rows = await connection.fetch(MATCH, list(CANARY))
        assert [row["chunk_id"].bytes.strip() for row in rows] == [b"acme"]


@pytest.mark.usefixtures("two_tenants")
async def test_without_a_tenant_nothing_is_seen(store_schema: StoreSchema) -> None:
    """A connection that names no tenant, or was used for one before, would see everything."""
    pool = await create_pool(store_schema.settings(pool_maximum=1))
    async with pool.acquire() as connection:
        for _ in range(2):
            for table in TABLES:
                assert await connection.fetch(f"SELECT tenant FROM {table}") == []
            assert await connection.fetch(MATCH, list(CANARY)) == []
            async with connection.transaction():
                await set_tenant(connection, "acme")
                assert await connection.fetchval("SELECT count(*) FROM document") == 1
    await pool.close()


@pytest.mark.usefixtures("two_tenants")
async def test_a_returned_connection_forgets_its_tenant(store_schema: StoreSchema) -> None:
    """Broken: after an error or a cancel within a transaction, the next user of the connection is still its tenant."""
    pool = await create_pool(store_schema.settings(pool_minimum=1, pool_maximum=1))
    entered = asyncio.Event()

    async def stays() -> None:
        async with tenant_transaction(pool, "acme") as connection:
            entered.set()
            await connection.execute("SELECT pg_sleep(30)")

    with pytest.raises(ZeroDivisionError):
        async with tenant_transaction(pool, "acme"):
            raise ZeroDivisionError
    task = asyncio.create_task(stays())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    connection = await pool.acquire()
    await connection.execute("BEGIN")  # a transaction that its user forgot
    await set_tenant(connection, "acme")
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncpg reports what it rolls back
    await pool.release(connection)
    async with pool.acquire() as connection:
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT current_setting('headrace.tenant', true)") in (None, "")
        assert await connection.fetch("SELECT tenant FROM document") == []
    await pool.close()


@pytest.mark.usefixtures("two_tenants")
async def test_a_tenant_cannot_write_for_another(pool: Pool) -> None:
    """A wrong tenant in a record would write into another tenant's index or cache."""
    with pytest.raises(DependencyDown, match="row-level security"):
        async with tenant_transaction(pool, "acme") as connection:
            await cache.put(connection, "globex", "toy", {b"new": ONES})
    async with tenant_transaction(pool, "acme") as connection:
        assert await connection.execute("DELETE FROM chunk WHERE tenant = 'globex'") == "DELETE 0"
        assert await connection.execute("UPDATE document SET title = 'x' WHERE tenant = 'globex'") == "UPDATE 0"


@pytest.mark.usefixtures("two_tenants")
async def test_readers_stay_inside_their_tenant(pool: Pool, generation: Generation) -> None:
    """Search, documents and artifacts would mix tenants that use the same ids."""
    assert [hit.text for hit in await search(pool, "globex", generation, Question(ONES))] == ["canary globex"]
    hybrid = await search(pool, "globex", generation, Question(ONES, CANARY))
    assert [hit.text for hit in hybrid] == ["canary globex"]
    assert await search(pool, "nobody", generation, Question(ONES)) == []
    assert await documents.get(pool, "nobody", EVERY_DOCUMENT, "d") is None
    states = await documents.states(pool, "acme", UNNAMED, ["d", "unknown"])
    assert states == {"d": documents.DocumentState(1, False, "r1", ["first"])}
    assert await documents.count(pool, "acme", UNNAMED) == documents.Counts(1, 0, 1)
    found = await documents.get(pool, "acme", UNNAMED, "d")
    assert found is not None
    assert (found.request_id, found.history, found.metadata) == ("r1", [{"stage": "ingest"}], {"user.a": 1})
    assert (found.model, found.generations, found.chunks) == ("toy", ["first"], 1)


async def test_a_service_may_not_change_the_schema_or_the_keys(pool: Pool, generation: Generation) -> None:
    """A service that was broken into could switch row-level security off or make itself a key."""
    forbidden = (
        "ALTER TABLE document DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mine (a int)",
        "SELECT * FROM api_key",
        "DELETE FROM document",
        "UPDATE chunk SET text = ''",
        "UPDATE generation SET state = 'retired'",
        "SET ROLE headrace_definer",
    )
    for statement in forbidden:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)
    rights = await pool.fetchrow("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    assert rights is not None
    assert not any(rights)


async def test_every_table_with_a_tenant_forces_its_policy(owner: Owner, generation: Generation) -> None:
    """A table that is added later would be open to every tenant."""
    rows = await owner.fetch(
        "SELECT relname, relrowsecurity AND relforcerowsecurity AS forced FROM pg_class "
        "WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND EXISTS ("
        "SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'tenant')"
    )
    assert {row["relname"] for row in rows} == {
        *TABLES, "api_key", "sql_reader", "term_frequency", "usage", "usage_document",
    }  # fmt: skip
    assert all(row["forced"] for row in rows)


async def test_keys_name_their_tenant_until_revoked(pool: Pool, owner: Owner) -> None:
    """A revoked or guessed key would open the door, or a key could be read from the database."""
    key = await keys.create_api_key(owner, "acme", "console")
    assert key.startswith("hr_")
    assert await keys.authenticate(pool, key) == keys.KeyOwner("acme")
    assert await keys.authenticate(pool, key + "x") is None
    assert key not in str(await owner.fetch("SELECT * FROM api_key"))
    assert await keys.revoke_api_keys(owner, "acme", "console") == 1
    assert await keys.authenticate(pool, key) is None


async def test_artifacts_are_stored_once_and_in_versions(pool: Pool, owner: Owner) -> None:
    """A repeated request would overwrite an artifact, or a new version hide the old one for good."""
    first = replace(ARTIFACT, tenant="acme")
    second = replace(first, version=2, request_id="r2", text="better")
    assert await artifacts.put(pool, first)
    assert not await artifacts.put(pool, replace(first, text="overwritten"))
    assert await artifacts.put(pool, second)
    newest = await artifacts.get(pool, "acme", UNNAMED, first.artifact_id)
    assert newest is not None
    assert (newest.version, newest.text, newest.citations) == (2, "better", [{"document": "d"}])
    oldest = await artifacts.get(pool, "acme", UNNAMED, first.artifact_id, version=1)
    assert oldest is not None
    assert oldest.text == "canary"
    assert [found.version for found in await artifacts.by_request(pool, "acme", UNNAMED, "r2")] == [2]
    assert await artifacts.get(pool, "other", UNNAMED, first.artifact_id) is None


async def test_cache_keeps_the_first_vector(pool: Pool, owner: Owner) -> None:
    """A repeated put would churn rows, or a text's vector differ between runs."""
    other = np.zeros(4, dtype="<f4").tobytes()
    async with tenant_transaction(pool, "acme") as connection:
        assert await cache.put(connection, "acme", "toy", {b"a": ONES, b"b": other}) == 2
        assert await cache.put(connection, "acme", "toy", {b"a": other, b"c": ONES}) == 1
        assert await cache.fetch(connection, "acme", "other-model", [b"a"]) == {}
        assert await cache.fetch(connection, "acme", "toy", [b"a", b"b"]) == {b"a": ONES, b"b": other}


async def test_generations_switch_atomically(pool: Pool, owner: Owner, generation: Generation) -> None:
    """Two generations would be searched at once, or a name be reused for another model."""
    await create_generation(owner, Generation("second", "toy", 8, "l2"))
    assert await create_generation(owner, Generation("first", "toy", 4)) == generation
    with pytest.raises(GenerationExists, match="exists with toy, 4 dimensions, cosine"):
        await create_generation(owner, Generation("first", "toy", 5))
    with pytest.raises(ConfigurationError, match="cannot index distance"):
        await create_generation(owner, Generation("third", "toy", 5000))
    with pytest.raises(ConfigurationError, match="generation unknown does not exist"):
        await activate(owner, "unknown")
    async with pool.acquire() as connection:
        assert await active_generation(connection) == generation
        await activate(owner, "second")
        active = await active_generation(connection)
        assert active is not None
        assert (active.name, active.distance, active.state) == ("second", "l2", "active")
        assert {found.name: found.state for found in await list_generations(connection)} == {
            "first": "retired",
            "second": "active",
        }
        assert await get_generation(connection, "unknown") is None


def test_migration_is_idempotent(store_schema: StoreSchema) -> None:
    """A second bootstrap would fail, or do its work twice."""
    applied = migrate(store_schema.server.dsn, store_schema.name)
    assert not applied.changed
    assert applied.current == "0010"


async def test_an_owner_without_superuser_rights_suffices(store_schema: StoreSchema) -> None:
    """The store could not be set up on a managed PostgreSQL, or its owner would see every tenant."""
    dsn, role, schema = store_schema.server.dsn, f"test_{uuid4().hex[:8]}", f"test_{uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CREATEROLE")
        admin.execute(f"GRANT headrace_definer, headrace_runtime TO {role} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
        admin.execute(f"GRANT CREATE ON DATABASE {admin.info.dbname} TO {role}")
        try:
            assert migrate(with_login(dsn, role, "x"), schema).changed
            own = await asyncpg.connect(
                with_login(dsn, role, "x"), server_settings={"search_path": f"{schema}, public"}
            )
            await create_generation(own, Generation("first", "toy", 4))
            key = await keys.create_api_key(own, "acme", "console")
            assert await own.fetch("SELECT * FROM api_key") == []
            await own.close()
            runtime = await create_pool(replace(store_schema, name=schema).settings())
            assert await keys.authenticate(runtime, key) == keys.KeyOwner("acme")
            await runtime.close()
        finally:
            admin.execute(f"DROP OWNED BY {role} CASCADE")
            admin.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
            admin.execute(f"DROP ROLE {role}")


def test_a_login_gets_a_new_password_in_place(store_schema: StoreSchema) -> None:
    """A second bootstrap with a rotated password would fail, or keep the password readable."""
    dsn, login = store_schema.server.dsn, f"test_{uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        create_login(dsn, login, "first")
        stored = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [login]).fetchone()
        create_login(dsn, login, "second")
        renewed = admin.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [login]).fetchone()
        admin.execute(f"DROP ROLE {login}")
    assert stored is not None
    assert renewed is not None
    assert stored[0].startswith("SCRAM-SHA-256$")
    assert renewed != stored


async def test_an_unreachable_server_is_an_outage(store_schema: StoreSchema) -> None:
    """A service that starts before PostgreSQL would crash, or call it an unforeseen error."""
    with pytest.raises(DependencyDown):
        await create_pool(store_schema.settings(dsn=SecretStr("postgresql://u:p@127.0.0.1:1/x")))
    with pytest.raises(DependencyDown):
        migrate("postgresql://u:p@127.0.0.1:1/x")


async def test_a_silent_server_is_an_outage(store_schema: StoreSchema) -> None:
    """A server that accepts and never answers would hang the stage for ever."""
    listener = socket.create_server(("127.0.0.1", 0))  # the kernel accepts; nobody reads
    with listener:
        dsn = SecretStr(f"postgresql://u:p@127.0.0.1:{listener.getsockname()[1]}/x")
        with pytest.raises(DependencyDown, match="TimeoutError"):
            await create_pool(store_schema.settings(dsn=dsn, connect_timeout=0.2))


async def test_a_cut_connection_is_an_outage_and_heals(pool: Pool, owner: Owner) -> None:
    """A restart of PostgreSQL would send records to the dead letters, or leave the pool broken."""

    async def work_while_the_server_goes() -> None:
        async with tenant_transaction(pool, "acme") as connection:
            await owner.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await connection.fetchval("SELECT 1")

    with pytest.raises(DependencyDown):
        await work_while_the_server_goes()
    assert await documents.count(pool, "acme", UNNAMED) == documents.Counts(0, 0, 0)


async def test_a_schema_that_was_never_migrated_says_what_to_do(store_schema: StoreSchema) -> None:
    """A wrong schema name would look like an unforeseen error."""
    pool = await create_pool(replace(store_schema, name="not_there").settings())
    with pytest.raises(DependencyDown, match="headrace bootstrap"):
        await documents.count(pool, "acme", UNNAMED)
    await pool.close()
