"""The vector cache against a real PostgreSQL: what is used is noted seldom, and what is too much goes, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import numpy as np
import pytest

from headrace.store import cache
from headrace.store.transactions import tenant_transaction
from headrace_embedder.batch import Text
from headrace_embedder.cache_bound import CacheBound
from headrace_embedder.handler import EmbedHandler
from headrace_embedder.hashing import HashingProvider
from headrace_operations.embeddings import forget

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)

MODEL = "hashing-384"


def key(number: int) -> bytes:
    """A key of 16 bytes."""
    return number.to_bytes(16, "big")


async def put(pool: Pool, tenant: str, *numbers: int) -> None:
    """Cache a vector for each number."""
    vectors = {key(number): np.full(384, number + 1, "<f4").tobytes() for number in numbers}
    async with tenant_transaction(pool, tenant) as connection:
        await cache.put(connection, tenant, MODEL, vectors)


async def aged(owner: Owner, days: dict[int, int]) -> None:
    """Have these been used so many days ago."""
    for number, ago in days.items():
        query = "UPDATE vector_cache SET last_used = current_date - $2::integer WHERE text_hash = $1"
        await owner.execute(query, key(number), ago)


async def left(owner: Owner, tenant: str = "acme") -> set[int]:
    """Which are cached."""
    rows = await owner.fetch("SELECT text_hash FROM vector_cache WHERE tenant = $1", tenant)
    return {int.from_bytes(row["text_hash"], "big") for row in rows}


class Embedder(EmbedHandler):
    """The embedder with this pool, without a generation."""

    def __init__(self, pool: Pool, *, across_tenants: bool = False) -> None:
        super().__init__()
        self._pool = pool
        self._provider = HashingProvider()
        self._across_tenants = across_tenants


async def test_the_longest_unused_go_and_none_that_a_record_may_rely_on(pool: Pool, owner: Owner) -> None:
    """Broken: a vector that an unread record of the topic vectors needs is gone, or the cache grows for ever."""
    await put(pool, "acme", *range(8))
    await put(pool, "other", 8)
    await aged(owner, {0: 40, 1: 30, 2: 20, 3: 11, 4: 10, 5: 9, 8: 99})
    bound = CacheBound(5, 10)
    await bound.keep(pool, "acme", 8)
    assert await left(owner) == {3, 4, 5, 6, 7}
    await CacheBound(1, 10).keep(pool, "acme", 8)
    assert await left(owner) == {4, 5, 6, 7}, "used within ten days"
    assert await left(owner, "other") == {8}


async def test_a_use_is_noted_once_in_two_days_and_keeps_the_vector(pool: Pool, owner: Owner) -> None:
    """Broken: each read writes a row, or a vector in daily use is the first to go."""
    await put(pool, "acme", 1, 2, 3)
    await aged(owner, {1: 2, 2: 3})
    marks = "SELECT text_hash, xmin::text FROM vector_cache"
    before = {row["text_hash"]: row["xmin"] for row in await owner.fetch(marks)}
    texts = [Text("acme", key(number), "", "d") for number in (1, 2, 3, 4)]
    assert await Embedder(pool)._known(texts) == {("acme", key(number)) for number in (1, 2, 3)}
    after = {row["text_hash"]: row["xmin"] for row in await owner.fetch(marks)}
    assert {mark for mark in before if before[mark] != after[mark]} == {key(2)}
    assert await owner.fetchval("SELECT max(current_date - last_used) FROM vector_cache") == 2


async def test_a_vector_that_was_evicted_meanwhile_is_not_known(pool: Pool, owner: Owner) -> None:
    """Broken: the indexer is sent to a vector that went between the question and the note of its use."""
    await put(pool, "acme", 1, 2)
    await aged(owner, {1: 50, 2: 50})
    async with tenant_transaction(pool, "acme") as connection:
        assert await cache.known_since(connection, "acme", MODEL, {key(1), key(2)}, 2) == (set(), {key(1), key(2)})
    await owner.execute("DELETE FROM vector_cache WHERE text_hash = $1", key(1))
    async with tenant_transaction(pool, "acme") as connection:
        assert await cache.touch(connection, "acme", MODEL, {key(1), key(2)}) == {key(2)}


async def test_vectors_cross_tenants_only_where_that_is_allowed(pool: Pool, owner: Owner) -> None:
    """Broken: a tenant learns what another one has; or, where it may, each pays for the same text."""
    vector = {("acme", key(1)): np.ones(384, "<f4").tobytes()}
    text = [Text("other", key(1), "one", "d")]
    await Embedder(pool)._remember(vector, {})
    assert await Embedder(pool, across_tenants=True)._shared_vectors(text) == {}
    await Embedder(pool, across_tenants=True)._remember(vector, {})
    assert await Embedder(pool)._shared_vectors(text) == {}
    assert await left(owner, "other") == set()
    assert await Embedder(pool, across_tenants=True)._shared_vectors(text) == {
        ("other", key(1)): vector["acme", key(1)]
    }
    assert await left(owner, "other") == {1}
    assert await left(owner, cache.SHARED) == {1}


async def test_what_is_forgotten_is_lent_to_the_tenant_no_more(
    pool: Pool, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: after a reset the shared vectors come back, and nothing is embedded anew; or another tenant loses its."""
    monkeypatch.setattr(forget, "_AT_ONCE", 2)
    await put(pool, "acme", 1, 2, 3, 4, 5)
    await put(pool, "other", 1, 6)
    await put(pool, cache.SHARED, 1, 2, 3, 6)
    assert await forget.cached(pool, "acme", MODEL) == 5
    assert await forget.forget(pool, "acme", MODEL, asked_by="olga") == 5
    assert (await left(owner), await left(owner, "other"), await left(owner, cache.SHARED)) == (set(), {1, 6}, {6})
    assert await Embedder(pool, across_tenants=True)._shared_vectors([Text("acme", key(1), "one", "d")]) == {}
