"""The index of a generation's vectors, built beside the one in use, and what is measured of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import numpy as np
import pytest
import pytest_asyncio
from pgvector import Vector

from headrace.store import dense_index, index_health
from headrace.store.dense_index import BuildProgress, parameters
from headrace.store.generations import create_generation, get_generation
from headrace.store.pool import prepare_connection
from headrace.store.rows import Generation
from headrace_operations.index.advise import advise

if TYPE_CHECKING:
    from headrace_testing.postgres import StoreSchema

    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

ROWS, DIMENSIONS, TENANT = 3000, 32, "acme"


@pytest_asyncio.fixture
async def worker(store_schema: StoreSchema) -> AsyncIterator[Connection]:
    """A second connection of the owner, which builds."""
    connection = await asyncpg.connect(
        store_schema.server.dsn, server_settings={"search_path": f'"{store_schema.name}", public'}
    )
    await prepare_connection(connection)
    yield connection
    await connection.close()


async def filled(owner: Connection, rows: int = ROWS, storage: str = "vector") -> Generation:
    """A generation with random vectors of one tenant, without an index."""
    wanted = Generation("first", "toy", DIMENSIONS, storage=storage)
    made = await create_generation(owner, wanted, indexed=False)
    vectors = np.random.default_rng(1).normal(size=(rows, DIMENSIONS)).astype("<f4")
    await owner.executemany(
        f"INSERT INTO vector_first VALUES ('{TENANT}', sha256($1::text::bytea), $2::vector::{storage})"
        if storage != "binary" else
        f"INSERT INTO vector_first VALUES ('{TENANT}', sha256($1::text::bytea), $2::vector::halfvec)",
        [(str(number), Vector(one)) for number, one in enumerate(vectors)],
    )  # fmt: skip
    await owner.execute("ANALYZE vector_first")
    return made


async def names(owner: Connection, generation: Generation) -> list[tuple[str, str, bool]]:
    """The indexes that there are: name, kind, validity."""
    return [(one.name, one.kind, one.valid) for one in await dense_index.dense_indexes(owner, generation)]


@pytest.mark.parametrize("storage", ["vector", "halfvec", "binary"])
async def test_an_index_is_built_after_the_data_and_replaced_by_another_kind(
    owner: Connection, worker: Connection, storage: str
) -> None:
    """A bulk load is slowed by its index, or a rebuild leaves two indexes or none."""
    generation = await filled(owner, 1500, storage)
    assert await names(owner, generation) == []
    await dense_index.ensure(worker, owner, generation)
    assert await names(owner, generation) == [("vector_first_nearest", "hnsw", True)]
    before = await owner.fetchval("SELECT 'vector_first_nearest'::regclass::oid")
    await dense_index.ensure(worker, owner, generation)
    assert await owner.fetchval("SELECT 'vector_first_nearest'::regclass::oid") == before, "built twice"
    told: list[BuildProgress] = []
    built = await dense_index.build(worker, owner, generation, parameters("ivfflat", 40_000), told=told.append)
    assert (built.kind, dict(built.options)) == ("ivfflat", {"lists": 40})
    assert await names(owner, generation) == [("vector_first_nearest", "ivfflat", True)]
    tuned = await get_generation(owner, "first")
    assert tuned is not None
    assert tuned.probes == 6
    found = await index_health.recall(owner, tuned, TENANT, 5, 10, b"")
    assert found is not None
    assert found.queries == 5


@pytest.mark.parametrize("when", ["invalid", "before the old one is dropped", "before the new one is renamed"])
async def test_a_rebuild_that_was_killed_is_finished_by_the_next(
    owner: Connection, worker: Connection, when: str
) -> None:
    """An index is left behind that every write pays for, or search has none for good."""
    generation = await filled(owner, 500)
    await dense_index.ensure(worker, owner, generation)
    new = "vector_first_nearest_new"
    if when == "invalid":
        await owner.execute(f"CREATE INDEX {new} ON vector_first USING hnsw (embedding vector_cosine_ops)")
        await owner.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::regclass", new)
    else:
        options = "WITH (m=16, ef_construction=64)"
        await owner.execute(f"CREATE INDEX {new} ON vector_first USING hnsw (embedding vector_cosine_ops) {options}")
        if when == "before the new one is renamed":
            await owner.execute("DROP INDEX vector_first_nearest")
    kept = None if when == "invalid" else await owner.fetchval("SELECT $1::regclass::oid", new)
    await dense_index.ensure(worker, owner, generation)
    assert await names(owner, generation) == [("vector_first_nearest", "hnsw", True)]
    if kept is not None:
        assert await owner.fetchval("SELECT 'vector_first_nearest'::regclass::oid") == kept, "the finished one was lost"


async def test_a_build_whose_command_is_killed_is_waited_for_or_removed(
    owner: Connection, worker: Connection, store_schema: StoreSchema
) -> None:
    """Two builds wait for each other, or the second is refused because a name is taken."""
    generation = await filled(owner)
    first = await asyncpg.connect(
        store_schema.server.dsn, server_settings={"search_path": f'"{store_schema.name}", public'}
    )
    running = asyncio.create_task(dense_index.build(first, owner, generation, parameters("hnsw", ROWS)))
    while await dense_index.build_progress(worker, generation) is None and not running.done():  # noqa: ASYNC110
        await asyncio.sleep(0)
    await worker.execute("SELECT pg_terminate_backend($1)", first.get_server_pid())
    with pytest.raises(Exception, match=r"terminat|closed|connection"):
        await running
    await dense_index.ensure(worker, owner, generation)
    assert await names(owner, generation) == [("vector_first_nearest", "hnsw", True)]


async def test_recall_is_measured_against_the_exact_result(owner: Connection, worker: Connection) -> None:
    """A graph that finds half of what it should is shown as healthy."""
    generation = await filled(owner)
    await dense_index.build(worker, owner, generation, parameters("hnsw", ROWS))
    await owner.execute("SET enable_seqscan = off; SET enable_sort = off")
    good = await index_health.recall(owner, generation, TENANT, 20, 20, b"")
    assert good is not None
    assert (good.indexed, good.recall_10 > 0.9, good.queries) == (True, True, 20)
    weak = dense_index.Parameters("ivfflat", {"lists": 300})
    await dense_index.build(worker, owner, generation, weak)
    await dense_index.tune(owner, "first", None, 1)
    bad = await index_health.recall(owner, generation, TENANT, 20, 20, b"")
    assert bad is not None
    assert bad.recall_10 < good.recall_10
    health = await index_health.look(owner, generation)
    commands = [one.command for one in advise(replace(health, recalls=[bad]))]
    assert "headrace index tune first --probes 2" in commands
    assert "headrace index rebuild first --kind ivfflat" in commands
