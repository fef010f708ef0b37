"""The life of a generation in a real PostgreSQL: how complete it is, and that nothing is left of a dropped one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import numpy as np
import pytest
import pytest_asyncio

from headrace.errors import ConfigurationError
from headrace.payloads import DocumentFacts
from headrace.store import cache, reindex
from headrace.store.error_mapping import GenerationExists
from headrace.store.generations import activate, create_generation, get_generation, list_generations
from headrace.store.index import index_batch
from headrace.store.reindex import Coverage, Lacking
from headrace.store.rows import Generation, IndexChunk, IndexDocument
from headrace.store.transactions import tenant_transaction
from headrace_operations.reindex.switch import unsettled

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Connection = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)


def document(generation: Generation, document_id: str, version: int = 1, tenant: str = "acme") -> IndexDocument:
    """A document of one chunk, whose text depends on ID and version."""
    text = f"{document_id} {version} 수로"
    key = text.encode()[:16].ljust(16, b".")
    vector = np.full(generation.dimensions, version, "<f4").tobytes()
    chunk = IndexChunk(
        f"{tenant}/{document_id}/{version}".encode()[-16:].rjust(16),
        (),
        0,
        len(text),
        text,
        key,
        vector,
        vector_key=key,
    )
    return IndexDocument(tenant, document_id, version, DocumentFacts(document_id, "", key), chunks=(chunk,))


@pytest_asyncio.fixture
async def both(owner: Connection, pool: Pool) -> tuple[Generation, Generation]:
    """An active generation with three documents of two tenants, and a new one with one of them."""
    first = await create_generation(owner, Generation("g1", "toy", 2))
    second = await create_generation(owner, Generation("g2", "other", 3), indexed=False)
    await activate(owner, "g1")
    documents = [document(first, "a"), document(first, "b"), document(first, "c", tenant="other")]
    await index_batch(pool, first, documents)
    await index_batch(pool, second, [document(second, "a")])
    return first, second


async def test_coverage_counts_each_tenant(owner: Connection, both: tuple[Generation, Generation]) -> None:
    """Search is switched to a generation that lacks the documents of one tenant."""
    assert both
    assert await reindex.coverage(owner, "g1") == [Coverage("acme", 2, 2, 2, 2), Coverage("other", 1, 1, 1, 1)]
    assert await reindex.coverage(owner, "g2") == [Coverage("acme", 2, 1, 2, 1), Coverage("other", 1, 0, 1, 0)]
    assert await reindex.lacking(owner, "g2", 10) == [Lacking("acme", "b", 1), Lacking("other", "c", 1)]
    assert await reindex.lacking(owner, "g2", 1) == [Lacking("acme", "b", 1)]


async def test_a_service_may_not_look_at_other_tenants(pool: Pool, both: tuple[Generation, Generation]) -> None:
    """A service's login learns which tenants there are."""
    assert both
    for call in ("generation_coverage('g1')", "generation_lacks('g2', 5)", "all_tenants()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.fetch(f"SELECT * FROM {call}")


async def test_only_what_stays_missing_is_missing(
    owner: Connection, pool: Pool, both: tuple[Generation, Generation]
) -> None:
    """While changes arrive, no switch is ever possible; or a lost document is taken for one in flight."""
    first, second = both
    waiting = asyncio.create_task(unsettled(owner, "g2", 5.0))
    await asyncio.sleep(0.5)
    await index_batch(pool, first, [document(first, "b", 2)])  # replaced by a newer version, which is in flight
    assert [one.document_id for one in await waiting] == ["c"]
    await index_batch(pool, second, [document(second, "b", 2), document(second, "c", tenant="other")])
    assert await unsettled(owner, "g2", 0.0) == []


async def test_nothing_is_left_of_a_dropped_generation_but_its_name(
    owner: Connection, pool: Pool, both: tuple[Generation, Generation]
) -> None:
    """A dropped generation stops the indexers of the others, or a new one takes its name and its dead letters."""
    first, second = both
    async with tenant_transaction(pool, "acme") as connection:
        await cache.put(connection, "acme", "other", {b"k" * 16: np.ones(3, "<f4").tobytes()})
        await cache.put(connection, "acme", "toy", {b"k" * 16: np.ones(2, "<f4").tobytes()})
    assert not await reindex.begin_drop(owner, "g1"), "it is active"
    for _ in range(2):  # each step can be repeated
        assert await reindex.begin_drop(owner, "g2")
        with pytest.raises(ConfigurationError, match="does not exist"):
            await activate(owner, "g2")
        await index_batch(pool, first, [document(first, "a", 2)])  # deletes chunks while the tables are still there
        tenants = await reindex.tenants(owner)
        assert tenants == ["/", "acme", "other"]
        for tenant in tenants:
            await reindex.forget_documents(owner, "g2", tenant)
            await reindex.forget_vectors(owner, second, tenant)
    await reindex.drop_tables(owner, second, tenants)
    assert await owner.fetchval("SELECT count(*) FROM document WHERE 'g2' = ANY (generations)") == 0
    assert await owner.fetchval("SELECT count(*) FROM document WHERE 'g1' = ANY (generations)") == 3
    assert [row["model"] for row in await owner.fetch("SELECT model FROM vector_cache")] == ["toy"]
    assert await owner.fetchval("SELECT to_regclass('embedding_g2')") is None
    assert (await get_generation(owner, "g2"), [one.name for one in await list_generations(owner)]) == (None, ["g1"])
    await index_batch(pool, first, [document(first, "a", 3)])
    with pytest.raises(GenerationExists, match="was dropped, and its name stays taken"):
        await create_generation(owner, second)


async def test_vectors_stay_cached_while_another_generation_has_the_model(
    owner: Connection, pool: Pool, both: tuple[Generation, Generation]
) -> None:
    """Dropping a generation of another template makes the next edit embed everything again."""
    _, second = both
    await create_generation(owner, replace(second, name="g3", template="{title} {body}"))
    async with tenant_transaction(pool, "acme") as connection:
        await cache.put(connection, "acme", "other", {b"k" * 16: np.ones(3, "<f4").tobytes()})
    await reindex.begin_drop(owner, "g2")
    assert await reindex.forget_vectors(owner, second, "acme") == 0
    await reindex.begin_drop(owner, "g3")
    await owner.execute("UPDATE generation SET state = 'dropped' WHERE name = 'g3'")
    assert await reindex.forget_vectors(owner, second, "acme") == 1
