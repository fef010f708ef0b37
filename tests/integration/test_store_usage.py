"""The ledger in a real PostgreSQL: what was paid counts once, nobody sees another's, and a cap stops the spending."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest

from headrace.embeddings.costs import CostSettings, Spent
from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.errors import DependencyDown, SetAside
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts
from headrace.store import usage
from headrace.store.transactions import tenant_transaction
from headrace.store.usage import Bill, Used
from headrace_embedder.handler import EmbedHandler
from headrace_embedder.openai_compatible import OpenAICompatibleProvider
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.spending import Spending

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)
NOW = datetime(2026, 3, 31, 23, 59, tzinfo=UTC)
NEXT = datetime(2026, 4, 1, 0, 1, tzinfo=UTC)
TOKENS = 100
"""Tokens that the server charges for each text."""


def document(tenant: str, name: str, *words: str) -> Context[ChunkedDocument]:
    """A document with a chunk for each word."""
    chunks = tuple(Chunk(bytes(16), (), 0, len(word), word, text_hash=word.encode().ljust(16, b".")) for word in words)
    payload = ChunkedDocument(DocumentFacts(name, "text/plain", bytes(16)), chunks)
    return Context(
        Trace(f"r-{name}", "default", 1, NOW), Change(tenant, name, 1, Operation.UPSERT), payload, Metadata({})
    )


class Server:
    """Charges a hundred tokens a text; answers 503 from the request on that ``broken_from`` names."""

    def __init__(self, broken_from: int = 1_000_000) -> None:
        self.texts = self.requests = 0
        self.broken_from = broken_from

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.requests >= self.broken_from:
            return httpx.Response(503)
        count = len(json.loads(request.content)["input"])
        self.texts += count
        data = [{"index": at, "embedding": [1.0, 2.0]} for at in range(count)]
        return httpx.Response(200, json={"data": data, "usage": {"prompt_tokens": TOKENS * count}})


class Embedder(EmbedHandler):
    """The handler over a store of the test's, at a time of the test's."""

    def __init__(self, pool: Pool, server: Server, costs: Path) -> None:
        super().__init__()
        settings = EmbedderSettings(
            provider="openai-compatible", base_url="http://127.0.0.1:9/v1", model="m", dimensions=2
        )
        self.now = NOW
        self._pool = pool
        self._provider = OpenAICompatibleProvider(settings, httpx.MockTransport(server))
        self._spending = Spending("m", local=False, settings=CostSettings(file=costs), now=lambda: self.now)


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    """A file of prices without caps: 10,000 texts a dollar."""
    path = tmp_path / "costs.yaml"
    path.write_text("models: {m: {usd_per_million_tokens: 1}}\n")
    return path


def caps(path: Path, text: str, models: str = "{m: {usd_per_million_tokens: 1}}") -> None:
    """Put other caps into the file, with another time of change."""
    path.write_text(f"models: {models}\ncaps: {text}\n")
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


async def ledger(pool: Pool, tenant: str) -> list[usage.DayUsage]:
    """A tenant's days."""
    async with tenant_transaction(pool, tenant, readonly=True) as connection:
        return await usage.days(connection, tenant)


async def test_what_was_paid_counts_once_by_tenant_document_and_day(pool: Pool, costs: Path) -> None:
    """Broken: a batch that runs again is paid twice in the ledger, or one document pays for another."""
    server = Server()
    embedder = Embedder(pool, server, costs)
    batch = [
        document("acme", "d1", "one", "two"),
        document("acme", "d2", "two", "six"),
        document("globex", "d1", "ten"),
    ]
    for _ in range(3):
        await embedder.process_batch(batch)
    (day,) = await ledger(pool, "acme")
    assert (day.texts, day.tokens, day.usd, day.unpriced_tokens) == (3, 300, Decimal("0.0003"), 0)
    assert (day.day, day.stage, day.model) == (date(2026, 3, 31), "embedder", "m")
    assert day.calls + (await ledger(pool, "globex"))[0].calls == 1
    async with tenant_transaction(pool, "acme", readonly=True) as connection:
        rows = {row.document_id: (row.texts, row.tokens) for row in await usage.documents(connection, "acme", 10)}
    assert rows == {"d1": (2, 200), "d2": (1, 100)}
    embedder.now = NEXT
    await embedder.process_batch([document("acme", "d1", "four")])
    assert [(one.day.isoformat(), one.texts) for one in await ledger(pool, "acme")] == [
        ("2026-03-31", 3), ("2026-04-01", 1),
    ]  # fmt: skip
    async with tenant_transaction(pool, "acme", readonly=True) as connection:
        (d1, _) = await usage.documents(connection, "acme", 10)
        assert await usage.spent(connection, "acme", NEXT) == Spent(Decimal("0.0001"), Decimal("0.0001"), 100, 100)
    assert (d1.texts, d1.first_day, d1.last_day) == (3, date(2026, 3, 31), date(2026, 4, 1))


async def test_a_failed_write_leaves_neither_vector_nor_cost(pool: Pool, owner: Owner, costs: Path) -> None:
    """Broken: a vector is cached that the ledger never heard of, and the spending looks smaller than it is."""
    await owner.execute("ALTER TABLE usage ADD CONSTRAINT never CHECK (texts < 0)")
    with pytest.raises(Exception, match="never"):
        await Embedder(pool, Server(), costs).process_batch([document("acme", "d1", "one")])
    assert await owner.fetchval("SELECT count(*) FROM vector_cache") == 0
    assert await owner.fetchval("SELECT count(*) FROM usage_document") == 0


async def test_an_unknown_price_is_counted_as_unknown(pool: Pool, tmp_path: Path) -> None:
    """Broken: tokens of a model without a price are written as free."""
    empty = tmp_path / "none.yaml"
    empty.write_text("{}")
    await Embedder(pool, Server(), empty).process_batch([document("acme", "d1", "one")])
    (day,) = await ledger(pool, "acme")
    assert (day.tokens, day.usd, day.unpriced_tokens) == (100, Decimal(0), 100)


async def test_writers_of_one_tenant_wait_for_each_other_and_lose_nothing(pool: Pool) -> None:
    """Broken: two embedders overwrite each other's sums, or wait for each other in a circle."""

    async def add(number: int) -> None:
        names = [f"d{at}" for at in range(20)]
        bill = Bill(dict.fromkeys(names[:: 1 if number % 2 else -1], Used(1, 10)), 1, Decimal("0.02"))
        async with tenant_transaction(pool, "acme") as connection:
            await usage.add(connection, "acme", "embedder", "m", bill, NOW)

    await asyncio.gather(*(add(number) for number in range(30)))
    (day,) = await ledger(pool, "acme")
    assert (day.texts, day.tokens, day.calls, day.usd) == (600, 6000, 30, Decimal("0.00012"))


async def test_no_tenant_sees_or_writes_anothers_ledger_and_all_see_the_sum(pool: Pool, costs: Path) -> None:
    """Broken: a tenant reads what its neighbour pays, or the cap on all is blind."""
    embedder = Embedder(pool, Server(), costs)
    await embedder.process_batch([document("acme", "d1", "one"), document("globex", "d1", "one", "two")])
    async with tenant_transaction(pool, "acme") as connection:
        for table in ("usage", "usage_document"):
            assert {row["tenant"] for row in await connection.fetch(f"SELECT tenant FROM {table}")} == {"acme"}
        assert await usage.documents(connection, "globex", 10) == []
    with pytest.raises(Exception, match="row-level security"):
        async with tenant_transaction(pool, "acme") as connection:
            await usage.add(connection, "globex", "embedder", "m", Bill({"d": Used(1, 1)}, 1, None), NOW)
    async with pool.acquire() as connection:
        assert await connection.fetch("SELECT tenant FROM usage") == []
        assert await usage.spent_in_all(connection, NOW) == Spent(Decimal("0.0003"), Decimal("0.0003"), 300, 300)
        assert await usage.spent_in_all(connection, NEXT) == Spent()


async def test_a_tenants_cap_stops_its_spending_and_goes_on_when_raised(pool: Pool, costs: Path) -> None:
    """Broken: a cap is passed by more than a batch, hits a neighbour, stops free work, or stays when it is raised."""
    caps(costs, "{each_tenant: {usd_per_day: 0.0002}}")
    server = Server()
    embedder = Embedder(pool, server, costs)
    await embedder.process_batch([document("acme", "d1", "one", "two")])
    again = [document("acme", "d2", "three"), document("acme", "d3", "one"), document("globex", "d", "one")]
    held, cached, other = await embedder.process_batch(again)
    assert isinstance(held, SetAside)
    assert held.scope == "cap/acme"
    assert "the cap of tenant acme is reached: 0.0002 of 0.0002 USD today" in held.message
    assert isinstance(cached, Context)
    assert isinstance(other, Context)
    assert server.texts == 3

    restarted = Embedder(pool, server, costs)
    assert isinstance((await restarted.process_batch(again))[0], SetAside)
    caps(costs, "{each_tenant: {usd_per_day: 0.0003}}")
    assert isinstance((await restarted.process_batch(again))[0], Context)
    assert isinstance((await restarted.process_batch([document("acme", "d4", "four")]))[0], SetAside)
    restarted.now = NEXT
    assert isinstance((await restarted.process_batch([document("acme", "d4", "four")]))[0], Context)
    assert server.texts == 5


async def test_the_cap_on_all_has_the_stage_wait_with_its_reason(pool: Pool, costs: Path) -> None:
    """Broken: tenants together spend beyond the cap, each below its own, or the stage waits when nothing is to pay."""
    caps(costs, "{all: {tokens_per_month: 200}}")
    server = Server()
    embedder = Embedder(pool, server, costs)
    await embedder.process_batch([document("acme", "d1", "one"), document("globex", "d1", "one")])
    with pytest.raises(DependencyDown, match="the cap of all tenants is reached: 200 of 200 tokens this month"):
        await embedder.process_batch([document("initech", "d1", "one")])
    assert isinstance((await embedder.process_batch([document("acme", "d2", "one")]))[0], Context)
    assert server.texts == 2
    caps(costs, "{all: {tokens_per_month: 201}}")
    assert isinstance((await embedder.process_batch([document("initech", "d1", "one")]))[0], Context)


async def test_a_call_that_fails_costs_nothing(pool: Pool, costs: Path) -> None:
    """Broken: a provider that is down is paid in the ledger, again with each try."""
    with pytest.raises(DependencyDown):
        await Embedder(pool, Server(broken_from=1), costs).process_batch([document("acme", "d1", "one")])
    assert await ledger(pool, "acme") == []


async def test_what_was_answered_before_a_failure_is_kept_and_not_paid_again(pool: Pool, costs: Path) -> None:
    """Broken: each 503 has the answers before it thrown away and bought once more."""
    words = [f"w{number:03}" for number in range(300)]
    batch = [document("acme", "d1", *words)]
    server = Server(broken_from=3)
    with pytest.raises(DependencyDown):
        await Embedder(pool, server, costs).process_batch(batch)
    (day,) = await ledger(pool, "acme")
    assert day.texts == server.texts == 256
    server.broken_from = 1_000_000
    await Embedder(pool, server, costs).process_batch(batch)
    (day,) = await ledger(pool, "acme")
    assert day.texts == server.texts == 300


async def test_a_price_that_goes_leaves_the_cap_in_dollars_that_was_in_force(pool: Pool, costs: Path) -> None:
    """Broken: a slip in the file lifts the cap that was in force, or what is spent meanwhile has no price."""
    server = Server()
    caps(costs, "{all: {usd_per_day: 0.0001}}")
    embedder = Embedder(pool, server, costs)
    caps(costs, "{all: {usd_per_day: 1}}", models="{}")
    await embedder.process_batch([document("acme", "d1", "one")])
    assert [day.usd for day in await ledger(pool, "acme")] == [Decimal("0.0001")]
    with pytest.raises(DependencyDown, match="cap of all tenants is reached"):
        await embedder.process_batch([document("acme", "d1", "two")])
    assert server.texts == 1
