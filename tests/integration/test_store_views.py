"""The views for those who query PostgreSQL themselves: what they show, and to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import numpy as np
import pytest
import pytest_asyncio

from headrace.payloads import DocumentFacts
from headrace.store.generations import activate, create_generation
from headrace.store.index import index_batch
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace_testing.postgres import with_login

if TYPE_CHECKING:
    from headrace.store.pool import Pool
    from headrace_testing.postgres import StoreSchema

    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

VIEWS = ("headrace_documents", "headrace_chunks", "headrace_vectors")
PASSWORD = "only-for-tests-on-loopback"


def document(tenant: str, generation: Generation, *texts: str) -> IndexDocument:
    """A document whose text has these chunks, each with a vector of its own."""
    chunks, start = [], 0
    for number, text in enumerate(texts):
        vector = np.full(generation.dimensions, number + 1, "<f4")
        key = text.encode()[:16].ljust(16, b".")
        identity = f"{tenant[:8]:8}{number:8}".encode()
        chunks.append(
            IndexChunk(identity, ("제목", text), start, start + len(text), text, key, vector.tobytes(), vector_key=key)
        )
        start += len(text)
    return IndexDocument(tenant, "안내서", 3, DocumentFacts("안내", "wiki", b"h", language="ko"), chunks=tuple(chunks))


@pytest_asyncio.fixture
async def filled(owner: Connection, pool: Pool) -> Generation:
    """An active generation with a document of each of two tenants."""
    one = await create_generation(owner, Generation("first", "toy", 2))
    await activate(owner, "first")
    await index_batch(pool, one, [document("acme", one, "물레방아", "수로"), document("other", one, "남의 글")])
    return one


@pytest_asyncio.fixture
async def reader(owner: Connection, store_schema: StoreSchema, filled: Generation) -> AsyncIterator[Connection]:
    """A login that may read the views of the tenant acme."""
    assert filled
    login = f"reader_{uuid4().hex[:12]}"
    await owner.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}'")
    await owner.execute("SELECT allow_sql_reader($1, 'acme')", login)
    connection = await asyncpg.connect(with_login(store_schema.server.dsn, login, PASSWORD))
    yield connection
    await connection.close()
    await owner.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


async def tenants(connection: Connection, view: str) -> set[str]:
    """The tenants whose rows the connection sees."""
    return {row["tenant"] for row in await connection.fetch(f"SELECT tenant FROM {view}")}


async def test_a_reader_sees_documents_chunks_and_vectors_of_the_active_generation(
    owner: Connection, pool: Pool, reader: Connection, filled: Generation
) -> None:
    """A query of a report breaks with each release, or after a change of the model."""
    row = await reader.fetchrow("SELECT * FROM headrace_documents")
    assert row is not None
    assert (row["document_id"], row["version"], row["title"], row["language"], row["chunks"]) == (
        "안내서", 3, "안내", "ko", 2,
    )  # fmt: skip
    rows = await reader.fetch("SELECT ordinal, text, start_at, end_at FROM headrace_chunks ORDER BY ordinal")
    assert [tuple(row) for row in rows] == [(0, "물레방아", 0, 4), (1, "수로", 4, 6)]
    joined = "SELECT text, generation, embedding::text AS e FROM headrace_chunks JOIN headrace_vectors USING (chunk_id)"
    assert {(row["text"], row["generation"], row["e"]) for row in await reader.fetch(joined)} == {
        ("물레방아", "first", "[1,1]"), ("수로", "first", "[2,2]"),
    }  # fmt: skip
    second = await create_generation(owner, Generation("second", "other", 3, storage="halfvec"))
    await index_batch(pool, second, [document("acme", second, "물레방아", "수로")])
    assert {row["generation"] for row in await reader.fetch(joined)} == {filled.name}
    await activate(owner, "second")
    assert {(row["generation"], row["e"]) for row in await reader.fetch(joined)} == {
        ("second", "[1,1,1]"), ("second", "[2,2,2]"),
    }  # fmt: skip
    await activate(owner, "first")
    assert {row["generation"] for row in await reader.fetch(joined)} == {"first"}


@pytest.mark.parametrize("view", VIEWS)
async def test_a_reader_never_sees_another_tenant_whatever_it_sets(reader: Connection, view: str) -> None:
    """Whoever may write SQL reads every tenant's documents by naming it."""
    assert await tenants(reader, view) == {"acme"}
    for tenant in ("other", "", "acme' OR true --"):
        await reader.execute("SELECT set_config('headrace.tenant', $1, false)", tenant)
        assert await tenants(reader, view) == set()
    await reader.execute("RESET ALL")
    assert await tenants(reader, view) == {"acme"}


@pytest.mark.parametrize("view", VIEWS)
async def test_a_document_with_an_acl_is_hidden_whatever_is_set(
    owner: Connection, pool: Pool, reader: Connection, filled: Generation, view: str
) -> None:
    """Whoever may write SQL reads what is for others alone by naming them."""
    open_one = document("acme", filled, "비밀")
    chunks = (replace(open_one.chunks[0], chunk_id=b"secret".ljust(16)),)
    facts = replace(open_one.facts, acl=("user:ann",))
    await index_batch(pool, filled, [replace(open_one, document_id="secret", facts=facts, chunks=chunks)])
    before = await owner.fetchval("SELECT count(*) FROM chunk WHERE document_id = 'secret'")
    assert before == 1
    shown = {"headrace_documents": 1, "headrace_chunks": 2, "headrace_vectors": 2}[view]
    for setting in ("{}", "{*}", "{user:ann}"):
        await reader.execute("SELECT set_config('headrace.reader', $1, false)", setting)
        assert await reader.fetchval(f"SELECT count(*) FROM {view}") == shown
    await owner.execute("DROP POLICY sql_reader ON document")  # what hides it
    await owner.execute("DROP POLICY sql_reader ON chunk")
    assert await reader.fetchval(f"SELECT count(*) FROM {view}") == shown + 1


@pytest.mark.parametrize("view", VIEWS)
async def test_the_restrictive_policy_is_what_hides_other_tenants(
    owner: Connection, reader: Connection, view: str
) -> None:
    """The test above could pass for another reason: without the policy, it must fail."""
    for table in ("document", "chunk", "embedding_first", "vector_first"):
        await owner.execute(f"DROP POLICY sql_reader ON {table}")
    await reader.execute("SET headrace.tenant = 'other'")
    assert await tenants(reader, view) == {"other"}


async def test_a_reader_writes_nothing_and_reads_nothing_else(reader: Connection) -> None:
    """A login for reports changes the index, or reads keys, caches and other logins' tenants."""
    for text in (
        "SELECT * FROM api_key", "SELECT * FROM vector_cache", "SELECT * FROM sql_reader",
        "SELECT history FROM document", "SELECT * FROM lexical_first", "SELECT allow_sql_reader(session_user, 'other')",
        "SELECT point_views('first')",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.fetch(text)
    await reader.execute("SET default_transaction_read_only = off")
    for text in (
        "INSERT INTO sql_reader VALUES (session_user, 'other')", "DELETE FROM chunk",
        "UPDATE headrace_documents SET title = ''",
    ):  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(text)


async def test_a_login_that_is_not_registered_sees_nothing(owner: Connection, reader: Connection) -> None:
    """Membership in the role alone would open some tenant, or a login cannot be shut out."""
    login = await reader.fetchval("SELECT session_user")
    with pytest.raises(asyncpg.RaiseError, match="reads another tenant"):
        await owner.execute("SELECT allow_sql_reader($1, 'other')", login)
    with pytest.raises(asyncpg.RaiseError, match="does not read tenant other"):
        await owner.execute("SELECT forbid_sql_reader($1, 'other')", login)
    await owner.execute("SELECT forbid_sql_reader($1, 'acme')", login)
    for view in VIEWS:
        with pytest.raises(asyncpg.UndefinedTableError):  # not even the schema
            await tenants(reader, view)
    await owner.execute(f"GRANT headrace_reader TO {login}")
    for view in VIEWS:
        assert await tenants(reader, view) == set()


async def test_the_guide_describes_every_column_as_the_database_does(owner: Connection, filled: Generation) -> None:
    """A column is part of the contract, and the guide says something else of it, or nothing."""
    assert filled
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "sql.md").read_text(encoding="utf-8")
    rows = await owner.fetch(
        "SELECT a.attname, format_type(a.atttypid, NULL) AS type, col_description(c.oid, a.attnum) AS said "
        "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 "
        "WHERE c.relname = ANY ($1) AND c.relnamespace = to_regnamespace(current_schema())",
        list(VIEWS),
    )
    described = [f"| `{row['attname']}` | `{row['type']}` | {row['said']} |" for row in rows]
    listed = [line for line in guide.splitlines() if line.startswith("| `")]
    assert sorted(described) == sorted(listed)
