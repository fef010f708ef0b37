"""When the indexer estimates term frequencies again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace.errors import DependencyDown
from headrace.store import statistics
from headrace.store.rows import Generation
from headrace_indexer.statistics import TermStatistics

pytestmark = pytest.mark.unit


class Store:
    """Counts the estimates of each tenant."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passages: int) -> None:
        self.passages = passages
        self.refreshed: list[str] = []
        self.entered = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: int | Exception | None = passages
        monkeypatch.setattr(statistics, "counted", self.counted)
        monkeypatch.setattr(statistics, "refresh", self.refresh)
        monkeypatch.setattr(statistics, "sweep", self.sweep)
        self.swept: list[str] = []
        self.keeper = TermStatistics(None, Generation("g1", "m", 2))  # type: ignore[arg-type]  # it reaches no pool

    async def counted(self, *_: Any) -> int:
        """What was estimated before this process."""
        return self.passages

    async def sweep(self, _pool: Any, tenant: str, _generation: Generation) -> int:
        """Note it."""
        self.swept.append(tenant)
        return 0

    async def refresh(self, _pool: Any, tenant: str, _generation: Generation) -> int | None:
        """Note it; waits for the gate."""
        self.entered += 1
        await self.gate.wait()
        self.refreshed.append(tenant)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def settled() -> None:
    """Let the background tasks run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_frequencies_are_estimated_after_a_fifth_of_the_passages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: search weighs words as they were long ago, or every batch costs an estimate."""
    store = Store(monkeypatch, 1000)
    for _ in range(20):
        store.keeper.wrote("acme", 10)
        await settled()
    assert store.refreshed == []
    store.keeper.wrote("acme", 1)
    await settled()
    assert store.refreshed == store.swept == ["acme"]
    store.keeper.wrote("acme", 200)
    store.keeper.wrote("globex", 0)
    await settled()
    assert store.refreshed == ["acme"]


async def test_a_new_tenant_is_estimated_at_once_and_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a tenant's first documents are ranked without frequencies, or estimates pile up behind a slow one."""
    store = Store(monkeypatch, 0)
    store.answer = 5
    store.gate.clear()
    for _ in range(5):
        store.keeper.wrote("acme", 10)
        await settled()
    store.gate.set()
    await store.keeper.close()
    assert store.refreshed == ["acme", "acme"]  # what was written meanwhile is more than a fifth


async def test_estimates_of_several_tenants_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the estimates of many tenants take all connections, and the batches wait."""
    store = Store(monkeypatch, 0)
    store.gate.clear()
    for tenant in ("a", "b", "c"):
        store.keeper.wrote(tenant, 1)
    await settled()
    assert store.entered == 1
    store.gate.set()
    await store.keeper.close()
    assert store.refreshed == ["a", "b", "c"]


@pytest.mark.parametrize("answer", [DependencyDown("postgresql", "gone"), ValueError("odd"), None])
async def test_a_failed_estimate_is_tried_again_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | None
) -> None:
    """Broken: an outage during an estimate ends the indexer, or there is never another one."""
    store = Store(monkeypatch, 0)
    store.answer = answer
    store.keeper.wrote("acme", 1)
    await settled()
    store.answer = 7
    store.keeper.wrote("acme", 1)
    await store.keeper.close()
    assert store.refreshed[-1] == "acme"
    assert len(store.refreshed) == 2
