"""What the store shows to a reader: changes of an acl, deletions, the policies alone, keys; and what a stage pays."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from headrace.access.readers import EVERY_DOCUMENT, UNKNOWN, UNNAMED, Reader
from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import DependencyDown
from headrace.payloads import ChangeEvent
from headrace.store import artifacts, documents, keys
from headrace.store.generations import activate, create_generation
from headrace.store.rows import Generation
from headrace.store.search import Question
from headrace.store.transactions import set_tenant, tenant_transaction
from headrace_chunker.handler import SectionsHandler
from headrace_embedder import metrics
from headrace_embedder.handler import EmbedHandler
from headrace_indexer.handler import IndexHandler
from headrace_ingest.handler import ChangeEventHandler
from headrace_testing.postgres import StoreSchema
from headrace_testing.searching import search

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

TENANT = "acme"
ANN, BOB = Reader.named("ann"), Reader.named("bob", ["staff"])
TEXT = "# 수문\n\n수문은 천천히 엽니다.\n\n# Gate\n\nOpen the gate slowly."


class Stages:
    """The handlers of the stages, one after another, on the store of a test."""

    def __init__(self) -> None:
        self.handlers: tuple[Any, ...] = (ChangeEventHandler(), SectionsHandler(), EmbedHandler(), IndexHandler())

    async def upsert(self, version: int, acl: tuple[str, ...], document_id: str = "d", text: str = TEXT) -> None:
        """Pass a change through all stages."""
        event = ChangeEvent(
            TENANT, document_id, Operation.UPSERT, version, title="T", content=text, media_type="text/markdown", acl=acl
        )
        await self._through(Change(TENANT, document_id, version, Operation.UPSERT), event, self.handlers)

    async def delete(self, version: int, document_id: str = "d") -> None:
        """Pass a deletion through the stage that handles it."""
        await self._through(Change(TENANT, document_id, version, Operation.DELETE), None, self.handlers[-1:])

    async def _through(self, change: Change, payload: object, handlers: tuple[Any, ...]) -> None:
        context: Context[Any] = Context(Trace("r", "index", 1, datetime.now(UTC)), change, payload)
        for handler in handlers:
            if hasattr(handler, "process_batch"):
                (context,) = await handler.process_batch([context])
            else:
                context = await handler.process(context)
            assert isinstance(context, Context), context


@pytest.fixture
def environment(store_schema: StoreSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the stages."""
    monkeypatch.setenv("HEADRACE_STORE_DSN", store_schema.server.runtime_dsn)
    monkeypatch.setenv("HEADRACE_STORE_SCHEMA_NAME", store_schema.name)
    monkeypatch.setenv("HEADRACE_EMBEDDER_PROVIDER", "hashing")


@pytest_asyncio.fixture
async def generation(owner: Owner) -> Generation:
    """The active generation, of the provider that hashes words."""
    created = await create_generation(owner, Generation("g1", "hashing-384", 384))
    await activate(owner, "g1")
    return replace(created, state="active")


@pytest_asyncio.fixture
async def stages(environment: None, generation: Generation) -> Any:
    """The running stages."""
    made = Stages()
    for handler in made.handlers:
        await handler.start()
    yield made
    for handler in made.handlers:
        await handler.close()


async def seen(pool: Pool, generation: Generation, reader: Reader) -> tuple[bool, int]:
    """Whether the reader sees the document, and how many of its passages a search finds."""
    found = await search(pool, TENANT, generation, Question(b"\0\0\x80?" * 384), reader=reader)
    return await documents.get(pool, TENANT, reader, "d") is not None, len(found)


async def test_a_change_of_the_acl_alone_takes_effect_and_embeds_nothing(
    stages: Stages, pool: Pool, owner: Owner, generation: Generation
) -> None:
    """Broken: a revoked right stays, or revoking one costs a call of the model and new rows."""
    await stages.upsert(1, ("user:ann",))
    assert [await seen(pool, generation, one) for one in (ANN, BOB, UNNAMED)] == [(True, 2), (False, 0), (False, 0)]
    embedded, rows = metrics.TEXTS_EMBEDDED._value.get(), await written(owner)
    await stages.upsert(2, ("group:staff",))
    assert [await seen(pool, generation, one) for one in (ANN, BOB, UNNAMED)] == [(False, 0), (True, 2), (False, 0)]
    await stages.upsert(3, ())
    assert [await seen(pool, generation, one) for one in (ANN, BOB, UNNAMED)] == [(True, 2)] * 3
    assert metrics.TEXTS_EMBEDDED._value.get() == embedded
    assert await written(owner) == rows
    await stages.upsert(4, (), text=TEXT + " And then close it.")  # the comparison can fail
    assert await written(owner) != rows
    assert metrics.TEXTS_EMBEDDED._value.get() == embedded + 1


async def written(owner: Owner) -> list[Any]:
    """Every row of chunks and vectors, with the transaction that wrote it."""
    tables = ("chunk", "embedding_g1", "vector_g1", "lexical_g1", "vector_cache")
    return [
        sorted(str(row) for row in await owner.fetch(f"SELECT {table}.xmin::text, {table}::text FROM {table}"))
        for table in tables
    ]


async def test_an_older_acl_never_comes_back(stages: Stages, pool: Pool, generation: Generation) -> None:
    """Broken: a change that is late or repeated gives a revoked right back."""
    await stages.upsert(2, ("user:ann",))
    await stages.upsert(1, ())
    await stages.upsert(2, ())
    assert [await seen(pool, generation, one) for one in (ANN, BOB)] == [(True, 2), (False, 0)]


async def test_a_deletion_is_seen_by_those_who_could_read_the_document(
    stages: Stages, pool: Pool, owner: Owner
) -> None:
    """Broken: a deletion tells everybody that the document existed, or hides itself from its readers."""
    await stages.upsert(1, ("user:ann",))
    await stages.delete(2)
    await stages.delete(1, "never-seen")
    found = await documents.get(pool, TENANT, ANN, "d")
    assert found is not None
    assert found.deleted
    assert await documents.get(pool, TENANT, BOB, "d") is None
    for reader, shown in ((ANN, set()), (UNNAMED, set()), (EVERY_DOCUMENT, {"never-seen"})):
        assert set(await documents.states(pool, TENANT, reader, ["never-seen"])) == shown
    assert await owner.fetchval("SELECT acl FROM document WHERE document_id = 'never-seen'") == [UNKNOWN]
    await stages.upsert(3, ())
    assert await documents.get(pool, TENANT, BOB, "d") is not None


async def test_the_policies_stand_behind_the_queries(stages: Stages, pool: Pool, generation: Generation) -> None:
    """Broken: a query without a condition shows everything, or a connection that names no reader does."""
    await stages.upsert(1, ("user:ann",))
    await stages.upsert(1, (), "public")
    for reader, expected in ((ANN, {"d", "public"}), (BOB, {"public"}), (EVERY_DOCUMENT, {"d", "public"})):
        async with tenant_transaction(pool, TENANT, reader=reader) as connection:
            for table in ("document", "chunk"):
                rows = await connection.fetch(f"SELECT document_id FROM {table}")
                assert {row["document_id"] for row in rows} == expected
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('headrace.tenant', $1, true)", TENANT)
        assert {row[0] for row in await connection.fetch("SELECT document_id FROM document")} == {"public"}
        assert {row[0] for row in await connection.fetch("SELECT document_id FROM chunk")} == {"public"}


async def test_a_reader_cannot_write_what_he_cannot_read(stages: Stages, pool: Pool) -> None:
    """Broken: a transaction of a reader changes a document that is not for him."""
    await stages.upsert(1, ("user:ann",))
    async with tenant_transaction(pool, TENANT, reader=BOB) as connection:
        assert await connection.execute("UPDATE document SET title = 'x' WHERE document_id = 'd'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM chunk WHERE document_id = 'd'") == "DELETE 0"
    with pytest.raises(DependencyDown, match="row-level security"):
        async with tenant_transaction(pool, TENANT, reader=ANN) as connection:
            await connection.execute("UPDATE document SET acl = '{user:bob}' WHERE document_id = 'd' RETURNING acl")


@pytest.mark.parametrize("table", ["document", "chunk", "artifact"])
async def test_every_policy_for_reading_names_the_reader(owner: Owner, generation: Generation, table: str) -> None:
    """Broken: another policy, added later, opens the table beside the one that asks for the reader."""
    rows = await owner.fetch(
        "SELECT policyname, cmd, roles::text[], qual FROM pg_policies WHERE schemaname = current_schema() "
        "AND tablename = $1 AND cmd IN ('SELECT', 'ALL')",
        table,
    )
    kinds = {row["policyname"]: (row["cmd"], row["roles"], "reads_every_document" in row["qual"]) for row in rows}
    others = {"definer": "headrace_definer", "sql_reader": "headrace_reader"}  # each narrower than the role's grants
    exempt = {} if table == "artifact" else {name: ("SELECT", [role], False) for name, role in others.items()}
    assert kinds == {"readable": ("SELECT", ["public"], True), **exempt}


async def test_an_artifact_is_for_those_who_may_read_its_sources(stages: Stages, pool: Pool) -> None:
    """Broken: an answer outlives the right to the documents that it was made from, or is shown to another reader."""
    await stages.upsert(1, ("user:ann", "group:staff"))
    row = artifacts.Artifact(
        TENANT, UUID(int=1), 1, "r1", "answer", "T", "text/plain", "canary", (), reader=BOB.names, sources=["d"]
    )
    await artifacts.put(pool, row)
    more = Reader.named("bob", ["staff", "board"])
    readers = (BOB, more, EVERY_DOCUMENT, ANN, Reader.named("bob"), Reader.named("carl", ["staff"]), UNNAMED)

    async def shown() -> list[bool]:
        return [await artifacts.get(pool, TENANT, one, UUID(int=1)) is not None for one in readers]

    assert await shown() == [True, True, True, False, False, False, False]
    assert [len(await artifacts.by_request(pool, TENANT, one, "r1")) for one in (BOB, ANN)] == [1, 0]
    await stages.upsert(2, ("user:ann",))
    assert await shown() == [False, False, True, False, False, False, False]
    await stages.upsert(3, ())
    await stages.delete(4)
    assert await shown() == [True, True, True, False, False, False, False]


async def test_a_source_that_the_store_lost_hides_the_artifact(pool: Pool, generation: Generation) -> None:
    """Broken: a document whose rights are not known counts as one that everybody may read."""
    row = artifacts.Artifact(TENANT, UUID(int=1), 1, "r1", "answer", "T", "text/plain", "canary", (), sources=["gone"])
    await artifacts.put(pool, row)
    assert await artifacts.get(pool, TENANT, UNNAMED, UUID(int=1)) is None
    assert await artifacts.get(pool, TENANT, EVERY_DOCUMENT, UUID(int=1)) is not None


async def test_keys_know_their_reader(pool: Pool, owner: Owner) -> None:
    """Broken: a key reads for somebody else after it was stored, or one without a reader reads more than the public."""
    for reader in (UNNAMED, ANN, BOB, Reader.named('a"b\\c{,}', ["재무팀"]), EVERY_DOCUMENT, None):
        key = await keys.create_api_key(owner, TENANT, "k", reader)
        assert await keys.authenticate(pool, key) == keys.KeyOwner(TENANT, reader)
    listed = await keys.list_api_keys(owner, TENANT)
    assert [one.acts_for_readers for one in listed] == [False] * 5 + [True]
    assert await keys.list_api_keys(owner, "other") == []
    await owner.execute(
        "INSERT INTO api_key (key_hash, tenant, name) VALUES ($1, 'acme', 'old')", keys.hash_key("hr_o")
    )
    assert await keys.authenticate(pool, "hr_o") == keys.KeyOwner(TENANT, UNNAMED)


async def test_a_stage_pays_for_no_row(stages: Stages, pool: Pool) -> None:
    """Broken: the policies cost the indexer a subquery for each row that it reads or writes."""
    for number in range(20):
        await stages.upsert(1, ("user:ann",), f"d{number}")
    statements = (
        "SELECT version FROM document WHERE tenant = 'acme'",
        "SELECT chunk_id FROM chunk WHERE tenant = 'acme'",
        "UPDATE document SET title = 'x' WHERE tenant = 'acme'",
        "DELETE FROM chunk WHERE tenant = 'acme'",
    )
    async with tenant_transaction(pool, TENANT, reader=ANN) as connection:
        assert await loops(connection, statements[1]) > 0  # the count can fail
    async with tenant_transaction(pool, TENANT, reader=EVERY_DOCUMENT) as connection:
        for statement in statements:
            assert await loops(connection, statement) == 0, statement


async def loops(connection: Any, statement: str) -> int:
    """How often a subquery that refers to the row was executed."""
    (plan,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"))

    def count(node: dict[str, Any]) -> int:
        own = node["Actual Loops"] if node.get("Parent Relationship") == "SubPlan" else 0
        return int(own) + sum(count(child) for child in node.get("Plans", ()))

    return count(plan["Plan"])


async def test_a_setting_that_is_no_list_shows_nothing(stages: Stages, pool: Pool) -> None:
    """Broken: a broken setting is taken for a reader of every document."""
    await stages.upsert(1, ("user:ann",))
    async with pool.acquire() as connection, connection.transaction():
        await set_tenant(connection, TENANT)
        await connection.execute("SELECT set_config('headrace.reader', '*', true)")
        with pytest.raises(asyncpg.PostgresError, match="malformed array"):
            await connection.fetch("SELECT * FROM document")
